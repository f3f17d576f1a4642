"""That the grammar of a schema never allows what the schema forbids, and what it does allow.

Texts are drawn at random from the grammar and judged by the reference validator.
"""

import json
import random
import re
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, IntEnum
from ipaddress import IPv4Address, IPv6Address
from typing import Annotated, Any, Generic, Literal, NamedTuple, TypeVar
from uuid import UUID

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from openai.lib._pydantic import to_strict_json_schema
from pydantic import AnyUrl, BaseModel, ConfigDict, Field, Json, PositiveFloat, PositiveInt, conlist, constr

from redoma_kit.errors import InvalidField
from redoma_model.engine.backend import GrammarError
from redoma_model.forms.grammar_cost import check_grammar_cost
from redoma_model.forms.json_schema import schema_to_gbnf
from redoma_model.forms.schema_formats import FORMATS
from redoma_model.forms.structured_output import SCHEMA_FIELD, JsonSchema, grammar_of
from tests.fakes.gbnf import Sampler, follows

CHECKER = Draft202012Validator.FORMAT_CHECKER
EMAIL_OF_ZOD = r"^(?!\.)(?!.*\.\.)([A-Za-z0-9_'+\-\.]*)[A-Za-z0-9_+-]@([A-Za-z0-9][A-Za-z0-9\-]*\.)+[A-Za-z]{2,}$"
UUID_OF_ZOD = (
    "^([0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[1-8][0-9a-fA-F]{3}-[89abAB][0-9a-fA-F]{3}-[0-9a-fA-F]{12}"
    "|00000000-0000-0000-0000-000000000000|ffffffff-ffff-ffff-ffff-ffffffffffff)$"
)
INSTANT_OF_ZOD = (
    r"^(?:(?:\d\d[2468][048]|\d\d[13579][26]|\d\d0[48]|[02468][048]00|[13579][26]00)-02-29|\d{4}-(?:(?:0[13578]|1[02])"
    r"-(?:0[1-9]|[12]\d|3[01])|(?:0[469]|11)-(?:0[1-9]|[12]\d|30)|(?:02)-(?:0[1-9]|1\d|2[0-8])))"
    r"T(?:(?:[01]\d|2[0-3]):[0-5]\d(?::[0-5]\d(?:\.\d+)?)?(?:Z))$"
)


def drawn(schema: object, count: int, seed: int = 0) -> list[str]:
    """Gives texts of a schema's grammar, which must be one that llama.cpp may be given."""
    grammar = schema_to_gbnf(schema)
    check_grammar_cost(grammar)
    sampler = Sampler(grammar)
    chance = random.Random(seed)
    return [sampler.text(chance, chance.choice((0, 10, 40, 120))) for _ in range(count)]


def assert_kept(schema: Any, count: int = 60, seed: int = 0) -> None:
    validator = Draft202012Validator(schema, format_checker=CHECKER)
    for text in drawn(schema, count, seed):
        broken = next(validator.iter_errors(json.loads(text)), None)
        assert broken is None, f"{text!r}: {broken.message if broken else ''}"


def spaced(value: object) -> str:
    """Gives a value as JSON, a key's colon right behind the key."""
    return json.dumps(value, ensure_ascii=False)


# Schemas made at random.

NUMBERS = st.integers(-1_200, 1_200) | st.sampled_from(
    [0, 0.1, -0.1, 0.25, 1e-3, 999.999, 2**53, -(2**63), 1e20, -1e20, 1e300, -1e300, 1e-9, 12.5, 0.30000000000000004]
)
WORDS = st.sampled_from(["a", "b", "ab", "é", 'q"', "\\", "x y", ""])
SCALARS = st.none() | st.booleans() | st.integers(-20, 20) | st.sampled_from([0.5, 1.0, -2.25]) | WORDS
PATTERNS = st.recursive(
    st.sampled_from(
        ["a", "b", r"\d", r"\w", r"\s", r"\S", r"\D", r"\W", ".", "[a-c]", "[^a-c]", r'["\\]', r"\n", r"\x41", r"\.",
         "é", r"[\t\x01]", r"[^\s\d]"]
    ),
    lambda inner: st.one_of(
        st.tuples(inner, inner).map("".join),
        st.tuples(inner, inner).map(lambda two: f"(?:{two[0]}|{two[1]})"),
        st.tuples(inner, st.sampled_from(["*", "+", "?", "{2}", "{1,3}", "{2,}", "*?"])).map(
            lambda two: f"({two[0]}){two[1]}"
        ),
    ),
    max_leaves=6,
)  # fmt: skip
ANCHORED = st.tuples(st.sampled_from(["", "^", "^(?=.*b)", r"^(?!.*\d\d)"]), PATTERNS, st.sampled_from(["", "$"])).map(
    "".join
)
TEXTS = st.fixed_dictionaries(
    {"type": st.just("string")},
    optional={
        "minLength": st.integers(0, 4),
        "maxLength": st.integers(2, 9),
        "pattern": ANCHORED,
        "format": st.sampled_from([*FORMATS, "password"]),
    },
)
FIGURES = st.fixed_dictionaries(
    {"type": st.sampled_from(["number", "integer"])},
    optional={
        "minimum": NUMBERS,
        "maximum": NUMBERS,
        "exclusiveMinimum": NUMBERS,
        "exclusiveMaximum": NUMBERS,
        "multipleOf": st.sampled_from([1, 10, 100, 1.0]),
    },
)
LISTED = st.fixed_dictionaries(
    {"enum": st.lists(SCALARS, min_size=1, max_size=5)},
    optional={
        "type": st.sampled_from(["string", "number", "integer", "null"]),
        "minimum": NUMBERS,
        "maxLength": st.just(1),
    },
)
LEAF = {"$ref": "#/$defs/leaf"}
TYPES = st.lists(
    st.sampled_from(["string", "null", "boolean", "number", "integer"]), min_size=1, max_size=3, unique=True
)
LEAVES = (
    TEXTS
    | FIGURES
    | LISTED
    | st.builds(lambda value: {"const": value}, SCALARS)
    | st.builds(lambda names: {"type": names}, TYPES)
    | st.sampled_from([{}, True, LEAF, {**LEAF, "maximum": 3}, {"$ref": "#/$defs/tree"}])
)


def grown(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    names = st.sampled_from(["a", "b", "c", 'd"'])
    objects = st.fixed_dictionaries(
        {"type": st.just("object")},
        optional={
            "properties": st.dictionaries(names, inner | st.just(False), max_size=4),
            "required": st.lists(names, max_size=2, unique=True),
            "additionalProperties": inner | st.booleans(),
            "minProperties": st.integers(0, 3),
            "maxProperties": st.integers(0, 3),
        },
    )
    maps = st.fixed_dictionaries(
        {"type": st.just("object")},
        optional={
            "additionalProperties": inner | st.booleans(),
            "propertyNames": TEXTS | st.just({"enum": ["a", "b", "c"]}),
            "minProperties": st.integers(0, 1),
            "maxProperties": st.integers(0, 3),
        },
    )
    patterned = st.builds(lambda p, s: {"type": "object", "patternProperties": {p: s}}, ANCHORED, inner)
    arrays = st.fixed_dictionaries(
        {"type": st.just("array")},
        optional={
            "items": inner | st.just(False),
            "prefixItems": st.lists(inner, min_size=1, max_size=3),
            "minItems": st.integers(0, 4),
            "maxItems": st.integers(0, 4),
        },
    )
    sets = st.builds(
        lambda items, least: {"uniqueItems": True, "items": items, "minItems": least}, LISTED, st.integers(0, 2)
    )
    several = st.lists(inner, min_size=1, max_size=3)
    return st.one_of(
        objects,
        maps,
        patterned,
        arrays,
        sets,
        st.builds(lambda some, beside: {**beside, "anyOf": some}, several, st.just({}) | FIGURES | objects),
        st.builds(lambda some: {"oneOf": some}, several),
        st.builds(lambda some, beside: {**beside, "allOf": some}, several, st.just({}) | TEXTS | objects),
    )  # fmt: skip


TREE = {"type": "object", "properties": {"kids": {"type": "array", "items": {"$ref": "#/$defs/tree"}, "maxItems": 2}}}
SCHEMAS = st.builds(
    lambda schema: {"$defs": {"leaf": {"type": ["integer", "null"], "minimum": -3}, "tree": TREE}, "allOf": [schema]},
    st.recursive(LEAVES, grown, max_leaves=8),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(SCHEMAS, st.integers(0, 1_000))
@example({"type": "string", "minLength": 2, "maxLength": 2}, 3)
@example({"oneOf": [{"type": "integer"}, {"type": "number"}]}, 0)
@example({"type": "string", "enum": ["a", 1]}, 0)
@example({"oneOf": [{}, {}]}, 0)
@example({"oneOf": [{"type": "string"}, {"items": {"enum": [1], "type": "string"}, "minItems": 1}]}, 0)
@example({"oneOf": [{"const": "é"}, {"enum": ["é"], "pattern": r"^\w$"}]}, 0)
@example({"properties": {"a": {"type": "integer"}}, "additionalProperties": {"type": "string"}, "required": ["b"]}, 0)
@example({"allOf": [{"properties": {"a": {}}, "additionalProperties": False}, {"properties": {"b": {}}}]}, 0)
def test_no_text_of_a_grammar_breaks_its_schema(schema: dict[str, Any], seed: int) -> None:
    try:
        drawn(schema, 1)
    except GrammarError:
        assume(False)
    assert_kept(schema, 12, seed)


@settings(deadline=None, max_examples=200)
@given(ANCHORED, st.text(alphabet='abcA1é \n\t"\\.', max_size=6))
def test_pattern_is_read_as_the_reference_reads_it(pattern: str, text: str) -> None:
    try:
        grammar = schema_to_gbnf({"type": "string", "pattern": pattern})
    except GrammarError:
        assume(False)
    if follows(grammar, json.dumps(text, ensure_ascii=False)):
        assert re.search(pattern, text) is not None
    elif text.isascii() and "\n" not in text:
        assert re.search(pattern, text) is None


@settings(deadline=None)
@given(FIGURES, st.integers(-1_300, 1_300))
def test_integers_within_bounds_are_all_allowed(schema: dict[str, Any], number: int) -> None:
    try:
        grammar = schema_to_gbnf(schema)
    except GrammarError:
        grammar = ""
    valid = Draft202012Validator(schema).is_valid(number)
    assert (bool(grammar) and follows(grammar, str(number))) == valid


# Schemas as they are sent.


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Level(IntEnum):
    LOW = 1
    HIGH = 2


class Point(NamedTuple):
    x: int
    y: float = 0.0


class Address(BaseModel):
    model_config = ConfigDict(extra="forbid")
    street: Annotated[str, Field(min_length=1, max_length=40, description="With the number.")]
    code: Annotated[str, Field(pattern=r"^\d{5}(-\d{4})?$")]
    country: Literal["de", "fr", "us"] = "de"


class Person(BaseModel):
    name: constr(min_length=2, max_length=5000)  # type: ignore[valid-type]
    age: Annotated[int, Field(ge=0, le=150, examples=[30])]
    height: PositiveFloat | None = None
    score: Annotated[float, Field(gt=-1, lt=1)] = 0.0
    home: Annotated[Address, Field(description="Where they live.")]
    others: list[Address] = Field(default_factory=list, max_length=3)
    colour: Colour = Colour.RED
    levels: set[Level] = set()
    labels: dict[str, Annotated[int, Field(multiple_of=10)]] = {}


class Node(BaseModel):
    value: int | str | bool | None
    children: "list[Node]" = []


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: Annotated[int, Field(ge=1, le=9)]


class Dog(BaseModel):
    kind: Literal["dog"]
    name: str = "Rex"


class Pets(BaseModel):
    pets: list[Annotated[Cat | Dog, Field(discriminator="kind")]]
    first: Cat | Dog
    pair: tuple[Cat, int]
    point: Point
    count: PositiveInt
    row: conlist(int, min_length=2, max_length=2)  # type: ignore[valid-type]


class Times(BaseModel):
    day: date
    at: datetime
    clock: time
    lasts: timedelta
    id: UUID
    site: AnyUrl
    four: IPv4Address
    six: IPv6Address
    price: Annotated[Decimal, Field(ge=0, le=100)] | None = None
    extra: Json[list[int]] | None = None
    raw: bytes = b""


T = TypeVar("T")


class Page(BaseModel, Generic[T]):
    items: list[T]
    by_colour: dict[Colour, int] = {}
    by_code: dict[Annotated[str, Field(pattern="^[a-z]{2}$")], int] = {}
    anything: Any = None
    next_page: Annotated[str | None, Field(alias="nextPage", deprecated=True)] = None


MODELS = [Address, Person, Node, Cat, Pets, Times, Page[Node]]
STRICT = [Address, Person, Node, Cat, Pets]


@pytest.mark.parametrize("model", MODELS)
def test_answer_to_a_pydantic_schema_is_a_model(model: type[BaseModel]) -> None:
    for mode in ("validation", "serialization"):
        schema = model.model_json_schema(mode=mode)
        assert_kept(schema)
        for text in drawn(schema, 40) if mode == "validation" else ():
            if model is not Times:
                model.model_validate_json(text)


@pytest.mark.parametrize("model", STRICT)
def test_answer_to_a_strict_schema_of_openai_is_a_model(model: type[BaseModel]) -> None:
    schema = to_strict_json_schema(model)
    assert_kept(schema)
    for text in drawn(schema, 40):
        model.model_validate_json(text)


DRAFT_7 = "http://json-schema.org/draft-07/schema#"
SENT: dict[str, tuple[dict[str, Any], list[object], list[object]]] = {
    "zod": (
        {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "type": "object",
            "properties": {
                "id": {"type": "string", "format": "uuid", "pattern": UUID_OF_ZOD},
                "mail": {"type": "string", "format": "email", "pattern": EMAIL_OF_ZOD},
                "at": {"type": "string", "format": "date-time", "pattern": INSTANT_OF_ZOD},
                "count": {"type": "integer", "minimum": -9007199254740991, "maximum": 9007199254740991},
                "kind": {"type": "string", "const": "x"},
                "tags": {
                    "type": "object",
                    "propertyNames": {"type": "string"},
                    "additionalProperties": {"type": "number"},
                },
            },
            "required": ["id", "mail", "at", "count", "kind", "tags"],
            "additionalProperties": False,
        },
        [
            {
                "id": "1a2b3c4d-1a2b-4c3d-8e9f-1a2b3c4d5e6f",
                "mail": "jane.doe+x@mail.example.org",
                "at": "2024-02-29T23:59:59.5Z",
                "count": 9007199254740991,
                "kind": "x",
                "tags": {"a": 1.5},
            }
        ],
        [{"id": "x"}],
    ),
    "zod record of an enum": (
        {
            "type": "object",
            "propertyNames": {"type": "string", "enum": ["a", "b"]},
            "additionalProperties": {"type": "boolean"},
            "required": ["a"],
        },
        [{"a": True}, {"a": True, "b": False}],
        [{}, {"b": True}, {"a": True, "c": True}, {"a": 1}],
    ),
    "older draft of zod, with a tuple": (
        {"$schema": DRAFT_7, "definitions": {"n": {"type": "number"}}, "type": "array", "minItems": 2, "maxItems": 2,
         "items": [{"type": "string"}, {"$ref": "#/definitions/n"}]},
        [["a", 1.5]],
        [["a"], [1, "a"], ["a", 1, 2]],
    ),
    "openapi": (
        {
            "x-order": 1,
            "type": "object",
            "nullable": True,
            "properties": {"a": {"type": "string", "nullable": True, "readOnly": True, "example": "x"}},
            "discriminator": {"propertyName": "a"},
            "$comment": "none",
        },
        [{}, {"a": "x"}],
        [None, {"a": None}],
    ),
    "reference with a description": (
        {"properties": {"a": {"$ref": "#/$defs/a", "description": "d"}}, "$defs": {"a": {"type": "integer"}}},
        [{"a": 3}],
        [{"a": "x"}],
    ),
    "reference with more limits": (
        {"$ref": "#/$defs/a", "maximum": 5, "$defs": {"a": {"type": "integer", "minimum": 3}}},
        [3, 4, 5],
        [2, 6],
    ),
    "allOf of one reference": (
        {"allOf": [{"$ref": "#/$defs/a"}], "default": 1, "$defs": {"a": {"enum": [1, 2]}}},
        [1, 2],
        [3],
    ),
    "required in any of two ways": (
        {"type": "object", "properties": {"a": {"type": "null"}, "b": {"type": "null"}},
         "anyOf": [{"required": ["a"]}, {"required": ["b"]}]},
        [{"a": None}, {"b": None}, {"a": None, "b": None}],
        [{}],
    ),
    "one of two objects": (
        {"oneOf": [
            {"type": "object", "properties": {"k": {"const": "a"}, "v": {"type": "integer"}}, "required": ["k", "v"]},
            {"type": "object", "properties": {"k": {"const": "b"}}, "required": ["k"]},
        ]},
        [{"k": "a", "v": 1}, {"k": "b"}],
        [{"k": "a"}, {"k": "c"}],
    ),
    "tree": (
        {"properties": {"v": {"type": "integer"}, "l": {"$ref": "#"}, "r": {"$ref": "#"}}, "required": ["v"]},
        [{"v": 1}, {"v": 1, "l": {"v": 2, "r": {"v": 3}}}],
        [{"l": {"v": 1}}],
    ),
    "set": (
        {"type": "array", "uniqueItems": True, "items": {"enum": ["a", "b", "c"]}, "minItems": 1, "maxItems": 2},
        [["a"], ["a", "c"], ["b", "c"]],
        [[], ["a", "a"], ["a", "b", "c"]],
    ),
    "tuple with a rest": (
        {"prefixItems": [{"type": "null"}], "items": {"type": "integer"}, "maxItems": 3},
        [[None], [None, 1], [None, 1, 2]],
        [[1], [None, 1, 2, 3]],
    ),
    "counted properties": (
        {"properties": {name: {"type": "null"} for name in "abc"}, "minProperties": 1, "maxProperties": 2},
        [{"a": None}, {"a": None, "c": None}, {"b": None, "c": None}],
        [{}, {"a": None, "b": None, "c": None}],
    ),
    "contained pattern": ({"pattern": "b+c"}, ["abbcd", "bc", '"bc\\'], ["", "bb"]),
    "pattern and length": ({"pattern": "^[a-z]*$", "minLength": 2, "maxLength": 3}, ["ab", "abc"], ["a", "abcd", "A"]),
    "password": ({"pattern": r"^(?=.*[A-Z])(?=.*\d).{4,}$"}, ["abC4", "4Cab!"], ["abcd", "aC4", "ABCD"]),
    "share": ({"type": "number", "minimum": 0, "maximum": 1}, [0, 1, 0.5, 0.99, 1.0, 0.0], [1.01, -0.5, 2]),
    "latitude": ({"minimum": -90, "exclusiveMaximum": 90.5}, [-90, 90.49, -0.5, 45.123], [90.5, -90.1]),
    "prices": ({"type": "number", "exclusiveMinimum": 0}, [0.01, 1, 1999.99], [0, -1, 0.0]),
    "tens": ({"type": "integer", "multipleOf": 10, "minimum": -20}, [0, -20, 10, 1230], [5, -30, 15]),
}  # fmt: skip


@pytest.mark.parametrize("name", SENT)
def test_what_clients_send_is_followed(name: str) -> None:
    schema, allowed, refused = SENT[name]
    grammar = schema_to_gbnf(schema)
    check_grammar_cost(grammar)
    assert [one for one in allowed if not follows(grammar, spaced(one))] == []
    assert [one for one in refused if follows(grammar, spaced(one))] == []
    if schema.get("$schema") != DRAFT_7:
        assert_kept(schema)


INSTANTS: dict[str, Callable[[str], object]] = {
    "date": date.fromisoformat,
    "time": time.fromisoformat,
    "date-time": datetime.fromisoformat,
}
FORMAT_SAMPLES = {
    "date": ["2024-02-29", "1999-12-31"],
    "time": ["23:59:59Z", "00:00:00.25+02:00"],
    "date-time": ["2026-11-20T10:00:00Z"],
    "duration": ["P1DT2H", "PT30M", "P3W", "P1Y2M3D"],
    "email": ["jane.doe@example.com"],
    "hostname": ["www.example.com", "localhost"],
    "ipv4": ["127.0.0.1", "255.255.255.255"],
    "ipv6": ["::1", "fe80::1", "2001:db8:0:0:0:0:0:1"],
    "uri": ["https://example.com/a/b?c=d#e", "http://localhost:8080/"],
    "uuid": ["1a2b3c4d-1a2b-4c3d-8e9f-1a2b3c4d5e6f"],
    "json-pointer": ["/a/0", ""],
}


@pytest.mark.parametrize("name", FORMATS)
def test_formats_are_kept(name: str) -> None:
    schema = {"type": "string", "format": name}
    assert_kept(schema, 200)
    grammar = schema_to_gbnf(schema)
    for text in FORMAT_SAMPLES.get(name, []):
        assert follows(grammar, spaced(text))
    for text in map(json.loads, drawn(schema, 100)):
        if name in INSTANTS:
            INSTANTS[name](text)


# What is refused, and where.

B = {"$ref": "#/$defs/b"}
LOOP = {"$ref": "#/$defs/a", "$defs": {"a": {"allOf": [B]}, "b": {"allOf": [{"$ref": "#/$defs/a"}]}}}


def at(name: str, **schema: object) -> tuple[object, str]:
    return {"properties": {"p": schema}}, f"properties.p.{name}"


@pytest.mark.parametrize(
    ("schema", "path"),
    [
        at("pattern", type="string", pattern="(?<=a)b"),
        at("pattern", type="string", pattern="a(?=b)"),
        at("pattern", type="string", pattern=r"(a)\1"),
        at("pattern", type="string", pattern=r"\bword\b"),
        at("pattern", type="string", pattern=r"\p{L}+"),
        at("pattern", type="string", pattern="(a"),
        at("pattern", type="string", pattern="(?i)a"),
        at("pattern", type="string", pattern="a{5,2}"),
        at("pattern", type="string", pattern="(a{90}){90}"),
        at("pattern", type="string", pattern="^.*a.{40}$"),
        at("pattern", type="string", pattern="[[:alpha:]]"),
        at("pattern", type="string", pattern="^a$", minLength=2),
        at("maxLength", type="string", pattern="^(a|b|cc)*d(e|fgh)+$", maxLength=1900),
        at("minLength", type="string", minLength=3_000),
        at("multipleOf", type="integer", multipleOf=7),
        at("multipleOf", type="number", multipleOf=0.01),
        at("maximum", type="integer", minimum=3, maximum=2),
        at("exclusiveMaximum", type="integer", minimum=3, exclusiveMaximum=3),
        at("minimum", type="integer", minimum=1e30),
        at("oneOf", oneOf=[{"type": "integer"}, {"type": "number"}]),
        at("oneOf", oneOf=[{"type": "object", "properties": {"a": {}}}, {"type": "object", "properties": {"b": {}}}]),
        at("contains", type="array", contains={"type": "null"}),
        at("uniqueItems", type="array", uniqueItems=True, items={"type": "string"}),
        at("minItems", type="array", minItems=2_001),
        at("minProperties", type="object", minProperties=2),
        at("patternProperties", type="object", patternProperties={"^a": {}}, properties={"b": {}}),
        at("patternProperties.^(?<=x)", type="object", patternProperties={"^(?<=x)": {}}),
        at("propertyNames", type="object", propertyNames={"type": ["string", "null"]}),
        at("dependentRequired", type="object", dependentRequired={"a": ["b"]}),
        at("dependencies", type="object", dependencies={"a": ["b"]}),
        at("not", type="string", **{"not": {"const": "a"}}),
        at("if", **{"if": {}, "then": {}}),
        at("allOf[1].anyOf[0].items.not", allOf=[{}, {"anyOf": [{"type": "array", "items": {"not": {}}}]}]),
        at("enum", type="integer", enum=["a"]),
        at("const", const=1e999),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"items": B}, "b": {"minItems": 5_000}}}, "$defs.b.minItems"),
        ({"$ref": "#/$defs/a", "minimum": 1, "$defs": {"a": {"multipleOf": 3}}}, "$defs.a.multipleOf"),
        ({"allOf": [{"unevaluatedProperties": False}, {"properties": {"a": {}}}]}, "allOf[0].unevaluatedProperties"),
        ({"$defs": {"a": {"$id": "http://x/", "$ref": "#/$defs/b"}, "b": {}}, "$ref": "#/$defs/a"}, "$defs.a.$ref"),
        (LOOP, "$defs.a"),
    ],
)  # fmt: skip
def test_refusal_names_the_exact_path(schema: dict[str, Any], path: str) -> None:
    class Maker:
        def schema_grammar(self, schema: object) -> str:
            return schema_to_gbnf(schema)

        def check_grammar(self, grammar: str) -> None:
            check_grammar_cost(grammar)

    text = json.dumps(schema).replace("Infinity", "1e999")
    with pytest.raises(InvalidField) as caught:
        grammar_of(JsonSchema(text), Maker())
    assert caught.value.metadata["field"] == f"{SCHEMA_FIELD}.{path}"


def test_object_that_can_not_end_for_itself_is_not_joined_with_others() -> None:
    """A rule that turns out to allow nothing while another holds it must not become an empty text there."""
    inner = {"type": "object", "properties": {"up": {"$ref": "#/$defs/outer"}}}
    outer = {"type": "object", "properties": {"a": {"$ref": "#/$defs/inner"}, "b": False}, "required": ["a", "b"]}
    schema = {
        "anyOf": [{"$ref": "#/$defs/outer"}, {"$ref": "#/$defs/inner"}],
        "$defs": {"outer": outer, "inner": inner},
    }
    with pytest.raises(GrammarError, match=r"\$defs\.outer\.properties\.b allows nothing"):
        schema_to_gbnf(schema)


def test_long_chain_of_references_is_refused_in_time() -> None:
    links: dict[str, object] = {f"a{n}": {"items": {"$ref": f"#/$defs/a{n + 1}"}} for n in range(900)}
    with pytest.raises(GrammarError, match="too large or too deep"):
        schema_to_gbnf({"$ref": "#/$defs/a0", "$defs": {**links, "a900": {}}})
