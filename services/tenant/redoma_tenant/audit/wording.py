"""Makes what callers sent fit to be kept for ever: bounded, printable, and without credentials."""

import re
from collections.abc import Mapping
from dataclasses import replace

from redoma_tenant.audit.chain import Event

# What the columns take.
ACTOR_CHARACTERS = 255
ACTION_CHARACTERS = 200
RESOURCE_CHARACTERS = 255
SHORT_CHARACTERS = 64
MAX_DETAILS = 32
DETAIL_CHARACTERS = 255
# A resource name, or the part of one that a caller got right. No token of an identity provider looks like that.
RESOURCE = re.compile(r"[A-Za-z][A-Za-z0-9]*(?:/[A-Za-z0-9._:@~-]{1,128})*")
CREDENTIAL = re.compile(r"(rdm_[a-z0-9]{0,8})[A-Za-z0-9_-]*|eyJ[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*)*")


def fit(event: Event) -> Event:
    """Gives the event as it may be kept."""
    return replace(
        event,
        actor=_harmless(event.actor, ACTOR_CHARACTERS),
        action=_harmless(event.action, ACTION_CHARACTERS),
        resource=_harmless(event.resource, RESOURCE_CHARACTERS),
        source=_harmless(event.source, SHORT_CHARACTERS),
        result=_harmless(event.result, SHORT_CHARACTERS),
        request_id=_harmless(event.request_id, SHORT_CHARACTERS),
        details=_details(event.details),
        count=max(1, event.count),
    )


def resource_in(text: str) -> str:
    """Gives what a caller named if it has the form of a resource name, else nothing: it could be anything."""
    return text if RESOURCE.fullmatch(text) else ""


def _details(details: Mapping[str, str]) -> dict[str, str]:
    kept = sorted(details)[:MAX_DETAILS]
    return {_harmless(name, SHORT_CHARACTERS): _harmless(details[name], DETAIL_CHARACTERS) for name in kept}


def _harmless(text: str, characters: int) -> str:
    shown = "".join(character if character.isprintable() else "?" for character in text)
    return CREDENTIAL.sub(lambda match: f"{match[1] or 'token'}…", shown)[:characters]
