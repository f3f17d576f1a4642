"""TenantService on the wire."""

from collections.abc import Iterable, Set
from typing import TYPE_CHECKING

from redoma.tenant.v1 import tenant_pb2, tenant_pb2_grpc
from redoma_kit.errors import InvalidField
from redoma_kit.identity import current_identity
from redoma_tenant.names import parse_tenant_name, tenant_name
from redoma_tenant.servicers.times import timestamp
from redoma_tenant.tenants import (
    BlockedAction,
    BlockedPattern,
    ContentChecks,
    Tenant,
    TenantChanges,
    Tenants,
    TenantState,
)

if TYPE_CHECKING:
    from redoma_kit.interceptors.pipeline import Context

STATES = {
    TenantState.ACTIVE: tenant_pb2.Tenant.STATE_ACTIVE,
    TenantState.DISABLED: tenant_pb2.Tenant.STATE_DISABLED,
}
ACTIONS = {
    BlockedAction.REFUSE: tenant_pb2.BlockedPattern.ACTION_REFUSE,
    BlockedAction.MASK: tenant_pb2.BlockedPattern.ACTION_MASK,
}
ACTIONS_IN = {number: action for action, number in ACTIONS.items()}
MASKABLE = frozenset({"display_name", "weight", "content_checks"})
EVERYTHING = "*"


class TenantServicer(tenant_pb2_grpc.TenantServiceServicer):
    """Tenants, for operators; content checks, for the chat service."""

    def __init__(self, tenants: Tenants) -> None:
        self._tenants = tenants

    async def CreateTenant(
        self, request: tenant_pb2.CreateTenantRequest, context: "Context"
    ) -> tenant_pb2.CreateTenantResponse:
        """Creates a tenant."""
        tenant = await self._tenants.create(request.tenant_id, _changes(request.tenant, MASKABLE))
        return tenant_pb2.CreateTenantResponse(tenant=_message(tenant))

    async def GetTenant(self, request: tenant_pb2.GetTenantRequest, context: "Context") -> tenant_pb2.GetTenantResponse:
        """Gets a tenant."""
        tenant_id = parse_tenant_name("name", request.name)
        current_identity().check_tenant(tenant_id)
        return tenant_pb2.GetTenantResponse(tenant=_message(await self._tenants.get(tenant_id)))

    async def ListTenants(
        self, request: tenant_pb2.ListTenantsRequest, context: "Context"
    ) -> tenant_pb2.ListTenantsResponse:
        """Lists tenants."""
        page = await self._tenants.list(request.page_size, request.page_token)
        return tenant_pb2.ListTenantsResponse(
            tenants=[_message(tenant) for tenant in page.items], next_page_token=page.next_page_token
        )

    async def UpdateTenant(
        self, request: tenant_pb2.UpdateTenantRequest, context: "Context"
    ) -> tenant_pb2.UpdateTenantResponse:
        """Changes a tenant's settings."""
        tenant_id = parse_tenant_name("tenant.name", request.tenant.name)
        changes = _changes(request.tenant, _masked(request.tenant, request.update_mask.paths))
        return tenant_pb2.UpdateTenantResponse(tenant=_message(await self._tenants.update(tenant_id, changes)))

    async def DisableTenant(
        self, request: tenant_pb2.DisableTenantRequest, context: "Context"
    ) -> tenant_pb2.DisableTenantResponse:
        """Disables a tenant."""
        tenant = await self._tenants.set_state(parse_tenant_name("name", request.name), TenantState.DISABLED)
        return tenant_pb2.DisableTenantResponse(tenant=_message(tenant))

    async def EnableTenant(
        self, request: tenant_pb2.EnableTenantRequest, context: "Context"
    ) -> tenant_pb2.EnableTenantResponse:
        """Enables a tenant."""
        tenant = await self._tenants.set_state(parse_tenant_name("name", request.name), TenantState.ACTIVE)
        return tenant_pb2.EnableTenantResponse(tenant=_message(tenant))

    async def GetContentChecks(
        self, request: tenant_pb2.GetContentChecksRequest, context: "Context"
    ) -> tenant_pb2.GetContentChecksResponse:
        """Gets the checks of the acting identity's tenant."""
        tenant = await self._tenants.get(current_identity().tenant)
        return tenant_pb2.GetContentChecksResponse(content_checks=_checks_message(tenant.content_checks))


def _masked(tenant: tenant_pb2.Tenant, paths: Iterable[str]) -> Set[str]:
    names = set(paths)
    unknown = names - MASKABLE - {EVERYTHING}
    if unknown:
        raise InvalidField("update_mask", f"may name {', '.join(sorted(MASKABLE))}, or * for all of them.")
    if EVERYTHING in names:
        return MASKABLE
    return names or {field.name for field, _ in tenant.ListFields()} & MASKABLE


def _changes(tenant: tenant_pb2.Tenant, names: Set[str]) -> TenantChanges:
    return TenantChanges(
        display_name=tenant.display_name if "display_name" in names else None,
        weight=tenant.weight if "weight" in names else None,
        content_checks=_checks(tenant.content_checks) if "content_checks" in names else None,
    )


def _checks(message: tenant_pb2.ContentChecks) -> ContentChecks:
    patterns = []
    for index, pattern in enumerate(message.blocked_patterns):
        action = ACTIONS_IN.get(pattern.action)
        if action is None:
            field = f"tenant.content_checks.blocked_patterns[{index}].action"
            raise InvalidField(field, "must be ACTION_REFUSE or ACTION_MASK.")
        patterns.append(BlockedPattern(pattern.text, action))
    return ContentChecks(message.max_input_tokens, tuple(patterns))


def _message(tenant: Tenant) -> tenant_pb2.Tenant:
    return tenant_pb2.Tenant(
        name=tenant_name(tenant.id),
        display_name=tenant.display_name,
        state=STATES[tenant.state],
        weight=tenant.weight,
        create_time=timestamp(tenant.create_time),
        content_checks=_checks_message(tenant.content_checks),
    )


def _checks_message(checks: ContentChecks) -> tenant_pb2.ContentChecks:
    return tenant_pb2.ContentChecks(
        max_input_tokens=checks.max_input_tokens,
        blocked_patterns=[
            tenant_pb2.BlockedPattern(text=pattern.text, action=ACTIONS[pattern.action])
            for pattern in checks.blocked_patterns
        ],
    )
