"""Identity providers: OpenID Connect issuers whose tokens are credentials."""

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Protocol

from redoma_kit.errors import InvalidField, ResourceNotFound
from redoma_tenant.issuers import check_issuer
from redoma_tenant.names import identity_provider_name
from redoma_tenant.pages import Page, read_page_by_id
from redoma_tenant.users import Role

MAX_AUDIENCE = 255
MAX_CLAIM = 100
MAX_ROLE_VALUE = 100
MAX_ROLES = 64
COLLECTION = "identityProviders"


@dataclass(frozen=True, slots=True)
class IdentityProvider:
    """A provider as it is kept.

    Attributes:
        id: The last part of its name.
        issuer: As its tokens have it; discovery begins there.
        audience: The `aud` that its tokens must carry.
        tenant: Id of the tenant of all its users; empty if a claim says it.
        tenant_claim: The claim that does.
        roles_claim: The claim that holds a user's roles; empty is none.
        roles: What values of that claim mean.
        default_role: The role of users whose claims say none and who were not created before; None refuses them.
        operator_role: The value of that claim that makes an operator; empty is none.
        create_time: When it was created; None before it is.
    """

    id: str = ""
    issuer: str = ""
    audience: str = ""
    tenant: str = ""
    tenant_claim: str = ""
    roles_claim: str = ""
    roles: Mapping[str, Role] = field(default_factory=dict)
    default_role: Role | None = None
    operator_role: str = ""
    create_time: datetime | None = None

    @property
    def name(self) -> str:
        """The resource name."""
        return identity_provider_name(self.id)

    def check(self, where: str) -> None:
        """Raises InvalidField if a value can't be used; `where` is the field of the request that holds the provider."""
        check_issuer(f"{where}.issuer", self.issuer)
        _check_text(f"{where}.audience", self.audience, MAX_AUDIENCE)
        if not self.audience:
            raise InvalidField(f"{where}.audience", "is required: the client id that its tokens are made for.")
        for name in ("tenant_claim", "roles_claim", "operator_role"):
            _check_text(f"{where}.{name}", getattr(self, name), MAX_CLAIM)
        if bool(self.tenant) == bool(self.tenant_claim):
            raise InvalidField(f"{where}.tenant_claim", "is required without tenant, and only allowed without it.")
        self._check_roles(where)

    def _check_roles(self, where: str) -> None:
        if self.operator_role and self.tenant:
            raise InvalidField(
                f"{where}.operator_role",
                "is only allowed without tenant: who runs a tenant's provider makes no operators.",
            )
        if (self.roles or self.operator_role) and not self.roles_claim:
            raise InvalidField(f"{where}.roles_claim", "is required with roles and with operator_role.")
        if len(self.roles) > MAX_ROLES:
            raise InvalidField(f"{where}.roles", f"has {len(self.roles)} entries; the most is {MAX_ROLES}.")
        for value in self.roles:
            if not value:
                raise InvalidField(f"{where}.roles", "has an entry for an empty value.")
            _check_text(f"{where}.roles", value, MAX_ROLE_VALUE)


class OidcDirectory(Protocol):
    """Knows issuers by OpenID Connect discovery."""

    async def check(self, issuer: str) -> None:
        """Raises IdentityProviderUnavailable unless the keys of the issuer can be fetched."""


class IdentityProviderStore(Protocol):
    """Where providers are kept. Every call may raise StorageUnavailable; what changes them notes that."""

    async def add_identity_provider(self, provider: IdentityProvider, now: datetime) -> None:
        """Adds a provider. Raises InvalidField for the tenant, ResourceExists for the issuer and audience."""

    async def list_identity_providers(self, after: str | None, limit: int) -> Sequence[IdentityProvider]:
        """Gives at most `limit` providers in the order of their ids, those after `after`."""

    async def delete_identity_provider(self, provider: str, now: datetime) -> bool:
        """Deletes a provider; False if there is none."""


class IdentityProviders:
    """What operators do with identity providers."""

    __slots__ = ("_directory", "_now", "_store")

    def __init__(self, store: IdentityProviderStore, directory: OidcDirectory, now: Callable[[], datetime]) -> None:
        self._store = store
        self._directory = directory
        self._now = now

    async def create(self, wanted: IdentityProvider) -> IdentityProvider:
        """Makes an issuer's tokens for an audience credentials.

        Raises:
            InvalidField: A value can't be used, or the tenant does not exist.
            IdentityProviderUnavailable: Its keys can't be fetched.
            ResourceExists: There is one of that issuer and audience.
        """
        wanted.check("identity_provider")
        await self._directory.check(wanted.issuer)
        now = self._now()
        provider = replace(wanted, id=secrets.token_hex(8), create_time=now)
        await self._store.add_identity_provider(provider, now)
        return provider

    async def list(self, requested: int, token: str) -> Page[IdentityProvider]:
        """Gives a page of providers in the order of their ids.

        Raises:
            InvalidField: The size or the token can't be used.
        """
        return await read_page_by_id((COLLECTION,), requested, token, self._store.list_identity_providers)

    async def delete(self, provider: str) -> None:
        """Refuses a provider's tokens from now on, or raises ResourceNotFound."""
        if not await self._store.delete_identity_provider(provider, self._now()):
            raise ResourceNotFound(identity_provider_name(provider))


def _check_text(where: str, value: str, most: int) -> None:
    if len(value) > most:
        raise InvalidField(where, f"has {len(value)} characters; the most is {most}.")
    if not value.isprintable():
        raise InvalidField(where, "must not hold control characters.")
