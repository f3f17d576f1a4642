"""Use as files: CSV, or JSON Lines. Times are RFC 3339 in UTC, costs whole billionths of the currency."""

import csv
import io
import json
from collections.abc import Sequence
from datetime import UTC

from redoma_tenant.names import api_key_name, tenant_name, user_name
from redoma_tenant.usage_rows import UNITS, Dimension, Selection, UsageRow


def shown_value(row: UsageRow, dimension: Dimension, tenant: str | None) -> str:
    """Gives what a row says of a dimension: resource names of tenant, key and user, ids of model and adapter.

    `tenant` is the one that was asked for, None if all were.
    """
    value = row.values.get(dimension, "")
    owner = tenant or row.values.get(Dimension.TENANT, "")
    if not value:
        return ""
    if dimension is Dimension.TENANT:
        return tenant_name(value)
    if dimension is Dimension.API_KEY:
        return api_key_name(owner, value)
    return user_name(owner, value) if dimension is Dimension.USER else value


class UsageFile:
    """Writes the rows of a selection down."""

    __slots__ = ("_columns", "_currency", "_selection")

    def __init__(self, selection: Selection, currency: str) -> None:
        self._selection = selection
        self._currency = currency
        dimensions = (one.value for one in selection.dimensions)
        self._columns = ("start_time", *dimensions, "requests", *UNITS, "currency")

    def csv_heading(self) -> bytes:
        """Gives the line of headings."""
        return ",".join(self._columns).encode() + b"\r\n"

    def csv_lines(self, rows: Sequence[UsageRow]) -> bytes:
        """Gives a record a row, as RFC 4180 has it."""
        text = io.StringIO()
        writer = csv.DictWriter(text, self._columns, lineterminator="\r\n")
        writer.writerows(self._fields(row) for row in rows)
        return text.getvalue().encode()

    def json_lines(self, rows: Sequence[UsageRow]) -> bytes:
        """Gives a JSON object a row."""
        return "".join(json.dumps(self._fields(row), ensure_ascii=False) + "\n" for row in rows).encode()

    def _fields(self, row: UsageRow) -> dict[str, str | int]:
        named = {one.value: shown_value(row, one, self._selection.tenant) for one in self._selection.dimensions}
        amounts = {unit: getattr(row.amounts, unit) for unit in ("requests", *UNITS)}
        start = row.start.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return {"start_time": start, **named, **amounts, "currency": self._currency}
