"""Bodies of OpenAI's REST API read into prompts and sampling wishes.

Fields that are not known are ignored, as OpenAI's own server does; wrong types and values out of range are refused,
with the field's path. What is known and can't be done here (tools, several choices) is refused too, never ignored.
"""

from dataclasses import dataclass
from typing import Any

from redoma_chat.inference import Prompt, Role, Turn
from redoma_chat.openai.body import Fields, check_text, is_number, json_object, kind_of, to_float
from redoma_chat.openai.response_format import body_path, response_format_of
from redoma_chat.sampling import Sampling, check_sampling
from redoma_kit.errors import InvalidField

MAX_MESSAGES = 4_096
MAX_MODEL_CHARACTERS = 200
LEAST_TOP_P = 1e-6
NO_TOOLS = "this server does not call tools"
ROLES = {"system": Role.SYSTEM, "developer": Role.SYSTEM, "user": Role.USER, "assistant": Role.ASSISTANT}


@dataclass(frozen=True, slots=True)
class ChatCompletionRequest:
    """What `/v1/chat/completions` is asked."""

    prompt: Prompt
    sampling: Sampling
    streams: bool
    includes_usage: bool


@dataclass(frozen=True, slots=True)
class AskRequest:
    """What `/ask` is asked."""

    prompt: Prompt
    sampling: Sampling


def parse_chat_completion(body: bytes) -> ChatCompletionRequest:
    """Reads the body of `/v1/chat/completions`.

    Raises:
        InvalidField: It is not JSON, or a field is missing, of a wrong type, out of range or can't be done.
    """
    fields = Fields(json_object(body))
    _refuse_what_cannot_be_done(fields)
    streams = fields.boolean("stream") or False
    options = fields.mapping("stream_options")
    if options is not None and not streams:
        raise InvalidField("stream_options", "only with stream set to true")
    includes_usage = Fields(options or {}, "stream_options.").boolean("include_usage") or False
    prompt = Prompt(fields.text("model", MAX_MODEL_CHARACTERS) or "", _turns(fields))
    return ChatCompletionRequest(prompt, _sampling(fields), streams, includes_usage)


def parse_ask(body: bytes) -> AskRequest:
    """Reads the body of `/ask`. Raises as parse_chat_completion does."""
    fields = Fields(json_object(body))
    question = fields.text("prompt")
    if not question:
        raise InvalidField("prompt", "must be a text that is not empty")
    sampling = Sampling(max_output_tokens=fields.integer("max_tokens"))
    check_sampling(sampling, lambda name: "max_tokens")
    return AskRequest(Prompt("", (Turn(Role.USER, question),)), sampling)


def _refuse_what_cannot_be_done(fields: Fields) -> None:
    n = fields.integer("n")
    if n is not None and n != 1:
        raise InvalidField("n", "only 1 is supported")
    for name in ("tools", "functions"):
        if fields.raw(name):
            raise InvalidField(name, NO_TOOLS)
    if fields.raw("tool_choice") not in (None, "none", "auto"):
        raise InvalidField("tool_choice", NO_TOOLS)
    if fields.raw("modalities") not in (None, [], ["text"]):
        raise InvalidField("modalities", "only text is supported")


def _turns(fields: Fields) -> tuple[Turn, ...]:
    messages = fields.raw("messages")
    if messages is None:
        raise InvalidField("messages", "is missing; send an array of at least one message")
    if not isinstance(messages, list):
        raise InvalidField("messages", f"must be an array, not {kind_of(messages)}")
    if not 1 <= len(messages) <= MAX_MESSAGES:
        raise InvalidField("messages", f"must have 1 to {MAX_MESSAGES} entries")
    turns = [_turn(message, f"messages[{index}]") for index, message in enumerate(messages)]
    instructions = "\n\n".join(turn.content for turn in turns if turn.role is Role.SYSTEM)
    spoken = [turn for turn in turns if turn.role is not Role.SYSTEM]
    if not spoken or spoken[-1].role is not Role.USER:
        raise InvalidField("messages", "the last one must be the user's")
    # A model knows one system message, at the head.
    return (*([Turn(Role.SYSTEM, instructions)] if instructions else []), *spoken)


def _turn(message: Any, path: str) -> Turn:
    if not isinstance(message, dict):
        raise InvalidField(path, f"must be an object, not {kind_of(message)}")
    role = message.get("role")
    if not isinstance(role, str):
        raise InvalidField(f"{path}.role", f"must be a string, not {kind_of(role)}")
    for name in ("tool_calls", "function_call"):
        if message.get(name):
            raise InvalidField(f"{path}.{name}", NO_TOOLS)
    if role in ("tool", "function"):
        raise InvalidField(f"{path}.role", NO_TOOLS)
    if role not in ROLES:
        raise InvalidField(f"{path}.role", f"must be one of {', '.join(ROLES)}")
    return Turn(ROLES[role], _content(message.get("content"), f"{path}.content"))


def _content(content: Any, path: str) -> str:
    if isinstance(content, str):
        check_text(content, path)
        return content
    if not isinstance(content, list):
        raise InvalidField(path, f"must be a string or an array of content parts, not {kind_of(content)}")
    return "".join(_part(part, f"{path}[{index}]") for index, part in enumerate(content))


def _part(part: Any, path: str) -> str:
    if not isinstance(part, dict):
        raise InvalidField(path, f"must be an object, not {kind_of(part)}")
    if part.get("type") != "text":
        raise InvalidField(f"{path}.type", "only parts of type text are supported")
    text = part.get("text")
    if not isinstance(text, str):
        raise InvalidField(f"{path}.text", f"must be a string, not {kind_of(text)}")
    check_text(text, f"{path}.text")
    return text


def _sampling(fields: Fields) -> Sampling:
    newer, older = fields.integer("max_completion_tokens"), fields.integer("max_tokens")
    top_p = fields.number("top_p")
    seed = fields.integer("seed")
    other_penalty = fields.number("repetition_penalty")
    repeat_penalty = fields.number("repeat_penalty")
    sampling = Sampling(
        temperature=fields.number("temperature"),
        # OpenAI allows 0, which keeps the most probable token alone.
        top_p=LEAST_TOP_P if top_p == 0 else top_p,
        top_k=fields.integer("top_k"),
        min_p=fields.number("min_p"),
        repeat_penalty=other_penalty if repeat_penalty is None else repeat_penalty,
        presence_penalty=fields.number("presence_penalty"),
        frequency_penalty=fields.number("frequency_penalty"),
        seed=None if seed is None else seed & 0xFFFF_FFFF,
        stop=_stop(fields),
        max_output_tokens=older if newer is None else newer,
        ignore_eos=fields.boolean("ignore_eos") or False,
        logit_bias=_logit_bias(fields),
        logprobs=fields.boolean("logprobs") or False,
        top_logprobs=fields.integer("top_logprobs") or 0,
        response_format=response_format_of(fields),
    )
    names = {
        "max_output_tokens": "max_tokens" if newer is None else "max_completion_tokens",
        "repeat_penalty": "repetition_penalty" if repeat_penalty is None else "repeat_penalty",
    }
    check_sampling(sampling, lambda name: names.get(name) or body_path(name))
    return sampling


def _stop(fields: Fields) -> tuple[str, ...]:
    stop = fields.raw("stop")
    if stop is None:
        return ()
    texts = [stop] if isinstance(stop, str) else stop
    if not isinstance(texts, list):
        raise InvalidField("stop", f"must be a string or an array of strings, not {kind_of(stop)}")
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise InvalidField(f"stop[{index}]", f"must be a string, not {kind_of(text)}")
        check_text(text, f"stop[{index}]")
    return tuple(texts)


def _logit_bias(fields: Fields) -> dict[int, float]:
    biases: dict[int, float] = {}
    for token, bias in (fields.mapping("logit_bias") or {}).items():
        if not (token.isascii() and token.isdigit() and len(token) <= 10):
            raise InvalidField("logit_bias", "its keys must be token ids")
        if not is_number(bias):
            raise InvalidField(f"logit_bias.{token}", f"must be a number, not {kind_of(bias)}")
        biases[int(token)] = to_float(bias, f"logit_bias.{token}")
    return biases
