"""The model's own chat template, rendered in a sandbox, with the places of the messages kept apart from its words."""

import json
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from jinja2 import TemplateError, TemplateSyntaxError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from redoma_kit.errors import InvalidField
from redoma_model.engine.text import THINK_CLOSE, THINK_OPEN
from redoma_model.errors import ModelFileError

# For a model that brings no template: the ChatML form.
FALLBACK_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


class Role(Enum):
    """Who speaks, by the name templates know."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a prompt."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Content:
    """The place of a message's content in a rendered prompt, by the message's index."""

    index: int


Part = str | Content


class _Refused(Exception):
    """The template called raise_exception."""


class ChatTemplate:
    """Lays messages out as the model was trained to read them. Thread-safe."""

    __slots__ = ("_bos_token", "_eos_token", "_template", "reasons", "trims")

    def __init__(self, source: str, bos_token: str, eos_token: str) -> None:
        """Compiles the template.

        Raises:
            ModelFileError: It is not valid Jinja, or fails on the simplest conversation.
        """
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = _strftime_now
        try:
            self._template = environment.from_string(source or FALLBACK_TEMPLATE)
        except TemplateSyntaxError as error:
            raise ModelFileError(f"The model's chat template is not valid Jinja: {error}.") from error
        self._bos_token = bos_token
        self._eos_token = eos_token
        # Whether the model thinks before it answers.
        self.reasons = THINK_OPEN in source or THINK_CLOSE in source
        try:
            alone = self._render([{"role": "user", "content": "  X  "}], True)
        except InvalidField as error:
            raise ModelFileError(
                f"The model's chat template can't lay a user's message out: {error.message}"
            ) from error
        # Whether the template strips the white space around contents, which it never gets to see.
        self.trims = "  X  " not in alone

    def parts(self, messages: Sequence[Message], continue_final: bool) -> list[Part]:
        """Renders the messages and gives the template's words and the places of the contents, in order.

        Args:
            messages: At least one.
            continue_final: Ends with the last message's content, left open.

        Raises:
            InvalidField: The template refuses the messages, or leaves one out.
        """
        nonce = secrets.token_hex(8)
        marks = [{"role": m.role.value, "content": f"redoma{nonce}n{i}x"} for i, m in enumerate(messages)]
        rendered = self._render(marks, not continue_final)
        pieces = re.split(f"redoma{nonce}n([0-9]+)x", rendered)
        parts: list[Part] = []
        for position, piece in enumerate(pieces):
            if position % 2:
                parts.append(Content(int(piece)))
            elif piece:
                parts.append(piece)
        places = {part.index for part in parts if isinstance(part, Content)}
        for index, message in enumerate(messages):
            if index not in places:
                raise InvalidField(
                    f"messages[{index}].role",
                    f"the model's chat template has no place for this {message.role.value} turn.",
                )
        if continue_final:
            last = max(i for i, part in enumerate(parts) if part == Content(len(messages) - 1))
            del parts[last + 1 :]
        return parts

    def _render(self, messages: list[dict[str, str]], add_generation_prompt: bool) -> str:
        try:
            return self._template.render(
                messages=messages,
                add_generation_prompt=add_generation_prompt,
                bos_token=self._bos_token,
                eos_token=self._eos_token,
                tools=None,
            )
        except _Refused as error:
            raise InvalidField("messages", f"the model's chat template refuses them: {error}") from error
        except (TemplateError, TypeError, ValueError, ArithmeticError) as error:
            raise InvalidField(
                "messages", f"the model's chat template fails on them ({type(error).__name__})."
            ) from error


def opens_reasoning(parts: Sequence[Part]) -> bool:
    """Tells whether the template's last words leave a think section open."""
    tail = parts[-1] if parts else ""
    return isinstance(tail, str) and tail.rfind(THINK_OPEN) > tail.rfind(THINK_CLOSE)


def _to_json(value: object, indent: int | None = None, **_: object) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _raise_exception(message: str) -> None:
    raise _Refused(str(message)[:200])


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)
