"""Limits of values read from a node's keywords, the values of const and enum, and which nodes share no value."""

import json
from collections.abc import Iterable, Mapping

from redoma_model.forms.grammar import MAX_REPETITIONS
from redoma_model.forms.schema_error import Path, SchemaAllowsNothing, SchemaRefused, mapping, sequence
from redoma_model.forms.schema_node import KEYWORDS, TYPES, Document, Node, Part, implied_types, part_of, types_of
from redoma_model.forms.schema_numbers import NumberLimits, bound, strictest, zeros_of
from redoma_model.forms.schema_strings import Form, TextLimits, Texts, form_of

_MAX_COMPARED_DEPTH = 8


def count_limits(node: Node, least: str, most: str) -> tuple[int, int | None, Path]:
    """Gives how many there must be, how many there may be, and where that is said.

    More than a grammar can count to is left out; raises SchemaRefused where it is needed.
    """
    low, high = 0, None
    path: Path = ()
    for part in node:
        if part.has(least) and (value := _count(part.given(least), part.at(least))) > low:
            low, path = value, part.at(least)
            if low > MAX_REPETITIONS:
                raise SchemaRefused(path, f"is above {MAX_REPETITIONS}")
        if part.has(most):
            value = min(_count(part.given(most), part.at(most)), MAX_REPETITIONS)
            if high is None or value < high:
                high, path = value, part.at(most)
    if high is not None and high < low:
        raise SchemaAllowsNothing(path, f"leaves nothing between {least} and {most}")
    return low, high, path


def text_limits(node: Node) -> TextLimits:
    """Gives what the texts of a flat node must be like; raises SchemaRefused."""
    least, most, path = count_limits(node, "minLength", "maxLength")
    forms: dict[str, Form] = {}
    for part in node:
        if part.has("pattern"):
            pattern = part.given("pattern")
            if not isinstance(pattern, str):
                raise SchemaRefused(part.at("pattern"), "is not a text")
            forms.setdefault(pattern, Form(pattern, part.at("pattern")))
        if part.has("format") and (form := form_of(str(part.given("format")), part.at("format"))):
            forms.setdefault(form.pattern, form)
    return TextLimits(least, most, path, tuple(forms.values()))


def number_limits(node: Node, whole: bool) -> NumberLimits:
    """Gives what the numbers of a flat node must be like; raises SchemaRefused."""

    def bounds(name: str) -> list[tuple[object, bool, Path]]:
        strict = f"exclusive{name.capitalize()}"
        return [
            (part.given(one), one == strict, part.at(one)) for part in node for one in (name, strict) if part.has(one)
        ]

    # The older form of an exclusive bound, `false`, says nothing.
    given = {
        name: strictest((bound(*one) for one in bounds(name) if one[0] is not False), name == "minimum")
        for name in ("minimum", "maximum")
    }
    zeros = [zeros_of(part.given("multipleOf"), part.at("multipleOf")) for part in node if part.has("multipleOf")]
    return NumberLimits(given["minimum"], given["maximum"], max([*zeros, *([0] if whole else [])], default=None))


class Values:
    """The values of const and enum that are left by what is beside them."""

    def __init__(self, document: Document, texts: Texts) -> None:
        self._document = document
        self._texts = texts

    def of(self, node: Node) -> list[object] | None:
        """Gives the values that a flat node lists and allows; None when it lists none.

        Raises:
            SchemaRefused: What is beside them can't be followed; SchemaAllowsNothing when no value is left.
        """
        listed = _listed(node)
        if listed is None:
            return None
        left = [value for value in listed.values() if self.fits(value, node)]
        if not left:
            path = next(part.at(name) for part in node for name in ("const", "enum") if part.has(name))
            raise SchemaAllowsNothing(path, "allows nothing together with what is beside it")
        return left

    def fits(self, value: object, node: Node) -> bool:
        """Tells whether a value surely fits the types and limits of a flat node; raises SchemaRefused."""
        for part in node:
            for name in ("anyOf", "oneOf"):
                if part.has(name):
                    raise SchemaRefused(part.at(name), "can't be followed here")
        types = types_of(node)
        if types is not None and not _types_of_value(value).intersection(types):
            return False
        if isinstance(value, str):
            # A format is an annotation beside values that are given.
            limits = text_limits(tuple(part.without("format") for part in node))
            return self._texts.allows(limits, value)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return number_limits(node, whole=False).allow(value)
        if isinstance(value, dict | list):
            kind = "object" if isinstance(value, dict) else "array"
            for part in node:
                for name in KEYWORDS[kind]:
                    if part.has(name):
                        raise SchemaRefused(part.at(name), f"can't be followed beside a list of values with an {kind}")
        return True

    def apart(self, one: Node, other: Node, depth: int = 0) -> bool:
        """Tells whether surely no text that is written for a node is of a value that fits another.

        Raises:
            SchemaRefused: A node can't be read.
        """
        self._document.visit(other[0].path if other else ())
        here, there = self._document.flat(one), self._document.flat(other)
        try:
            shared = _shared_types(here, there)
            values, theirs = self.of(here), _listed(there)
        except SchemaAllowsNothing:
            return True
        if not shared:
            return True
        if values is not None:
            types = types_of(there)
            return all(
                (theirs is not None and _key(value) not in theirs)
                or (types is not None and not _types_of_value(value).intersection(types))
                for value in values
            )
        return shared == {"object"} and depth < _MAX_COMPARED_DEPTH and self._objects_apart(here, there, depth)

    def _objects_apart(self, one: Node, other: Node, depth: int) -> bool:
        required = {str(name) for part in one for name in required_of(part)}
        written = {*required, *(name for part in one for name in properties_of(part))}
        open_ended = _has_any(one, "anyOf", "oneOf", "propertyNames", "patternProperties")
        missing = {str(name) for part in other for name in required_of(part)} - written
        if missing and written and not open_ended:
            return True
        if _has_any(other, "patternProperties", "unevaluatedProperties"):
            return False
        return any(self._member_apart(name, one, other, depth) for name in required)

    def _member_apart(self, name: str, one: Node, other: Node, depth: int) -> bool:
        try:
            ours = member(one, name)
        except SchemaAllowsNothing:
            return True
        try:
            theirs = member(other, name)
        except SchemaAllowsNothing:
            return True
        return bool(ours and theirs) and self.apart(ours, theirs, depth + 1)


def properties_of(part: Part) -> Mapping[str, object]:
    """Gives the properties that a part names; raises SchemaRefused."""
    return mapping(part.given("properties"), part.at("properties")) if part.has("properties") else {}


def required_of(part: Part) -> Iterable[object]:
    """Gives the names that a part requires; raises SchemaRefused."""
    return sequence(part.given("required"), part.at("required")) if part.has("required") else ()


def member(node: Node, name: str) -> Node:
    """Gives what a property of the objects of a flat node must fit, by its name.

    Raises:
        SchemaRefused: Something there is no schema; SchemaAllowsNothing when the property may not be there.
    """
    named = any(name in properties_of(part) for part in node)
    found: list[Part] = []
    for part in node:
        if name in properties_of(part):
            found.append(part_of(properties_of(part)[name], part.at("properties", name)))
        elif part.has("additionalProperties"):
            found.append(part_of(part.given("additionalProperties"), part.at("additionalProperties")))
        elif part.has("unevaluatedProperties") and not named:
            found.append(part_of(part.given("unevaluatedProperties"), part.at("unevaluatedProperties")))
    return tuple(part for part in found if part.constraints)


def json_text(value: object, path: Path) -> str:
    """Gives a value as JSON; raises SchemaRefused for a number that JSON can't hold."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        raise SchemaRefused(path, "holds a number that is too large") from error


def _listed(node: Node) -> dict[str, object] | None:
    """Gives the values that every const and enum of a node has, equal ones by one key; None without any."""
    found: dict[str, object] | None = None
    for part in node:
        lists = [[part.given("const")]] if part.has("const") else []
        if part.has("enum"):
            lists.append(list(sequence(part.given("enum"), part.at("enum"))))
            if not lists[-1]:
                raise SchemaRefused(part.at("enum"), "is not a list that holds something")
        for values in lists:
            keyed = {_key(value): value for value in values}
            found = keyed if found is None else {key: value for key, value in found.items() if key in keyed}
    return found


def _key(value: object) -> str:
    """Gives what is the same for values that JSON Schema takes for equal."""
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return json.dumps(value)
    if isinstance(value, int | float):
        return str(int(value)) if value == value // 1 else repr(value)
    if isinstance(value, dict):
        return "{" + ",".join(sorted(f"{json.dumps(name)}:{_key(one)}" for name, one in value.items())) + "}"
    return "[" + ",".join(map(_key, value)) + "]" if isinstance(value, list) else repr(value)


def _types_of_value(value: object) -> set[str]:
    if isinstance(value, bool):
        return {"boolean"}
    if isinstance(value, int | float):
        return {"number", "integer"} if value == value // 1 else {"number"}
    kinds = ((str, "string"), (dict, "object"), (list, "array"))
    return {next((name for kind, name in kinds if isinstance(value, kind)), "null")}


def _shared_types(one: Node, other: Node) -> set[str]:
    """Gives the types that are written for a node and that another allows."""
    written = types_of(one) or implied_types(one) or TYPES
    allowed = types_of(other) or TYPES
    return set.intersection(*({*types, *(["integer"] if "number" in types else [])} for types in (written, allowed)))


def _has_any(node: Node, *names: str) -> bool:
    return any(part.has(name) for part in node for name in names)


def _count(value: object, path: Path) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1 or value < 0:
        raise SchemaRefused(path, "is not a whole number")
    return int(value)
