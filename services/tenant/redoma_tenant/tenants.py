"""Tenants: what they are, what they may be set to, and what can be done with them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import Enum
from typing import Protocol

from redoma_kit.errors import InvalidField, ResourceNotFound
from redoma_kit.pages import page_position, page_size, page_token
from redoma_tenant.names import check_display_name, check_tenant_id, tenant_name
from redoma_tenant.pages import DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE, Page

DEFAULT_WEIGHT = 100
MAX_WEIGHT = 1_000
MAX_PATTERNS = 64
MAX_PATTERN_CHARACTERS = 256
COLLECTION = "tenants"


class TenantState(Enum):
    """Whether a tenant's keys work."""

    ACTIVE = "ACTIVE"
    DISABLED = "DISABLED"


class BlockedAction(Enum):
    """What happens on a match of a blocked pattern."""

    REFUSE = "REFUSE"
    MASK = "MASK"


@dataclass(frozen=True, slots=True)
class BlockedPattern:
    """A literal text that must not pass, matched regardless of case."""

    text: str
    action: BlockedAction


@dataclass(frozen=True, slots=True)
class ContentChecks:
    """What is checked of a tenant's prompts and answers. `max_input_tokens` 0 is no limit."""

    max_input_tokens: int = 0
    blocked_patterns: tuple[BlockedPattern, ...] = ()


@dataclass(frozen=True, slots=True)
class Tenant:
    """A tenant as it is kept."""

    id: str
    display_name: str
    state: TenantState
    weight: int
    content_checks: ContentChecks
    create_time: datetime


@dataclass(frozen=True, slots=True)
class TenantChanges:
    """New values; None leaves a field as it is. A weight of 0 is the default."""

    display_name: str | None = None
    weight: int | None = None
    content_checks: ContentChecks | None = None

    def checked(self, field: str) -> "TenantChanges":
        """Gives the changes with defaults filled in; `field` is where the request holds the tenant.

        Raises:
            InvalidField: A value is out of range.
        """
        if self.display_name is not None:
            check_display_name(f"{field}.display_name", self.display_name)
        if self.weight is not None and not 0 <= self.weight <= MAX_WEIGHT:
            raise InvalidField(
                f"{field}.weight", f"is {self.weight}; it must be 1 to {MAX_WEIGHT}, or 0 for the default."
            )
        if self.content_checks is not None:
            _check_content_checks(f"{field}.content_checks", self.content_checks)
        return replace(self, weight=DEFAULT_WEIGHT) if self.weight == 0 else self


class TenantStore(Protocol):
    """Where tenants are kept. Every call may raise StorageUnavailable."""

    async def add_tenant(self, tenant: Tenant) -> None:
        """Adds a tenant, or raises ResourceExists."""

    async def find_tenant(self, tenant: str) -> Tenant | None:
        """Gives a tenant by id."""

    async def list_tenants(self, after: str | None, limit: int) -> Sequence[Tenant]:
        """Gives at most `limit` tenants in the order of their ids, those after `after`."""

    async def change_tenant(self, tenant: str, changes: TenantChanges, state: TenantState | None) -> Tenant | None:
        """Changes what is not None, and gives the tenant as it is then; None if there is none."""


class Tenants:
    """What operators do with tenants."""

    __slots__ = ("_now", "_store")

    def __init__(self, store: TenantStore, now: Callable[[], datetime]) -> None:
        self._store = store
        self._now = now

    async def create(self, tenant_id: str, settings: TenantChanges) -> Tenant:
        """Creates an active tenant.

        Raises:
            InvalidField: The id or a setting can't be used.
            ResourceExists: There is a tenant of that id.
        """
        check_tenant_id("tenant_id", tenant_id)
        settings = settings.checked("tenant")
        tenant = Tenant(
            id=tenant_id,
            display_name=settings.display_name or "",
            state=TenantState.ACTIVE,
            weight=settings.weight or DEFAULT_WEIGHT,
            content_checks=settings.content_checks or ContentChecks(),
            create_time=self._now(),
        )
        await self._store.add_tenant(tenant)
        return tenant

    async def get(self, tenant_id: str) -> Tenant:
        """Gives a tenant, or raises ResourceNotFound."""
        return _found(tenant_id, await self._store.find_tenant(tenant_id))

    async def list(self, requested: int, token: str) -> Page[Tenant]:
        """Gives a page of tenants in the order of their ids.

        Raises:
            InvalidField: The size or the token can't be used.
        """
        size = page_size(requested, DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)
        position = page_position(token, (COLLECTION,), (str,))
        found = await self._store.list_tenants(None if position is None else str(position[0]), size + 1)
        more = len(found) > size
        return Page(found[:size], page_token((COLLECTION,), (found[size - 1].id,)) if more else "")

    async def update(self, tenant_id: str, changes: TenantChanges) -> Tenant:
        """Changes a tenant's settings.

        Raises:
            InvalidField: A setting can't be used.
            ResourceNotFound: There is no such tenant.
        """
        changes = changes.checked("tenant")
        return _found(tenant_id, await self._store.change_tenant(tenant_id, changes, None))

    async def set_state(self, tenant_id: str, state: TenantState) -> Tenant:
        """Enables or disables a tenant, or raises ResourceNotFound."""
        return _found(tenant_id, await self._store.change_tenant(tenant_id, TenantChanges(), state))


def _found(tenant_id: str, tenant: Tenant | None) -> Tenant:
    if tenant is None:
        raise ResourceNotFound(tenant_name(tenant_id))
    return tenant


def _check_content_checks(field: str, checks: ContentChecks) -> None:
    if checks.max_input_tokens < 0:
        raise InvalidField(f"{field}.max_input_tokens", "must not be negative; 0 is no limit.")
    if len(checks.blocked_patterns) > MAX_PATTERNS:
        raise InvalidField(
            f"{field}.blocked_patterns", f"has {len(checks.blocked_patterns)} patterns; the most is {MAX_PATTERNS}."
        )
    for index, pattern in enumerate(checks.blocked_patterns):
        where = f"{field}.blocked_patterns[{index}].text"
        if not 1 <= len(pattern.text) <= MAX_PATTERN_CHARACTERS:
            raise InvalidField(where, f"must have 1 to {MAX_PATTERN_CHARACTERS} characters.")
        if "\0" in pattern.text:
            raise InvalidField(where, "must not hold the character NUL.")
