"""Between values and the columns of a row."""

import json
import unicodedata
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from redoma_chat.conversations import Conversation, Message, MessageState
from redoma_chat.inference import FinishReason, Role, Usage
from redoma_chat.names import Owner
from redoma_chat.response_format import ResponseFormat
from redoma_chat.sampling import Sampling


def folded(text: str) -> str:
    """Takes case and the ways to compose a letter out of a text, for searching; the Turkish İ becomes an i."""
    return unicodedata.normalize("NFC", text).casefold().replace("i\u0307", "i")


def conversation_columns(owner: Owner, conversation: Conversation) -> dict[str, object]:
    """Gives a conversation's columns, its request id aside."""
    return {
        "id": conversation.id,
        "tenant": owner.tenant,
        "principal": owner.principal,
        "title": conversation.title,
        "title_folded": folded(conversation.title),
        "system_prompt": conversation.system_prompt,
        "model": conversation.model,
        "sampling": json.dumps(asdict(conversation.sampling)),
        "latest_message_id": conversation.latest_message_id,
        "create_time_us": conversation.create_time_us,
        "update_time_us": conversation.update_time_us,
    }


def conversation_of(row: Mapping[str, Any]) -> Conversation:
    """Reads a conversation out of a row."""
    return Conversation(
        id=row["id"],
        title=row["title"],
        system_prompt=row["system_prompt"],
        model=row["model"],
        sampling=_sampling(json.loads(row["sampling"])),
        create_time_us=row["create_time_us"],
        update_time_us=row["update_time_us"],
        latest_message_id=row["latest_message_id"],
    )


def message_columns(owner: Owner, message: Message) -> dict[str, object]:
    """Gives a message's columns."""
    return {
        "id": message.id,
        "conversation_id": message.conversation_id,
        "tenant": owner.tenant,
        "principal": owner.principal,
        "parent_id": message.parent_id,
        "role": message.role.value,
        "create_time_us": message.create_time_us,
        "response_format": json.dumps(asdict(message.response_format)) if message.response_format else None,
        **answer_columns(message),
    }


def answer_columns(message: Message) -> dict[str, object]:
    """Gives the columns that are known when an answer ends."""
    return {
        "content_folded": folded(message.content),
        "state": message.state.value,
        "finish_reason": message.finish_reason.value if message.finish_reason else None,
        **checkpoint_columns(message),
    }


def checkpoint_columns(message: Message) -> dict[str, object]:
    """Gives the columns that change while an answer streams."""
    return {
        "content": message.content,
        "reasoning": message.reasoning,
        "model": message.model,
        "update_time_us": message.update_time_us,
        **asdict(message.usage),
    }


def message_of(row: Mapping[str, Any]) -> Message:
    """Reads a message out of a row, which may come without the form of the answer."""
    saved_format = row.get("response_format")
    return Message(
        id=row["id"],
        conversation_id=row["conversation_id"],
        parent_id=row["parent_id"],
        role=Role(row["role"]),
        content=row["content"],
        state=MessageState(row["state"]),
        create_time_us=row["create_time_us"],
        update_time_us=row["update_time_us"],
        reasoning=row["reasoning"],
        finish_reason=FinishReason(row["finish_reason"]) if row["finish_reason"] else None,
        usage=Usage(row["input_tokens"], row["cached_input_tokens"], row["output_tokens"], row["reasoning_tokens"]),
        model=row["model"],
        response_format=ResponseFormat(**json.loads(saved_format)) if saved_format else None,
    )


def _sampling(saved: Mapping[str, Any]) -> Sampling:
    bias = {int(token): value for token, value in saved["logit_bias"].items()}
    # What an earlier release saved has no such member.
    saved_format = saved.get("response_format")
    wanted = ResponseFormat(**saved_format) if saved_format else None
    return Sampling(**{**saved, "stop": tuple(saved["stop"]), "logit_bias": bias, "response_format": wanted})
