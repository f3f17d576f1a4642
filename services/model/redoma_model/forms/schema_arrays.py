"""The arrays that a schema allows: lists of one kind, tuples, and sets of listed values."""

from collections.abc import Callable

from redoma_model.forms.schema_error import SchemaAllowsNothing, SchemaRefused, sequence
from redoma_model.forms.schema_members import Member, TooManyMembers, members_expression
from redoma_model.forms.schema_node import Document, Node, Part, part_of
from redoma_model.forms.schema_rules import Rules, literal, repeat
from redoma_model.forms.schema_values import Values, count_limits, json_text

_EMPTY = '"[" ws "]"'
_SEPARATOR = ' "," ws '


class Arrays:
    """Translates arrays; what they hold is translated by `translate`."""

    def __init__(self, document: Document, rules: Rules, values: Values, translate: Callable[[Node], str]) -> None:
        self._document = document
        self._rules = rules
        self._values = values
        self._translate = translate

    def expression(self, node: Node) -> str:
        """Gives the expression of the arrays of a flat node.

        Raises:
            SchemaRefused: Something can't be followed; SchemaAllowsNothing when there is no such array.
        """
        least, most, path = count_limits(node, "minItems", "maxItems")
        first = max((len(_prefix(part)) for part in node), default=0)
        unique = next(
            (part for part in node if part.has("uniqueItems") and part.given("uniqueItems") is not False), None
        )
        if unique is not None and (most is None or most > 1):
            return self._set(node, unique, least, most)
        items = self._first_items(node, min(first, first if most is None else most))
        if len(items) < first:
            most = len(items)
        rest: str | None = None
        if most is None or most > first:
            rest, most = self._rest(node, first, most)
        if most is not None and most < least:
            raise SchemaAllowsNothing(path, "allows nothing together with the items")
        given = any(_rest_of(part) is not None for part in node) or not first
        if rest is None or (not given and least <= first):
            return self._written(items, "", 0, 0)
        return self._written(items, rest, max(0, least - first), None if most is None else most - first)

    def _first_items(self, node: Node, count: int) -> list[str]:
        found: list[str] = []
        try:
            for place in range(count):
                found.append(self._rules.add(self._translate(_at(node, place))))
        except SchemaAllowsNothing:
            pass
        return found

    def _rest(self, node: Node, first: int, most: int | None) -> tuple[str | None, int | None]:
        try:
            return self._rules.add(self._translate(_at(node, None))), most
        except SchemaAllowsNothing:
            return None, first

    def _written(self, items: list[str], rest: str, least: int, most: int | None) -> str:
        if items:
            listed = _SEPARATOR.join(f"{item} ws" for item in items)
            more = f' ( "," ws {rest} ws ){repeat(least, most)}' if rest else ""
            return f'"[" ws {listed}{more} "]"'
        if not rest or most == 0:
            return _EMPTY
        several = f'{rest} ws ( "," ws {rest} ws ){repeat(max(0, least - 1), None if most is None else most - 1)}'
        return f'"[" ws {several} "]"' if least else f'"[" ws ( {several} )? "]"'

    def _set(self, node: Node, unique: Part, least: int, most: int | None) -> str:
        """Gives the expression of a set, whose values come in the order in which they are listed."""
        path = unique.at("uniqueItems")
        item = self._document.flat(_at(node, None))
        values = None if any(_prefix(part) for part in node) else self._values.of(item)
        if values is None:
            raise SchemaRefused(path, "can't be followed unless the items are listed by const or enum")
        members = [Member(f"{literal(json_text(value, item[0].path))} ws") for value in values]
        try:
            inside = members_expression(members, least, most, self._rules)
        except TooManyMembers as error:
            raise SchemaRefused(path, "can't be followed with so many items") from error
        if inside is None:
            raise SchemaAllowsNothing(path, "leaves too few items")
        return f'"[" ws {inside} "]"' if inside else _EMPTY


def _prefix(part: Part) -> list[object]:
    """Gives the schemas of the first items, by either of the names they have had."""
    for name in ("prefixItems", "items"):
        if part.has(name) and (name == "prefixItems" or isinstance(part.given(name), list)):
            return list(sequence(part.given(name), part.at(name)))
    return []


def _rest_of(part: Part) -> str | None:
    """Gives the keyword that the other items are described by."""
    legacy = part.has("items") and isinstance(part.given("items"), list)
    names = ("additionalItems", "unevaluatedItems") if legacy else ("items", "unevaluatedItems")
    return next((name for name in names if name in part.schema and name not in part.dropped), None)


def _at(node: Node, place: int | None) -> Node:
    """Gives what an item must fit, by its place among the first ones or behind them."""
    found: list[Part] = []
    for part in node:
        prefix = _prefix(part)
        if place is not None and place < len(prefix):
            name = "prefixItems" if part.has("prefixItems") else "items"
            found.append(part_of(prefix[place], part.at(name, place)))
        elif (rest := _rest_of(part)) is not None:
            found.append(part_of(part.given(rest), part.at(rest)))
    return tuple(part for part in found if part.constraints)
