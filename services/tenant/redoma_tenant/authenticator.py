"""Finds out who a credential stands for: from the cache where that can be relied on, or else by looking it up."""

from typing import Protocol

from redoma_kit.api_key import digest_of
from redoma_kit.errors import CredentialInvalid
from redoma_tenant.caller import Caller, Verdict
from redoma_tenant.credential_cache import CredentialCache
from redoma_tenant.key_sign_in import UNKNOWN_KEY, KeySignIn
from redoma_tenant.oidc.tokens import has_token_form


class Freshness(Protocol):
    """Knows whether all changes have been heard of."""

    @property
    def is_fresh(self) -> bool:
        """Whether what is cached counts."""


class TokenSignIn(Protocol):
    """Judges tokens of identity providers."""

    async def verdict(self, token: str) -> Verdict:
        """Gives what a token is worth. May raise StorageUnavailable, IdentityProviderUnavailable."""


class Authenticator:
    """Checks API keys and identity providers' tokens."""

    __slots__ = ("_cache", "_changes", "_keys", "_tokens")

    def __init__(self, keys: KeySignIn, tokens: TokenSignIn, cache: CredentialCache, changes: Freshness) -> None:
        self._keys = keys
        self._tokens = tokens
        self._cache = cache
        self._changes = changes

    async def authenticate(self, credential: str) -> Caller:
        """Gives who `credential` stands for.

        Raises:
            CredentialInvalid: It is too long, has no known form, or is not known.
            CredentialRevoked: The key was revoked, or the user is disabled.
            CredentialExpired: The key or the token has expired.
            TenantDisabled: Its tenant is disabled or being deleted.
            RoleMissing: Nothing says what the user may do.
            StorageUnavailable: It can't be looked up now.
            IdentityProviderUnavailable: The keys of the token's issuer can't be fetched now.
        """
        verdict = await self._verdict(credential)
        if verdict.caller is not None:
            return verdict.caller
        raise verdict.refusal() if verdict.refusal else CredentialInvalid("The credential is not valid.")

    async def _verdict(self, credential: str) -> Verdict:
        digest = digest_of(credential)
        if self._keys.is_bootstrap(digest):
            verdict = await self._keys.bootstrap()
            # Whoever keeps an operator's key where the first one lay has the hash of that here.
            return verdict if verdict.caller else await self._looked_up(credential, digest, verdict)
        is_fresh = self._changes.is_fresh
        known = self._cache.get(digest) if is_fresh else None
        if known is not None:
            return known
        generation = self._cache.generation
        is_token = has_token_form(credential)
        verdict = await (self._tokens.verdict(credential) if is_token else self._keys.verdict(credential, digest))
        if is_fresh:
            self._cache.put(digest, verdict, generation)
        return verdict

    async def _looked_up(self, credential: str, digest: str, otherwise: Verdict) -> Verdict:
        verdict = await self._keys.verdict(credential, digest)
        return otherwise if verdict is UNKNOWN_KEY else verdict
