"""AuditService on the wire."""

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from redoma.tenant.v1 import audit_pb2, audit_pb2_grpc, usage_pb2
from redoma_kit.errors import InvalidField, ScopeMissing
from redoma_kit.identity import PLATFORM_ADMIN, Identity, current_identity
from redoma_tenant.audit.book import AuditBook
from redoma_tenant.audit.chain import BEGINNING, Entry, Position
from redoma_tenant.audit.export import csv_heading, csv_lines, json_lines
from redoma_tenant.audit.heads import Head
from redoma_tenant.audit.store import Wanted
from redoma_tenant.names import OWN, PLATFORM, parse_parent, tenant_name
from redoma_tenant.servicers.times import time_in, timestamp

if TYPE_CHECKING:
    from redoma_kit.interceptors.pipeline import Context

FORMATS = (usage_pb2.EXPORT_FORMAT_UNSPECIFIED, usage_pb2.EXPORT_FORMAT_CSV, usage_pb2.EXPORT_FORMAT_JSON_LINES)
MAX_FILTER_CHARACTERS = 255


class AuditServicer(audit_pb2_grpc.AuditServiceServicer):
    """Audit chains, for a tenant's administrators and for operators."""

    def __init__(self, book: AuditBook) -> None:
        self._book = book

    async def ListAuditEntries(
        self, request: audit_pb2.ListAuditEntriesRequest, context: "Context"
    ) -> audit_pb2.ListAuditEntriesResponse:
        """Lists a chain's entries."""
        chain = _chain(request.parent, current_identity())
        page = await self._book.list(chain, _wanted(request), request.page_size, request.page_token)
        return audit_pb2.ListAuditEntriesResponse(
            audit_entries=[_message(entry) for entry in page.items], next_page_token=page.next_page_token
        )

    async def ExportAuditEntries(
        self, request: audit_pb2.ExportAuditEntriesRequest, context: "Context"
    ) -> AsyncIterator[audit_pb2.ExportAuditEntriesResponse]:
        """Streams a chain as a file."""
        chain = _chain(request.parent, current_identity())
        if request.format not in FORMATS:
            raise InvalidField("format", "is not a form that this service writes.")
        is_json = request.format == usage_pb2.EXPORT_FORMAT_JSON_LINES
        head = await self._book.head(chain)
        if not is_json:
            yield audit_pb2.ExportAuditEntriesResponse(data=csv_heading())
        async for entries in self._book.read(head):
            yield audit_pb2.ExportAuditEntriesResponse(data=json_lines(entries) if is_json else csv_lines(entries))
        yield audit_pb2.ExportAuditEntriesResponse(head=_head(head))

    async def VerifyAuditChain(
        self, request: audit_pb2.VerifyAuditChainRequest, context: "Context"
    ) -> audit_pb2.VerifyAuditChainResponse:
        """Looks for edits and gaps in a chain."""
        chain = _chain(request.parent, current_identity())
        verdict = await self._book.verify(chain, _known(request))
        broken = verdict.found
        return audit_pb2.VerifyAuditChainResponse(
            intact=broken is None,
            broken_sequence=0 if broken is None else broken.sequence,
            problem="" if broken is None else broken.problem,
            head=_head(verdict.head),
        )


def _chain(parent: str, caller: Identity) -> str:
    """Gives the chain of a parent; an operator's own is the platform's."""
    if parent == PLATFORM or (parent == tenant_name(OWN) and not caller.tenant):
        if PLATFORM_ADMIN not in caller.scopes:
            raise ScopeMissing(PLATFORM_ADMIN)
        return ""
    return parse_parent("parent", parent, caller)


def _wanted(request: audit_pb2.ListAuditEntriesRequest) -> Wanted:
    for field in ("actor", "action", "result", "resource_prefix"):
        text = getattr(request, field)
        if len(text) > MAX_FILTER_CHARACTERS or "\0" in text:
            raise InvalidField(field, f"must have at most {MAX_FILTER_CHARACTERS} characters, and none of them NUL.")
    return Wanted(
        start_time=time_in("start_time", request.start_time) if request.HasField("start_time") else None,
        end_time=time_in("end_time", request.end_time) if request.HasField("end_time") else None,
        actor=request.actor,
        action=request.action,
        result=request.result,
        resource_prefix=request.resource_prefix,
    )


def _known(request: audit_pb2.VerifyAuditChainRequest) -> Position | None:
    if not request.HasField("known_head"):
        return None
    known = Position(request.known_head.sequence, request.known_head.hash)
    if known.sequence < 0:
        raise InvalidField("known_head.sequence", "must not be negative.")
    return known if known.sequence else None


def _head(head: Head) -> audit_pb2.AuditHead:
    signature = "" if head.position == BEGINNING else head.signature
    return audit_pb2.AuditHead(sequence=head.position.sequence, hash=head.position.hash, signature=signature)


def _message(entry: Entry) -> audit_pb2.AuditEntry:
    event = entry.event
    return audit_pb2.AuditEntry(
        name=entry.name,
        sequence=entry.sequence,
        time=timestamp(event.time),
        actor=event.actor,
        action=event.action,
        resource=event.resource,
        source=event.source,
        result=event.result,
        request_id=event.request_id,
        details=dict(event.details),
        count=event.count,
        previous_hash=entry.previous_hash,
        hash=entry.hash,
    )
