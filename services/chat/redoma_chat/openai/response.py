"""Answers in OpenAI's shapes: JSON objects, and chunks of server-sent events.

A chunk is made once for each token, so what is the same in all of them is made once for the stream.
"""

import json
from collections.abc import Sequence
from typing import Any

from redoma_chat.inference import Delta, FinishReason, ModelInfo, TokenLogprob, Usage

FINISH_REASONS = {
    FinishReason.STOP: "stop",
    FinishReason.LENGTH: "length",
    FinishReason.CONTENT_FILTER: "content_filter",
}
DONE = b"data: [DONE]\n\n"


def to_json(value: Any) -> str:
    """Gives compact JSON in which other letters than ASCII's stay themselves."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def usage_object(usage: Usage) -> dict[str, object]:
    """Gives counts."""
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_input_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


def model_object(model: ModelInfo) -> dict[str, object]:
    """Gives a model."""
    return {"id": model.id, "object": "model", "created": model.load_time_s, "owned_by": "redoma"}


def model_list(models: Sequence[ModelInfo]) -> dict[str, object]:
    """Gives a list of models."""
    return {"object": "list", "data": [model_object(model) for model in models]}


def logprobs_object(entries: Sequence[TokenLogprob]) -> dict[str, object]:
    """Gives the log probabilities of tokens."""
    content = [{**_token(entry), "top_logprobs": [_token(top) for top in entry.top]} for entry in entries]
    return {"content": content, "refusal": None}


def _token(entry: TokenLogprob) -> dict[str, object]:
    return {"token": entry.token.decode(errors="replace"), "logprob": entry.logprob, "bytes": list(entry.token)}


class CompletionStream:
    """Makes the server-sent events of one answer."""

    def __init__(self, completion_id: str, created_s: int, model: str, includes_usage: bool) -> None:
        common = {
            "id": completion_id,
            "object": "chat.completion.chunk",
            "created": created_s,
            "model": model,
            "system_fingerprint": None,
        }
        self._head = "data: " + to_json(common)[:-1]
        self._includes_usage = includes_usage
        tail = (',"usage":null' if includes_usage else "") + "}\n\n"
        self._end = "}]" + tail
        self._text_head = self._head + ',"choices":[{"index":0,"delta":{"content":'
        self._text_tail = '},"logprobs":null,"finish_reason":null' + self._end

    def first(self) -> bytes:
        """Gives the chunk that says who speaks."""
        return self._chunk({"role": "assistant", "content": ""}, None, None)

    def delta(self, delta: Delta) -> bytes:
        """Gives the chunk of a piece; empty if the piece brings nothing to read."""
        if delta.text and not delta.reasoning and not delta.logprobs:
            return f"{self._text_head}{json.dumps(delta.text, ensure_ascii=False)}{self._text_tail}".encode()
        if not delta.text and not delta.reasoning and not delta.logprobs:
            return b""
        body: dict[str, object] = {}
        if delta.reasoning:
            body["reasoning_content"] = delta.reasoning
        if delta.text or not delta.reasoning:
            body["content"] = delta.text
        return self._chunk(body, logprobs_object(delta.logprobs) if delta.logprobs else None, None)

    def done(self, reason: FinishReason, usage: Usage) -> bytes:
        """Gives what ends the stream."""
        end = self._chunk({}, None, FINISH_REASONS[reason])
        if self._includes_usage:
            counts = to_json(usage_object(usage))
            end += f'{self._head},"choices":[],"usage":{counts}}}\n\n'.encode()
        return end + DONE

    def _chunk(self, delta: dict[str, object], logprobs: object, finish_reason: str | None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
        return f'{self._head},"choices":[{to_json(choice)[:-1]}{self._end}'.encode()


class CompletionObject:
    """Collects one answer into one JSON object."""

    def __init__(self, completion_id: str, created_s: int, model: str) -> None:
        self._id = completion_id
        self._created_s = created_s
        self._model = model
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._logprobs: list[TokenLogprob] = []

    def add(self, delta: Delta) -> None:
        """Takes a piece."""
        self._text.append(delta.text)
        self._reasoning.append(delta.reasoning)
        self._logprobs += delta.logprobs

    def completion(self, reason: FinishReason, usage: Usage) -> bytes:
        """Gives the object of `/v1/chat/completions`."""
        message: dict[str, object] = {"role": "assistant", "content": "".join(self._text), "refusal": None}
        if reasoning := "".join(self._reasoning):
            message["reasoning_content"] = reasoning
        choice = {
            "index": 0,
            "message": message,
            "logprobs": logprobs_object(self._logprobs) if self._logprobs else None,
            "finish_reason": FINISH_REASONS[reason],
        }
        return to_json(
            {
                "id": self._id,
                "object": "chat.completion",
                "created": self._created_s,
                "model": self._model,
                "system_fingerprint": None,
                "choices": [choice],
                "usage": usage_object(usage),
            }
        ).encode()

    def answer(self, reason: FinishReason, usage: Usage) -> bytes:
        """Gives the object of `/ask`."""
        return to_json(
            {
                "answer": "".join(self._text),
                "model": self._model,
                "finish_reason": FINISH_REASONS[reason],
                "usage": usage_object(usage),
            }
        ).encode()
