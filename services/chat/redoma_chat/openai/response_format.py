"""OpenAI's `response_format`, and `grammar` beside it, read into the form that an answer must have.

Forms are always kept to: `strict` says nothing new here. A schema travels as a text, so that its members keep their
order, in which the answer brings them.
"""

import json

from redoma_chat.openai.body import Fields
from redoma_chat.response_format import MAX_SCHEMA_DEPTH, ResponseFormat
from redoma_kit.errors import InvalidField

TYPES = ("text", "json_object", "json_schema")
SCHEMA_PATH = "response_format.json_schema.schema"
# Where the body has what the options of sampling call otherwise.
_BODY_PATHS = (("response_format.json_schema", SCHEMA_PATH), ("response_format.grammar", "grammar"))


def response_format_of(fields: Fields) -> ResponseFormat | None:
    """Reads the form that the body asks for; None is any text.

    Raises:
        InvalidField: A type is not known, or members are missing or contradict each other.
    """
    grammar = fields.text("grammar")
    wanted = Fields(fields.mapping("response_format") or {}, "response_format.")
    kind = wanted.text("type") or "text"
    if kind not in TYPES:
        raise InvalidField("response_format.type", f"must be one of {', '.join(TYPES)}")
    if grammar is not None and kind != "text":
        raise InvalidField("grammar", "not together with a response_format")
    if kind == "json_schema":
        return ResponseFormat("json_schema", _schema_text(wanted))
    if wanted.raw("schema") is not None:
        raise InvalidField("response_format.schema", "belongs into json_schema.schema, with the type json_schema")
    if kind == "json_object":
        return ResponseFormat("json_object")
    return None if grammar is None else ResponseFormat("grammar", grammar)


def body_path(name: str) -> str:
    """Gives the path in the body of what is `name` among the options of sampling."""
    for inner, path in _BODY_PATHS:
        if name.startswith(inner):
            return path + name.removeprefix(inner)
    return name


def _schema_text(wanted: Fields) -> str:
    fields = Fields(wanted.mapping("json_schema") or {}, "response_format.json_schema.")
    fields.text("name")
    fields.boolean("strict")
    schema = fields.mapping("schema")
    if schema is None:
        raise InvalidField(SCHEMA_PATH, "is missing; send a JSON Schema")
    try:
        return json.dumps(schema, ensure_ascii=False, separators=(",", ":"))
    except RecursionError:
        raise InvalidField(SCHEMA_PATH, f"must be nested at most {MAX_SCHEMA_DEPTH} deep") from None
