"""Writes a ZIP archive piece by piece, so that an export of any size needs little memory."""

import hashlib
import io
import json
import zipfile
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # typeshed's name for what can be read as bytes.
    from _typeshed import ReadableBuffer

FLUSH_BYTES = 64 << 10
README = "README.md"
MANIFEST = "manifest.json"

Record = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Section:
    """One file of the archive: a JSON object a line.

    Attributes:
        file: Its name.
        about: What its lines are, one sentence for the README.
        records: Its lines, in order.
    """

    file: str
    about: str
    records: AsyncGenerator[Record, None]


class _Sink(io.RawIOBase):
    """Takes what zipfile writes, which must not need to go back."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self.size = 0

    def writable(self) -> bool:
        return True

    def write(self, data: "ReadableBuffer") -> int:
        piece = bytes(data)
        self._pieces.append(piece)
        self.size += len(piece)
        return len(piece)

    def take(self) -> bytes:
        """Gives what has come since the last time."""
        data = b"".join(self._pieces)
        self._pieces.clear()
        self.size = 0
        return data


async def archive(title: str, made_at: datetime, sections: Iterable[Section]) -> AsyncGenerator[bytes, None]:
    """Gives the archive's bytes: README.md, each section, and last manifest.json with lines, bytes and SHA-256 of each.

    An archive whose manifest is missing was cut short.
    """
    sections = list(sections)
    sink = _Sink()
    files: dict[str, dict[str, object]] = {}
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as target:
        target.writestr(_file(README, made_at), _readme(title, made_at, sections))
        for section in sections:
            digest, size, lines = hashlib.sha256(), 0, 0
            with target.open(_file(section.file, made_at), "w", force_zip64=True) as file:
                async with aclosing(section.records) as records:
                    async for record in records:
                        line = json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
                        file.write(line)
                        digest.update(line)
                        size += len(line)
                        lines += 1
                        if sink.size >= FLUSH_BYTES:
                            yield sink.take()
            files[section.file] = {"lines": lines, "bytes": size, "sha256": digest.hexdigest()}
        manifest = {"title": title, "make_time": made_at.isoformat(), "files": files}
        target.writestr(_file(MANIFEST, made_at), json.dumps(manifest, indent=2) + "\n")
    yield sink.take()


def _file(name: str, made_at: datetime) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, made_at.timetuple()[:6])
    info.compress_type = zipfile.ZIP_DEFLATED
    info.external_attr = 0o600 << 16
    return info


def _readme(title: str, made_at: datetime, sections: Iterable[Section]) -> str:
    rows = "\n".join(f"| `{section.file}` | {section.about} |" for section in sections)
    return (
        f"# {title}\n\nMade on {made_at:%Y-%m-%d %H:%M} UTC by Redoma.\n\n"
        "Each file holds one JSON object a line, in UTF-8. Times are RFC 3339 in UTC.\n\n"
        f"| file | what a line is |\n|---|---|\n{rows}\n\n"
        f"`{MANIFEST}` has the number of lines, the size and the SHA-256 of each file. It is written last: an archive\n"
        "without it was cut short.\n"
    )
