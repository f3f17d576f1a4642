"""JSON Schema to GBNF: a grammar of JSON texts that the schema allows, or a refusal that names what can't be followed.

It never fetches anything. The grammar may allow less than the schema does and never more: properties come in the order
they are written in, an object with named properties has no others, and a set lists its values in their order. What the
specification has as annotation is passed over, `nullable` of OpenAPI with it: null is written where `type` allows it.
"""

from collections.abc import Callable, Iterable
from functools import partial

from redoma_model.forms.schema_arrays import Arrays
from redoma_model.forms.schema_error import Path, SchemaAllowsNothing, SchemaRefused
from redoma_model.forms.schema_node import (
    MAX_DEPTH,
    Document,
    Key,
    Node,
    Part,
    branches,
    implied_types,
    key_of,
    part_of,
    types_of,
)
from redoma_model.forms.schema_numbers import number_expression
from redoma_model.forms.schema_objects import Objects
from redoma_model.forms.schema_rules import Rules, either
from redoma_model.forms.schema_strings import Texts
from redoma_model.forms.schema_values import Values, json_text, number_limits, text_limits

_PRIMITIVES = r"""ws ::= ( " " | "\n" [ \t]{0,20} )?
value ::= object | array | string | number | "true" | "false" | "null"
object ::= "{" ws ( member ( "," ws member )* )? "}"
member ::= string ":" ws value ws
array ::= "[" ws ( value ws ( "," ws value ws )* )? "]"
string ::= "\"" char* "\""
char ::= [^"\\\x7F\x00-\x1F] | "\\" ( ["\\/bfnrt] | "u" ( [0-9a-ce-fA-CE-F] hex | [dD] [0-7] ) hex hex )
hex ::= [0-9a-fA-F]
number ::= "-"? positive
positive ::= whole ( "." [0-9]{1,16} )? ( [eE] [-+]? [0-9]{1,2} )?
integer ::= "-"? whole
whole ::= "0" | [1-9] [0-9]{0,15}
boolean ::= "true" | "false"
null ::= "null"
"""


def schema_to_gbnf(schema: object) -> str:
    """Translates a JSON Schema, as parsed JSON.

    Raises:
        SchemaRefused: It can't be followed; the message names the path within the schema.
    """
    return _Translation(schema).grammar()


class _Translation:
    """The rules made so far of one schema."""

    def __init__(self, schema: object) -> None:
        self._schema = schema
        self._rules = Rules()
        self._document = Document(schema)
        self._texts = Texts(self._rules)
        self._values = Values(self._document, self._texts)
        self._objects = Objects(self._document, self._rules, self._texts, self._values, self._expression)
        self._arrays = Arrays(self._document, self._rules, self._values, self._expression)
        # The rule of each node that has one, or why there is none.
        self._names: dict[Key, str | SchemaAllowsNothing] = {}
        self._open: set[str] = set()
        # Rules that hold themselves.
        self._recursive: set[str] = set()
        self._depth = 0

    def grammar(self) -> str:
        root = self._expression((part_of(self._schema, ()),))
        return f"root ::= {root}\n{self._rules.text()}{_PRIMITIVES}"

    def _expression(self, node: Node) -> str:
        """Gives what stands for a node within a rule; an alternative in it is in parentheses."""
        node = tuple(part for part in node if part.constraints)
        if not node:
            return "value"
        self._document.visit(node[0].path)
        if len(node) > 1 or node[0].has("$ref") or node[0].has("allOf") or node[0].path == ():
            return self._named(node)
        return self._body(node)

    def _named(self, node: Node) -> str:
        """Gives the rule of a node that may hold itself or be met again."""
        node = self._target(node)
        if not node:
            return "value"
        key = key_of(node)
        if key not in self._names:
            self._names[key] = self._made(node, key)
        found = self._names[key]
        if isinstance(found, SchemaAllowsNothing):
            raise found
        if found in self._open:
            self._recursive.add(found)
        return found

    def _target(self, node: Node) -> Node:
        """Follows a reference that is alone."""
        for _ in range(MAX_DEPTH):
            if len(node) != 1 or node[0].constraints != {"$ref"}:
                return tuple(part for part in node if part.constraints)
            node = (self._document.target(node[0]),)
        raise SchemaRefused(node[0].path, "refers to itself without end")

    def _made(self, node: Node, key: Key) -> str | SchemaAllowsNothing:
        name = self._names[key] = self._rules.reserve()
        self._open.add(name)
        try:
            self._rules.define(name, self._body(node))
        except SchemaAllowsNothing as nothing:
            if name in self._recursive:
                raise SchemaRefused(nothing.path, nothing.problem) from nothing
            return nothing
        finally:
            self._open.discard(name)
        return name

    def _body(self, node: Node) -> str:
        if self._depth >= MAX_DEPTH:
            raise SchemaRefused(node[0].path, "makes the schema too large or too deep")
        self._depth += 1
        try:
            return self._flat(self._document.flat(node))
        finally:
            self._depth -= 1

    def _flat(self, node: Node) -> str:
        for keyword in ("anyOf", "oneOf"):
            for part in node:
                if part.has(keyword):
                    return self._branches(node, part, keyword)
        if (values := self._values.of(node)) is not None:
            return self._rules.one_of({json_text(value, node[0].path) for value in values})
        types = types_of(node) or implied_types(node)
        return either(_possible([partial(self._typed, node, one) for one in types])) if types else "value"

    def _branches(self, node: Node, part: Part, keyword: str) -> str:
        """Gives the expression of a node with each schema of an anyOf or oneOf in its place."""
        rest = tuple(other.without(keyword) if other is part else other for other in node)
        met: list[Node] = []
        written: list[int] = []

        def branch(schema: object, path: Path) -> str:
            one = tuple(each for each in (*rest, part_of(schema, path)) if each.constraints)
            place = len(met)
            met.append(one)
            expression = self._expression(one)
            written.append(place)
            return expression

        expressions = _possible([partial(branch, *one) for one in branches(part, keyword)])
        if keyword == "oneOf":
            self._check_apart(written, met, part)
        return either(expressions)

    def _check_apart(self, written: list[int], met: list[Node], part: Part) -> None:
        for one in written:
            for place, other in enumerate(met):
                if place != one and not self._values.apart(met[one], other):
                    raise SchemaRefused(
                        part.at("oneOf"), "can't be followed, as a value might fit two of its schemas; use anyOf"
                    )

    def _typed(self, node: Node, name: str) -> str:
        if name == "object":
            return self._objects.expression(node)
        if name == "array":
            return self._arrays.expression(node)
        if name == "string":
            return self._texts.expression(text_limits(node))
        if name in ("number", "integer"):
            return number_expression(number_limits(node, whole=name == "integer"), self._rules)
        return name


def _possible(attempts: Iterable[Callable[[], str]]) -> list[str]:
    """Gives what comes of some attempts, without those that allow nothing unless all do."""
    found: list[str] = []
    nothing: SchemaAllowsNothing | None = None
    for attempt in attempts:
        try:
            found.append(attempt())
        except SchemaAllowsNothing as error:
            nothing = error
    if nothing is not None and not found:
        raise nothing
    return found
