"""The state of one request in the engine."""

from dataclasses import dataclass, field

from redoma_model.engine.sampling import Sampling
from redoma_model.engine.text import TextAssembler

NO_SLOT = -1


@dataclass(frozen=True, slots=True)
class Request:
    """What the engine is asked to generate.

    Attributes:
        prompt: Token ids, at least one and fewer than the context window holds.
        sampling: Complete and checked.
        may_reason: Whether the answer may begin with a think section.
        in_reasoning: Whether the prompt ends inside a think section.
    """

    prompt: tuple[int, ...]
    sampling: Sampling
    may_reason: bool = False
    in_reasoning: bool = False


@dataclass(slots=True, eq=False)
class Sequence:
    """A request on its way. Only the engine's thread touches it.

    Attributes:
        tokens: Prompt and answer so far.
        computed: How many of them are in the KV cache.
        slot: Which sequence of the KV cache holds them; NO_SLOT when none.
        limit: Most tokens to generate.
        submitted_at: When it was asked for, monotonic seconds; so for the other times.
    """

    request: Request
    text: TextAssembler
    limit: int
    submitted_at: float
    tokens: list[int] = field(init=False)
    computed: int = 0
    slot: int = NO_SLOT
    reserved_cells: int = 0
    sampler: object | None = None
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
    def output_tokens(self) -> int:
        """How many tokens were generated."""
        return len(self.tokens) - len(self.request.prompt)
