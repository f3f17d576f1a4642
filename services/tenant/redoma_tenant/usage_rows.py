"""What was used, as it is summed up, booked and compared."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from redoma_tenant.ledger import LedgerEntry, TransactionKind

UNITS = ("input_tokens", "cached_input_tokens", "output_tokens", "reasoning_tokens", "cost_nanos")


class Granularity(Enum):
    """A length of time to sum up by. The value is how much of `2026-11-03 12` names one."""

    HOUR = 13
    DAY = 10
    MONTH = 7
    TOTAL = 0


class Dimension(Enum):
    """Something to sum up by."""

    TENANT = "tenant"
    API_KEY = "api_key"
    USER = "user"
    MODEL = "model"
    ADAPTER = "adapter"


@dataclass(frozen=True, slots=True)
class Selection:
    """What to sum up, and how.

    Attributes:
        tenant: Id of the tenant; None is all.
        start: From this hour on.
        end: Before this hour.
        granularity: By which lengths of time.
        dimensions: By what else, in the order of Dimension.
    """

    tenant: str | None
    start: datetime
    end: datetime
    granularity: Granularity
    dimensions: tuple[Dimension, ...]


@dataclass(frozen=True, slots=True)
class Amounts:
    """Sums. `cost_nanos` is in billionths of the currency."""

    requests: int = 0
    input_tokens: int = 0
    cached_input_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    cost_nanos: int = 0


@dataclass(frozen=True, slots=True)
class UsageRow:
    """What was used in one time by one of each dimension; `values` are the ids, empty for none."""

    start: datetime
    values: Mapping[Dimension, str]
    amounts: Amounts


@dataclass(frozen=True, slots=True)
class RowPosition:
    """A place in the order of rows: when their time begins, then the dimensions' values."""

    start: datetime
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class BookedTransaction:
    """A transaction of the ledger as it is kept."""

    tenant: str
    id: str
    kind: TransactionKind
    token_id: str
    principal: str
    model: str
    adapter: str
    book_time: datetime
    entries: tuple[LedgerEntry, ...]


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """The ledger and the sums, added up at the same moment."""

    ledger: Amounts
    sums: Amounts
    unbalanced_transactions: int
    open_calls: int

    @property
    def balanced(self) -> bool:
        """Whether both sides of each amount add up to zero, and the ledger and the sums are the same."""
        return self.unbalanced_transactions == 0 and self.ledger == self.sums
