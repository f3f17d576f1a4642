"""How a person's choices become a site's configuration, and what is said when a choice can't be followed."""

import re
import socket
import stat
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import make_url

from redoma_chat.settings import ChatSettings
from redoma_cli.client import Demo, choose_key, read_demo
from redoma_cli.errors import CliError
from redoma_cli.local.demo import write_demo
from redoma_cli.local.home import Home, find_home
from redoma_cli.local.pki import DevelopmentAuthority
from redoma_cli.local.plan import ProcessSpec, pid_file, read_plan, write_plan
from redoma_cli.local.ports import choose_ports, highest_port, port_is_free
from redoma_cli.local.process import PidFile, current_identity
from redoma_cli.local.site import admin_key, edge_workers, prepare_site, program_files, read_options, render_toml
from redoma_cli.local.up import SiteStarter, last_words, site_lock, tail
from redoma_kit.settings import ServiceSettings, load_settings
from redoma_model.settings import ModelSettings
from redoma_tenant.settings import TenantSettings

KEY = "rdm_abcdefgh_" + "s" * 43


@pytest.fixture
def model_file(tmp_path: Path) -> Path:
    """What passes for a model until somebody loads it."""
    file = tmp_path / 'My "odd" Modél.gguf'
    file.write_bytes(b"GGUF and no more")
    return file


@pytest.fixture
def environ(model_file: Path, tmp_path: Path) -> dict[str, str]:
    """An environment with which a site can be configured."""
    envoy = tmp_path / "bin" / "envoy"
    envoy.parent.mkdir()
    envoy.write_text("#!/bin/sh\n")
    envoy.chmod(0o755)
    return {"REDOMA_MODEL": str(model_file), "PATH": str(envoy.parent)}


Prepare = Callable[..., dict[str, ProcessSpec]]


@pytest.fixture
def prepare(home: Home, authority: DevelopmentAuthority, environ: dict[str, str]) -> Prepare:
    """Configures the site with some more variables set."""

    def prepare(**more: str) -> dict[str, ProcessSpec]:
        chosen = environ | more
        specs = prepare_site(home, read_options(chosen, home, None), chosen, authority, KEY)
        return {spec.name: spec for spec in specs}

    return prepare


@pytest.mark.parametrize(
    ("service", "settings_type"), [("chat", ChatSettings), ("tenant", TenantSettings), ("model", ModelSettings)]
)
def test_services_accept_the_settings_written_for_them(
    prepare: Prepare, home: Home, model_file: Path, service: str, settings_type: type[ServiceSettings]
) -> None:
    specs = prepare(REDOMA_MAX_STREAM_S="7.5")
    settings = load_settings(settings_type, home.config / f"{service}.toml")
    assert settings.max_stream_s == 7.5
    assert settings.listen == specs[service].probe.address
    assert settings.tls.cert_file.is_file()
    if isinstance(settings, ModelSettings):
        assert settings.file == model_file


def test_first_administrators_key_lies_in_demo_json_alone(prepare: Prepare, home: Home) -> None:
    prepare()
    write_demo(home, "http://127.0.0.1:1", KEY, [("acme", "a")])
    holders = [file for file in home.root.rglob("*") if file.is_file() and KEY.encode() in file.read_bytes()]
    assert holders == [home.demo_file]
    assert {stat.S_IMODE(file.stat().st_mode) for file in home.root.rglob("*") if file.is_file()} == {0o600}
    assert admin_key(Demo("", KEY, {})) == KEY
    assert admin_key(None) != admin_key(None)


def test_plan_is_the_same_each_time_and_follows_each_change(prepare: Prepare, home: Home) -> None:
    first = prepare()
    again = prepare(PATH_INFO="noise", SHELL="noise")
    assert {name: spec.fingerprint for name, spec in again.items()} == {
        name: spec.fingerprint for name, spec in first.items()
    }

    def changed(**more: str) -> set[str]:
        return {name for name, spec in prepare(**more).items() if spec.fingerprint != first[name].fingerprint}

    assert changed(REDOMA_MODEL_SLOTS="2") == {"model"}
    assert changed(REDOMA_PORT="9999") == {"edge"}
    assert changed(REDOMA_EDGE_REFLECTION="1") == {"edge", "chat"}
    assert changed(REDOMA_MAX_STREAM_S="5") == {"edge", "chat", "tenant", "model"}
    write_plan(home, list(first.values()))
    assert {spec.name: spec for spec in read_plan(home)} == first


def test_changed_program_is_started_anew(prepare: Prepare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "server.py"
    program.write_text("old")
    monkeypatch.setattr("redoma_cli.local.site.program_files", lambda packages: [program])
    first = prepare()
    program.write_text("new")
    changed = {name for name, spec in prepare().items() if spec.fingerprint != first[name].fingerprint}
    assert changed == {"tenant", "model", "chat"}


def test_program_files_are_the_packages_own() -> None:
    names = {file.name for file in program_files(("redoma_kit", "redoma"))}
    assert {"server.py", "pipeline.py", "model_pb2.py"} <= names
    assert program_files(("no_such_package_of_redoma",)) == []


def test_services_get_their_own_settings_and_no_credential(prepare: Prepare) -> None:
    specs = prepare(
        REDOMA_MODEL_SLOTS="2", REDOMA_CHAT_LOG__LEVEL="debug", REDOMA_API_KEY="secret", CUDA_VISIBLE_DEVICES="0"
    )
    assert specs["model"].env["REDOMA_MODEL_SLOTS"] == "2"
    assert "REDOMA_MODEL_SLOTS" not in specs["chat"].env
    assert specs["chat"].env["REDOMA_CHAT_LOG__LEVEL"] == "debug"
    assert specs["model"].env["CUDA_VISIBLE_DEVICES"] == "0"
    assert not any("REDOMA_API_KEY" in spec.env or "REDOMA_MODEL" in spec.env for spec in specs.values())


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("REDOMA_PORT", "eighty", "number from 1 to 65535"),
        ("REDOMA_PORT", "0", "number from 1 to 65535"),
        ("REDOMA_PORT", "65536", "number from 1 to 65535"),
        ("REDOMA_MAX_STREAM_S", "nan", "Set it to seconds"),
        ("REDOMA_MAX_STREAM_S", "0", "Set it to seconds"),
        ("REDOMA_EDGE_REFLECTION", "maybe", "1 or 0"),
        ("REDOMA_CORS_ORIGINS", "chat.example.com", "https://chat.example.com"),
        ("REDOMA_MODEL", "gpt-4", "smollm2-135m-instruct"),
        ("REDOMA_MODEL", "some-org/some-model", "Download a GGUF file"),
        ("REDOMA_MODEL", "/no/such/file.gguf", "/no/such/file.gguf"),
        ("REDOMA_MODEL", "smollm2-135m-instruct", "missing"),
        ("PATH", "/nowhere", "Envoy is missing"),
    ],
)
def test_wrong_choice_is_one_sentence_and_its_mend(
    environ: dict[str, str], home: Home, name: str, value: str, words: str
) -> None:
    with pytest.raises(CliError) as told:
        read_options(environ | {name: value}, home, None)
    assert words in f"{told.value.message} {told.value.mend}"
    assert told.value.mend
    assert "\n" not in told.value.message


def test_file_that_is_no_model_is_refused(environ: dict[str, str], home: Home, tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"\x00" * 16)
    with pytest.raises(CliError, match="not a GGUF file"):
        read_options(environ | {"REDOMA_MODEL": str(file)}, home, None)


def test_port_held_by_another_program_is_named_with_a_mend(home: Home, model_file: Path) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        with pytest.raises(CliError, match=f"Port {port} is in use") as told:
            SiteStarter(home, port, model_file).check_port()
        # The next port may be another program's too: what counts is that the one named is free.
        (named,) = re.findall(r"REDOMA_PORT=(\d+) make up", told.value.mend)
        assert int(named) > port
        with socket.socket() as free:
            free.bind(("127.0.0.1", int(named)))


def test_port_of_the_sites_own_edge_is_not_in_the_way(prepare: Prepare, home: Home, model_file: Path) -> None:
    with socket.socket() as edge:
        edge.bind(("127.0.0.1", 0))
        edge.listen()
        port = edge.getsockname()[1]
        prepare(REDOMA_PORT=str(port))
        starter = SiteStarter(home, port, model_file)
        with pytest.raises(CliError):
            starter.check_port()
        PidFile(pid_file(home, "edge")).write(current_identity(), "")
        starter.check_port()
        # Nor does a running edge excuse another port that is taken.
        prepare(REDOMA_PORT="1")
        with pytest.raises(CliError):
            starter.check_port()


def test_ports_are_kept_while_they_can_be(tmp_path: Path) -> None:
    file = tmp_path / "ports.json"
    taken: set[int] = set()
    mine: set[str] = set()

    def choose() -> dict[str, int]:
        return choose_ports(["a", "b"], file, lambda name: name in mine, lambda port: port not in taken)

    first = choose()
    assert choose() == first
    assert all(1024 < port <= highest_port() for port in first.values())
    taken.add(first["a"])
    moved = choose()
    assert moved["a"] != first["a"]
    assert moved["b"] == first["b"]
    taken.add(moved["a"])
    mine.add("a")
    assert choose() == moved
    file.write_text("no JSON")
    assert set(choose()) == {"a", "b"}


def test_port_with_a_listener_is_not_free() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        assert not port_is_free(holder.getsockname()[1])


def test_no_port_at_all_is_said(tmp_path: Path) -> None:
    with pytest.raises(CliError, match="No free port"):
        choose_ports(["a"], tmp_path / "ports.json", lambda name: False, lambda port: False)


def test_toml_reads_back_as_it_was_meant() -> None:
    table: dict[str, object] = {
        "file": 'C:\\a "b" \x7f\n é',
        "number": 7.5,
        "on": True,
        "names": ["x", "y"],
        "tls": {"ca_file": "/a b/c"},
    }
    assert tomllib.loads(render_toml(table)) == table


def test_second_up_at_the_same_time_is_refused(home: Home) -> None:
    with site_lock(home), pytest.raises(CliError, match="Another"), site_lock(home):
        pass
    with site_lock(home):
        pass


def test_home_is_the_one_named_or_the_checkouts(tmp_path: Path) -> None:
    assert find_home({"REDOMA_HOME": str(tmp_path)}, Path("/src")).root == tmp_path
    assert find_home({"REDOMA_HOME": ""}, Path("/src")).root == Path("/src/.redoma")
    assert find_home({}, None).root == Path.home() / ".redoma"


def test_key_named_wins_and_a_role_picks_among_the_local_ones() -> None:
    demo = Demo("", "root", {"acme": "a", "globex": "g"})
    assert choose_key("mine", demo, "admin") == "mine"
    assert choose_key(None, demo, "admin") == "root"
    assert choose_key(None, demo, "globex") == "g"
    assert choose_key(None, demo, "") == "a"
    with pytest.raises(CliError, match="No API key"):
        choose_key(None, None, "")


def test_last_words_of_a_log_are_readable(tmp_path: Path) -> None:
    file = tmp_path / "model.log"
    assert tail(file, 3) == []
    file.write_text('one\ntwo\n{"event": "can not load", "error": "no such file", "level": "error"}\n')
    assert tail(file, 2)[0] == "two"
    assert last_words(tail(file, 1)) == "can not load: no such file"
    assert last_words(["plain"]) == "plain"
    assert last_words(["7"]) == "7"
    assert last_words([]) == ""


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        '{"edge": "x", "admin_key": "k", "tenants": []}',
        '{"edge": "http://127.0.0.1:1", "admin_key": null, "tenants": []}',
        '{"edge": "http://127.0.0.1:x", "admin_key": "k", "tenants": []}',
        '{"edge": "http://127.0.0.1:1", "admin_key": "k", "tenants": [{"id": "acme", "api_key": "a\\nb"}]}',
    ],
)
def test_damaged_demo_file_counts_as_none(home: Home, content: str) -> None:
    home.demo_file.write_text(content)
    assert read_demo(home) is None


def test_key_that_can_not_be_sent_is_refused() -> None:
    with pytest.raises(CliError, match="characters that no key has"):
        choose_key("ключ", None, "")


def test_home_that_nothing_can_name_is_refused() -> None:
    for named in ("/a\nb", "/a\udcffb", "~no-such-user-here/x"):
        with pytest.raises(CliError, match=r"REDOMA_HOME|home of a site"):
            find_home({"REDOMA_HOME": named}, None)


def test_database_url_stands_for_a_path_with_any_character(tmp_path: Path, environ: dict[str, str]) -> None:
    odd = Home(tmp_path / "a?b#c%41 é")
    odd.create()
    authority = DevelopmentAuthority(odd.pki)
    prepare_site(odd, read_options(environ, odd, None), environ, authority, KEY)
    url = tomllib.loads((odd.config / "chat.toml").read_text())["database_url"]
    assert make_url(url).database == str(odd.data / "chat.db")


def test_port_of_the_edge_is_no_service_s(tmp_path: Path) -> None:
    file = tmp_path / "ports.json"
    file.write_text('{"chat": 25290, "model": 99999}')
    ports = choose_ports(("chat", "model"), file, lambda name: False, lambda port: True, reserved=(25290,))
    assert ports["chat"] != 25290
    assert 0 < ports["model"] <= 65535


@pytest.mark.parametrize(("cores", "workers"), [(1, 1), (2, 1), (4, 2), (64, 2)])
def test_edge_leaves_cores_to_the_model(cores: int, workers: int) -> None:
    assert edge_workers(cores) == workers
