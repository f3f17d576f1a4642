"""Signing in with an API key, and with the bootstrap operator's until there is another operator."""

import hmac
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from redoma_kit.api_key import prefix_of
from redoma_kit.errors import CredentialInvalid
from redoma_kit.identity import PLATFORM_ADMIN
from redoma_tenant.caller import (
    Caller,
    TenantFacts,
    UsedKey,
    Verdict,
    models_of,
    parse_networks,
    tenant_principal,
    with_implied,
)
from redoma_tenant.errors import CannotStart, CredentialExpired, CredentialRevoked, TenantDisabled
from redoma_tenant.identity import DEFAULT_WEIGHT, Principal
from redoma_tenant.names import api_key_name

MAX_KEY_BYTES = 256
BOOTSTRAP = "platform/bootstrap"
# Compared with when no key has the prefix, so that a lookup costs the same; no SHA-256 is known to be all zeros.
NO_DIGEST = "0" * 64
DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class StoredKey:
    """A key with its hash and what matters of its tenant, None for an operator's. Empty `models`, `cidrs` are any."""

    id: str
    digest: str
    scopes: tuple[str, ...]
    expire_time: datetime | None
    is_revoked: bool
    last_use_time: datetime | None
    models: tuple[str, ...]
    cidrs: tuple[str, ...]
    tenant: TenantFacts | None


class KeyStore(Protocol):
    """Where keys are looked up. May raise StorageUnavailable."""

    async def find_key(self, prefix: str) -> StoredKey | None:
        """Gives the key that has the prefix."""

    async def has_operator_key(self) -> bool:
        """Says whether an operator's key was ever made."""


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


class KeySignIn:
    """Checks keys against the store, without telling a guesser how close the guess was."""

    __slots__ = ("_bootstrap_digest", "_now", "_store")

    def __init__(self, store: KeyStore, bootstrap_digest: str | None, now: Callable[[], datetime]) -> None:
        self._store = store
        self._bootstrap_digest = bootstrap_digest
        self._now = now

    def is_bootstrap(self, digest: str) -> bool:
        """Says whether a credential, by its SHA-256, is the bootstrap operator's."""
        return self._bootstrap_digest is not None and hmac.compare_digest(digest, self._bootstrap_digest)

    async def bootstrap(self) -> Verdict:
        """Gives what the bootstrap operator's key is worth at this moment.

        Raises:
            StorageUnavailable: It can't be told whether there is another operator.
        """
        if await self._store.has_operator_key():
            return Verdict(principal=BOOTSTRAP, refusal=_bootstrap_is_over)
        return Verdict(principal=BOOTSTRAP, caller=Caller(Principal.operator(BOOTSTRAP)))

    async def verdict(self, credential: str, digest: str) -> Verdict:
        """Gives what a key is worth; says why it no longer works only to who has the whole of it.

        Raises:
            StorageUnavailable: It can't be looked up now.
        """
        prefix = prefix_of(credential) if len(credential) <= MAX_KEY_BYTES else None
        if prefix is None:
            return UNKNOWN_KEY
        stored = await self._store.find_key(prefix)
        matches = hmac.compare_digest(digest, NO_DIGEST if stored is None else stored.digest)
        if stored is None or not matches:
            return UNKNOWN_KEY
        return self._judge(stored)

    def _judge(self, stored: StoredKey) -> Verdict:
        tenant = stored.tenant
        tenant_id = tenant.id if tenant else ""
        name = api_key_name(tenant_id, stored.id)
        if stored.is_revoked:
            return Verdict(tenant_id, name, refusal=CredentialRevoked)
        if stored.expire_time is not None and stored.expire_time <= self._now():
            return Verdict(tenant_id, name, refusal=CredentialExpired)
        if tenant is not None and not tenant.is_active:
            return Verdict(tenant_id, name, refusal=lambda: TenantDisabled(tenant_id))
        return Verdict(tenant_id, name, caller=_caller(stored, name), until=stored.expire_time)


def _caller(stored: StoredKey, name: str) -> Caller:
    if stored.tenant is None:
        principal = Principal(name, "", with_implied(stored.scopes) & {PLATFORM_ADMIN}, DEFAULT_WEIGHT)
        lacks_models = False
    else:
        principal = tenant_principal(name, stored.tenant, set(stored.scopes) - {PLATFORM_ADMIN}, stored.models)
        lacks_models = models_of(stored.tenant.models, stored.models) is None
    return Caller(principal, UsedKey(stored.id, stored.last_use_time), parse_networks(stored.cidrs), lacks_models)


def _invalid() -> CredentialInvalid:
    return CredentialInvalid("The API key is not valid; `redoma key create` makes one.")


def _bootstrap_is_over() -> CredentialRevoked:
    return CredentialRevoked("The bootstrap key counts no more, as an operator's key was made; use an operator's key.")


UNKNOWN_KEY = Verdict(refusal=_invalid)
