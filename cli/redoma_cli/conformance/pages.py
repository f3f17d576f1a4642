"""Lists that come in pages."""

from collections.abc import AsyncIterator
from typing import TypeVar

from redoma.model.v1.engine_pb2 import ListUsageRecordsRequest, ListUsageRecordsResponse
from redoma.tenant.v1.tenant_pb2 import ListTenantsRequest, ListTenantsResponse
from redoma.tenant.v1.usage_pb2 import ListLedgerTransactionsRequest, ListLedgerTransactionsResponse
from redoma_cli.conformance.caller import Caller

MOST_PER_PAGE = 1_000
ListRequest = ListTenantsRequest | ListUsageRecordsRequest | ListLedgerTransactionsRequest
PageT = TypeVar("PageT", ListTenantsResponse, ListUsageRecordsResponse, ListLedgerTransactionsResponse)


async def pages(caller: Caller, request: ListRequest, response: type[PageT]) -> AsyncIterator[PageT]:
    """Gives one page after the other. `request` is moved on.

    Raises:
        Skipped, Unclear: See Caller.must.
    """
    request.page_size = MOST_PER_PAGE
    while True:
        page = await caller.must(request, response)
        yield page
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token
