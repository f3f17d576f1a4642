"""Resource names, and the rule that a caller only ever names what is its own tenant's."""

import re
from dataclasses import dataclass

from redoma_chat.content_storage import ContentStorage
from redoma_kit.errors import InvalidField, TenantMismatch
from redoma_kit.identity import Identity

_ID = r"[A-Za-z0-9_-]{1,64}"
_PARENT = re.compile(rf"tenants/({_ID})")
_CONVERSATION = re.compile(rf"tenants/({_ID})/conversations/({_ID})")
_MESSAGE = re.compile(rf"tenants/({_ID})/conversations/({_ID})/messages/({_ID})")
_PRINCIPAL = re.compile(rf"tenants/({_ID})/(?:apiKeys|users)/{_ID}")
OWN = "-"


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose conversations a call is about: one principal of one tenant.

    `storage` is where they lie that the call is about: PUBLIC or PRIVATE.
    """

    tenant: str
    principal: str
    storage: ContentStorage = ContentStorage.PUBLIC

    def conversation_name(self, conversation_id: str) -> str:
        """Gives the resource name."""
        return f"tenants/{self.tenant}/conversations/{conversation_id}"

    def message_name(self, conversation_id: str, message_id: str) -> str:
        """Gives the resource name; empty for no message."""
        return f"{self.conversation_name(conversation_id)}/messages/{message_id}" if message_id else ""


def owner_of(identity: Identity) -> Owner:
    """Gives the owner that an identity stands for.

    Raises:
        TenantMismatch: It belongs to no tenant.
    """
    if not identity.tenant:
        raise TenantMismatch()
    return Owner(identity.tenant, identity.principal)


def check_subject(tenant: str, principal: str) -> None:
    """Checks a tenant's id and, if one is named, a principal of it.

    Raises:
        InvalidField: One is malformed, or the principal is another tenant's.
    """
    if not re.fullmatch(_ID, tenant) or tenant == OWN:
        raise InvalidField("tenant", "must be the id of a tenant")
    match = _PRINCIPAL.fullmatch(principal)
    if principal and (match is None or match[1] != tenant):
        raise InvalidField(
            "principal", f"must look like tenants/{tenant}/apiKeys/{{key}} or tenants/{tenant}/users/{{user}}"
        )


def parse_parent(name: str, field: str, owner: Owner) -> None:
    """Checks a tenant's name.

    Raises:
        InvalidField: It is malformed.
        TenantMismatch: It is another tenant's.
    """
    _parse(_PARENT, name, field, owner, "tenants/{tenant}")


def parse_conversation(name: str, field: str, owner: Owner) -> str:
    """Gives the id in a conversation's name. Raises as parse_parent does."""
    (conversation_id,) = _parse(_CONVERSATION, name, field, owner, "tenants/{tenant}/conversations/{conversation}")
    return conversation_id


def parse_message(name: str, field: str, owner: Owner) -> tuple[str, str]:
    """Gives the conversation's and the message's id in a message's name. Raises as parse_parent does."""
    shape = "tenants/{tenant}/conversations/{conversation}/messages/{message}"
    conversation_id, message_id = _parse(_MESSAGE, name, field, owner, shape)
    return conversation_id, message_id


def _parse(pattern: re.Pattern[str], name: str, field: str, owner: Owner, shape: str) -> tuple[str, ...]:
    match = pattern.fullmatch(name)
    if match is None:
        raise InvalidField(field, f"must look like {shape}")
    tenant, *ids = match.groups()
    if tenant not in (OWN, owner.tenant):
        raise TenantMismatch()
    return tuple(ids)
