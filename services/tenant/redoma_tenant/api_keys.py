"""API keys: what is kept of them, and what can be done with them."""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Protocol

from redoma_kit.api_key import digest_of, new_key, prefix_of
from redoma_kit.errors import InvalidField, ResourceNotFound
from redoma_kit.pages import Position, page_position, page_size, page_token
from redoma_tenant.names import api_key_name, check_display_name
from redoma_tenant.pages import DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE, Page
from redoma_tenant.policy import TENANT_ADMIN

GENERATE = "generate"
CONVERSATIONS = "conversations"
DEFAULT_SCOPES = (GENERATE, CONVERSATIONS)
KEY_SCOPES = (GENERATE, CONVERSATIONS, TENANT_ADMIN)

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


class ApiKeyState(Enum):
    """Whether a key works."""

    ACTIVE = "ACTIVE"
    EXPIRED = "EXPIRED"
    REVOKED = "REVOKED"


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as it is kept, without its hash. `last_use_time` is to the minute."""

    tenant: str
    id: str
    display_name: str
    prefix: str
    scopes: tuple[str, ...]
    expire_time: datetime | None
    create_time: datetime
    last_use_time: datetime | None = None
    revoke_time: datetime | None = None

    @property
    def name(self) -> str:
        """The resource name."""
        return api_key_name(self.tenant, self.id)

    def state(self, now: datetime) -> ApiKeyState:
        """Says whether the key works at `now`."""
        if self.revoke_time is not None:
            return ApiKeyState.REVOKED
        if self.expire_time is not None and self.expire_time <= now:
            return ApiKeyState.EXPIRED
        return ApiKeyState.ACTIVE


@dataclass(frozen=True, slots=True)
class ApiKeySettings:
    """What a caller may say of a new key."""

    display_name: str = ""
    scopes: tuple[str, ...] = ()
    expire_time: datetime | None = None


@dataclass(frozen=True, slots=True)
class ApiKeyPosition:
    """A place in a list of keys, the newest first."""

    create_time: datetime
    id: str

    @classmethod
    def of_page(cls, position: Position) -> "ApiKeyPosition":
        """Reads what `for_page` gave.

        Raises:
            InvalidField: It is no time that a database keeps.
        """
        try:
            return cls(EPOCH + int(position[0]) * MICROSECOND, str(position[1]))
        except OverflowError:
            raise InvalidField("page_token", "is out of range; begin again without it.") from None

    def for_page(self) -> Position:
        """Gives the place as a page token holds it."""
        return ((self.create_time - EPOCH) // MICROSECOND, self.id)


class PrefixTaken(Exception):
    """Another key has the same prefix; make another."""


class ApiKeyStore(Protocol):
    """Where keys are kept. Every call may raise StorageUnavailable."""

    async def add_api_key(self, api_key: ApiKey, digest: str) -> None:
        """Adds a key with its hash. Raises ResourceNotFound if the tenant is missing, PrefixTaken."""

    async def list_api_keys(self, tenant: str, after: ApiKeyPosition | None, limit: int) -> Sequence[ApiKey]:
        """Gives at most `limit` keys, the newest first, those after `after`. Raises ResourceNotFound for the tenant."""

    async def revoke_api_key(self, tenant: str, api_key: str, now: datetime) -> ApiKey | None:
        """Revokes a key unless it is revoked, and gives it as it is then; None if there is none."""


class ApiKeys:
    """What a tenant's administrators do with its keys."""

    __slots__ = ("_now", "_store")

    def __init__(self, store: ApiKeyStore, now: Callable[[], datetime]) -> None:
        self._store = store
        self._now = now

    async def create(self, tenant: str, settings: ApiKeySettings) -> tuple[ApiKey, str]:
        """Makes a key and gives it with its secret text, which is not kept.

        Raises:
            InvalidField: A setting can't be used.
            ResourceNotFound: There is no such tenant.
        """
        now = self._now()
        settings = _checked(settings, now)
        while True:
            key = new_key()
            api_key = ApiKey(
                tenant=tenant,
                id=secrets.token_hex(8),
                display_name=settings.display_name,
                prefix=prefix_of(key) or "",
                scopes=settings.scopes,
                expire_time=settings.expire_time,
                create_time=now,
            )
            try:
                await self._store.add_api_key(api_key, digest_of(key))
            except PrefixTaken:
                continue
            return api_key, key

    async def list(self, tenant: str, requested: int, token: str) -> Page[ApiKey]:
        """Gives a page of a tenant's keys, the newest first.

        Raises:
            InvalidField: The size or the token can't be used.
            ResourceNotFound: There is no such tenant.
        """
        size = page_size(requested, DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)
        collection = api_key_name(tenant, "")
        position = page_position(token, (collection,), (int, str))
        after = None if position is None else ApiKeyPosition.of_page(position)
        found = await self._store.list_api_keys(tenant, after, size + 1)
        if len(found) <= size:
            return Page(found, "")
        last = found[size - 1]
        return Page(found[:size], page_token((collection,), ApiKeyPosition(last.create_time, last.id).for_page()))

    async def revoke(self, tenant: str, api_key_id: str) -> ApiKey:
        """Revokes a key for good, or raises ResourceNotFound."""
        api_key = await self._store.revoke_api_key(tenant, api_key_id, self._now())
        if api_key is None:
            raise ResourceNotFound(api_key_name(tenant, api_key_id))
        return api_key


def _checked(settings: ApiKeySettings, now: datetime) -> ApiKeySettings:
    check_display_name("api_key.display_name", settings.display_name)
    for scope in settings.scopes:
        if scope not in KEY_SCOPES:
            raise InvalidField("api_key.scopes", f"every scope must be one of {', '.join(KEY_SCOPES)}.")
    if settings.expire_time is not None and settings.expire_time <= now:
        raise InvalidField("api_key.expire_time", "must lie in the future.")
    return replace(settings, scopes=tuple(dict.fromkeys(settings.scopes or DEFAULT_SCOPES)))
