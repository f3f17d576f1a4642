"""What holds for one value: the schemas that it must fit all at once, wherever in the document they come from.

A reference and what is beside it, the members of an allOf and a branch of an anyOf with its surroundings are all such
nodes, so that each keyword needs to be followed in one way only and each refusal can name the place of its cause.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from urllib.parse import unquote

from redoma_model.forms.schema_error import Path, SchemaAllowsNothing, SchemaRefused, sequence

MAX_DEPTH = 64
# Schemas visited; one that is referred to from several places may count each time.
MAX_VISITS = 20_000
TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")
KEYWORDS = {
    "object": ("properties", "required", "additionalProperties", "minProperties", "maxProperties", "propertyNames",
               "patternProperties", "dependentRequired", "dependentSchemas", "dependencies", "unevaluatedProperties"),
    "array": ("items", "prefixItems", "minItems", "maxItems", "uniqueItems", "contains", "unevaluatedItems"),
    "string": ("minLength", "maxLength", "pattern", "format"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
}  # fmt: skip
_NEVER_FOLLOWED = ("not", "if", "then", "else", "$dynamicRef", "$recursiveRef")
_NOT_FOLLOWED = ("dependentRequired", "dependentSchemas", "dependencies", "contains")
_COMBINING = ("$ref", "allOf", "anyOf", "oneOf", "const", "enum", "type")
# Any other keyword is an annotation.
_CONSTRAINTS = frozenset((*_COMBINING, *_NEVER_FOLLOWED, *(name for names in KEYWORDS.values() for name in names)))


@dataclass(frozen=True, slots=True)
class Part:
    """One schema of those that a value must fit.

    Attributes:
        schema: As it is in the document.
        path: Its place there.
        dropped: Keywords that something else takes care of.
    """

    schema: Mapping[str, object]
    path: Path
    dropped: frozenset[str] = frozenset()

    def has(self, name: str) -> bool:
        """Tells whether a keyword is there that says something."""
        return name in self.schema and name not in self.dropped

    def given(self, name: str) -> object:
        """Gives the value of a keyword that is there."""
        return self.schema[name]

    def at(self, *steps: str | int) -> Path:
        """Gives the path of something within."""
        return (*self.path, *steps)

    def without(self, *names: str) -> "Part":
        """Gives the part without some keywords."""
        return replace(self, dropped=self.dropped.union(names).intersection(self.schema))

    @property
    def constraints(self) -> set[str]:
        """The keywords that limit what is allowed."""
        return {name for name in self.schema if name in _CONSTRAINTS and name not in self.dropped}


Node = tuple[Part, ...]
Key = frozenset[tuple[Path, frozenset[str]]]


def part_of(schema: object, path: Path) -> Part:
    """Reads a schema.

    Raises:
        SchemaRefused: It is none; SchemaAllowsNothing when it is `false`.
    """
    if schema is False:
        raise SchemaAllowsNothing(path)
    if schema is not True and not isinstance(schema, dict):
        raise SchemaRefused(path, "is not a schema")
    return Part({} if schema is True else schema, path)


def key_of(node: Node) -> Key:
    """Gives what is the same for nodes that are."""
    return frozenset((part.path, part.dropped) for part in node)


class Document:
    """A schema with what its references point to."""

    def __init__(self, schema: object) -> None:
        self._schema = schema
        self._visits = 0
        self._flat: dict[Key, Node] = {}

    def visit(self, path: Path) -> None:
        """Counts a schema; raises SchemaRefused when there are too many."""
        self._visits += 1
        if self._visits > MAX_VISITS:
            raise SchemaRefused(path, "makes the schema too large or too deep")

    def target(self, part: Part) -> Part:
        """Gives what the reference of a part points to; raises SchemaRefused."""
        reference, path = part.given("$ref"), part.at("$ref")
        if not isinstance(reference, str) or not (reference == "#" or reference.startswith("#/")):
            raise SchemaRefused(path, "does not point into the schema by #/…")
        if any(isinstance(one.get("$id"), str) for one in self._around(part.path)):
            raise SchemaRefused(path, "is within a schema that has an $id of its own")
        node: object = self._schema
        found: list[str | int] = []
        for step in reference.split("/")[1:]:
            name = unquote(step).replace("~1", "/").replace("~0", "~")
            if isinstance(node, dict) and name in node:
                found.append(name)
                node = node[name]
            elif isinstance(node, list) and name.isdecimal() and int(name) < len(node):
                found.append(int(name))
                node = node[int(name)]
            else:
                raise SchemaRefused(path, "points to what is not in the schema")
        return part_of(node, tuple(found))

    def flat(self, node: Node) -> Node:
        """Replaces references and allOf by what they stand for; raises SchemaRefused."""
        key = key_of(node)
        if key not in self._flat:
            found: dict[tuple[Path, frozenset[str]], Part] = {}
            for part in node:
                for one in self._expanded(part, ()):
                    found.setdefault((one.path, one.dropped), one)
            flat = tuple(part for part in found.values() if part.constraints)
            for part in flat:
                self._check(part, alone=len(node) == 1 and part.path == node[0].path)
            self._flat[key] = flat
        return self._flat[key]

    def _expanded(self, part: Part, within: tuple[Path, ...]) -> Iterator[Part]:
        self.visit(part.path)
        if part.path in within:
            raise SchemaRefused(part.path, "refers to itself without end")
        if len(within) > MAX_DEPTH:
            raise SchemaRefused(part.path, "makes the schema too large or too deep")
        within = (*within, part.path)
        yield part.without("$ref", "allOf")
        if part.has("$ref"):
            yield from self._expanded(self.target(part), within)
        if part.has("allOf"):
            for place, one in enumerate(_some(part, "allOf")):
                yield from self._expanded(part_of(one, part.at("allOf", place)), within)

    def _check(self, part: Part, alone: bool) -> None:
        for name in (*_NEVER_FOLLOWED, *_NOT_FOLLOWED):
            if part.has(name):
                raise SchemaRefused(part.at(name), "can't be followed")
        for name in ("unevaluatedProperties", "unevaluatedItems"):
            if part.has(name) and part.given(name) is not True and not alone:
                raise SchemaRefused(part.at(name), "can't be followed within a combination")

    def _around(self, path: Path) -> Iterator[Mapping[str, object]]:
        """Gives the schemas within the document that hold a place, it included."""
        node: object = self._schema
        for step in path:
            node = node[step]  # type: ignore[index]
            if isinstance(node, dict):
                yield node


def branches(part: Part, keyword: str) -> Iterator[tuple[object, Path]]:
    """Gives the schemas of an anyOf or oneOf with their paths; raises SchemaRefused."""
    for place, one in enumerate(_some(part, keyword)):
        yield one, part.at(keyword, place)


def types_of(node: Node) -> list[str] | None:
    """Gives the types that a flat node allows; None is any.

    Raises:
        SchemaRefused: One is not known; SchemaAllowsNothing when there is none.
    """
    found: list[str] | None = None
    path: Path = ()
    for part in node:
        if part.has("type"):
            path = part.at("type")
            given = part.given("type")
            names = [str(one) for one in (given if isinstance(given, list) else [given])]
            if not names or not set(names) <= set(TYPES):
                raise SchemaRefused(path, f"is not one of {', '.join(TYPES)}")
            allowed = [*names, *(["integer"] if "number" in names else [])]
            found = allowed if found is None else [one for one in found if one in allowed]
    if found == []:
        raise SchemaAllowsNothing(path, "allows nothing together with another type")
    # A number may be whole: both would be two readings of the same text.
    return found and [one for one in dict.fromkeys(found) if one != "integer" or "number" not in found]


def implied_types(node: Node) -> list[str]:
    """Gives the types that a flat node without any has keywords for."""
    used = {name for part in node for name in part.constraints}
    return [name for name, keywords in KEYWORDS.items() if used.intersection(keywords)]


def _some(part: Part, keyword: str) -> list[object]:
    found = sequence(part.given(keyword), part.at(keyword))
    if not found:
        raise SchemaRefused(part.at(keyword), "is not a list that holds something")
    return list(found)
