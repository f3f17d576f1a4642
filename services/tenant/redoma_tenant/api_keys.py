"""API keys: what is kept of them, and what can be done with them."""

import secrets
from collections.abc import Callable, Sequence, Set
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Protocol

from redoma_kit.api_key import digest_of, new_key, prefix_of
from redoma_kit.errors import InvalidField, ResourceNotFound
from redoma_tenant.api_key import ApiKey, ApiKeySettings
from redoma_tenant.errors import StateConflict
from redoma_tenant.etags import check_etag
from redoma_tenant.names import api_key_name
from redoma_tenant.pages import Page, TimePlace, read_page_by_time

MAX_OVERLAP = timedelta(days=30)
REVOKED = "CREDENTIAL_REVOKED"


class PrefixTaken(Exception):
    """Another key has the same prefix; make another."""


class ApiKeyStore(Protocol):
    """Where keys are kept. An empty tenant stands for operators. Every call may raise StorageUnavailable.

    What changes a key notes that, and gives False if the key's version is no longer the one before; `reason` ends the
    key's running calls. Operators are always left with a key that works and never expires, or StateConflict is raised.
    """

    async def add_api_key(self, api_key: ApiKey, digest: str) -> None:
        """Adds a key with its hash.

        Raises ResourceNotFound for the tenant, InvalidField for the user, StateConflict if the tenant is being deleted,
        PrefixTaken.
        """

    async def find_api_key(self, tenant: str, api_key: str) -> ApiKey | None:
        """Gives a key by id."""

    async def list_api_keys(self, tenant: str, after: TimePlace | None, limit: int) -> Sequence[ApiKey]:
        """Gives at most `limit` keys, the newest first, those after `after`. Raises ResourceNotFound for the tenant."""

    async def change_api_key(self, api_key: ApiKey, reason: str, now: datetime) -> bool:
        """Keeps a key in place of its version before. Raises InvalidField for the user."""

    async def rotate_api_key(self, former: ApiKey, api_key: ApiKey, digest: str, reason: str, now: datetime) -> bool:
        """Keeps `former` in place of its version before, and adds another. Raises as both of these."""


class ApiKeys:
    """What administrators do with the keys of a tenant, or, where the tenant is empty, with those of operators.

    `held` are the scopes of who asks. Owners' keys are made and changed by owners and operators alone; any
    administrator may revoke them.
    """

    __slots__ = ("_now", "_store")

    def __init__(self, store: ApiKeyStore, now: Callable[[], datetime]) -> None:
        self._store = store
        self._now = now

    async def create(self, tenant: str, settings: ApiKeySettings, held: Set[str]) -> tuple[ApiKey, str]:
        """Makes a key and gives it with its secret text, which is not kept.

        Raises:
            InvalidField: A setting can't be used.
            ScopeMissing: The key would have a scope that the caller may not give.
            ResourceNotFound: There is no such tenant.
            StateConflict: The tenant is being deleted, or operators would be left without a lasting key.
        """
        now = self._now()
        settings = settings.checked(tenant, now)
        made = ApiKey.of(tenant, secrets.token_hex(8), settings, now)
        made.check_may_change(held)
        while True:
            key, made = _with_new_secret(made)
            try:
                await self._store.add_api_key(made, digest_of(key))
            except PrefixTaken:
                continue
            return made, key

    async def list(self, tenant: str, requested: int, token: str) -> Page[ApiKey]:
        """Gives a page of keys, the newest first.

        Raises:
            InvalidField: The size or the token can't be used.
            ResourceNotFound: There is no such tenant.
        """
        return await read_page_by_time(
            (api_key_name(tenant, ""),),
            requested,
            token,
            lambda after, limit: self._store.list_api_keys(tenant, after, limit),
            lambda api_key: api_key.create_time,
        )

    async def update(
        self, tenant: str, api_key_id: str, wanted: ApiKeySettings, names: Set[str], etag: str, held: Set[str]
    ) -> ApiKey:
        """Takes the settings that `names` names from `wanted`.

        Raises:
            InvalidField: A setting can't be used.
            ScopeMissing: It is an owner's key, and the caller is none.
            ResourceNotFound: There is no such key.
            EtagMismatch: `etag` is that of another version.
            StateConflict: The key was revoked, or operators would be left without a lasting key.
        """
        wanted = wanted.checked(tenant, self._now())
        while True:
            former = await self._find(tenant, api_key_id)
            former.check_may_change(held)
            check_etag(former.name, etag, former.version)
            if former.revoke_time is not None:
                raise StateConflict(former.name, "STATE_REVOKED", "was revoked for good; make another key.")
            changed = replace(former, **{name: getattr(wanted, name) for name in names})
            if changed == former:
                return former
            changed = replace(changed, version=former.version + 1)
            if await self._store.change_api_key(changed, "", self._now()):
                return changed

    async def rotate(
        self, tenant: str, api_key_id: str, overlap: timedelta, held: Set[str]
    ) -> tuple[ApiKey, str, ApiKey]:
        """Makes a key to take another's place, and gives it, its secret text and the former key, which `overlap` ends.

        A key that expires is followed by one that lives as long as it was made to.

        Raises:
            InvalidField: The overlap is out of range.
            ScopeMissing: It is an owner's key, and the caller is none.
            ResourceNotFound: There is no such key.
            StateConflict: The key does not work, or was rotated already.
        """
        if not timedelta() <= overlap <= MAX_OVERLAP:
            raise InvalidField("overlap", f"must be 0 to {MAX_OVERLAP.days} days.")
        reason = "" if overlap else REVOKED
        while True:
            now = self._now()
            former = await self._find(tenant, api_key_id)
            former.check_may_change(held)
            former.check_may_rotate(now)
            key, made = _with_new_secret(former.successor(secrets.token_hex(8), now))
            former = former.replaced(made.id, now, overlap)
            try:
                if await self._store.rotate_api_key(former, made, digest_of(key), reason, now):
                    return made, key, former
            except PrefixTaken:
                continue

    async def revoke(self, tenant: str, api_key_id: str) -> ApiKey:
        """Revokes a key for good; leaves one that is revoked as it is.

        Raises:
            ResourceNotFound: There is no such key.
            StateConflict: Operators would be left without a lasting key.
        """
        while True:
            former = await self._find(tenant, api_key_id)
            if former.revoke_time is not None:
                return former
            now = self._now()
            revoked = replace(former, revoke_time=now, version=former.version + 1)
            if await self._store.change_api_key(revoked, REVOKED, now):
                return revoked

    async def _find(self, tenant: str, api_key_id: str) -> ApiKey:
        api_key = await self._store.find_api_key(tenant, api_key_id)
        if api_key is None:
            raise ResourceNotFound(api_key_name(tenant, api_key_id))
        return api_key


def _with_new_secret(api_key: ApiKey) -> tuple[str, ApiKey]:
    key = new_key()
    return key, replace(api_key, prefix=prefix_of(key) or "")
