"""What is refused before llama.cpp reads a grammar, and what the grammar of a schema allows."""

import json
import re
from contextlib import suppress
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redoma_model.engine.backend import GrammarError
from redoma_model.forms.grammar_cost import check_grammar_cost
from redoma_model.forms.json_schema import schema_to_gbnf
from redoma_model.forms.structured_output import JSON_OBJECT_GRAMMAR
from tests.fakes.gbnf import follows

EXPONENTIAL = "\n".join(["root ::= r0", *(f"r{n} ::= r{n + 1} | r{n + 1}" for n in range(60)), 'r60 ::= "a"'])

HOSTILE = {
    "a range that ends before it begins": ("root ::= [z-a]", "ends before it begins"),
    "a set that leaves nothing": (r"root ::= [^\x00-\U0010FFFF]", "leaves no character"),
    "beyond the last character": (r'root ::= "\UFFFFFFFF"', "no character of a text"),
    "half a surrogate pair": (r'root ::= "\uD800"', "no character of a text"),
    "a text with a zero": (r'root ::= "\x00"+', "no character of a text"),
    "a chain of parts that may be left out": ("root ::= " + "[a-z ]? " * 20 + '"."', "too ambiguous"),
    "repetitions of the same after each other": ("root ::= " + "[a-z ]* " * 25 + '"."', "too ambiguous"),
    "left recursion": ('root ::= root "a"', "begins with itself"),
    "indirect left recursion": ('root ::= a\na ::= root "x" | "y"', "begins with itself"),
    "left recursion behind what is empty through others": (
        'root ::= e root "x" | "y"\ne ::= f\nf ::= ""',
        "begins with itself",
    ),
    "repeated repetition": ('root ::= ("a"*)*', "begins with itself"),
    "reversed repetition": ('root ::= "a"{5,3}', "ends below"),
    "endless repetition count": ('root ::= "a"{99999999999999999999}', "repetition is above"),
    "large repetition": ('root ::= "a"{2001}', "repetition is above"),
    "repetition of a long text": (f'root ::= "{"a" * 1_000}"{{2000}}', "elements"),
    "repetition of a repetition": ('root ::= "a"{2000}{2000}', "elements"),
    "deep groups": (f'root ::= {"(" * 5_000}"a"{")" * 5_000}', "nested"),
    "exponentially many beginnings": (EXPONENTIAL, "too ambiguous"),
    "readings that double": ('root ::= "a" root "b" | "a" root "c" | "d"', "too ambiguous"),
    "readings that double with any character": ('root ::= . root "b" | . root "c" | "d"', "too ambiguous"),
    "readings that double through what may be left out": ('root ::= "a" root? root? "x"', "too ambiguous"),
    "readings that double every few characters": ('root ::= "x" y\ny ::= "pqr" y "b" | "pqr" y "c" | "d"', "ambiguous"),
    "undefined rule": ("root ::= a", "does not define"),
    "no root": ('a ::= "b"', "no rule named root"),
    "empty": ("", "no rule named root"),
    "NUL": ('root ::= "a\0"', "NUL"),
    "lone surrogate": ('root ::= "\ud800"', "Unicode"),
    "token": ("root ::= <think>", "tokens"),
    "endless text": ('root ::= "a', "does not end"),
    "endless set": ("root ::= [a", "does not end"),
    "bad escape": (r'root ::= "\q"', "no escape"),
    "bad hexadecimal": (r'root ::= "\x4"', "hexadecimal"),
    "nothing to repeat": ("root ::= *", "nothing to repeat"),
    "large": (f"root ::= {' ' * 70_000}", "bytes"),
    "many rules": ("root ::= " + "(())" * 5_000, "rules"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_grammar_is_refused(name: str) -> None:
    text, problem = HOSTILE[name]
    with pytest.raises(GrammarError, match=problem):
        check_grammar_cost(text)


@pytest.mark.parametrize(
    "text",
    [
        JSON_OBJECT_GRAMMAR,
        'root ::= "yes" | "yeah" | "no" # a comment',
        'root ::= (expr "=" term "\\n")+\nexpr ::= term ([-+*/] term)*\nterm ::= num | "(" expr ")"\nnum ::= [0-9]+',
        "root ::= ws ws ws [^a-z] .\r\nws ::= [ \\t]*",
    ],
)
def test_ordinary_grammar_passes(text: str) -> None:
    check_grammar_cost(text)


@given(st.text(alphabet='ab "[]()|*+?{},0123\\-^\n:=.root', max_size=60))
def test_any_text_is_a_grammar_or_refused(text: str) -> None:
    with suppress(GrammarError):
        check_grammar_cost(f"root ::= {text}")


SAMPLES: list[tuple[object, list[object], list[object]]] = [
    ({"const": 'a "quote" and \\ and \n'}, ['a "quote" and \\ and \n'], ["a"]),
    ({"enum": ["a", "ab", "abc", 1, 12, None]}, ["a", "ab", "abc", 1, 12, None], ["abcd", 2, ""]),
    ({"type": "integer", "minimum": 0}, [0, 7, 120], [-1, 1.5, "1"]),
    ({"type": ["integer", "null"]}, [-3, None], ["x", True]),
    (
        {"properties": {"a": {"type": "null"}, "b": {"type": "null"}, "c": {"type": "null"}}, "required": ["b"]},
        [{"b": None}, {"a": None, "b": None}, {"b": None, "c": None}, {"a": None, "b": None, "c": None}],
        [{}, {"a": None}, {"a": None, "c": None}, {"b": 1}, {"b": None, "d": None}],
    ),
    ({"properties": {"a": {"type": "null"}, "b": {"type": "null"}}}, [{}, {"a": None}, {"b": None}], [{"c": None}]),
    ({"additionalProperties": {"type": "boolean"}}, [{}, {"x": True, "y": False}], [{"x": 1}]),
    ({"items": {"type": "null"}, "minItems": 1, "maxItems": 3}, [[None], [None] * 3], [[], [None] * 4, [1]]),
    ({"prefixItems": [{"type": "null"}, {"type": "boolean"}]}, [[None, True]], [[None], [True, None]]),
    ({"type": "string", "minLength": 2, "maxLength": 3}, ["ab", "é\n\\"], ["a", "abcd"]),
    ({"type": "string", "format": "date"}, ["2026-11-20"], ["2026-13-20", "today"]),
    ({"allOf": [{"properties": {"a": {}}}, {"properties": {"b": {}}, "required": ["b"]}]}, [{"b": 1}], [{"a": 1}]),
    ({"type": "array", "items": {"$ref": "#"}}, [[], [[], [[]]]], [[1]]),
    (
        {"$ref": "#/$defs/a~1b", "$defs": {"a/b": {"anyOf": [{"type": "null"}, {"items": {"$ref": "#/$defs/a~1b"}}]}}},
        [None, [None, [None]]],
        [True],
    ),
    ({}, [None, {"a": [1.5, {"b": "c"}]}], []),
]


@pytest.mark.parametrize(("schema", "allowed", "refused"), SAMPLES)
def test_grammar_of_a_schema_allows_what_the_schema_does(
    schema: object, allowed: list[object], refused: list[object]
) -> None:
    grammar = schema_to_gbnf(schema)
    check_grammar_cost(grammar)
    accepts = partial(follows, grammar)
    for dumps in (partial(json.dumps, ensure_ascii=False), partial(json.dumps, ensure_ascii=False, indent=1)):
        # A key's colon belongs to the key.
        texts = {json.dumps(one): re.sub(r'" :', '":', dumps(one)) for one in (*allowed, *refused)}
        assert [one for one in allowed if not accepts(texts[json.dumps(one)])] == []
        assert [one for one in refused if accepts(texts[json.dumps(one)])] == []


@pytest.mark.parametrize(
    ("schema", "problem"),
    [
        ({"$ref": "https://example.com/schema.json"}, r"\$\.\$ref does not point into the schema"),
        ({"$ref": "http://localhost/"}, "does not point into"),
        ({"properties": {"a": {"$ref": "other.json#/x"}}}, r"\$\.properties\.a\.\$ref"),
        ({"$ref": "#/$defs/missing"}, "points to what is not"),
        ({"type": "string", "pattern": "(?<=a)b"}, r"\$\.pattern has a lookbehind"),
        ({"type": "integer", "multipleOf": 3}, r"\$\.multipleOf can't be followed"),
        ({"not": {}}, r"\$\.not can't be followed"),
        ({"type": "thing"}, r"\$\.type is not one of"),
        ({"minItems": 10**9}, r"\$\.minItems is above 2000"),
        ({"type": "string", "minLength": 5, "maxLength": 2}, r"\$\.maxLength leaves nothing between"),
        (
            {"items": {"type": "object", "properties": {"a": False}, "required": ["a"]}, "minItems": 1},
            r"\$\.minItems allows nothing together with the items",
        ),
        ({"allOf": [{"$ref": "#"}]}, r"\$ refers to itself without end"),
    ],
)
def test_schema_that_cannot_be_followed_is_refused_with_its_path(schema: object, problem: str) -> None:
    with pytest.raises(GrammarError, match=problem):
        schema_to_gbnf(schema)


def test_reference_to_itself_alone_is_refused() -> None:
    with pytest.raises(GrammarError, match=r"\$defs\.a refers to itself without end"):
        schema_to_gbnf({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}})
