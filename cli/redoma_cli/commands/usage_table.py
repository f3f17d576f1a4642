"""What was used, as people read it: a table with its sum, and a chart."""

from datetime import UTC

from rich.markup import escape
from rich.table import Table

from redoma.tenant.v1.usage_pb2 import UsageRow
from redoma_cli.commands.output import short_name

FIELDS = {"tenant": "tenant", "key": "api_key", "user": "user", "model": "model", "adapter": "adapter"}
TIME_FORMS = {"hour": "%Y-%m-%d %H:00", "day": "%Y-%m-%d", "month": "%Y-%m"}
AMOUNTS = ("requests", "input", "cached", "output", "reasoning", "cost")
UNITS = ("input_tokens", "cached_input_tokens", "output_tokens", "reasoning_tokens")
NANOS = 1_000_000_000
MAX_BARS = 31
BAR_CHARACTERS = 40
EIGHTHS = " ▏▎▍▌▋▊▉█"


def table_of(rows: list[UsageRow], dimensions: list[str], granularity: str, currency: str) -> Table:
    """Draws the rows, and their sum below."""
    table = Table(box=None, header_style="dim", pad_edge=False, show_footer=len(rows) > 1, footer_style="bold")
    times = [] if granularity == "total" else [granularity]
    shown = dimensions if "tenant" in dimensions or not rows[0].tenant else ["tenant", *dimensions]
    for index, column in enumerate([*times, *shown]):
        table.add_column(column, "total" if index == 0 else "", overflow="fold")
    for column, amount in zip(AMOUNTS, amount_texts(_sum(rows), currency), strict=True):
        table.add_column(column, amount, justify="right")
    for row in rows:
        names = [short_name(getattr(row, FIELDS[name])) or "–" for name in shown]
        table.add_row(*map(escape, (*_time_cells(row, granularity), *names, *amount_texts(row, currency))))
    return table


def chart_of(rows: list[UsageRow], granularity: str) -> list[str]:
    """Draws a bar of all tokens for each time, at most MAX_BARS of the last."""
    if granularity == "total":
        return []
    by_time: dict[str, int] = {}
    for row in rows:
        time = _time_cells(row, granularity)[0]
        by_time[time] = by_time.get(time, 0) + row.usage.input_tokens + row.usage.output_tokens
    shown = list(by_time.items())[-MAX_BARS:]
    most = max(tokens for _, tokens in shown)
    return [f"{time}  [cyan]{bar(tokens, most):{BAR_CHARACTERS}}[/] {tokens:,} tokens" for time, tokens in shown]


def bar(part: int, most: int) -> str:
    """Draws a bar in eighths of characters; anything above nothing shows."""
    eighths = max(1 if part > 0 else 0, round(8 * BAR_CHARACTERS * part / most)) if most > 0 else 0
    return "█" * (eighths // 8) + (EIGHTHS[eighths % 8] if eighths % 8 else "")


def amount_texts(row: UsageRow, currency: str = "") -> list[str]:
    """Gives the amounts of a row, in the order of AMOUNTS, for people."""
    counts = (row.requests, *(getattr(row.usage, unit) for unit in UNITS))
    return [*(f"{count:,}" for count in counts), cost_text(row.cost_nanos, currency)]


def cost_text(nanos: int, currency: str = "") -> str:
    """Gives a cost for people."""
    return f"{nanos / NANOS:,.4f} {currency}".rstrip()


def _time_cells(row: UsageRow, granularity: str) -> list[str]:
    form = TIME_FORMS.get(granularity)
    return [] if form is None else [row.start_time.ToDatetime(tzinfo=UTC).strftime(form)]


def _sum(rows: list[UsageRow]) -> UsageRow:
    total = UsageRow(requests=sum(row.requests for row in rows), cost_nanos=sum(row.cost_nanos for row in rows))
    for unit in UNITS:
        setattr(total.usage, unit, sum(getattr(row.usage, unit) for row in rows))
    return total
