"""Which replica of a model a call would best go to: the one that has computed the beginning of its prompt.

The egress hashes the key that a call carries onto a ring of replicas; every chat process computes the same key of the
same conversation. The key is for placing alone, and tells nothing that its reader does not have: it travels beside the
prompt itself, over the same TLS, and neither chat nor the egress logs it. It is cut to 64 bits and bound to the tenant,
so that it is no text's fingerprint anywhere else, and no tenant's keys say anything of another's.
"""

import hmac
import json
from collections.abc import Iterator

from redoma_chat.inference import Prompt, Role, Turn
from redoma_kit.identity import Identity
from redoma_kit.routing import AFFINITY_KEY, TENANT_KEY

DEDICATED = "DEDICATED"
KEY_DIGITS = 16
# Enough to tell prompts apart; what follows a longer beginning does not matter.
MAX_CHARACTERS = 16_384


def routing_metadata(identity: Identity, prompt: Prompt | None = None) -> tuple[tuple[str, str], ...]:
    """Gives what the egress routes a call by: the tenant, if it has a model of its own, and the key of a prompt."""
    tenant = ((TENANT_KEY, identity.tenant),) if identity.isolation == DEDICATED else ()
    affinity = () if prompt is None else ((AFFINITY_KEY, affinity_key(identity.tenant, prompt)),)
    return (*tenant, *affinity)


def affinity_key(tenant: str, prompt: Prompt) -> str:
    """Gives the key of a prompt, hexadecimal: by its conversation, or else by how it begins, which all turns of a chat
    share."""
    about = ["conversation", prompt.conversation] if prompt.conversation else ["beginning", *_beginning(prompt)]
    return hmac.digest(tenant.encode(), json.dumps(about).encode(), "sha256").hex()[:KEY_DIGITS]


def _beginning(prompt: Prompt) -> Iterator[str]:
    """Gives roles and texts up to the user's first message."""
    for turn in prompt.turns:
        yield from _told(turn)
        if turn.role is Role.USER:
            return


def _told(turn: Turn) -> tuple[str, str]:
    return turn.role.value, turn.content[:MAX_CHARACTERS]
