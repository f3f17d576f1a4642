"""The state of one request in the engine."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from redoma_model.engine.adapters import LoadedAdapter
from redoma_model.engine.fair_share import Account
from redoma_model.engine.lane import BASE_LANE, Lane
from redoma_model.engine.lookup import PromptLookup
from redoma_model.engine.prefix_cache import Lease
from redoma_model.engine.sampling import Sampling
from redoma_model.engine.text import TextAssembler

NO_SLOT = -1


@dataclass(frozen=True, slots=True)
class Request:
    """What the engine is asked to compute.

    Attributes:
        prompt: Token ids, at least one and fewer than the context window holds.
        sampling: Complete and checked.
        may_reason: Whether the answer may begin with a think section.
        in_reasoning: Whether the prompt ends inside a think section.
        tenant: Whose it is; nothing computed for it serves another.
        weight: The tenant's share relative to others', at least 1.
        token_id: `jti` of the call's identity, for the usage journal.
        adapter: The LoRA adapter to apply; None is the base model.
        pooled: Whether an embedding of the prompt is asked for, not an answer.
        granted_tokens: Most tokens to generate until more are granted; None is as many as `sampling` allows.
    """

    prompt: tuple[int, ...]
    sampling: Sampling
    may_reason: bool = False
    in_reasoning: bool = False
    tenant: str = ""
    weight: int = 1
    token_id: str = ""
    adapter: LoadedAdapter | None = None
    pooled: bool = False
    granted_tokens: int | None = None

    @property
    def adapter_digest(self) -> str:
        """The adapter's digest; empty for the base model."""
        return "" if self.adapter is None else self.adapter.digest


@dataclass(slots=True, eq=False)
class Sequence:
    """A request on its way. Only the engine's thread touches it.

    Attributes:
        tokens: Prompt and answer so far.
        limit: Most tokens to generate.
        submitted_at: When it was asked for, monotonic seconds; so for the other times.
        deadline: When its caller gives up; None is never.
        account: Its tenant's.
        lane: With which others it may share a step.
        computed: How many of the tokens are in the KV cache.
        slot: Which sequence of the KV cache holds them; NO_SLOT when it does not run.
        lease: What it shares with the prefix cache; None when it does not run.
        saved: Its cells in host memory, while it is swapped.
        charged: How many leading tokens of the prompt were charged to its tenant or came from the cache. What is
            computed again after it gave its cells up is not charged again.
        cached_tokens: Tokens of the prompt that were reused from its tenant's earlier requests.
        reserved_cells: Cells of its own that its admission counted on.
        turn: The number of its last chunk among those of all sequences; 0 is none yet.
        sampler: The backend's; None until it runs, and for a pooled one.
        lookup: Proposes drafts; None before the first token, and where they are off.
        hidden: Sum of the hidden states so far, of a pooled one.
    """

    request: Request
    text: TextAssembler
    limit: int
    submitted_at: float
    deadline: float | None = None
    account: Account = field(default_factory=lambda: Account("", 1))
    lane: Lane = BASE_LANE
    tokens: list[int] = field(init=False)
    computed: int = 0
    slot: int = NO_SLOT
    lease: Lease | None = None
    saved: bytes | None = None
    charged: int = 0
    cached_tokens: int = 0
    reserved_cells: int = 0
    turn: int = 0
    sampler: object | None = None
    lookup: PromptLookup | None = None
    hidden: NDArray[np.float32] | None = None
    reasoning_tokens: int = 0
    admitted_at: float | None = None
    first_token_at: float | None = None
    last_token_at: float | None = None

    def __post_init__(self) -> None:
        self.tokens = list(self.request.prompt)

    @property
    def pending(self) -> int:
        """How many tokens wait to be computed."""
        return len(self.tokens) - self.computed

    @property
    def is_prefill(self) -> bool:
        """Whether more waits to be computed than the last token."""
        return len(self.tokens) - self.computed > 1

    @property
    def is_fresh(self) -> bool:
        """Whether it gave nothing yet."""
        return self.first_token_at is None

    @property
    def is_preempted(self) -> bool:
        """Whether it gave its place up and waits to go on."""
        return self.slot == NO_SLOT and self.admitted_at is not None

    @property
    def own_cells(self) -> int:
        """KV cells that it holds and the prefix cache doesn't."""
        return self.computed - (self.lease.length if self.lease else 0) if self.slot != NO_SLOT else 0

    @property
    def output_tokens(self) -> int:
        """How many tokens were generated."""
        return len(self.tokens) - len(self.request.prompt)
