"""The values that pass between the chat service and a model: prompts and answers, texts and their embeddings."""

from dataclasses import dataclass
from enum import Enum


@dataclass(frozen=True, slots=True)
class RateLimit:
    """How a limit by the minute stands: what it allows, what is left, and seconds until all of it is left."""

    limit: int
    remaining: int
    reset_s: float


@dataclass(frozen=True, slots=True)
class RateLimits:
    """How the limits by the minute stand, for a caller's headers; None is a limit that is not set."""

    requests: RateLimit | None = None
    tokens: RateLimit | None = None


NO_RATE_LIMITS = RateLimits()


class Role(Enum):
    """Who speaks."""

    SYSTEM = "SYSTEM"
    USER = "USER"
    ASSISTANT = "ASSISTANT"


class FinishReason(Enum):
    """Why an answer ended."""

    STOP = "STOP"
    LENGTH = "LENGTH"
    CANCELLED = "CANCELLED"
    INTERRUPTED = "INTERRUPTED"
    CONTENT_FILTER = "CONTENT_FILTER"


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of a prompt."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the model is asked.

    Attributes:
        model: Id of the model; empty is the default one.
        turns: Oldest first; an optional system turn, then turns that end with the user's.
        continues: The last turn is the assistant's, and the answer goes on where it ends.
        conversation: Id of the conversation it is of; empty is none.
        drop_oldest: A prompt that does not fit loses its oldest turns; otherwise it is refused.
        count: Its tokens, where a check has just counted them. Whoever changes the turns takes it away.
    """

    model: str
    turns: tuple[Turn, ...]
    continues: bool = False
    drop_oldest: bool = False
    conversation: str = ""
    count: "TokenCount | None" = None


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of a request so far; each later count replaces the former."""

    input_tokens: int = 0
    cached_input_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        """Adds the counts of another request."""
        return Usage(
            self.input_tokens + other.input_tokens,
            self.cached_input_tokens + other.cached_input_tokens,
            self.output_tokens + other.output_tokens,
            self.reasoning_tokens + other.reasoning_tokens,
        )


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token, its natural log probability, and the most probable tokens at its position."""

    token: bytes
    logprob: float
    top: tuple["TokenLogprob", ...] = ()


@dataclass(frozen=True, slots=True)
class Started:
    """The request has its place in the batch."""

    model: str
    input_tokens: int
    context_tokens: int
    dropped_messages: int
    rate_limits: RateLimits = NO_RATE_LIMITS


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of the answer, of the reasoning, or of both."""

    text: str
    reasoning: str
    usage: Usage
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Done:
    """The answer ended."""

    finish_reason: FinishReason
    usage: Usage


Event = Started | Delta | Done


@dataclass(frozen=True, slots=True)
class TokenCount:
    """Tokens of a prompt, chat template included, and the size of the context window."""

    input_tokens: int
    context_tokens: int


@dataclass(frozen=True, slots=True)
class Passages:
    """What is to be embedded.

    Attributes:
        model: Id of the model; empty is the default one.
        items: Texts, or texts by their tokens.
    """

    model: str
    items: tuple[str | tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class Embeddings:
    """Embeddings of passages, in their order: each the little-endian float32 values of a vector of length 1."""

    model: str
    vectors: tuple[bytes, ...]
    usage: Usage
    rate_limits: RateLimits = NO_RATE_LIMITS


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A model that is served.

    Attributes:
        id: What requests call it.
        load_time_s: When it was loaded, in Unix seconds.
        embedding_size: How many values an embedding of it has.
    """

    id: str
    load_time_s: int
    embedding_size: int = 0
