"""The form that a person wants an answer to have, read from files, for both ways in which commands ask."""

import json
from dataclasses import dataclass
from pathlib import Path

from redoma.common.v1.sampling_pb2 import ResponseFormat
from redoma_cli.errors import CliError

SCHEMA_NAME = "answer"


@dataclass(frozen=True, slots=True)
class AnswerForm:
    """What an answer must be. At most one is set.

    Attributes:
        schema: A JSON Schema, as a JSON text that is an object.
        json_object: Any JSON object.
        grammar: A grammar in GBNF.
    """

    schema: str = ""
    json_object: bool = False
    grammar: str = ""

    def response_format(self) -> ResponseFormat | None:
        """Gives the form as sampling options carry it; None is any text."""
        if self.schema:
            return ResponseFormat(json_schema=self.schema)
        if self.json_object:
            return ResponseFormat(json_object=True)
        return ResponseFormat(grammar=self.grammar) if self.grammar else None

    def openai_fields(self) -> dict[str, object]:
        """Gives the form as members of the body of OpenAI's REST API."""
        if self.schema:
            schema = {"name": SCHEMA_NAME, "strict": True, "schema": json.loads(self.schema)}
            return {"response_format": {"type": "json_schema", "json_schema": schema}}
        if self.json_object:
            return {"response_format": {"type": "json_object"}}
        return {"grammar": self.grammar} if self.grammar else {}


def read_answer_form(schema_file: Path | None, json_object: bool, grammar_file: Path | None) -> AnswerForm:
    """Reads what the options name.

    Raises:
        CliError: There are several options, or a file can't be read or holds something else.
    """
    if (schema_file is not None) + json_object + (grammar_file is not None) > 1:
        raise CliError("An answer has one form.", "Give one of --json-schema, --json-object and --grammar.")
    schema = "" if schema_file is None else _read(schema_file)
    if schema_file is not None:
        _check_schema(schema_file, schema)
    return AnswerForm(schema, json_object, "" if grammar_file is None else _read(grammar_file))


def _read(file: Path) -> str:
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise CliError(f"{file} is not UTF-8 text.", "Name another file.") from None
    except OSError as error:
        raise CliError(f"{file} can't be read: {error.strerror}.", "Name another file.") from None
    if not text.strip():
        raise CliError(f"{file} is empty.", "Name another file.")
    return text


def _check_schema(file: Path, text: str) -> None:
    try:
        schema = json.loads(text)
    except RecursionError:
        raise CliError(f"{file} is nested too deep.", "Name a file that holds a JSON Schema.") from None
    except ValueError as error:
        raise CliError(f"{file} is not JSON: {error}.", "Name a file that holds a JSON Schema.") from None
    if not isinstance(schema, dict):
        raise CliError(f"{file} holds no JSON object.", "Name a file that holds a JSON Schema.")
