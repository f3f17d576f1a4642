"""Finds out who a credential stands for, without telling a guesser how close the guess was."""

import hmac
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from redoma_kit.api_key import digest_of, prefix_of
from redoma_kit.errors import CredentialInvalid
from redoma_kit.identity import PLATFORM_ADMIN
from redoma_tenant.api_keys import ApiKey, ApiKeyState
from redoma_tenant.errors import CannotStart, CredentialExpired, CredentialRevoked, TenantDisabled
from redoma_tenant.identity import Principal
from redoma_tenant.tenants import DEFAULT_WEIGHT, TenantState

MAX_CREDENTIAL_BYTES = 256
# Compared with when no key has the prefix, so that a lookup costs the same; no SHA-256 is known to be all zeros.
NO_DIGEST = "0" * 64
DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class StoredCredential:
    """A key with its hash and what matters of its tenant."""

    api_key: ApiKey
    digest: str
    tenant_state: TenantState
    weight: int


class CredentialStore(Protocol):
    """Where keys are looked up. May raise StorageUnavailable."""

    async def find_credential(self, prefix: str) -> StoredCredential | None:
        """Gives the key that has the prefix."""


@dataclass(frozen=True, slots=True)
class Authenticated:
    """Who called; `api_key` is None for the bootstrap operator."""

    principal: Principal
    api_key: ApiKey | None


def load_bootstrap_digest(hash_file: Path | None) -> str | None:
    """Reads the hash of the first operator's key; None if there is none.

    Raises:
        CannotStart: The file holds something else, or can't be read.
    """
    if hash_file is None:
        return None
    try:
        digest = hash_file.read_text("ascii").strip().lower()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise CannotStart(f"The bootstrap key's hash {hash_file} can't be read.") from error
    if not digest:
        return None
    if not DIGEST.fullmatch(digest):
        raise CannotStart(f"{hash_file} must hold a SHA-256 in hex (64 characters), or nothing.")
    return digest


class Authenticator:
    """Checks credentials against the store and the bootstrap operator's key."""

    __slots__ = ("_bootstrap_digest", "_now", "_store")

    def __init__(self, store: CredentialStore, bootstrap_digest: str | None, now: Callable[[], datetime]) -> None:
        self._store = store
        self._bootstrap_digest = bootstrap_digest
        self._now = now

    async def authenticate(self, credential: str) -> Authenticated:
        """Gives who `credential` stands for. Says why a key no longer works only to who has the whole key.

        Raises:
            CredentialInvalid: It is too long, has not the form of a key, or is not known.
            CredentialRevoked: The key was revoked.
            CredentialExpired: The key has expired.
            TenantDisabled: Its tenant is disabled.
            StorageUnavailable: It can't be looked up now.
        """
        prefix = prefix_of(credential) if len(credential) <= MAX_CREDENTIAL_BYTES else None
        if prefix is None:
            raise _invalid()
        digest = digest_of(credential)
        if self._bootstrap_digest is not None and hmac.compare_digest(digest, self._bootstrap_digest):
            principal = Principal("platform/bootstrap", "", frozenset({PLATFORM_ADMIN}), DEFAULT_WEIGHT)
            return Authenticated(principal, None)
        stored = await self._store.find_credential(prefix)
        matches = hmac.compare_digest(digest, NO_DIGEST if stored is None else stored.digest)
        if stored is None or not matches:
            raise _invalid()
        self._check_state(stored)
        key = stored.api_key
        return Authenticated(Principal(key.name, key.tenant, frozenset(key.scopes), stored.weight), key)

    def _check_state(self, stored: StoredCredential) -> None:
        state = stored.api_key.state(self._now())
        if state is ApiKeyState.REVOKED:
            raise CredentialRevoked()
        if state is ApiKeyState.EXPIRED:
            raise CredentialExpired()
        if stored.tenant_state is not TenantState.ACTIVE:
            raise TenantDisabled(stored.api_key.tenant)


def _invalid() -> CredentialInvalid:
    return CredentialInvalid("The API key is not valid; `redoma key create` makes one.")
