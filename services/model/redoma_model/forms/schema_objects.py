"""The objects that a schema allows: with named properties, or as a map from any key to values of one kind."""

import json
from collections.abc import Callable

from redoma_model.forms.schema_error import Path, SchemaAllowsNothing, SchemaRefused, mapping
from redoma_model.forms.schema_members import Member, TooManyMembers, members_expression
from redoma_model.forms.schema_node import Document, Node, implied_types, part_of, types_of
from redoma_model.forms.schema_rules import Rules, literal, repeat
from redoma_model.forms.schema_strings import Form, TextLimits, Texts
from redoma_model.forms.schema_values import Values, count_limits, member, properties_of, required_of

_EMPTY = '"{" ws "}"'


class Objects:
    """Translates objects; what their properties hold is translated by `translate`."""

    def __init__(
        self, document: Document, rules: Rules, texts: Texts, values: Values, translate: Callable[[Node], str]
    ) -> None:
        self._document = document
        self._rules = rules
        self._texts = texts
        self._values = values
        self._translate = translate

    def expression(self, node: Node) -> str:
        """Gives the expression of the objects of a flat node.

        Raises:
            SchemaRefused: Something can't be followed; SchemaAllowsNothing when there is no such object.
        """
        keys = tuple(
            part_of(part.given("propertyNames"), part.at("propertyNames")) for part in node if part.has("propertyNames")
        )
        keys = self._document.flat(tuple(part for part in keys if part.constraints))
        listed = self._values.of(keys)
        required = list(dict.fromkeys(str(name) for part in node for name in required_of(part)))
        names = dict.fromkeys([*(name for part in node for name in properties_of(part)), *required])
        if listed is not None and not any(part.has("properties") for part in node):
            names = dict.fromkeys([*(str(name) for name in listed if isinstance(name, str)), *required])
        if names or listed is not None or any(part.has("properties") for part in node):
            return self._named(node, [(name, name in required) for name in names], keys, listed)
        return self._map(node, keys)

    def _named(self, node: Node, names: list[tuple[str, bool]], keys: Node, listed: list[object] | None) -> str:
        least, most, path = count_limits(node, "minProperties", "maxProperties")
        for part in node:
            if part.has("patternProperties") and names:
                raise SchemaRefused(part.at("patternProperties"), "can't be followed beside named properties")
        members: list[Member] = []
        for name, required in names:
            try:
                if not (self._values.fits(name, keys) if listed is None else name in listed):
                    raise SchemaAllowsNothing(keys[0].path, f"does not allow the property {name!r:.100}")
                inside = member(node, name)
            except SchemaAllowsNothing:
                if required:
                    raise
                continue
            value = self._translate(inside)
            key = literal(f"{json.dumps(name, ensure_ascii=False)}:")
            members.append(Member(self._rules.add(f"{key} ws {value} ws"), required))
        try:
            listing = members_expression(members, least, most, self._rules)
        except TooManyMembers as error:
            raise SchemaRefused(path, "can't be followed with so many properties") from error
        if listing is None:
            raise SchemaAllowsNothing(path, "allows nothing together with the properties")
        return f'"{{" ws {listing} "}}"' if listing else _EMPTY

    def _map(self, node: Node, keys: Node) -> str:
        least, most, path = count_limits(node, "minProperties", "maxProperties")
        if least > 1:
            # A key may come again, and counts once.
            path = next(part.at("minProperties") for part in node if part.has("minProperties"))
            raise SchemaRefused(path, "can't be followed above 1 without named properties")
        try:
            key, value = self._key_and_value(node, keys)
        except SchemaAllowsNothing:
            most = 0
        if most == 0 and least:
            raise SchemaAllowsNothing(path, "allows nothing together with the other keywords")
        if most == 0:
            return _EMPTY
        one = self._rules.add(f'{key} ":" ws {value} ws')
        several = f'{one} ( "," ws {one} ){repeat(0, None if most is None else most - 1)}'
        return f'"{{" ws {several} "}}"' if least else f'"{{" ws ( {several} )? "}}"'

    def _key_and_value(self, node: Node, keys: Node) -> tuple[str, str]:
        patterns = [
            (part, pattern)
            for part in node
            if part.has("patternProperties")
            for pattern in mapping(part.given("patternProperties"), part.at("patternProperties"))
        ]
        if not patterns:
            return self._key(keys), self._translate(member(node, ""))
        part, pattern = patterns[0]
        path = part.at("patternProperties")
        if len(patterns) > 1 or keys:
            raise SchemaRefused(path, "can't be followed with another pattern or propertyNames")
        # What has the pattern is of its schema; additionalProperties beside it is for other keys.
        rest = member(tuple(one for one in node if one is not part), "")
        value = part_of(mapping(part.given("patternProperties"), path)[pattern], (*path, pattern))
        values = tuple(one for one in (value, *rest) if one.constraints)
        return self._form(pattern, (*path, pattern)), self._translate(values)

    def _form(self, pattern: str, path: Path) -> str:
        return self._texts.expression(TextLimits(0, None, path, (Form(pattern, path),)))

    def _key(self, keys: Node) -> str:
        if not keys:
            return "string"
        if (types_of(keys) or implied_types(keys)) != ["string"]:
            raise SchemaRefused(keys[0].path, "can't be followed unless it is of type string")
        return self._translate(keys)
