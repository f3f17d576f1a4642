"""Fetches the keys of identity providers by OpenID Connect discovery, and keeps them while they are of use."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlsplit

import jwt
import structlog

from redoma_tenant.errors import IdentityProviderUnavailable
from redoma_tenant.oidc.keys import KeySet, read_key_set

DISCOVERY_PATH = "/.well-known/openid-configuration"
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
# Keys are fetched anew after this long, behind the requests that use them meanwhile.
REFRESH_S = 600.0
# A token with a key that is not known may have been signed with a new one; no flood of such makes us ask more often.
RETRY_S = 10.0
# While the provider is away its keys still count, but not for ever: one may have been withdrawn.
STALE_S = 86_400.0
MAX_ISSUERS = 1_000


class FetchFailed(Exception):
    """A document can't be fetched; the message says why, for people. It holds nothing that was fetched."""


class Fetcher(Protocol):
    """Fetches documents of identity providers."""

    async def get_json(self, url: str) -> Mapping[str, Any]:
        """Gives the JSON object at a URL, or raises FetchFailed, in a bounded time."""


@dataclass(slots=True)
class _Issuer:
    keys: KeySet | None = None
    # On the monotonic clock, in seconds.
    fetched_at: float = float("-inf")
    tried_at: float = float("-inf")
    fetching: asyncio.Task[None] | None = None


class OidcDirectory:
    """Keys by issuer. Whoever asks for many issuers is expected to have checked them against the known providers."""

    def __init__(self, fetcher: Fetcher, monotonic: Callable[[], float], log: structlog.stdlib.BoundLogger) -> None:
        self._fetcher = fetcher
        self._monotonic = monotonic
        self._log = log
        self._issuers: dict[str, _Issuer] = {}

    async def find_key(self, issuer: str, algorithm: str, key_id: str) -> jwt.PyJWK | None:
        """Gives the key of a token; None if the issuer has none such.

        Raises:
            IdentityProviderUnavailable: It can't be told, as the issuer does not answer.
        """
        known = self._known(issuer)
        age_s = self._monotonic() - known.fetched_at
        if known.keys is None or age_s > STALE_S:
            known.keys = None
            await self._refresh(issuer, known)
        elif age_s > REFRESH_S:
            self._begin_refresh(issuer, known)
        key = known.keys.find(algorithm, key_id) if known.keys else None
        if key is None and known.keys is not None and self._monotonic() - known.tried_at >= RETRY_S:
            await self._refresh(issuer, known)
            key = known.keys.find(algorithm, key_id)
        if known.keys is None or (key is None and known.fetched_at < known.tried_at):
            raise IdentityProviderUnavailable(issuer)
        return key

    async def check(self, issuer: str) -> None:
        """Sees that an issuer can be used.

        Raises:
            IdentityProviderUnavailable: It does not answer, or not as OpenID Connect discovery has it.
        """
        try:
            keys = await self._fetch(issuer)
        except FetchFailed as error:
            raise IdentityProviderUnavailable(issuer, f"can't be used: {error}.") from None
        if not keys.keys:
            raise IdentityProviderUnavailable(issuer, "has no key of a kind that is taken: RSA, P-256 or Ed25519.")

    async def stop(self) -> None:
        """Ends what is being fetched."""
        tasks = [known.fetching for known in self._issuers.values() if known.fetching is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _known(self, issuer: str) -> _Issuer:
        known = self._issuers.pop(issuer, None) or _Issuer()
        self._issuers[issuer] = known
        while len(self._issuers) > MAX_ISSUERS:
            del self._issuers[next(iter(self._issuers))]
        return known

    async def _refresh(self, issuer: str, known: _Issuer) -> None:
        """Fetches the keys unless that was tried just now; all who want them wait for the same fetch."""
        self._begin_refresh(issuer, known)
        if known.fetching is not None:
            await asyncio.shield(known.fetching)

    def _begin_refresh(self, issuer: str, known: _Issuer) -> None:
        if known.fetching is None and self._monotonic() - known.tried_at >= RETRY_S:
            known.tried_at = self._monotonic()
            known.fetching = asyncio.create_task(self._fetch_into(issuer, known), name="identity provider's keys")

    async def _fetch_into(self, issuer: str, known: _Issuer) -> None:
        try:
            known.keys = await self._fetch(issuer)
            known.fetched_at = self._monotonic()
        except FetchFailed as error:
            self._log.warning("identity provider's keys not fetched", issuer=issuer, cause=str(error))
        finally:
            known.fetching = None

    async def _fetch(self, issuer: str) -> KeySet:
        _check_url(issuer, "the issuer")
        document = await self._fetcher.get_json(issuer.rstrip("/") + DISCOVERY_PATH)
        if document.get("issuer") != issuer:
            raise FetchFailed("its discovery document names another issuer")
        keys_url = document.get("jwks_uri")
        if not isinstance(keys_url, str):
            raise FetchFailed("its discovery document names no key set")
        _check_url(keys_url, "its key set")
        try:
            return read_key_set(await self._fetcher.get_json(keys_url))
        except ValueError:
            raise FetchFailed("its key set has not the form of one") from None


def _check_url(url: str, what: str) -> None:
    try:
        parts = urlsplit(url)
        is_safe = parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOOPBACK)
    except ValueError:
        is_safe, parts = False, None
    if not is_safe or parts is None or not parts.hostname or parts.username is not None:
        raise FetchFailed(f"{what} is no HTTPS URL")
