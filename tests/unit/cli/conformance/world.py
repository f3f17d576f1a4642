"""A small deployment in memory: what its services know, and the defects it can be made with."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any

import grpc

from redoma.chat.v1.conversation_pb2 import Conversation
from redoma.chat.v1.message_pb2 import Message
from redoma.common.v1.usage_pb2 import FINISH_REASON_CANCELLED, FINISH_REASON_LENGTH, Usage
from redoma.model.v1.engine_pb2 import Adapter, UsageRecord
from redoma.tenant.v1.quota_pb2 import Limits
from redoma.tenant.v1.tenant_pb2 import Tenant
from redoma.tenant.v1.usage_pb2 import LedgerEntry, LedgerTransaction
from redoma.tenant.v1.user_pb2 import User
from redoma_kit.errors import Failure, Violation

UNITS = ("input_tokens", "cached_input_tokens", "output_tokens", "reasoning_tokens")
# A machine of this speed: 500 words cost 150 ms, a token 4 ms.
PREFILL_S, TOKEN_S = 0.000_3, 0.004
# What calls without a bound are reserved at a time.
SLICE_TOKENS = 1_024
STARVED_SLOTS = 2
DEADLINE_MARGIN_S = 0.05
ADMIN_KEY = "rdm_operator_" + "A1b2C3d4" * 5 + "xyz"


class Defect(Enum):
    """One thing that is wrong with a deployment."""

    LEAKS_CONVERSATIONS = auto()
    LEAKS_TO_OTHER_KEYS = auto()
    TAKES_FOREIGN_PAGE_TOKENS = auto()
    TELLS_EXISTENCE = auto()
    LEAKS_USAGE = auto()
    SHARES_CACHE = auto()
    SHARES_CACHE_IN_SECRET = auto()
    SHARES_ADAPTERS = auto()
    FALLS_BACK_TO_BASE = auto()
    MIXES_ADAPTERS_IN_CACHE = auto()
    CHARGES_NOTHING_FOR_DROPS = auto()
    CHARGES_LESS = auto()
    BOOKS_ONE_SIDE = auto()
    STARVES_NEIGHBOURS = auto()
    FAILS_NEIGHBOURS = auto()
    TRUSTS_INBOUND_IDENTITY = auto()
    CHECKS_NO_SCOPES = auto()
    OVERGRANTS = auto()
    REFUSES_WITHOUT_WORDS = auto()
    REFUSES_WITHOUT_HEADERS = auto()
    LEAVES_RESERVATIONS = auto()
    NEVER_ENDS = auto()
    KEEPS_SLOTS = auto()
    LEAVES_ANSWERS_STREAMING = auto()
    KEEPS_STREAMS_OF_REVOKED_KEYS = auto()
    CACHES_KEYS = auto()
    REVOKES_TOO_MUCH = auto()
    ECHOES_KEYS = auto()
    ECHOES_KEYS_IN_BASE64 = auto()
    ECHOES_BODIES = auto()


class Refused(Exception):
    """A call that is not carried out."""

    def __init__(
        self,
        code: grpc.StatusCode,
        reason: str,
        message: str = "",
        headers: tuple[tuple[str, str], ...] = (),
        **more: str,
    ) -> None:
        violations = (Violation("tenants/x", reason),) if reason == "QUOTA_EXCEEDED" else ()
        self.failure = Failure(code, reason, message or reason, more, None, violations)
        self.headers = headers


def denied(reason: str) -> Refused:
    """Refuses whoever may not."""
    return Refused(grpc.StatusCode.PERMISSION_DENIED, reason)


def absent(name: str) -> Refused:
    """Says that there is nothing of that name."""
    return Refused(grpc.StatusCode.NOT_FOUND, "RESOURCE_NOT_FOUND", f"{name} does not exist.")


@dataclass(frozen=True)
class Who:
    """Whose call it is."""

    principal: str
    tenant: str
    scopes: tuple[str, ...]
    token_id: str

    @property
    def operator(self) -> bool:
        """Whether an operator calls."""
        return "platform.admin" in self.scopes


@dataclass
class Key:
    """An API key."""

    name: str
    tenant: str
    scopes: tuple[str, ...]
    secret: str
    revoked: bool = False


@dataclass
class Kept:
    """A conversation that is kept."""

    owner: str
    conversation: Conversation
    messages: list[Message] = field(default_factory=list)


@dataclass
class Run:
    """A call that the model works on."""

    who: Who
    record: UsageRecord
    reserved: int
    end: Refused | None = None


class World:
    """Everything there is."""

    def __init__(self, *defects: Defect, adapters: tuple[Adapter, ...] = ()) -> None:
        self.defects = frozenset(defects)
        self.adapters = adapters
        self.tenants: dict[str, Tenant] = {}
        self.keys: dict[str, Key] = {
            ADMIN_KEY: Key("platform/apiKeys/bootstrap", "", ("platform.admin",), ADMIN_KEY),
        }
        self.users: dict[str, User] = {}
        self.kept: dict[str, Kept] = {}
        self.limits: dict[str, Limits] = {}
        self.runs: list[Run] = []
        self.journal: list[UsageRecord] = []
        self.ledger: dict[str, list[LedgerTransaction]] = {}
        self.cached: set[tuple[str, str, str]] = set()
        self.deleted: list[str] = []
        self.slots = asyncio.Semaphore(STARVED_SLOTS)

    def has(self, *defects: Defect) -> bool:
        """Says whether it has one of these defects."""
        return bool(self.defects & set(defects))

    def tenant_of(self, who: Who, name: str) -> str:
        """Gives the tenant that a name belongs to, which must be the caller's."""
        parts = name.split("/")
        tenant = who.tenant if len(parts) > 1 and parts[1] == "-" else parts[1] if len(parts) > 1 else ""
        if tenant != who.tenant and not who.operator:
            if self.has(Defect.TELLS_EXISTENCE) and tenant not in self.tenants:
                raise absent(name)
            raise denied("TENANT_MISMATCH")
        if tenant not in self.tenants:
            raise absent(name)
        return tenant

    def add_key(self, tenant: str, scopes: tuple[str, ...]) -> Key:
        """Makes a key."""
        prefix, key_id = secrets.token_hex(4), secrets.token_hex(6)
        key = Key(f"tenants/{tenant}/apiKeys/{key_id}", tenant, scopes, f"rdm_{prefix}_{secrets.token_urlsafe(32)}")
        self.keys[key.secret] = key
        return key

    def take_out(self, tenant: str, principal: str, reason: str) -> None:
        """Ends what runs of a tenant, or of one principal of it."""
        if self.has(Defect.KEEPS_STREAMS_OF_REVOKED_KEYS):
            return
        code = grpc.StatusCode.UNAUTHENTICATED if reason.startswith("CREDENTIAL") else grpc.StatusCode.PERMISSION_DENIED
        for run in self.runs:
            mine = run.who.tenant == tenant and principal in ("", run.who.principal)
            if mine or self.has(Defect.REVOKES_TOO_MUCH):
                run.end = Refused(code, reason)

    def keep(self, name: str, who: Who) -> Kept:
        """Gives a conversation, if the caller may see it."""
        if not self.has(Defect.LEAKS_CONVERSATIONS):
            self.tenant_of(who, name)
        kept = self.kept.get(name)
        if kept is None or not (self.sees(who, kept) or self.has(Defect.LEAKS_CONVERSATIONS)):
            raise absent(name)
        return kept

    def sees(self, who: Who, kept: Kept) -> bool:
        """Says whether a conversation is the caller's."""
        if self.has(Defect.LEAKS_TO_OTHER_KEYS):
            return kept.owner.startswith(f"tenants/{who.tenant}/")
        return kept.owner == who.principal

    def tokens_used(self, tenant: str) -> int:
        """Gives the input and output tokens that were booked."""
        return sum(
            entry.amount
            for transaction in self.ledger.get(tenant, ())
            for entry in transaction.entries
            if entry.account.startswith("tenants/") and entry.unit in ("input_tokens", "output_tokens")
        )

    def tokens_reserved(self, tenant: str) -> int:
        """Gives the tokens that running calls may still use."""
        left = 7 if self.has(Defect.LEAVES_RESERVATIONS) else 0
        return left + sum(run.reserved for run in self.runs if run.who.tenant == tenant)

    async def speak(
        self, who: Who, prompt: str, max_tokens: int, context: "grpc.aio.ServicerContext[Any, Any]"
    ) -> AsyncIterator[Usage]:
        """Answers with nothing but counts: once before the first token, then once a token."""
        run = self._begin(who, prompt, max_tokens)
        dropped = True
        try:
            if self.has(Defect.STARVES_NEIGHBOURS):
                await self.slots.acquire()
            usage = run.record.usage
            await asyncio.sleep(PREFILL_S * (usage.input_tokens - self._reused(run, prompt)))
            yield usage
            while not max_tokens or usage.output_tokens < max_tokens or self.has(Defect.NEVER_ENDS):
                await asyncio.sleep(TOKEN_S)
                self._check(run, context)
                usage.output_tokens += 1
                yield usage
            dropped = False
        finally:
            if self.has(Defect.STARVES_NEIGHBOURS):
                self.slots.release()
            self._end(run, dropped)

    def _begin(self, who: Who, prompt: str, max_tokens: int) -> Run:
        if self.has(Defect.FAILS_NEIGHBOURS) and sum(run.who.tenant != who.tenant for run in self.runs) > 4:
            raise Refused(grpc.StatusCode.UNAVAILABLE, "MODEL_UNREACHABLE")
        adapter = self._adapter(who)
        usage = Usage(input_tokens=len(prompt.split()))
        reserved = usage.input_tokens + (max_tokens or SLICE_TOKENS)
        self._reserve(who, reserved)
        record = UsageRecord(token_id=who.token_id, tenant=who.tenant, adapter=adapter, usage=usage)
        record.start_time.GetCurrentTime()
        run = Run(who, record, reserved)
        self.runs.append(run)
        self.journal.append(record)
        return run

    def _adapter(self, who: Who) -> str:
        tenant = self.tenants[who.tenant]
        adapter = next((each for each in self.adapters if each.digest == tenant.adapter), None)
        if adapter is None:
            return ""
        if adapter.tenant != who.tenant and not self.has(Defect.SHARES_ADAPTERS):
            if self.has(Defect.FALLS_BACK_TO_BASE):
                return ""
            raise denied("ADAPTER_DENIED")
        return adapter.digest

    def _reserve(self, who: Who, tokens: int) -> None:
        limits = self.limits.get(who.tenant, Limits())
        calls = sum(record.tenant == who.tenant for record in self.journal)
        if limits.HasField("requests_per_minute") and calls >= limits.requests_per_minute:
            raise self._over("requests_per_minute", "20")
        if not limits.HasField("tokens_per_month"):
            return
        taken = self.tokens_used(who.tenant)
        taken += 0 if self.has(Defect.OVERGRANTS) else tokens + self.tokens_reserved(who.tenant)
        if taken > limits.tokens_per_month:
            raise self._over("tokens_per_month", "3600")

    def _over(self, limit: str, retry_after: str) -> Refused:
        headers = () if self.has(Defect.REFUSES_WITHOUT_HEADERS) else (("retry-after", retry_after),)
        reason = "QUEUE_FULL_OF_QUOTA" if self.has(Defect.REFUSES_WITHOUT_WORDS) else "QUOTA_EXCEEDED"
        return Refused(grpc.StatusCode.RESOURCE_EXHAUSTED, reason, "That is too much.", headers, limit=limit)

    def _reused(self, run: Run, prompt: str) -> int:
        shared = self.has(Defect.SHARES_CACHE, Defect.SHARES_CACHE_IN_SECRET)
        adapter = "" if self.has(Defect.MIXES_ADAPTERS_IN_CACHE) else run.record.adapter
        owner = "" if shared else run.who.tenant
        reused = run.record.usage.input_tokens - 1 if (owner, adapter, prompt) in self.cached else 0
        own = (run.who.tenant, adapter, prompt) in self.cached
        self.cached |= {(owner, adapter, prompt), (run.who.tenant, adapter, prompt)}
        hidden = self.has(Defect.SHARES_CACHE_IN_SECRET) and not own
        run.record.usage.cached_input_tokens = 0 if hidden else reused
        return reused

    def _check(self, run: Run, context: "grpc.aio.ServicerContext[Any, Any]") -> None:
        if run.end is not None:
            raise run.end
        remaining_s = context.time_remaining()
        over = remaining_s is not None and remaining_s < DEADLINE_MARGIN_S
        if over and not self.has(Defect.NEVER_ENDS):
            raise Refused(grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED")

    def _end(self, run: Run, dropped: bool) -> None:
        if not (dropped and self.has(Defect.KEEPS_SLOTS)):
            self.runs.remove(run)
        run.record.end_time.GetCurrentTime()
        run.record.finish_reason = FINISH_REASON_CANCELLED if dropped else FINISH_REASON_LENGTH
        if not (dropped and self.has(Defect.CHARGES_NOTHING_FOR_DROPS)):
            self._book(run)

    def _book(self, run: Run) -> None:
        tenant = run.who.tenant
        books = self.ledger.setdefault(tenant, [])
        transaction = LedgerTransaction(
            name=f"tenants/{tenant}/ledgerTransactions/{len(books)}", token_id=run.record.token_id
        )
        for unit in UNITS:
            amount = getattr(run.record.usage, unit)
            if self.has(Defect.CHARGES_LESS) and unit == "output_tokens":
                amount = max(0, amount - 1)
            if amount:
                transaction.entries.append(LedgerEntry(account=f"tenants/{tenant}/usage", unit=unit, amount=amount))
                if not self.has(Defect.BOOKS_ONE_SIDE):
                    transaction.entries.append(LedgerEntry(account="platform/served", unit=unit, amount=-amount))
        books.append(transaction)


def now() -> int:
    """Seconds of the wall clock."""
    return int(time.time())
