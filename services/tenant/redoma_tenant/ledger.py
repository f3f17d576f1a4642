"""The ledger: what calls have used, in transactions of two sides. Nothing in it is ever changed or taken away.

Every call that was let in has one settlement, also if it used nothing: then it has no entries, and counts as a request.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from redoma_tenant.meter.counts import TokenCounts
from redoma_tenant.meter.reservation import Caller

SERVED = "platform/served"


class TransactionKind(Enum):
    """What is booked."""

    # What a call used.
    SETTLEMENT = "SETTLEMENT"
    # What is known of it beyond that.
    CORRECTION = "CORRECTION"


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """One side of an amount."""

    account: str
    unit: str
    amount: int


@dataclass(frozen=True, slots=True)
class LedgerTransaction:
    """What is booked of a call at once.

    Attributes:
        revision: 0 for its settlement, 1 and on for corrections.
        counts: Tokens; of a correction, the difference.
        cost_nanos: What they cost, in billionths of the currency. A correction may lower it.
    """

    tenant: str
    id: str
    token_id: str
    revision: int
    caller: Caller
    model: str
    book_time: datetime
    counts: TokenCounts
    cost_nanos: int

    @property
    def kind(self) -> TransactionKind:
        """What it is."""
        return TransactionKind.SETTLEMENT if self.revision == 0 else TransactionKind.CORRECTION

    @property
    def amounts(self) -> dict[str, int]:
        """All amounts by unit, in the order of the contract."""
        return {
            "input_tokens": self.counts.input_tokens,
            "cached_input_tokens": self.counts.cached_input_tokens,
            "output_tokens": self.counts.output_tokens,
            "reasoning_tokens": self.counts.reasoning_tokens,
            "cost_nanos": self.cost_nanos,
        }

    def entries(self) -> Iterator[LedgerEntry]:
        """Gives both sides of each amount that is not 0. The tenant's has its sign, the platform's the opposite."""
        for unit, amount in self.amounts.items():
            if amount:
                yield LedgerEntry(usage_account(self.tenant), unit, amount)
                yield LedgerEntry(SERVED, unit, -amount)


def usage_account(tenant: str) -> str:
    """Names the account of what a tenant has used."""
    return f"tenants/{tenant}/usage"
