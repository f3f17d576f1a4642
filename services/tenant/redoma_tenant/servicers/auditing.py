"""Writes every administrative call into the audit chains before its answer is sent, and every call that is denied."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime

import grpc

from redoma_kit.errors import DomainError, ErrorTable, failure_of
from redoma_kit.interceptors.pipeline import Call
from redoma_kit.policy import EDGE, Policy
from redoma_tenant.audit.begun import UNKNOWN, BegunCalls
from redoma_tenant.audit.chain import Event
from redoma_tenant.audit.repeats import Repeats
from redoma_tenant.audit.trail import AuditTrail
from redoma_tenant.names import TENANT_ID
from redoma_tenant.policy import GIVERS, READERS
from redoma_tenant.servicers.subjects import changed_values, made_resource, named_resource
from redoma_tenant.sources import source_of

ADMINISTRATIVE = GIVERS | READERS
DENIED = frozenset({grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED})
FORWARDED_FOR = "x-forwarded-for"
OK = "OK"
CANCELLED = "CANCELLED"
INTERNAL = "INTERNAL"
INVALID = "INVALID_FIELD"
# How the names of methods begin that change nothing.
READING = ("Get", "List", "Query", "Export", "Verify", "Reconcile")


class Auditing:
    """Records administrative calls one by one, and of all others those that are denied, gathered."""

    def __init__(
        self,
        policy: Policy,
        errors: ErrorTable,
        trail: AuditTrail,
        begun: BegunCalls,
        denials: Repeats,
        trusted_hops: int,
        now: Callable[[], datetime],
    ) -> None:
        self._administrative = frozenset(
            method for method, rule in policy.items() if (rule.any_scope | rule.all_scopes) & ADMINISTRATIVE
        )
        self._changing = frozenset(method for method in self._administrative if not _only_reads(method))
        self._errors = errors
        self._trail = trail
        self._begun = begun
        # Ids of notes, by the `id` of calls that run.
        self._notes: dict[int, str] = {}
        self._denials = denials
        self._trusted_hops = trusted_hops
        self._now = now

    @asynccontextmanager
    async def __call__(self, call: Call) -> AsyncIterator[None]:
        is_administrative = call.method in self._administrative
        if is_administrative:
            self._trail.check()
        result, is_denied = OK, False
        try:
            yield
        except asyncio.CancelledError:
            result = CANCELLED
            raise
        except DomainError as error:
            result, is_denied = self._refusal(error)
            raise
        except BaseException:
            result = INTERNAL
            raise
        finally:
            if is_administrative and call.identity is not None:
                await self._trail.record(self._event(call, result), self._notes.pop(id(call), ""))
            elif is_denied:
                self._denials.note(self._event(call, result))

    @asynccontextmanager
    async def admitted(self, call: Call) -> AsyncIterator[None]:
        """Notes a call that was let in and may change something, before it does."""
        if call.method in self._changing:
            note = self._notes[id(call)] = uuid.uuid4().hex
            await self._begun.note(note, self._event(call, UNKNOWN))
        yield

    def _refusal(self, error: DomainError) -> tuple[str, bool]:
        try:
            failure = failure_of(error, self._errors)
        except KeyError:
            return INTERNAL, False
        return failure.reason, failure.code in DENIED

    def _source(self, call: Call) -> str:
        """Gives the address that the edge saw, or else the service that calls."""
        forwarded_for = call.metadata(FORWARDED_FOR) if call.peer in EDGE else ""
        return source_of(forwarded_for, "", self._trusted_hops) or call.peer

    def _event(self, call: Call, result: str) -> Event:
        caller = call.identity
        resource, details = "", {}
        if call.request is not None and result != INVALID and caller is not None:
            resource, details = named_resource(call.request, caller.tenant), changed_values(call.request)
        if result == OK and call.request is not None and call.response is not None:
            resource, made = made_resource(resource, call.response)
            details |= made
        return Event(
            chain=_chain(caller.tenant if caller else "", resource if result == OK else ""),
            time=self._now(),
            actor=caller.principal if caller else "",
            action=call.method,
            resource=resource,
            source=self._source(call),
            result=result,
            request_id=call.request_id,
            details=details,
        )


def _only_reads(method: str) -> bool:
    return method.rpartition("/")[2].startswith(READING)


def _chain(own: str, resource: str) -> str:
    """Gives the caller's own chain; for an operator that of the tenant acted on, whose name must not be made up."""
    if own:
        return own
    collection, _, rest = resource.partition("/")
    tenant = rest.partition("/")[0]
    return tenant if collection == "tenants" and TENANT_ID.fullmatch(tenant) else ""
