"""Chains as files: JSON Lines, each line the canonical form of an entry with its hash, or CSV of the same members."""

import csv
import io
from collections.abc import Sequence

from redoma_tenant.audit.chain import Entry, canonical, fields_of

COLUMNS = (
    "name",
    "sequence",
    "time",
    "actor",
    "action",
    "resource",
    "source",
    "result",
    "request_id",
    "details",
    "count",
    "previous_hash",
    "hash",
)


def json_lines(entries: Sequence[Entry]) -> bytes:
    """Gives a line an entry."""
    return "".join(f"{canonical(fields_of(entry))}\n" for entry in entries).encode()


def csv_heading() -> bytes:
    """Gives the line of headings."""
    return ",".join(COLUMNS).encode() + b"\r\n"


def csv_lines(entries: Sequence[Entry]) -> bytes:
    """Gives a record an entry, as RFC 4180 has it; `details` is a JSON object."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    for entry in entries:
        fields = fields_of(entry)
        fields["details"] = canonical(dict(entry.event.details))
        writer.writerow([fields[column] for column in COLUMNS])
    return text.getvalue().encode()
