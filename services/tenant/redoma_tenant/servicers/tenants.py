"""TenantService on the wire."""

from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

from redoma.tenant.v1 import tenant_pb2, tenant_pb2_grpc
from redoma_kit.errors import InvalidField, ResourceNotFound
from redoma_kit.identity import current_identity
from redoma_tenant.etags import etag_of
from redoma_tenant.names import OWN, parse_plan_name, parse_tenant_name, plan_name, tenant_name
from redoma_tenant.servicers.content_checks import checks_in, checks_message
from redoma_tenant.servicers.field_masks import masked, only
from redoma_tenant.servicers.times import duration, duration_in, timestamp
from redoma_tenant.tenant_profile import ContentStorage, Isolation, TenantProfile
from redoma_tenant.tenants import Tenant, Tenants, TenantState

if TYPE_CHECKING:
    from redoma_kit.interceptors.pipeline import Context

K = TypeVar("K")
T = TypeVar("T")

STATES = {
    TenantState.ACTIVE: tenant_pb2.Tenant.STATE_ACTIVE,
    TenantState.DISABLED: tenant_pb2.Tenant.STATE_DISABLED,
    TenantState.DELETING: tenant_pb2.Tenant.STATE_DELETING,
}
ISOLATIONS = {
    Isolation.SHARED: tenant_pb2.Tenant.ISOLATION_SHARED,
    Isolation.SHARED_TUNED: tenant_pb2.Tenant.ISOLATION_SHARED_TUNED,
    Isolation.DEDICATED: tenant_pb2.Tenant.ISOLATION_DEDICATED,
}
ISOLATIONS_IN = {number: isolation for isolation, number in ISOLATIONS.items()} | {
    tenant_pb2.Tenant.ISOLATION_UNSPECIFIED: Isolation.SHARED
}
STORAGES = {
    ContentStorage.PUBLIC: tenant_pb2.Tenant.CONTENT_STORAGE_PUBLIC,
    ContentStorage.NONE: tenant_pb2.Tenant.CONTENT_STORAGE_NONE,
    ContentStorage.PRIVATE: tenant_pb2.Tenant.CONTENT_STORAGE_PRIVATE,
}
STORAGES_IN = {number: storage for storage, number in STORAGES.items()} | {
    tenant_pb2.Tenant.CONTENT_STORAGE_UNSPECIFIED: ContentStorage.PUBLIC
}
MASKABLE = frozenset(TenantProfile.__dataclass_fields__)
DEFAULT_GRACE = timedelta(days=30)


class TenantServicer(tenant_pb2_grpc.TenantServiceServicer):
    """Tenants, for operators; content checks and policies, for the chat service."""

    def __init__(self, tenants: Tenants) -> None:
        self._tenants = tenants

    async def CreateTenant(
        self, request: tenant_pb2.CreateTenantRequest, context: "Context"
    ) -> tenant_pb2.CreateTenantResponse:
        """Creates a tenant."""
        tenant = await self._tenants.create(request.tenant_id, _profile(request.tenant))
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
        names = masked(request.tenant, request.update_mask.paths, MASKABLE)
        wanted = _profile(only(request.tenant, names))
        tenant = await self._tenants.update(tenant_id, wanted, names, request.tenant.etag)
        return tenant_pb2.UpdateTenantResponse(tenant=_message(tenant))

    async def DisableTenant(
        self, request: tenant_pb2.DisableTenantRequest, context: "Context"
    ) -> tenant_pb2.DisableTenantResponse:
        """Disables a tenant."""
        tenant = await self._tenants.disable(parse_tenant_name("name", request.name))
        return tenant_pb2.DisableTenantResponse(tenant=_message(tenant))

    async def EnableTenant(
        self, request: tenant_pb2.EnableTenantRequest, context: "Context"
    ) -> tenant_pb2.EnableTenantResponse:
        """Enables a tenant."""
        tenant = await self._tenants.enable(parse_tenant_name("name", request.name))
        return tenant_pb2.EnableTenantResponse(tenant=_message(tenant))

    async def DeleteTenant(
        self, request: tenant_pb2.DeleteTenantRequest, context: "Context"
    ) -> tenant_pb2.DeleteTenantResponse:
        """Deletes a tenant softly."""
        tenant_id = parse_tenant_name("name", request.name)
        grace = duration_in("grace", request.grace) if request.HasField("grace") else DEFAULT_GRACE
        tenant = await self._tenants.delete(tenant_id, grace, request.etag)
        return tenant_pb2.DeleteTenantResponse(tenant=_message(tenant))

    async def UndeleteTenant(
        self, request: tenant_pb2.UndeleteTenantRequest, context: "Context"
    ) -> tenant_pb2.UndeleteTenantResponse:
        """Takes a deletion back."""
        tenant = await self._tenants.undelete(parse_tenant_name("name", request.name))
        return tenant_pb2.UndeleteTenantResponse(tenant=_message(tenant))

    async def ListContentPolicies(
        self, request: tenant_pb2.ListContentPoliciesRequest, context: "Context"
    ) -> tenant_pb2.ListContentPoliciesResponse:
        """Lists where conversations are kept and for how long."""
        page = await self._tenants.list(request.page_size, request.page_token)
        return tenant_pb2.ListContentPoliciesResponse(
            content_policies=[_content_policy(tenant) for tenant in page.items], next_page_token=page.next_page_token
        )

    async def GetContentChecks(
        self, request: tenant_pb2.GetContentChecksRequest, context: "Context"
    ) -> tenant_pb2.GetContentChecksResponse:
        """Gets the checks of the acting identity's tenant."""
        tenant_id = current_identity().tenant
        if not tenant_id:
            raise ResourceNotFound(tenant_name(OWN))
        profile = (await self._tenants.get(tenant_id)).profile
        return tenant_pb2.GetContentChecksResponse(
            content_checks=checks_message(profile.content_checks), content_storage=STORAGES[profile.content_storage]
        )


def _profile(tenant: tenant_pb2.Tenant) -> TenantProfile:
    return TenantProfile(
        display_name=tenant.display_name,
        weight=tenant.weight,
        content_checks=checks_in("tenant.content_checks", tenant.content_checks),
        plan=parse_plan_name("tenant.plan", tenant.plan) if tenant.plan else "",
        isolation=_known("tenant.isolation", ISOLATIONS_IN, tenant.isolation),
        adapter=tenant.adapter,
        models=tuple(tenant.models),
        region=tenant.region,
        retention=duration_in("tenant.retention", tenant.retention) if tenant.HasField("retention") else None,
        tuning_consent=tenant.tuning_consent,
        content_storage=_known("tenant.content_storage", STORAGES_IN, tenant.content_storage),
    )


def _known(field: str, values: Mapping[K, T], number: K) -> T:
    if number not in values:
        raise InvalidField(field, f"{number} is no value that there is.")
    return values[number]


def _content_policy(tenant: Tenant) -> tenant_pb2.ContentPolicy:
    return tenant_pb2.ContentPolicy(
        tenant=tenant.name,
        content_storage=STORAGES[tenant.profile.content_storage],
        retention=duration(tenant.profile.retention),
    )


def _message(tenant: Tenant) -> tenant_pb2.Tenant:
    profile = tenant.profile
    return tenant_pb2.Tenant(
        name=tenant.name,
        display_name=profile.display_name,
        state=STATES[tenant.state],
        weight=tenant.weight,
        create_time=timestamp(tenant.create_time),
        content_checks=checks_message(profile.content_checks),
        update_time=timestamp(tenant.update_time),
        etag=etag_of(tenant.version),
        plan=plan_name(profile.plan) if profile.plan else "",
        isolation=ISOLATIONS[profile.isolation],
        adapter=profile.adapter,
        models=profile.models,
        region=profile.region,
        retention=duration(profile.retention),
        tuning_consent=profile.tuning_consent,
        content_storage=STORAGES[profile.content_storage],
        delete_time=timestamp(tenant.delete_time),
        purge_time=timestamp(tenant.purge_time),
    )
