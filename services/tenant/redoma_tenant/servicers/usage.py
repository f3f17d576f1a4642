"""UsageService on the wire."""

from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING

from redoma.common.v1.usage_pb2 import Usage
from redoma.tenant.v1 import usage_pb2, usage_pb2_grpc
from redoma_kit.errors import InvalidField
from redoma_kit.identity import PLATFORM_ADMIN, Identity, current_identity
from redoma_tenant.ledger import TransactionKind
from redoma_tenant.names import OWN, parse_parent, tenant_name
from redoma_tenant.servicers.times import time_in, timestamp
from redoma_tenant.usage import UsageBook
from redoma_tenant.usage_export import UsageFile, shown_value
from redoma_tenant.usage_rows import (
    Amounts,
    BookedTransaction,
    Dimension,
    Granularity,
    Selection,
    UsageRow,
)

if TYPE_CHECKING:
    from redoma_kit.interceptors.pipeline import Context

GRANULARITIES = {
    usage_pb2.GRANULARITY_UNSPECIFIED: Granularity.DAY,
    usage_pb2.GRANULARITY_HOUR: Granularity.HOUR,
    usage_pb2.GRANULARITY_DAY: Granularity.DAY,
    usage_pb2.GRANULARITY_MONTH: Granularity.MONTH,
    usage_pb2.GRANULARITY_TOTAL: Granularity.TOTAL,
}
DIMENSIONS = {
    usage_pb2.DIMENSION_TENANT: Dimension.TENANT,
    usage_pb2.DIMENSION_API_KEY: Dimension.API_KEY,
    usage_pb2.DIMENSION_USER: Dimension.USER,
    usage_pb2.DIMENSION_MODEL: Dimension.MODEL,
    usage_pb2.DIMENSION_ADAPTER: Dimension.ADAPTER,
}
KINDS = {
    TransactionKind.SETTLEMENT: usage_pb2.LedgerTransaction.KIND_SETTLEMENT,
    TransactionKind.CORRECTION: usage_pb2.LedgerTransaction.KIND_CORRECTION,
}
FORMATS = (usage_pb2.EXPORT_FORMAT_UNSPECIFIED, usage_pb2.EXPORT_FORMAT_CSV, usage_pb2.EXPORT_FORMAT_JSON_LINES)
MAX_TOKEN_ID_CHARACTERS = 64


class UsageServicer(usage_pb2_grpc.UsageServiceServicer):
    """What was used, for a tenant's administrators and for operators. `currency` is an ISO 4217 code."""

    def __init__(self, book: UsageBook, currency: str) -> None:
        self._book = book
        self._currency = currency

    async def QueryUsage(
        self, request: usage_pb2.QueryUsageRequest, context: "Context"
    ) -> usage_pb2.QueryUsageResponse:
        """Sums use up, a page at a time."""
        selection = self._selection(request.selection, current_identity())
        asked = _asked(request.selection, selection)
        page = await self._book.query(selection, request.page_size, request.page_token, asked)
        return usage_pb2.QueryUsageResponse(
            rows=[_row(row, selection.tenant) for row in page.items],
            next_page_token=page.next_page_token,
            currency=self._currency,
        )

    async def ExportUsage(
        self, request: usage_pb2.ExportUsageRequest, context: "Context"
    ) -> AsyncIterator[usage_pb2.ExportUsageResponse]:
        """Sums use up, all of it as a file."""
        selection = self._selection(request.selection, current_identity())
        if request.format not in FORMATS:
            raise InvalidField("format", "is not a form that this service writes.")
        is_json = request.format == usage_pb2.EXPORT_FORMAT_JSON_LINES
        file = UsageFile(selection, self._currency)
        if not is_json:
            yield usage_pb2.ExportUsageResponse(data=file.csv_heading())
        async for rows in self._book.read(selection):
            yield usage_pb2.ExportUsageResponse(data=file.json_lines(rows) if is_json else file.csv_lines(rows))

    async def ListLedgerTransactions(
        self, request: usage_pb2.ListLedgerTransactionsRequest, context: "Context"
    ) -> usage_pb2.ListLedgerTransactionsResponse:
        """Lists what was booked."""
        tenant = parse_parent("parent", request.parent, current_identity())
        if len(request.token_id) > MAX_TOKEN_ID_CHARACTERS or "\0" in request.token_id:
            raise InvalidField("token_id", f"must have at most {MAX_TOKEN_ID_CHARACTERS} characters, none of them NUL.")
        page = await self._book.list_transactions(tenant, request.token_id, request.page_size, request.page_token)
        return usage_pb2.ListLedgerTransactionsResponse(
            transactions=[_transaction(transaction) for transaction in page.items],
            next_page_token=page.next_page_token,
        )

    async def ReconcileUsage(
        self, request: usage_pb2.ReconcileUsageRequest, context: "Context"
    ) -> usage_pb2.ReconcileUsageResponse:
        """Compares the ledger with the sums."""
        tenant = parse_parent("parent", request.parent, current_identity())
        found = await self._book.reconcile(tenant)
        return usage_pb2.ReconcileUsageResponse(
            balanced=found.balanced,
            ledger=_sums(found.ledger, tenant_name(tenant)),
            sums=_sums(found.sums, tenant_name(tenant)),
            open_calls=found.open_calls,
        )

    def _selection(self, wanted: usage_pb2.UsageSelection, caller: Identity) -> Selection:
        if wanted.granularity not in GRANULARITIES:
            raise InvalidField("selection.granularity", "is none that this service knows.")
        if any(dimension not in DIMENSIONS for dimension in wanted.dimensions):
            raise InvalidField("selection.dimensions", "holds one that this service does not know.")
        return self._book.selection(
            tenant=_tenant(wanted.parent, caller),
            start=time_in("selection.start_time", wanted.start_time) if wanted.HasField("start_time") else None,
            end=time_in("selection.end_time", wanted.end_time) if wanted.HasField("end_time") else None,
            granularity=GRANULARITIES[wanted.granularity],
            dimensions=[DIMENSIONS[dimension] for dimension in wanted.dimensions],
        )


def _tenant(parent: str, caller: Identity) -> str | None:
    """Gives the id of the tenant; None for all, which `tenants/-` is to an operator."""
    if parent == tenant_name(OWN) and not caller.tenant and PLATFORM_ADMIN in caller.scopes:
        return None
    return parse_parent("selection.parent", parent, caller)


def _asked(wanted: usage_pb2.UsageSelection, selection: Selection) -> Sequence[str]:
    """Gives what must stay the same between pages; times as they were given, since the defaults move."""
    times = (f"{wanted.start_time.ToNanoseconds()}", f"{wanted.end_time.ToNanoseconds()}")
    dimensions = (dimension.value for dimension in selection.dimensions)
    return (tenant_name(selection.tenant or OWN), *times, selection.granularity.name, *dimensions)


def _row(row: UsageRow, tenant: str | None) -> usage_pb2.UsageRow:
    message = _sums(row.amounts)
    message.start_time.FromDatetime(row.start)
    for dimension in row.values:
        setattr(message, dimension.value, shown_value(row, dimension, tenant))
    return message


def _sums(amounts: Amounts, tenant: str = "") -> usage_pb2.UsageRow:
    usage = Usage(
        input_tokens=amounts.input_tokens,
        cached_input_tokens=amounts.cached_input_tokens,
        output_tokens=amounts.output_tokens,
        reasoning_tokens=amounts.reasoning_tokens,
    )
    return usage_pb2.UsageRow(tenant=tenant, requests=amounts.requests, usage=usage, cost_nanos=amounts.cost_nanos)


def _transaction(transaction: BookedTransaction) -> usage_pb2.LedgerTransaction:
    return usage_pb2.LedgerTransaction(
        name=f"{tenant_name(transaction.tenant)}/ledgerTransactions/{transaction.id}",
        kind=KINDS[transaction.kind],
        token_id=transaction.token_id,
        book_time=timestamp(transaction.book_time),
        principal=transaction.principal,
        model=transaction.model,
        adapter=transaction.adapter,
        entries=[
            usage_pb2.LedgerEntry(account=entry.account, unit=entry.unit, amount=entry.amount)
            for entry in transaction.entries
        ],
    )
