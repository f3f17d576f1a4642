"""The form that a caller wants an answer to have, within limits that are checked before it travels."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

from redoma_kit.errors import InvalidField

MAX_FORMAT_BYTES = 65_536
MAX_SCHEMA_DEPTH = 64


@dataclass(frozen=True, slots=True)
class ResponseFormat:
    """A form of answers.

    Attributes:
        kind: What `text` is; any JSON object needs none.
        text: A JSON Schema, or a grammar in GBNF.
    """

    kind: Literal["json_schema", "json_object", "grammar"]
    text: str = ""


def check_response_format(wanted: ResponseFormat, wire_name: Callable[[str], str]) -> None:
    """Checks size and depth; whether a schema or a grammar can be followed is the model's to say.

    Raises:
        InvalidField: It is too large, too deep, or a schema that is no JSON.
    """
    if wanted.kind == "json_object":
        return
    path = wire_name(f"response_format.{wanted.kind}")
    try:
        size = len(wanted.text.encode())
    except UnicodeEncodeError:
        raise InvalidField(path, "holds half of a surrogate pair, which is no character") from None
    if not 1 <= size <= MAX_FORMAT_BYTES:
        raise InvalidField(path, f"must have 1 to {MAX_FORMAT_BYTES} bytes, and has {size}")
    if wanted.kind == "json_schema":
        _check_schema(wanted.text, path)


def _check_schema(text: str, path: str) -> None:
    too_deep = InvalidField(path, f"must be nested at most {MAX_SCHEMA_DEPTH} deep")
    try:
        schema = json.loads(text, parse_constant=_refuse_constant)
    except RecursionError:
        raise too_deep from None
    except ValueError:
        raise InvalidField(path, "is not valid JSON") from None
    if not isinstance(schema, dict):
        raise InvalidField(path, "must be a JSON Schema, which is an object")
    level: list[Any] = [schema]
    for _ in range(MAX_SCHEMA_DEPTH):
        level = [child for value in level for child in _children(value)]
        if not level:
            return
    if any(isinstance(value, dict | list) for value in level):
        raise too_deep


def _children(value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        return list(value.values())
    return value if isinstance(value, list) else []


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)
