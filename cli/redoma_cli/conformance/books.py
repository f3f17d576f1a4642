"""What a tenant's calls cost, as the model counted it and as it was booked, and whether the two are the same."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass

from redoma.model.v1.engine_pb2 import ListUsageRecordsRequest, ListUsageRecordsResponse
from redoma.tenant.v1.usage_pb2 import (
    ListLedgerTransactionsRequest,
    ListLedgerTransactionsResponse,
    ReconcileUsageRequest,
    ReconcileUsageResponse,
)
from redoma_cli.conformance.check import Probes
from redoma_cli.conformance.lab import Lab, LabTenant
from redoma_cli.conformance.pages import pages

POLL_S = 0.2
UNITS = ("input_tokens", "cached_input_tokens", "output_tokens", "reasoning_tokens")
Counts = Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Books:
    """Both sides.

    Attributes:
        journal: What the model counted of each call that ended, by `jti`.
        running: Calls that the model still works on.
        ledger: What was booked of each call, by `jti`.
        unbalanced: Transactions whose two sides do not add up to zero.
        reconciled: What the deployment itself says of the tenant's books.
    """

    journal: Mapping[str, Counts]
    running: int
    ledger: Mapping[str, Counts]
    unbalanced: tuple[str, ...]
    reconciled: ReconcileUsageResponse

    def settled(self, calls: int, replicas: int) -> bool:
        """Says whether nothing is open any more and all of at least `calls` calls is booked."""
        whole = self.journal == self.ledger if replicas == 1 else self._booked
        return whole and len(self.ledger) >= calls and not self.running and not self.reconciled.open_calls

    @property
    def _booked(self) -> bool:
        return all(self.ledger.get(token_id) == counts for token_id, counts in self.journal.items())

    @property
    def booked_tokens(self) -> int:
        """Input and output tokens that were booked."""
        return sum(counts["input_tokens"] + counts["output_tokens"] for counts in self.ledger.values())


async def settled_books(lab: Lab, tenant: LabTenant, calls: int) -> Books:
    """Reads both sides until they are settled, or the time for that is over."""
    end = time.monotonic() + lab.settings.settle_s
    while True:
        books = await read_books(lab, tenant)
        if books.settled(calls, lab.settings.replicas) or time.monotonic() > end:
            return books
        await asyncio.sleep(POLL_S)


async def read_books(lab: Lab, tenant: LabTenant) -> Books:
    """Reads both sides as they are now."""
    journal, running = await _journal(lab, tenant)
    ledger, unbalanced = await _ledger(lab, tenant)
    reconciled = await lab.admin.must(ReconcileUsageRequest(parent=tenant.name), ReconcileUsageResponse)
    return Books(journal, running, ledger, unbalanced, reconciled)


async def _journal(lab: Lab, tenant: LabTenant) -> tuple[dict[str, Counts], int]:
    ended: dict[str, Counts] = {}
    running = 0
    async for page in pages(lab.admin, ListUsageRecordsRequest(tenant=tenant.id), ListUsageRecordsResponse):
        for record in page.records:
            running += not record.HasField("end_time")
            ended[record.token_id] = {unit: getattr(record.usage, unit) for unit in UNITS}
    return {call: counts for call, counts in ended.items() if any(counts.values())}, running


async def _ledger(lab: Lab, tenant: LabTenant) -> tuple[dict[str, Counts], tuple[str, ...]]:
    booked: dict[str, dict[str, int]] = {}
    unbalanced: list[str] = []
    request = ListLedgerTransactionsRequest(parent=tenant.name)
    async for page in pages(lab.admin, request, ListLedgerTransactionsResponse):
        for transaction in page.transactions:
            counts = booked.setdefault(transaction.token_id, dict.fromkeys(UNITS, 0))
            sums: dict[str, int] = {}
            for entry in transaction.entries:
                sums[entry.unit] = sums.get(entry.unit, 0) + entry.amount
                if entry.account == f"{tenant.name}/usage" and entry.unit in counts:
                    counts[entry.unit] += entry.amount
            if any(sums.values()):
                unbalanced.append(transaction.name)
    # Which side has the sign is the ledger's own affair.
    whole = {call: {unit: abs(sum_) for unit, sum_ in counts.items()} for call, counts in booked.items()}
    return {call: counts for call, counts in whole.items() if any(counts.values())}, tuple(unbalanced)


def compare(books: Books, probes: Probes, replicas: int) -> None:
    """Writes down where the two sides differ."""
    unbooked = [call for call in books.journal if call not in books.ledger]
    probes.expect(
        not unbooked,
        "each call that the model worked on is in the ledger",
        f"{len(books.journal)} calls booked",
        f"{len(unbooked)} of {len(books.journal)} calls were not booked at all: they were free",
    )
    unequal = [call for call, counts in books.journal.items() if books.ledger.get(call, counts) != counts]
    for call in unequal[:3]:
        probes.expect(
            False,
            f"the ledger has what the model counted of call {call}",
            _told(books.journal[call]),
            _told(books.ledger[call]),
        )
    probes.expect(
        not unequal,
        "the ledger has what the model counted, to the token",
        "no difference",
        f"{len(unequal)} calls differ",
    )
    unknown = [call for call in books.ledger if call not in books.journal]
    if replicas == 1:
        probes.expect(
            not unknown,
            "what is booked was computed",
            "each booked call is in the model's journal",
            f"{len(unknown)} booked calls are not in the model's journal",
        )
    elif unknown:
        probes.leave_out(
            f"{len(unknown)} calls are in the journals of other replicas, which can't be read from outside"
        )
    probes.expect(
        not books.unbalanced,
        "both sides of each amount add up to zero",
        "every transaction is balanced",
        f"{len(books.unbalanced)} are not, such as {books.unbalanced[:1]}",
    )
    probes.expect(
        books.reconciled.balanced and not books.reconciled.open_calls,
        "ReconcileUsage",
        "balanced, no open call",
        f"balanced={books.reconciled.balanced}, {books.reconciled.open_calls} open calls",
    )


def _told(counts: Counts) -> str:
    return ", ".join(f"{count} {unit.replace('_', ' ')}" for unit, count in counts.items() if count)
