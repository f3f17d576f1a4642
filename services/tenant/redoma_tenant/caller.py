"""Who a credential stands for, and what is remembered of one that was looked up."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from ipaddress import IPv4Network, IPv6Network, ip_network

from redoma_kit.errors import DomainError
from redoma_tenant.api_key import CONVERSATIONS, GENERATE
from redoma_tenant.identity import SHARED, Principal
from redoma_tenant.policy import TENANT_ADMIN, TENANT_OWNER, TENANT_READ
from redoma_tenant.sources import Address

MODEL_SCOPES = frozenset({GENERATE, CONVERSATIONS})
IMPLIED = {
    TENANT_ADMIN: frozenset({TENANT_ADMIN, TENANT_READ}),
    TENANT_OWNER: frozenset({TENANT_OWNER, TENANT_ADMIN, TENANT_READ}),
}

Network = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class TenantFacts:
    """What identities say of a tenant.

    Attributes:
        id: Its id.
        is_active: Whether its credentials count.
        weight: Its share of the model that is in force.
        isolation: SHARED, SHARED_TUNED or DEDICATED.
        adapter: Digest of its adapter; empty is none.
        models: Ids of the models it may use; empty is all.
    """

    id: str
    is_active: bool
    weight: int
    isolation: str = SHARED
    adapter: str = ""
    models: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class UsedKey:
    """An API key that a request was made with. `last_use_time` is as it was when the key was looked up."""

    id: str
    last_use_time: datetime | None


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sends a request, and what he is held to.

    Attributes:
        principal: Whose identity the request gets.
        api_key: The key he shows; None for users and for the bootstrap operator.
        networks: Where he may call from; None is anywhere.
        lacks_models: Whether he may use none of his tenant's models.
    """

    principal: Principal
    api_key: UsedKey | None = None
    networks: tuple[Network, ...] | None = None
    lacks_models: bool = False

    def may_call_from(self, source: Address | None) -> bool:
        """Says whether he may call from `source`, None if it is not known."""
        if self.networks is None:
            return True
        return source is not None and any(source in network for network in self.networks)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a credential is worth.

    Attributes:
        tenant: The id of its tenant, empty if it has none; what changes the tenant ends the verdict.
        principal: The resource name of its principal, empty if it is not known.
        caller: Who it stands for; None if it is refused.
        refusal: Makes the error to refuse with.
        until: When the verdict ends by itself; None is never.
    """

    tenant: str = ""
    principal: str = ""
    caller: Caller | None = None
    refusal: Callable[[], DomainError] | None = None
    until: datetime | None = None


def with_implied(scopes: Iterable[str]) -> frozenset[str]:
    """Gives the scopes and those that they imply."""
    return frozenset[str]().union(*(IMPLIED.get(scope, frozenset({scope})) for scope in scopes))


def tenant_principal(name: str, tenant: TenantFacts, scopes: Iterable[str], models: tuple[str, ...] = ()) -> Principal:
    """Gives a principal of a tenant; `models` are its own, empty is all of the tenant's.

    A principal whose models its tenant may not use keeps no scope to use models.
    """
    allowed = models_of(tenant.models, models)
    held = with_implied(scopes)
    return Principal(
        name=name,
        tenant=tenant.id,
        scopes=held - MODEL_SCOPES if allowed is None else held,
        weight=tenant.weight,
        isolation=tenant.isolation,
        models=models if allowed is None else allowed,
        adapter=tenant.adapter,
    )


def models_of(tenant: tuple[str, ...], own: tuple[str, ...]) -> tuple[str, ...] | None:
    """Gives the models that both allow, where empty is all; None if there is none."""
    if not tenant or not own:
        return tenant or own
    return tuple(model for model in own if model in tenant) or None


def parse_networks(cidrs: Iterable[str]) -> tuple[Network, ...] | None:
    """Gives the networks, None for no restriction. What is no network matches nothing, so that a slip never opens."""
    texts = tuple(cidrs)
    if not texts:
        return None
    networks = []
    for text in texts:
        try:
            networks.append(ip_network(text, strict=False))
        except ValueError:
            continue
    return tuple(networks)
