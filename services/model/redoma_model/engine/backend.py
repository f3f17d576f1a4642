"""The seam between the engine and the library that computes: what an engine needs of a model, and nothing else."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from redoma_model.engine.batch import Chunk
from redoma_model.engine.sampling import Sampling


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What a loaded model says of itself.

    Attributes:
        display_name: What its metadata calls it.
        parameters: How many, in units.
        size_bytes: Bytes of the weights.
        quantization: What the weights are quantized to, such as "Q4_1".
        context_tokens: Context window of one request.
        slots: How many sequences are computed at once.
        cells: Tokens the KV cache holds, all sequences together.
        vocabulary_size: Number of tokens.
        longest_token_bytes: Bytes of the longest token's text.
        chat_template: Jinja source; empty when the model brings none.
        bos_token: Text of the beginning-of-text token; empty when there is none.
        eos_token: Text of the end-of-text token; empty when there is none.
        prompt_prefix: Token ids that begin every prompt, as the metadata asks.
        marker_texts: Texts of the tokens that mean something to the model beyond their letters, roles among them.
        recommended: Sampling its metadata recommends, by field of Sampling.
    """

    display_name: str
    parameters: int
    size_bytes: int
    quantization: str
    context_tokens: int
    slots: int
    cells: int
    vocabulary_size: int
    longest_token_bytes: int
    chat_template: str
    bos_token: str
    eos_token: str
    prompt_prefix: tuple[int, ...]
    marker_texts: tuple[str, ...]
    recommended: dict[str, float]


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token with the natural logarithm of its probability, and its most probable rivals."""

    token_id: int
    token: bytes
    logprob: float
    top: tuple["TokenLogprob", ...] = ()


class OutOfCells(Exception):
    """The KV cache has no room for the batch; nothing of it was computed."""


class DecodeFailed(Exception):
    """The batch could not be computed; what of it is in the KV cache is undefined."""


class BadLogits(Exception):
    """The model gave a value that is no number for one sequence."""


class Tokenizer(Protocol):
    """Text to tokens and back. Usable from any thread."""

    def tokenize(self, text: str, parse_special: bool) -> list[int]:
        """Gives the tokens of `text`, without a beginning-of-text token.

        Args:
            text: What to tokenize.
            parse_special: Whether the text of a special token becomes that token.
        """
        ...

    def piece(self, token: int) -> bytes:
        """Gives what the token adds to an answer: nothing for a control token."""
        ...

    def is_end(self, token: int) -> bool:
        """Tells whether the token ends an answer."""
        ...


class Backend(Tokenizer, Protocol):
    """A loaded model. Except for the tokenizer, only the engine's thread calls it."""

    @property
    def info(self) -> ModelInfo:
        """What the model says of itself."""
        ...

    def create_sampler(self, sampling: Sampling, seed: int, prompt: Sequence[int]) -> object:
        """Makes the sampler of one sequence; `prompt` is what the repeat penalty has seen."""
        ...

    def free_sampler(self, sampler: object) -> None:
        """Frees a sampler."""
        ...

    def decode(self, chunks: Sequence[Chunk]) -> None:
        """Computes one step. Each chunk that completes its sequence gives a row of logits, in the chunks' order.

        Raises:
            OutOfCells: No room.
            DecodeFailed: Anything else.
        """
        ...

    def sample(self, sampler: object, row: int) -> int:
        """Picks a token from a row of the last step's logits and lets the sampler see it.

        Raises:
            BadLogits: The row holds a value that is no number.
        """
        ...

    def logprobs(self, row: int, token: int, top: int) -> TokenLogprob:
        """Gives the log probability of `token` in a row, and of the `top` most probable tokens."""
        ...

    @property
    def held_cells(self) -> int:
        """KV cells that hold a token, of whichever slot, as far as the library tells."""
        ...

    def forget(self, slot: int) -> None:
        """Frees every KV cell of a slot."""
        ...

    def close(self) -> None:
        """Frees the model."""
        ...


# Takes the progress of loading, 0 to 1, and tells whether to go on.
Progress = Callable[[float], bool]
# Loads a backend, on the engine's thread.
BackendLoader = Callable[[Progress], Backend]
