"""The forms of an answer: what is refused, and by which path."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redoma_kit.errors import InvalidField
from redoma_model.engine.backend import GrammarError
from redoma_model.forms.structured_output import (
    JSON_OBJECT_GRAMMAR,
    MAX_FORM_BYTES,
    MAX_NESTING,
    SCHEMA_FIELD,
    Grammar,
    JsonObject,
    JsonSchema,
    grammar_of,
    parse_schema,
)


class Maker:
    """Makes one grammar of any schema, and refuses what it is told to."""

    def __init__(self, bad: str = "") -> None:
        self.bad = bad
        self.schemas: list[object] = []

    def schema_grammar(self, schema: object) -> str:
        self.schemas.append(schema)
        if self.bad == "schema":
            raise GrammarError("It has no translation.")
        return "root ::= schema"

    def check_grammar(self, grammar: str) -> None:
        if grammar == self.bad:
            raise GrammarError("It has no root.")


def nested(depth: int) -> str:
    return '{"not":' * depth + "{}" + "}" * depth


def refused(text: str) -> InvalidField:
    with pytest.raises(InvalidField) as caught:
        parse_schema(text)
    return caught.value


@pytest.mark.parametrize(
    ("schema", "path"),
    [
        ({"properties": {"age": {"type": "intger"}}}, "properties.age.type"),
        ({"items": [{"minLength": -1}], "$schema": "http://json-schema.org/draft-07/schema#"}, "items[0].minLength"),
        ({"anyOf": [{}, {"required": "name"}]}, "anyOf[1].required"),
        ({"$defs": {"a": {"enum": 3}}}, "$defs.a.enum"),
        ({"properties": []}, "properties"),
        ({"properties": {"x": {"$ref": "https://example.com/schema"}}}, "properties.x.$ref"),
        ({"$ref": "other.json#/a"}, "$ref"),
        ({"allOf": [{"$ref": "#/$defs/missing"}]}, "allOf[0].$ref"),
        ({"$dynamicRef": "file:///etc/passwd"}, "$dynamicRef"),
        ({"properties": {"enum": {"$ref": "http://x/"}}}, "properties.enum.$ref"),
        ({"$schema": "http://["}, "$schema"),
        ({"$schema": {}}, "$schema"),
        ({"properties": {"\ud800": {"$ref": "x"}}}, "properties.?.$ref"),
    ],
)
def test_invalid_schema_is_refused_by_its_path(schema: object, path: str) -> None:
    assert refused(json.dumps(schema)).metadata["field"] == f"{SCHEMA_FIELD}.{path}"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nothing",
        "[]",
        "true",
        "1",
        '{"const": NaN}',
        r'{"title": "\ud800"}',
        "1" * 5_000,
        "{" * 30_000,
        "[" * 60_000,
        " " * (MAX_FORM_BYTES + 1),
    ],
)
def test_text_that_is_no_schema_is_refused(text: str) -> None:
    assert refused(text).metadata["field"] == SCHEMA_FIELD


def test_nesting_is_bounded_and_reached() -> None:
    assert parse_schema(nested(MAX_NESTING - 1))
    assert refused(nested(MAX_NESTING)).metadata["field"].startswith(SCHEMA_FIELD)
    assert refused('{"enum":' + "[" * 200 + "]" * 200 + "}")


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]},
        {"$defs": {"a/b": {"type": "string"}}, "items": {"$ref": "#/$defs/a~1b"}},
        {"properties": {"child": {"$ref": "#"}}},
        {"allOf": [{"$ref": "#/allOf/1"}, {}]},
        # Values, not schemas; and a property that is called like a keyword.
        {"enum": [{"$ref": "http://example.com"}], "default": {"$ref": "x"}},
        {"properties": {"$ref": {"type": "string"}}},
    ],
)
def test_schema_is_translated(schema: object) -> None:
    maker = Maker()
    assert grammar_of(JsonSchema(json.dumps(schema)), maker) == "root ::= schema"
    assert maker.schemas == [schema]


def test_what_has_no_grammar_is_refused_by_its_field() -> None:
    for form, bad, field in (
        (JsonSchema("{}"), "schema", "json_schema"),
        (JsonSchema("{}"), "root ::= schema", "json_schema"),
        (Grammar("x"), "x", "grammar"),
        (Grammar(""), "", "grammar"),
        (Grammar("x" * (MAX_FORM_BYTES + 1)), "", "grammar"),
    ):
        with pytest.raises(InvalidField) as caught:
            grammar_of(form, Maker(bad))
        assert caught.value.metadata["field"] == f"sampling.response_format.{field}"


def test_grammar_and_object_pass_as_they_are() -> None:
    assert grammar_of(Grammar('root ::= "x"'), Maker()) == 'root ::= "x"'
    assert grammar_of(JsonObject(), Maker()) == JSON_OBJECT_GRAMMAR


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=12,
)
KEYWORDS = st.sampled_from(
    ["type", "$ref", "properties", "items", "enum", "required", "anyOf", "$defs", "$schema", "x"]
)


@given(st.dictionaries(KEYWORDS, JSON_VALUES | st.dictionaries(KEYWORDS, JSON_VALUES, max_size=2), max_size=4))
def test_any_json_is_a_schema_or_refused(schema: dict[str, object]) -> None:
    field = SCHEMA_FIELD
    try:
        assert parse_schema(json.dumps(schema)) == schema
    except InvalidField as error:
        field = error.metadata["field"]
    assert field.startswith(SCHEMA_FIELD)
