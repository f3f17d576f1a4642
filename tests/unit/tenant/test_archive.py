"""An archive can be read by any unzip, says what is in it, and shows that it was cut short."""

import hashlib
import io
import json
import zipfile
from collections.abc import AsyncGenerator
from datetime import UTC, datetime

import pytest

from redoma_tenant.privacy.archive import FLUSH_BYTES, Record, Section, archive

AT = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)


async def records(*items: Record) -> AsyncGenerator[Record, None]:
    for item in items:
        yield item


async def made(*sections: Section) -> list[bytes]:
    return [piece async for piece in archive("Data held of tenants/acme", AT, sections)]


async def test_the_archive_holds_every_line_and_its_manifest_fits() -> None:
    lines = [{"name": "ção"}, {"name": "two\nlines"}]
    pieces = await made(Section("users.jsonl", "A user.", records(*lines)), Section("keys.jsonl", "A key.", records()))
    with zipfile.ZipFile(io.BytesIO(b"".join(pieces))) as opened:
        assert opened.testzip() is None
        assert {info.date_time for info in opened.infolist()} == {AT.timetuple()[:6]}
        data = opened.read("users.jsonl")
        assert [json.loads(line) for line in data.splitlines()] == lines
        manifest = json.loads(opened.read("manifest.json"))
        readme = opened.read("README.md").decode()
    assert manifest["files"] == {
        "users.jsonl": {"lines": 2, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()},
        "keys.jsonl": {"lines": 0, "bytes": 0, "sha256": hashlib.sha256(b"").hexdigest()},
    }
    assert "| `users.jsonl` | A user. |" in readme


async def test_a_large_archive_goes_out_in_pieces() -> None:
    async def many() -> AsyncGenerator[Record, None]:
        for number in range(5_000):
            yield {"digest": hashlib.sha256(str(number).encode()).hexdigest()}

    pieces = await made(Section("usage.jsonl", "An hour.", many()))
    assert len(pieces) > 2
    assert max(map(len, pieces)) < 2 * FLUSH_BYTES


async def test_an_archive_that_was_cut_short_can_not_be_taken_for_whole() -> None:
    async def fails() -> AsyncGenerator[Record, None]:
        yield {"first": True}
        raise RuntimeError("the source went away")

    pieces: list[bytes] = []
    with pytest.raises(RuntimeError, match="went away"):
        async for piece in archive("t", AT, [Section("a.jsonl", "A.", fails())]):
            pieces.append(piece)
    with pytest.raises(zipfile.BadZipFile):
        zipfile.ZipFile(io.BytesIO(b"".join(pieces)))
