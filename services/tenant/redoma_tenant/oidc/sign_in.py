"""Signing in with a token: whose it is, what he may do, and a user made of him the first time."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from redoma_kit.errors import CredentialInvalid
from redoma_tenant.api_key import GENERATE
from redoma_tenant.caller import Caller, TenantFacts, Verdict, tenant_principal
from redoma_tenant.errors import CredentialExpired, CredentialRevoked, RoleMissing, TenantDisabled
from redoma_tenant.identity import Principal
from redoma_tenant.names import user_name
from redoma_tenant.oidc.claims import SCOPES_BY_ROLE, TrustedProvider, display_name_of
from redoma_tenant.oidc.directory import OidcDirectory
from redoma_tenant.oidc.tokens import (
    LEEWAY_S,
    Claims,
    TokenExpired,
    TokenInvalid,
    expiry_s,
    read_unverified,
    verify,
)

USER_ID_CHARACTERS = 32


@dataclass(frozen=True, slots=True)
class StoredUser:
    """A user as signing in knows him. `version` counts from 1 what administrators changed."""

    id: str
    role: str
    is_active: bool
    version: int = 1


class UserStore(Protocol):
    """Where providers, tenants and users are looked up. Every call may raise StorageUnavailable."""

    async def find_providers(self, issuer: str) -> Sequence[TrustedProvider]:
        """Gives the identity providers of an issuer, one for each audience."""

    async def find_tenant(self, tenant: str) -> TenantFacts | None:
        """Gives what identities say of a tenant."""

    async def find_user(self, tenant: str, issuer: str, subject: str) -> StoredUser | None:
        """Gives a tenant's user by who he is to the issuer of his tokens."""

    async def add_user(
        self, tenant: str, user: StoredUser, issuer: str, subject: str, display_name: str, now: datetime
    ) -> None:
        """Adds a user who signs in for the first time, unless another request did meanwhile."""


class OidcSignIn:
    """Judges tokens of the providers that operators trust."""

    __slots__ = ("_directory", "_now", "_store")

    def __init__(self, store: UserStore, directory: OidcDirectory, now: Callable[[], datetime]) -> None:
        self._store = store
        self._directory = directory
        self._now = now

    async def verdict(self, token: str) -> Verdict:
        """Gives what a token is worth.

        Raises:
            StorageUnavailable: Its issuer or its user can't be looked up now.
            IdentityProviderUnavailable: The issuer's keys can't be fetched now.
        """
        try:
            provider, claims = await self._verified(token)
        except TokenExpired:
            return EXPIRED_TOKEN
        except TokenInvalid:
            return UNKNOWN_TOKEN
        if provider.is_operator(claims):
            return _operator(provider, claims)
        tenant_id = provider.tenant_of(claims)
        tenant = await self._store.find_tenant(tenant_id) if tenant_id else None
        if tenant is None:
            return NO_TENANT
        if not tenant.is_active:
            return Verdict(tenant_id, refusal=lambda: TenantDisabled(tenant_id))
        return await self._user(provider, claims, tenant)

    async def _verified(self, token: str) -> tuple[TrustedProvider, Claims]:
        unverified = read_unverified(token)
        providers = await self._store.find_providers(unverified.issuer)
        meant = [provider for provider in providers if provider.audience in unverified.audiences]
        if not meant:
            raise TokenInvalid("of an issuer or for an audience that is not trusted")
        provider = next((provider for provider in meant if provider.audience == unverified.party), meant[0])
        key = await self._directory.find_key(provider.issuer, unverified.algorithm, unverified.key_id)
        if key is None:
            raise TokenInvalid("signed with a key that the issuer does not have")
        return provider, verify(token, key, unverified.algorithm, provider.issuer, provider.audience, self._now())

    async def _user(self, provider: TrustedProvider, claims: Claims, tenant: TenantFacts) -> Verdict:
        subject = str(claims["sub"])
        own_id = user_id(provider.issuer, subject, tenant.id)
        user = await self._store.find_user(tenant.id, provider.issuer, subject)
        role = provider.role_of(claims)
        if not role:
            # A user whom nobody created or changed has no role of his own: what claims gave him they took back.
            is_set = user is not None and (user.id != own_id or user.version > 1)
            role = user.role if user is not None and is_set else provider.default_role
        if role not in SCOPES_BY_ROLE:
            return Verdict(tenant.id, user_name(tenant.id, own_id), refusal=lambda: RoleMissing(GENERATE))
        if user is None:
            user = StoredUser(own_id, role, True)
            await self._store.add_user(tenant.id, user, provider.issuer, subject, display_name_of(claims), self._now())
        name = user_name(tenant.id, user.id)
        if not user.is_active:
            return Verdict(tenant.id, name, refusal=_user_is_disabled)
        caller = Caller(tenant_principal(name, tenant, SCOPES_BY_ROLE[role]))
        return Verdict(tenant.id, name, caller=caller, until=_until(claims))


def user_id(issuer: str, subject: str, tenant: str) -> str:
    """Gives the id of a user made at sign-in; it says nothing of the person to who does not know them."""
    text = "\0".join((issuer, subject, tenant))
    return hashlib.sha256(text.encode()).hexdigest()[:USER_ID_CHARACTERS]


def _operator(provider: TrustedProvider, claims: Claims) -> Verdict:
    name = f"platform/users/{user_id(provider.issuer, str(claims['sub']), '')}"
    return Verdict(principal=name, caller=Caller(Principal.operator(name)), until=_until(claims))


def _until(claims: Claims) -> datetime:
    return datetime.fromtimestamp(expiry_s(claims) + LEEWAY_S, UTC)


def _invalid() -> CredentialInvalid:
    return CredentialInvalid("The token is not valid here; sign in again with an identity provider that is set up.")


def _expired() -> CredentialExpired:
    return CredentialExpired("This token has expired; sign in again.")


def _no_tenant() -> CredentialInvalid:
    return CredentialInvalid("The token names no tenant of this site; ask an operator to create it.")


def _user_is_disabled() -> CredentialRevoked:
    return CredentialRevoked("This user is disabled; ask an administrator of the tenant.")


UNKNOWN_TOKEN = Verdict(refusal=_invalid)
EXPIRED_TOKEN = Verdict(refusal=_expired)
NO_TENANT = Verdict(refusal=_no_tenant)
