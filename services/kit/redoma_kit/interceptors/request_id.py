"""Gives every call an id that its log lines share. A client's own id is kept if it is harmless; it only correlates."""

import re
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar

import structlog

from redoma_kit.interceptors.pipeline import Call

METADATA_KEY = "x-request-id"
# An API key is none, although it has the characters.
HARMLESS = re.compile(r"(?!.*rdm_)[A-Za-z0-9._-]{1,64}")

_request_id: ContextVar[str] = ContextVar("redoma_request_id", default="")


def current_request_id() -> str:
    """Gives the id of the call being handled, to pass on to other services."""
    return _request_id.get()


@asynccontextmanager
async def request_id(call: Call) -> AsyncIterator[None]:
    """Sets the call's request id."""
    sent = call.metadata(METADATA_KEY)
    call.request_id = sent if HARMLESS.fullmatch(sent) else uuid.uuid4().hex
    _request_id.set(call.request_id)
    structlog.contextvars.bind_contextvars(request_id=call.request_id)
    yield
