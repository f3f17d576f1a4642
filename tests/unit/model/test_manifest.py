"""Adapter manifests: strict, bounded, and never a way out of the adapter folder."""

import hashlib
import json
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from redoma_model.errors import AdapterIncompatible, AdapterNotFound
from redoma_model.folders import PathOutside, path_within
from redoma_model.manifest import MAX_MANIFEST_BYTES, AdapterManifest, file_digest, read_manifest

CONTENT = b"weights"
DIGEST = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"
BASE = f"sha256:{'0' * 64}"
FIELDS: dict[str, object] = {
    "name": "Contracts",
    "file": "contracts.gguf",
    "digest": DIGEST,
    "tenant": "acme",
    "base_digest": BASE,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "adapters"
    (made / "acme").mkdir(parents=True)
    (made / "acme" / "contracts.gguf").write_bytes(CONTENT)
    (tmp_path / "outside.gguf").write_bytes(CONTENT)
    return made


def write(folder: Path, content: bytes | dict[str, object]) -> str:
    (folder / "acme" / "m.json").write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return "acme/m.json"


def test_manifest_is_read_with_its_file_beside_it(folder: Path) -> None:
    manifest = read_manifest(folder, write(folder, FIELDS | {"scale": 2}))
    assert manifest == AdapterManifest(
        "Contracts", (folder / "acme" / "contracts.gguf").resolve(), DIGEST, "acme", BASE, 2.0
    )
    manifest.check_file()
    manifest.check_base(BASE)
    assert manifest.adapter().scale == 2.0
    assert manifest.adapter(0.5).scale == 0.5
    assert manifest.adapter().handle is None
    assert read_manifest(folder, write(folder, FIELDS)).scale == 1.0


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b'"text"',
        b"\xff\xfe",
        b'{"a":' * 10_000,
        b" " * (MAX_MANIFEST_BYTES + 1),
        *(json.dumps({name: FIELDS[name] for name in FIELDS if name != left_out}).encode() for left_out in FIELDS),
        *(json.dumps(FIELDS | {name: None}).encode() for name in FIELDS),
        *(json.dumps(FIELDS | {name: ""}).encode() for name in FIELDS),
        json.dumps(FIELDS | {"signature": "x"}).encode(),
        json.dumps(FIELDS | {"digest": DIGEST.upper()}).encode(),
        json.dumps(FIELDS | {"digest": DIGEST[7:]}).encode(),
        json.dumps(FIELDS | {"base_digest": "md5:" + "0" * 32}).encode(),
        json.dumps(FIELDS | {"tenant": "ACME"}).encode(),
        json.dumps(FIELDS | {"tenant": "acme/globex"}).encode(),
        json.dumps(FIELDS | {"name": "a\nb"}).encode(),
        json.dumps(FIELDS | {"name": "x" * 129}).encode(),
        *(json.dumps(FIELDS | {"scale": scale}).encode() for scale in (0, -1, 10.5, True, "1", None)),
        json.dumps(FIELDS | {"scale": float("nan")}).encode(),
        json.dumps(FIELDS).replace('"Contracts"', '"Contracts", "scale": 1e999').encode(),
        *(
            json.dumps(FIELDS | {"file": path}).encode()
            for path in ("../../outside.gguf", "/etc/passwd", "..", ".", "a\0b", "x" * 2_000)
        ),
    ],
)
def test_what_is_no_manifest_is_refused_as_such(folder: Path, content: bytes) -> None:
    with pytest.raises(AdapterIncompatible) as refused:
        read_manifest(folder, write(folder, content))
    assert refused.value.metadata == {"problem": "manifest"}
    assert "acme/m.json" in refused.value.message


def test_links_do_not_lead_out_of_the_folder(folder: Path, tmp_path: Path) -> None:
    (folder / "acme" / "link.gguf").symlink_to(tmp_path / "outside.gguf")
    (folder / "up").symlink_to(tmp_path)
    for file in ("link.gguf", "../up/outside.gguf"):
        with pytest.raises(AdapterIncompatible):
            read_manifest(folder, write(folder, FIELDS | {"file": file}))
    (tmp_path / "m.json").write_text(json.dumps(FIELDS))
    with pytest.raises(AdapterIncompatible):
        read_manifest(folder, "up/m.json")


def test_link_within_the_folder_is_followed(folder: Path) -> None:
    (folder / "link").symlink_to(folder / "acme")
    write(folder, FIELDS)
    assert read_manifest(folder, "link/m.json").file == (folder / "acme" / "contracts.gguf").resolve()


def test_loop_of_links_is_refused(folder: Path) -> None:
    (folder / "loop").symlink_to(folder / "loop")
    with pytest.raises((AdapterIncompatible, AdapterNotFound)):
        read_manifest(folder, "loop/m.json")


def test_manifest_that_is_not_there_is_not_found(folder: Path) -> None:
    for path in ("nothing.json", "acme/nothing.json", "acme/contracts.gguf/m.json"):
        with pytest.raises(AdapterNotFound):
            read_manifest(folder, path)


def test_pipe_is_no_manifest_and_no_adapter(folder: Path) -> None:
    os.mkfifo(folder / "acme" / "pipe")
    with pytest.raises(AdapterIncompatible):
        read_manifest(folder, "acme/pipe")
    with pytest.raises(AdapterIncompatible) as refused:
        read_manifest(folder, write(folder, FIELDS | {"file": "pipe"})).check_file()
    assert refused.value.metadata == {"problem": "file"}


def test_other_file_or_other_base_is_told_apart(folder: Path) -> None:
    manifest = read_manifest(folder, write(folder, FIELDS))
    (folder / "acme" / "contracts.gguf").write_bytes(b"others")
    with pytest.raises(AdapterIncompatible) as refused:
        manifest.check_file()
    assert refused.value.metadata == {"problem": "digest"}
    (folder / "acme" / "contracts.gguf").unlink()
    with pytest.raises(AdapterIncompatible) as refused:
        manifest.check_file()
    assert refused.value.metadata == {"problem": "file"}
    with pytest.raises(AdapterIncompatible) as refused:
        manifest.check_base(DIGEST)
    assert refused.value.metadata == {"problem": "base"}


def test_digest_of_a_file_larger_than_a_piece(tmp_path: Path) -> None:
    content = bytes(range(256)) * 10_000
    (tmp_path / "large").write_bytes(content)
    assert file_digest(tmp_path / "large") == f"sha256:{hashlib.sha256(content).hexdigest()}"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(st.one_of(st.text(max_size=40), st.lists(st.sampled_from(["..", ".", "a", "", "/", "~"])).map("/".join)))
def test_no_path_leads_out_of_its_folder(folder: Path, relative: str) -> None:
    try:
        found = path_within(folder, relative)
    except PathOutside:
        return
    assert found.is_relative_to(folder.resolve())
    assert found != folder.resolve()
