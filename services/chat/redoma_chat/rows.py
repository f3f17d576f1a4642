"""Between values and the columns of a row, texts sealed."""

import json
import unicodedata
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from redoma_chat.content_keys import TenantKeys
from redoma_chat.conversations import Conversation, Message, MessageState
from redoma_chat.encryption import Cell
from redoma_chat.inference import FinishReason, Role, Usage
from redoma_chat.names import Owner
from redoma_chat.response_format import ResponseFormat
from redoma_chat.sampling import Sampling

# What people and the model said, by table; all else is no content.
SEALED_COLUMNS = {
    "conversations": ("title", "system_prompt", "sampling"),
    "messages": ("content", "reasoning", "response_format"),
}


def folded(text: str) -> str:
    """Takes case and the ways to compose a letter out of a text, for searching; the Turkish İ becomes an i."""
    return unicodedata.normalize("NFC", text).casefold().replace("i\u0307", "i")


def conversation_columns(owner: Owner, conversation: Conversation, keys: TenantKeys) -> dict[str, object]:
    """Gives a conversation's columns, its request id aside."""
    return {
        "id": conversation.id,
        "tenant": owner.tenant,
        "principal": owner.principal,
        "model": conversation.model,
        "latest_message_id": conversation.latest_message_id,
        "create_time_us": conversation.create_time_us,
        "update_time_us": conversation.update_time_us,
        "key_version": keys.version,
        **settings_columns(owner, conversation, keys),
    }


def settings_columns(owner: Owner, conversation: Conversation, keys: TenantKeys) -> dict[str, object]:
    """Gives the sealed columns of a conversation."""
    texts = {
        "title": conversation.title,
        "system_prompt": conversation.system_prompt,
        "sampling": json.dumps(asdict(conversation.sampling)),
    }
    return {name: keys.seal(conversation_cell(owner, conversation.id, name), text) for name, text in texts.items()}


def conversation_of(row: Mapping[str, Any], keys: TenantKeys) -> Conversation:
    """Reads a conversation out of a row.

    Raises:
        ContentUnreadable: It does not decrypt.
    """
    return Conversation(
        id=row["id"],
        title=unsealed(row, "conversations", "title", keys),
        system_prompt=unsealed(row, "conversations", "system_prompt", keys),
        model=row["model"],
        sampling=_sampling(json.loads(unsealed(row, "conversations", "sampling", keys))),
        create_time_us=row["create_time_us"],
        update_time_us=row["update_time_us"],
        latest_message_id=row["latest_message_id"],
    )


def message_columns(owner: Owner, message: Message, keys: TenantKeys) -> dict[str, object]:
    """Gives a message's columns."""
    wanted = json.dumps(asdict(message.response_format)) if message.response_format else None
    cell = message_cell(owner, message.id, "response_format")
    return {
        "id": message.id,
        "conversation_id": message.conversation_id,
        "tenant": owner.tenant,
        "principal": owner.principal,
        "parent_id": message.parent_id,
        "role": message.role.value,
        "create_time_us": message.create_time_us,
        "response_format": None if wanted is None else keys.seal(cell, wanted),
        "key_version": keys.version,
        **answer_columns(owner, message, keys),
    }


def answer_columns(owner: Owner, message: Message, keys: TenantKeys) -> dict[str, object]:
    """Gives the columns that are known when an answer ends."""
    return {
        "state": message.state.value,
        "finish_reason": message.finish_reason.value if message.finish_reason else None,
        **checkpoint_columns(owner, message, keys),
    }


def checkpoint_columns(owner: Owner, message: Message, keys: TenantKeys) -> dict[str, object]:
    """Gives the columns that change while an answer streams."""
    return {
        "content": keys.seal(message_cell(owner, message.id, "content"), message.content),
        "reasoning": keys.seal(message_cell(owner, message.id, "reasoning"), message.reasoning),
        "model": message.model,
        "update_time_us": message.update_time_us,
        **asdict(message.usage),
    }


def message_of(row: Mapping[str, Any], keys: TenantKeys) -> Message:
    """Reads a message out of a row, which may come without the form of the answer.

    Raises:
        ContentUnreadable: It does not decrypt.
    """
    has_format = row.get("response_format") is not None
    saved_format = unsealed(row, "messages", "response_format", keys) if has_format else ""
    return Message(
        id=row["id"],
        conversation_id=row["conversation_id"],
        parent_id=row["parent_id"],
        role=Role(row["role"]),
        content=unsealed(row, "messages", "content", keys),
        state=MessageState(row["state"]),
        create_time_us=row["create_time_us"],
        update_time_us=row["update_time_us"],
        reasoning=unsealed(row, "messages", "reasoning", keys),
        finish_reason=FinishReason(row["finish_reason"]) if row["finish_reason"] else None,
        usage=Usage(row["input_tokens"], row["cached_input_tokens"], row["output_tokens"], row["reasoning_tokens"]),
        model=row["model"],
        response_format=ResponseFormat(**json.loads(saved_format)) if saved_format else None,
    )


def conversation_cell(owner: Owner, conversation_id: str, column: str) -> Cell:
    """Gives the place of a conversation's text."""
    return Cell(owner.tenant, owner.principal, "conversations", conversation_id, column)


def message_cell(owner: Owner, message_id: str, column: str) -> Cell:
    """Gives the place of a message's text."""
    return Cell(owner.tenant, owner.principal, "messages", message_id, column)


def unsealed(row: Mapping[str, Any], table: str, column: str, keys: TenantKeys) -> str:
    """Reads a text out of a row, which says itself where it lies.

    Raises:
        ContentUnreadable: It does not decrypt.
    """
    return keys.unseal(Cell(row["tenant"], row["principal"], table, row["id"], column), row[column])


def sealed_anew(row: Mapping[str, Any], table: str, keys: TenantKeys) -> dict[str, object]:
    """Gives the sealed columns of a row under the key that seals now, and that key's version.

    Raises:
        ContentUnreadable: It does not decrypt.
    """
    columns: dict[str, object] = {"key_version": keys.version}
    for column in SEALED_COLUMNS[table]:
        if row[column] is not None:
            cell = Cell(row["tenant"], row["principal"], table, row["id"], column)
            columns[column] = keys.seal(cell, keys.unseal(cell, row[column]))
    return columns


def _sampling(saved: Mapping[str, Any]) -> Sampling:
    bias = {int(token): value for token, value in saved["logit_bias"].items()}
    # What an earlier release saved has no such member.
    saved_format = saved.get("response_format")
    wanted = ResponseFormat(**saved_format) if saved_format else None
    return Sampling(**{**saved, "stop": tuple(saved["stop"]), "logit_bias": bias, "response_format": wanted})
