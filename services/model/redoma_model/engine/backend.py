"""The seam between the engine and the library that computes: what an engine needs of a model, and nothing else."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from redoma_model.engine.batch import Chunk
from redoma_model.engine.cells import CellStore
from redoma_model.engine.lane import Lane
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
        slots: How many requests are computed at once when there are enough.
        sequences: How many sequences the KV cache tells apart, by ids from 0 on: those of requests, then those of
            cached prefixes.
        cells: Tokens the KV cache holds, all sequences together.
        embedding_size: Values of an embedding.
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
    sequences: int
    cells: int
    embedding_size: int
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


class DecodeFailed(Exception):
    """The batch could not be computed; what of it is in the KV cache is undefined."""


class BadLogits(Exception):
    """The model gave a value that is no number for one sequence."""


class AdapterFileError(Exception):
    """The adapter's file can't be loaded over this model; the message is one sentence."""


class GrammarError(Exception):
    """The grammar can't be used; the message is one sentence."""


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


class Backend(Tokenizer, CellStore, Protocol):
    """A loaded model. Except for what tells otherwise and the tokenizer, only the engine's thread calls it."""

    @property
    def info(self) -> ModelInfo:
        """What the model says of itself."""
        ...

    def schema_grammar(self, schema: object) -> str:
        """Translates a JSON Schema, as parsed JSON, to GBNF. Usable from any thread.

        Raises:
            GrammarError: The schema can't be translated.
        """
        ...

    def check_grammar(self, grammar: str) -> None:
        """Checks that a sampler can follow a grammar in GBNF. Usable from any thread.

        Raises:
            GrammarError: It can't.
        """
        ...

    def create_sampler(self, sampling: Sampling, seed: int, prompt: Sequence[int]) -> object:
        """Makes the sampler of one sequence; `prompt` is what the repeat penalty has seen.

        Raises:
            GrammarError: The grammar does not allow what is said already.
        """
        ...

    def free_sampler(self, sampler: object) -> None:
        """Frees a sampler."""
        ...

    def load_adapter(self, path: Path) -> object:
        """Loads a LoRA adapter over the model and gives its handle, for Lane.adapter.

        Raises:
            AdapterFileError: It is no adapter of this model.
        """
        ...

    def free_adapter(self, handle: object) -> None:
        """Frees an adapter that no lane uses any more."""
        ...

    def decode(self, chunks: Sequence[Chunk], lane: Lane) -> None:
        """Computes one step, with the lane's adapter.

        Each chunk gives as many rows of logits as its `rows`, in the chunks' order: one for the last token it
        computes and one for each of its drafts. In a pooled lane chunks give no rows but what `pooled` gives.

        Raises:
            OutOfCells: No room; nothing was computed.
            DecodeFailed: Anything else; which of the chunks' cells exist is undefined.
        """
        ...

    def sample(self, sampler: object, row: int, constrained: bool = True) -> int:
        """Picks a token from a row of the last step's logits and lets the sampler see it.

        Args:
            sampler: From `create_sampler`.
            row: Of the last step.
            constrained: Whether the sampler's grammar, where it has one, applies to this token.

        Raises:
            BadLogits: The row holds a value that is no number.
        """
        ...

    def logprobs(self, row: int, token: int, top: int) -> TokenLogprob:
        """Gives the log probability of `token` in a row, and of the `top` most probable tokens."""
        ...

    def pooled(self, place: int) -> NDArray[np.float32]:
        """Gives the sum of the last hidden states of a chunk of the last step, by its place; shape
        (embedding_size,)."""
        ...

    def close(self) -> None:
        """Frees the model."""
        ...


# Takes the progress of loading, 0 to 1, and tells whether to go on.
Progress = Callable[[float], bool]
# Loads a backend, on the engine's thread.
BackendLoader = Callable[[Progress], Backend]
