"""Tenants: what they are, and what operators do with them."""

from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import Enum
from typing import Protocol

from redoma_kit.errors import InvalidField, ResourceNotFound
from redoma_tenant.errors import StateConflict
from redoma_tenant.etags import check_etag
from redoma_tenant.names import check_tenant_id, tenant_name
from redoma_tenant.pages import Page, read_page_by_id
from redoma_tenant.tenant_profile import TenantProfile

MAX_GRACE = timedelta(days=90)
COLLECTION = "tenants"


class TenantState(Enum):
    """Whether a tenant's keys work."""

    ACTIVE = "ACTIVE"
    DISABLED = "DISABLED"
    DELETING = "DELETING"


@dataclass(frozen=True, slots=True)
class Tenant:
    """A tenant as it is kept.

    Attributes:
        id: The last part of its name.
        profile: What operators set.
        state: Whether its keys work.
        weight: Its share of the model in force: its own, else its plan's, else the default.
        create_time: When it was created.
        update_time: When it was changed last.
        version: Counts its changes.
        delete_time: When it was deleted; None unless it is.
        purge_time: When what is held of it is erased; None unless it was deleted, and once that has begun.
    """

    id: str
    profile: TenantProfile
    state: TenantState
    weight: int
    create_time: datetime
    update_time: datetime
    version: int = 1
    delete_time: datetime | None = None
    purge_time: datetime | None = None

    @property
    def name(self) -> str:
        """The resource name."""
        return tenant_name(self.id)


class TenantStore(Protocol):
    """Where tenants are kept. Every call may raise StorageUnavailable."""

    async def add_tenant(self, tenant: Tenant) -> Tenant:
        """Adds a tenant and gives it as it is then. Raises ResourceExists, or InvalidField if its plan is missing."""

    async def find_tenant(self, tenant: str) -> Tenant | None:
        """Gives a tenant by id."""

    async def list_tenants(self, after: str | None, limit: int) -> Sequence[Tenant]:
        """Gives at most `limit` tenants in the order of their ids, those after `after`."""

    async def change_tenant(self, tenant: Tenant, reason: str) -> Tenant | None:
        """Keeps a tenant in place of its version before, notes the change, and gives it as it is then.

        None if there is no such version any more. `reason` ends its running calls. Raises InvalidField if its plan is
        missing.
        """


class Tenants:
    """What operators do with tenants."""

    __slots__ = ("_now", "_store")

    def __init__(self, store: TenantStore, now: Callable[[], datetime]) -> None:
        self._store = store
        self._now = now

    async def create(self, tenant_id: str, profile: TenantProfile) -> Tenant:
        """Creates an active tenant.

        Raises:
            InvalidField: The id or a setting can't be used.
            ResourceExists: There is a tenant of that id.
        """
        check_tenant_id("tenant_id", tenant_id)
        now = self._now()
        tenant = Tenant(tenant_id, profile.checked("tenant"), TenantState.ACTIVE, profile.weight, now, now)
        return await self._store.add_tenant(tenant)

    async def get(self, tenant_id: str) -> Tenant:
        """Gives a tenant, or raises ResourceNotFound."""
        tenant = await self._store.find_tenant(tenant_id) if tenant_id else None
        if tenant is None:
            raise ResourceNotFound(tenant_name(tenant_id))
        return tenant

    async def list(self, requested: int, token: str) -> Page[Tenant]:
        """Gives a page of tenants in the order of their ids.

        Raises:
            InvalidField: The size or the token can't be used.
        """
        return await read_page_by_id((COLLECTION,), requested, token, self._store.list_tenants)

    async def update(self, tenant_id: str, wanted: TenantProfile, names: Set[str], etag: str) -> Tenant:
        """Takes the settings that `names` names from `wanted`.

        Raises:
            InvalidField: A setting can't be used.
            ResourceNotFound: There is no such tenant.
            EtagMismatch: `etag` is that of another version.
            StateConflict: The tenant is being deleted.
        """

        def change(tenant: Tenant) -> Tenant:
            _check_not_deleting(tenant)
            profile = replace(tenant.profile, **{name: getattr(wanted, name) for name in names})
            return replace(tenant, profile=profile.checked("tenant"))

        return await self._change(tenant_id, etag, change, "")

    async def disable(self, tenant_id: str) -> Tenant:
        """Refuses all keys of a tenant. Raises ResourceNotFound, or StateConflict if it is being deleted."""

        def change(tenant: Tenant) -> Tenant:
            _check_not_deleting(tenant)
            return replace(tenant, state=TenantState.DISABLED)

        return await self._change(tenant_id, "", change, "TENANT_DISABLED")

    async def enable(self, tenant_id: str) -> Tenant:
        """Lets a disabled tenant in again. Raises ResourceNotFound, or StateConflict if it is being deleted."""

        def change(tenant: Tenant) -> Tenant:
            _check_not_deleting(tenant)
            return replace(tenant, state=TenantState.ACTIVE)

        return await self._change(tenant_id, "", change, "")

    async def delete(self, tenant_id: str, grace: timedelta, etag: str) -> Tenant:
        """Refuses all keys of a tenant and lets it be purged after `grace`; leaves one that is being deleted as it is.

        Raises:
            InvalidField: The grace is out of range.
            ResourceNotFound: There is no such tenant.
            EtagMismatch: `etag` is that of another version.
        """
        if not timedelta() <= grace <= MAX_GRACE:
            raise InvalidField("grace", f"must be 0 to {MAX_GRACE.days} days.")

        def change(tenant: Tenant) -> Tenant:
            if tenant.state is TenantState.DELETING:
                return tenant
            check_etag(tenant.name, etag, tenant.version)
            now = self._now()
            return replace(tenant, state=TenantState.DELETING, delete_time=now, purge_time=now + grace)

        return await self._change(tenant_id, "", change, "TENANT_DISABLED")

    async def undelete(self, tenant_id: str) -> Tenant:
        """Takes a deletion back.

        Raises:
            ResourceNotFound: There is no such tenant.
            StateConflict: It is not being deleted, or its purge may have begun.
        """

        def change(tenant: Tenant) -> Tenant:
            if tenant.state is not TenantState.DELETING:
                raise StateConflict(tenant.name, f"STATE_{tenant.state.value}", "is not being deleted.")
            if tenant.purge_time is None or tenant.purge_time <= self._now():
                raise StateConflict(tenant.name, "STATE_DELETING", "can't be taken back: its purge has begun.")
            return replace(tenant, state=TenantState.ACTIVE, delete_time=None, purge_time=None)

        return await self._change(tenant_id, "", change, "")

    async def _change(self, tenant_id: str, etag: str, change: Callable[[Tenant], Tenant], reason: str) -> Tenant:
        """Applies `change` to the newest version, again each time that another writer was faster."""
        while True:
            former = await self.get(tenant_id)
            check_etag(former.name, etag, former.version)
            wanted = change(former)
            if wanted == former:
                return former
            wanted = replace(wanted, version=former.version + 1, update_time=self._now())
            kept = await self._store.change_tenant(wanted, reason)
            if kept is not None:
                return kept


def _check_not_deleting(tenant: Tenant) -> None:
    if tenant.state is TenantState.DELETING:
        raise StateConflict(tenant.name, "STATE_DELETING", "is being deleted; take that back first: UndeleteTenant.")
