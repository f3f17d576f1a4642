"""OpenAI's `/v1/embeddings`: its body read into passages, and embeddings written in its shape."""

import base64
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from redoma_chat.inference import Embeddings, Passages
from redoma_chat.openai.body import Fields, check_text, is_whole, json_object, kind_of
from redoma_chat.openai.request import MAX_MODEL_CHARACTERS
from redoma_chat.openai.response import to_json
from redoma_kit.errors import InvalidField

MAX_INPUTS = 2_048
MAX_TOKEN_ID = 2**31 - 1
PIECE_BYTES = 65_536
ENCODINGS = ("float", "base64")
# What the model service calls a passage and what is in it.
_FIELD = re.compile(r"inputs(?:\[(\d+)\])?(?:\.text|\.tokens)?(?:\.ids)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class EmbeddingRequest:
    """What `/v1/embeddings` is asked.

    Attributes:
        passages: What to embed.
        single: `input` is one passage and not an array of them.
        as_base64: Vectors are wanted as base64 of little-endian float32.
        dimensions: How many values a vector must have; None is what the model gives.
    """

    passages: Passages
    single: bool
    as_base64: bool
    dimensions: int | None

    def body_path(self, field: str) -> str:
        """Gives the path in the body of a field of the model service's request."""
        found = _FIELD.match(field)
        if found is None:
            return field
        head = "input" if self.single or found[1] is None else f"input[{found[1]}]"
        return head + field[found.end() :]

    def check_dimensions(self, embedding_size: int) -> None:
        """Raises InvalidField if vectors of another size than the model's are wanted."""
        if self.dimensions not in (None, embedding_size):
            raise InvalidField("dimensions", f"must be {embedding_size}, the model's own number, or left out")


def parse_embedding(body: bytes) -> EmbeddingRequest:
    """Reads the body of `/v1/embeddings`.

    Raises:
        InvalidField: It is not JSON, or a field is missing, of a wrong type or out of range.
    """
    fields = Fields(json_object(body))
    encoding = fields.text("encoding_format") or "float"
    if encoding not in ENCODINGS:
        raise InvalidField("encoding_format", f"must be one of {', '.join(ENCODINGS)}")
    dimensions = fields.integer("dimensions")
    if dimensions is not None and dimensions < 1:
        raise InvalidField("dimensions", "must be 1 or more")
    model = fields.text("model", MAX_MODEL_CHARACTERS) or ""
    items, single = _items(fields.raw("input"))
    return EmbeddingRequest(Passages(model, items), single, encoding == "base64", dimensions)


def embedding_pieces(embeddings: Embeddings, as_base64: bool) -> Iterator[bytes]:
    """Gives the object of `/v1/embeddings` in pieces, so that no single one takes long to make."""
    piece = f'{{"object":"list","model":{to_json(embeddings.model)},"data":['
    for index, vector in enumerate(embeddings.vectors):
        value = to_json(_base64(vector) if as_base64 else _floats(vector))
        comma = "," if index else ""
        piece += f'{comma}{{"object":"embedding","index":{index},"embedding":{value}}}'
        if len(piece) >= PIECE_BYTES:
            yield piece.encode()
            piece = ""
    tokens = embeddings.usage.input_tokens
    usage = to_json({"prompt_tokens": tokens, "total_tokens": tokens})
    yield f'{piece}],"usage":{usage}}}'.encode()


def _base64(vector: bytes) -> str:
    return base64.b64encode(vector).decode()


def _floats(vector: bytes) -> tuple[float, ...]:
    return struct.unpack(f"<{len(vector) // 4}f", vector)


def _items(given: Any) -> tuple[tuple[str | tuple[int, ...], ...], bool]:
    """Gives the passages of `input`, and whether it is a single one."""
    if isinstance(given, str):
        return (_text(given, "input"),), True
    if given is None:
        raise InvalidField("input", "is missing; send a text or an array of texts")
    if not isinstance(given, list):
        raise InvalidField("input", f"must be a string or an array, not {kind_of(given)}")
    if not given:
        raise InvalidField("input", "must not be empty")
    if is_whole(given[0]):
        return (_tokens(given, "input"),), True
    if len(given) > MAX_INPUTS:
        raise InvalidField("input", f"must have at most {MAX_INPUTS} entries")
    return tuple(_item(item, f"input[{index}]") for index, item in enumerate(given)), False


def _item(item: Any, path: str) -> str | tuple[int, ...]:
    if isinstance(item, str):
        return _text(item, path)
    if isinstance(item, list):
        return _tokens(item, path)
    raise InvalidField(path, f"must be a string or an array of token ids, not {kind_of(item)}")


def _text(text: str, path: str) -> str:
    if not text:
        raise InvalidField(path, "must not be empty")
    check_text(text, path)
    return text


def _tokens(tokens: list[Any], path: str) -> tuple[int, ...]:
    if not tokens:
        raise InvalidField(path, "must not be empty")
    for index, token in enumerate(tokens):
        if not is_whole(token) or not 0 <= token <= MAX_TOKEN_ID:
            raise InvalidField(f"{path}[{index}]", "must be a token id, a whole number")
    return tuple(int(token) for token in tokens)
