"""`redoma up` and what it leaves behind: a curl line that works, keys that stay, clear words when it can't."""

import json
import re
import socket
import stat
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest

from tests.e2e.conftest import REDOMA, Site, site_environment


def test_demo_file_has_the_fixed_shape_and_is_private(site: Site) -> None:
    file = site.home / "demo.json"
    demo = json.loads(file.read_text())
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert demo["edge"] == f"http://127.0.0.1:{site.env['REDOMA_PORT']}"
    assert [sorted(tenant) for tenant in demo["tenants"]] == [["api_key", "id"]] * 2
    assert [tenant["id"] for tenant in demo["tenants"]] == ["acme", "globex"]
    assert set(demo) == {"edge", "admin_key", "tenants"}


def test_second_up_keeps_keys_and_processes_and_prints_a_curl_line_that_works(site: Site) -> None:
    keys, pids = dict(site.keys), site.processes()
    started = time.monotonic()
    result = site.up()
    print(f"second up: {time.monotonic() - started:.1f} s")
    assert site.keys == keys
    assert site.processes() == pids
    (line,) = re.findall(r"^\s*(curl .*(?:\\\n.*)*)$", result.stdout, re.MULTILINE)
    answer = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=120, check=True)
    assert "content" in answer.stdout


def test_health_pages_need_no_key(site: Site) -> None:
    for path in ("/healthz", "/readyz"):
        with urllib.request.urlopen(site.edge + path, timeout=30) as answer:
            assert answer.status == 200


def test_no_key_and_no_prompt_in_any_file_but_demo_json_and_the_database(site: Site) -> None:
    marker = "xylophone-marker-7731"
    site.openai().chat.completions.create(model="", messages=[{"role": "user", "content": marker}], max_tokens=2)
    secrets = [key.encode() for key in (*site.keys.values(), site.admin_key)]
    for file in site.home.rglob("*"):
        if not file.is_file() or file.name == "demo.json":
            continue
        content = file.read_bytes()
        assert not [secret for secret in secrets if secret in content], file
        if "log" in file.parts or file.suffix == ".log":
            assert marker.encode() not in content, file


def test_port_in_use_is_one_sentence_with_the_mend(tmp_path: Path) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        env = site_environment(tmp_path / "home") | {"REDOMA_PORT": str(holder.getsockname()[1])}
        result = subprocess.run([REDOMA, "up"], env=env, text=True, capture_output=True, timeout=120, check=False)
    assert result.returncode != 0
    assert env["REDOMA_PORT"] in result.stderr
    assert "REDOMA_PORT" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("model", "words"),
    [("no-such-model", "smollm2"), ("/no/such/file.gguf", "/no/such/file.gguf"), ("some-org/some-model", "GGUF")],
)
def test_unusable_model_is_said_before_anything_starts(tmp_path: Path, model: str, words: str) -> None:
    env = site_environment(tmp_path / "home") | {"REDOMA_MODEL": model}
    result = subprocess.run([REDOMA, "up"], env=env, text=True, capture_output=True, timeout=120, check=False)
    assert result.returncode != 0
    assert words in result.stderr
    assert "Traceback" not in result.stderr


def test_file_that_is_no_model_is_said_and_nothing_is_left_running(tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + b"\0" * 100)
    env = site_environment(tmp_path / "home") | {"REDOMA_MODEL": str(broken)}
    result = subprocess.run([REDOMA, "up"], env=env, text=True, capture_output=True, timeout=200, check=False)
    assert result.returncode != 0
    assert "broken.gguf" in result.stderr
    subprocess.run([REDOMA, "down"], env=env, timeout=100, check=True, capture_output=True)
    assert not list((tmp_path / "home" / "run").glob("*.pid"))


def test_down_leaves_no_process_and_up_keeps_the_data(tmp_path: Path) -> None:
    site = Site(tmp_path / "home", site_environment(tmp_path / "home"), 0)
    site.up()
    keys, pids = dict(site.keys), site.processes()
    site.redoma("down")
    assert not [pid for pid in pids.values() if Path(f"/proc/{pid}").exists()]
    assert "not running" in site.redoma("status", check=False).stdout
    site.up()
    try:
        assert site.keys == keys
        assert site.openai().models.list().data
    finally:
        site.redoma("down")
