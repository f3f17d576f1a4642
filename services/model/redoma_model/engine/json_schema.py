"""JSON Schema to GBNF: a grammar of JSON texts that the schema allows, or a refusal that names what can't be followed.

It never fetches anything. The grammar may allow less than the schema does and never more: properties come in the order
they are written in, and an object with named properties has no others.
"""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from urllib.parse import unquote

from redoma_model.engine.backend import GrammarError
from redoma_model.engine.grammar import MAX_REPETITIONS

MAX_DEPTH = 64
# Schemas visited; one that is referred to from allOf counts each time.
MAX_VISITS = 10_000
_PRIMITIVES = {
    "ws": r'( " " | "\n" [ \t]{0,20} )?',
    "value": 'object | array | string | number | "true" | "false" | "null"',
    "object": '"{" ws ( member ( "," ws member )* )? "}"',
    "member": 'string ":" ws value ws',
    "array": '"[" ws ( value ws ( "," ws value ws )* )? "]"',
    "string": r'"\"" char* "\""',
    "char": r'[^"\\\x7F\x00-\x1F] | "\\" ( ["\\/bfnrt] | "u" [0-9a-fA-F]{4} )',
    "number": '"-"? positive',
    "positive": 'whole ( "." [0-9]{1,16} )? ( [eE] [-+]? [0-9]{1,2} )?',
    "integer": '"-"? whole',
    "whole": '"0" | [1-9] [0-9]{0,15}',
    "boolean": '"true" | "false"',
    "null": '"null"',
    "date": '[0-9]{4} "-" ( "0" [1-9] | "1" [0-2] ) "-" ( "0" [1-9] | [12] [0-9] | "3" [01] )',
    "time": '( [01] [0-9] | "2" [0-3] ) ":" [0-5] [0-9] ":" [0-5] [0-9] ( "." [0-9]{1,6} )? zone',
    "zone": '"Z" | [-+] ( [01] [0-9] | "2" [0-3] ) ":" [0-5] [0-9]',
    "uuid": '[0-9a-f]{8} ( "-" [0-9a-f]{4} ){3} "-" [0-9a-f]{12}',
}
_FORMATS = {"date": "date", "time": "time", "date-time": 'date "T" time', "uuid": "uuid"}
_TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")
_COMBINING = ("$ref", "const", "enum", "anyOf", "oneOf", "allOf")
_OF_TYPE = {
    "object": ("properties", "required", "additionalProperties"),
    "array": ("items", "prefixItems", "minItems", "maxItems"),
    "string": ("minLength", "maxLength", "format"),
    "number": ("minimum",),
    "integer": ("minimum",),
}
_NOT_FOLLOWED = {
    "object": ("patternProperties", "propertyNames", "minProperties", "maxProperties", "dependentRequired",
               "dependentSchemas", "unevaluatedProperties"),
    "array": ("contains", "minContains", "maxContains", "uniqueItems", "unevaluatedItems", "additionalItems"),
    "string": ("pattern", "contentSchema"),
    "number": ("maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
    "integer": ("maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
}  # fmt: skip
_NEVER_FOLLOWED = ("not", "if", "then", "else", "$dynamicRef", "$recursiveRef")

Schema = Mapping[str, object]
Path = tuple[str | int, ...]


def schema_to_gbnf(schema: object) -> str:
    """Translates a JSON Schema, as parsed JSON.

    Raises:
        GrammarError: It can't be followed; the message names the path within the schema.
    """
    return _Translation(schema).grammar()


class _Translation:
    """The rules made so far of one schema."""

    def __init__(self, schema: object) -> None:
        self._schema = schema
        self._rules: dict[str, str] = {}
        # The rule of each reference.
        self._references: dict[str, str] = {}
        self._visits = 0

    def grammar(self) -> str:
        root = self._references["#"] = "root"
        self._rules[root] = self._expression(self._schema, ())
        primitives = [f"{name} ::= {rule}" for name, rule in _PRIMITIVES.items()]
        return "\n".join([*(f"{name} ::= {rule}" for name, rule in self._rules.items()), *primitives]) + "\n"

    def _rule(self, expression: str) -> str:
        name = f"r{len(self._rules)}"
        self._rules[name] = expression
        return name

    def _expression(self, schema: object, path: Path) -> str:
        """Gives what stands for the schema within a rule; an alternative in it is in parentheses."""
        self._visits += 1
        if self._visits > MAX_VISITS or len(path) > MAX_DEPTH:
            raise _refused(path, "makes the schema too large or too deep")
        if schema is True or schema == {}:
            return "value"
        if not isinstance(schema, dict):
            raise _refused(path, "allows nothing" if schema is False else "is not a schema")
        self._check_keywords(schema, path, _NEVER_FOLLOWED)
        combining = [name for name in _COMBINING if name in schema]
        if len(combining) > 1:
            raise _refused(path, f"combines {combining[0]} with {combining[1]}, which can't be followed")
        if combining:
            return self._combined(schema, combining[0], path)
        return _either(self._typed(schema, one, path) for one in _types(schema, path))

    def _combined(self, schema: Schema, keyword: str, path: Path) -> str:
        if keyword not in ("const", "enum"):
            beside = [name for names in (*_OF_TYPE.values(), *_NOT_FOLLOWED.values()) for name in names]
            if not (keyword == "allOf" and any(name in schema for name in _OF_TYPE["object"])):
                self._check_keywords(schema, path, [name for name in beside if name != "format"])
        value = schema[keyword]
        if keyword == "$ref":
            return self._reference(value, path)
        if keyword == "const":
            return _literal(json.dumps(value, ensure_ascii=False))
        if not isinstance(value, list) or not value:
            raise _refused((*path, keyword), "is not a list that holds something")
        if keyword == "enum":
            return self._one_of({json.dumps(one, ensure_ascii=False) for one in value}, 0)
        if keyword == "allOf":
            return self._object(self._merged(schema, path), path)
        return _either(self._expression(one, (*path, keyword, place)) for place, one in enumerate(value))

    def _one_of(self, texts: Collection[str], begin: int) -> str:
        """Gives an expression of what follows the first `begin` characters of texts that begin alike.

        Texts go together as long as they begin alike, so that few ways to read one are open at once.
        """
        by_next: dict[str, list[str]] = {}
        for text in sorted(texts):
            by_next.setdefault(text[begin : begin + 1], []).append(text)
        found: list[str] = []
        for group in by_next.values():
            end = _common(group[0], group[-1])
            rest = "" if len(group) == 1 else f" {self._rule(self._one_of(group, end))}"
            found.append(f"{_literal(group[0][begin:end])}{rest}")
        return _either(found)

    def _reference(self, reference: object, path: Path) -> str:
        if not isinstance(reference, str) or not (reference == "#" or reference.startswith("#/")):
            raise _refused((*path, "$ref"), "does not point into the schema by #/…")
        if reference not in self._references:
            target = self._target(reference, path)
            name = self._references[reference] = self._rule("")
            self._rules[name] = self._expression(target, (*path, "$ref"))
        return self._references[reference]

    def _target(self, reference: str, path: Path) -> object:
        node = self._schema
        for part in reference.split("/")[1:]:
            key = unquote(part).replace("~1", "/").replace("~0", "~")
            if isinstance(node, dict) and key in node:
                node = node[key]
            elif isinstance(node, list) and key.isdecimal() and int(key) < len(node):
                node = node[int(key)]
            else:
                raise _refused((*path, "$ref"), "points to what is not in the schema")
        return node

    def _merged(self, schema: Schema, path: Path) -> Schema:
        """Gives the one object schema that an allOf of object schemas stands for."""
        self._visits += 1
        if self._visits > MAX_VISITS or len(path) > MAX_DEPTH:
            raise _refused(path, "makes the schema too large or too deep")
        if "$ref" in schema:
            self._reference(schema["$ref"], path)
            target = self._target(str(schema["$ref"]), path)
            return self._merged(_mapping(target, path), (*path, "$ref"))
        properties = dict(_mapping(schema.get("properties", {}), (*path, "properties")))
        required = [*_sequence(schema.get("required", []), (*path, "required"))]
        for place, part in enumerate(_sequence(schema.get("allOf", []), (*path, "allOf"))):
            here = (*path, "allOf", place)
            merged = self._merged(_mapping(part, here), here)
            for name, one in _mapping(merged["properties"], here).items():
                if properties.setdefault(name, one) != one:
                    raise _refused(here, f"defines the property {name!r:.100} anew")
            required += _sequence(merged["required"], here)
        if "allOf" not in schema and not ("object" in _types(schema, path) and set(schema) & {"type", "properties"}):
            raise _refused(path, "is not an object schema, which is all that allOf can combine")
        self._check_keywords(
            schema, path, (*_NOT_FOLLOWED["object"], *_NEVER_FOLLOWED, "anyOf", "oneOf", "const", "enum")
        )
        return {"type": "object", "properties": properties, "required": required}

    def _typed(self, schema: Schema, name: str, path: Path) -> str:
        self._check_keywords(schema, path, _NOT_FOLLOWED.get(name, ()))
        if name == "object":
            return self._object(schema, path)
        if name == "array":
            return self._array(schema, path)
        if name == "string":
            return self._string(schema, path)
        if name in ("number", "integer") and "minimum" in schema:
            if schema["minimum"] != 0:
                raise _refused((*path, "minimum"), "can't be followed unless it is 0")
            return "positive" if name == "number" else "whole"
        return name

    def _string(self, schema: Schema, path: Path) -> str:
        if (form := _FORMATS.get(str(schema.get("format")))) is not None:
            return rf'"\"" {form} "\""'
        least, most = _bounds(schema, "minLength", "maxLength", path)
        return rf'"\"" char{_repeat(least, most)} "\""'

    def _array(self, schema: Schema, path: Path) -> str:
        least, most = _bounds(schema, "minItems", "maxItems", path)
        prefix = _sequence(schema.get("prefixItems", []), (*path, "prefixItems"))
        if prefix:
            if not least <= len(prefix) <= (len(prefix) if most is None else most):
                raise _refused((*path, "prefixItems"), "has another number of items than the array may have")
            items = [self._expression(one, (*path, "prefixItems", place)) for place, one in enumerate(prefix)]
            separator = ' "," ws '
            return f'"[" ws {separator.join(f"{item} ws" for item in items)} "]"'
        if most == 0 or schema.get("items") is False:
            return '"[" ws "]"'
        item = self._rule(self._expression(schema.get("items", True), (*path, "items")))
        rest = _repeat(max(0, least - 1), None if most is None else most - 1)
        several = f'{item} ws ( "," ws {item} ws ){rest}'
        return f'"[" ws {several} "]"' if least else f'"[" ws ( {several} )? "]"'

    def _object(self, schema: Schema, path: Path) -> str:
        properties = dict(_mapping(schema.get("properties", {}), (*path, "properties")))
        required = _sequence(schema.get("required", []), (*path, "required"))
        others = schema.get("additionalProperties", True)
        for name in required:
            properties.setdefault(str(name), others)
        if not properties:
            if others is False or "properties" in schema:
                return '"{" ws "}"'
            value = self._expression(others, (*path, "additionalProperties"))
            member = self._rule(f'string ":" ws {value} ws')
            return f'"{{" ws ( {member} ( "," ws {member} )* )? "}}"'
        return f'"{{" ws {self._members(properties, set(map(str, required)), path)} "}}"'

    def _members(self, properties: Schema, required: set[str], path: Path) -> str:
        """Gives the named members in their order: `first` where none was written yet, `rest` after another."""
        first = rest = ""
        for name, schema in reversed(list(properties.items())):
            key = _literal(f"{json.dumps(name, ensure_ascii=False)}:")
            member = self._rule(f"{key} ws {self._expression(schema, (*path, 'properties', name))} ws")
            if name in required:
                first = f"{member} {rest}"
                rest = self._rule(f'"," ws {member} {rest}')
            else:
                first = self._rule(f"( {member} {rest} | {first} )" if first else f"( {member} {rest} )?")
                rest = self._rule(f'( "," ws {member} )? {rest}')
        return first

    def _check_keywords(self, schema: Schema, path: Path, names: Iterable[str]) -> None:
        for name in names:
            if name in schema and schema[name] is not False:
                raise _refused((*path, name), "can't be followed")


def _types(schema: Schema, path: Path) -> list[str]:
    given = schema.get("type")
    if given is None:
        found = [one for one in ("object", "array", "string") if set(schema) & {*_OF_TYPE[one], *_NOT_FOLLOWED[one]}]
        if set(schema) & {*_OF_TYPE["number"], *_NOT_FOLLOWED["number"]}:
            found.append("number")
        return found or ["value"]
    types = [str(one) for one in (given if isinstance(given, list) else [given])]
    if not types or not set(types) <= set(_TYPES):
        raise _refused((*path, "type"), f"is not one of {', '.join(_TYPES)}")
    # A number may be whole: both would be two readings of the same text.
    return [one for one in dict.fromkeys(types) if one != "integer" or "number" not in types]


def _bounds(schema: Schema, least: str, most: str, path: Path) -> tuple[int, int | None]:
    low = _count(schema.get(least, 0), (*path, least))
    high = _count(schema[most], (*path, most)) if most in schema else None
    if high is not None and high < low:
        raise _refused((*path, most), f"is less than {least}")
    return low, high


def _count(value: object, path: Path) -> int:
    if not isinstance(value, int | float) or value != value // 1 or not 0 <= value <= MAX_REPETITIONS:
        raise _refused(path, f"is not a whole number from 0 to {MAX_REPETITIONS}")
    return int(value)


def _repeat(least: int, most: int | None) -> str:
    return f"{{{least},{'' if most is None else most}}}"


def _common(first: str, last: str) -> int:
    """Gives how many characters texts have in common at their beginning, by the first and the last of them in order."""
    return next((place for place, pair in enumerate(zip(first, last, strict=False)) if len(set(pair)) > 1), len(first))


def _either(expressions: Iterable[str]) -> str:
    found = list(dict.fromkeys(expressions))
    return found[0] if len(found) == 1 else f"( {' | '.join(found)} )"


def _literal(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\x7f", "\\x7F")
    return f'"{escaped}"'


def _mapping(value: object, path: Path) -> Schema:
    if not isinstance(value, dict):
        raise _refused(path, "is not an object")
    return value


def _sequence(value: object, path: Path) -> Sequence[object]:
    if not isinstance(value, list):
        raise _refused(path, "is not a list")
    return value


def _refused(path: Path, problem: str) -> GrammarError:
    shown = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return GrammarError(f"The schema at ${shown:.200} {problem}.")
