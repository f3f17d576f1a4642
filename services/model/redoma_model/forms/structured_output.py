"""The form an answer must have, as a grammar: JSON Schema, any JSON object, or GBNF as it is, each checked first."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn, Protocol
from urllib.parse import unquote

from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match
from jsonschema.validators import validator_for

from redoma_kit.errors import InvalidField
from redoma_model.engine.backend import GrammarError
from redoma_model.forms.schema_error import SchemaRefused

MAX_FORM_BYTES = 64 << 10
MAX_NESTING = 64
FIELD = "sampling.response_format"
SCHEMA_FIELD = f"{FIELD}.json_schema"
GRAMMAR_FIELD = f"{FIELD}.grammar"
MAX_SHOWN_CHARACTERS = 200
# What holds values, not schemas: whatever looks like a reference there is none.
_VALUES = frozenset({"const", "default", "enum", "example", "examples"})
# White space is bounded, or a model that likes it would never end.
JSON_OBJECT_GRAMMAR = r"""root   ::= object
value  ::= object | array | string | number | "true" | "false" | "null"
object ::= "{" ws ( member ( "," ws member )* )? "}"
member ::= string ":" ws value ws
array  ::= "[" ws ( value ws ( "," ws value ws )* )? "]"
string ::= "\"" char* "\""
char   ::= [^"\\\x7F\x00-\x1F] | "\\" ( ["\\/bfnrt] | "u" ( [0-9a-ce-fA-CE-F] hex | [dD] [0-7] ) hex hex )
hex    ::= [0-9a-fA-F]
number ::= "-"? ( "0" | [1-9] [0-9]{0,15} ) ( "." [0-9]{1,16} )? ( [eE] [-+]? [0-9]{1,3} )?
ws     ::= ( " " | "\n" [ \t]{0,20} )?
"""


@dataclass(frozen=True, slots=True)
class JsonSchema:
    """A JSON value that the schema, a JSON text, describes."""

    text: str


@dataclass(frozen=True, slots=True)
class JsonObject:
    """Any JSON object."""


@dataclass(frozen=True, slots=True)
class Grammar:
    """A text of the language of a grammar in GBNF."""

    text: str


ResponseForm = JsonSchema | JsonObject | Grammar


class GrammarMaker(Protocol):
    """The part of a backend that knows grammars. Usable from any thread."""

    def schema_grammar(self, schema: object) -> str:
        """Translates a JSON Schema to GBNF; raises GrammarError."""
        ...

    def check_grammar(self, grammar: str) -> None:
        """Raises GrammarError unless a sampler can follow the grammar."""
        ...


def grammar_of(form: ResponseForm, maker: GrammarMaker) -> str:
    """Gives the grammar of a form. May take some 100 ms, so keep it off the event loop.

    Raises:
        InvalidField: It is none that can be followed; names the path within a schema.
    """
    match form:
        case JsonObject():
            return JSON_OBJECT_GRAMMAR
        case Grammar(text):
            _check_size(GRAMMAR_FIELD, text)
            _check_grammar(maker, GRAMMAR_FIELD, text)
            return text
        case JsonSchema(text):
            schema = parse_schema(text)
            try:
                grammar = maker.schema_grammar(schema)
            except SchemaRefused as error:
                raise InvalidField(_field(error.path), f"{error.problem}.") from error
            except GrammarError as error:
                raise InvalidField(SCHEMA_FIELD, str(error)) from error
            _check_grammar(maker, SCHEMA_FIELD, grammar)
            return grammar


def parse_schema(text: str) -> dict[str, object]:
    """Reads a JSON Schema and checks it against its meta-schema, 2020-12 unless it names another.

    Raises:
        InvalidField: It is too large or nested too deep, no JSON, no schema, or refers to what is not in it.
    """
    _check_size(SCHEMA_FIELD, text)
    try:
        schema = json.loads(text, parse_constant=_refuse_constant)
    except RecursionError:
        raise _too_deep(()) from None
    except ValueError as error:
        raise InvalidField(SCHEMA_FIELD, f"is not JSON: {error}.") from error
    if not isinstance(schema, dict):
        raise InvalidField(SCHEMA_FIELD, "is not a JSON object.")
    for path, node, is_schema in _walk(schema):
        if is_schema and isinstance(node, dict):
            _check_reference(schema, path, node)
    try:
        json.dumps(schema, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise InvalidField(SCHEMA_FIELD, "holds half of a surrogate pair, which is no character.") from error
    _check_against_meta_schema(schema)
    return schema


def _check_against_meta_schema(schema: dict[str, object]) -> None:
    named = schema.get("$schema", "")
    if not isinstance(named, str):
        raise InvalidField(_field(("$schema",)), "is not a text.")
    try:
        cls = validator_for(schema, default=Draft202012Validator)
    except ValueError as error:
        raise InvalidField(_field(("$schema",)), "is not a URI.") from error
    worst = best_match(cls(cls.META_SCHEMA).iter_errors(schema))  # type: ignore[arg-type]
    if worst is not None:
        raise InvalidField(_field(tuple(worst.absolute_path)), f"{worst.message:.{MAX_SHOWN_CHARACTERS}}.")


Path = tuple[str | int, ...]


def _walk(schema: object) -> Iterator[tuple[Path, object, bool]]:
    """Goes through all values, with the path of each and whether it may be a schema or hold one."""
    stack: list[tuple[Path, object, bool]] = [((), schema, True)]
    while stack:
        path, node, is_schema = stack.pop()
        if len(path) >= MAX_NESTING and isinstance(node, dict | list):
            raise _too_deep(path)
        yield path, node, is_schema
        if isinstance(node, dict):
            names_properties = bool(path) and path[-1] in ("properties", "patternProperties", "$defs", "definitions")
            stack += [
                ((*path, name), value, is_schema and (names_properties or name not in _VALUES))
                for name, value in node.items()
            ]
        elif isinstance(node, list):
            stack += [((*path, index), value, is_schema) for index, value in enumerate(node)]


def _check_reference(schema: dict[str, object], path: Path, node: Mapping[str, object]) -> None:
    for name in ("$ref", "$dynamicRef", "$recursiveRef"):
        reference = node.get(name)
        if not isinstance(reference, str):
            continue
        if not reference.startswith("#"):
            raise InvalidField(_field((*path, name)), "refers to another document; only `#…` can be followed.")
        if reference.startswith("#/") and not _resolves(schema, reference[2:].split("/")):
            raise InvalidField(_field((*path, name)), "refers to what is not in the schema.")


def _resolves(schema: object, pointer: Sequence[str]) -> bool:
    node = schema
    for part in pointer:
        key = unquote(part).replace("~1", "/").replace("~0", "~")
        if isinstance(node, dict) and key in node:
            node = node[key]
        elif isinstance(node, list) and key.isdecimal() and int(key) < len(node):
            node = node[int(key)]
        else:
            return False
    return True


def _check_grammar(maker: GrammarMaker, field: str, grammar: str) -> None:
    try:
        maker.check_grammar(grammar)
    except GrammarError as error:
        raise InvalidField(field, str(error)) from error


def _check_size(field: str, text: str) -> None:
    size = len(text.encode())
    if not 1 <= size <= MAX_FORM_BYTES:
        raise InvalidField(field, f"has {size} bytes, not 1 to {MAX_FORM_BYTES}.")


def _field(path: Path) -> str:
    shown = SCHEMA_FIELD + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return shown[:MAX_SHOWN_CHARACTERS].encode(errors="replace").decode()


def _too_deep(path: Path) -> InvalidField:
    return InvalidField(_field(path), f"is nested more than {MAX_NESTING} deep.")


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON value")
