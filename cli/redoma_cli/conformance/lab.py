"""Throw-away tenants and keys, and the callers who use them; all of it is taken away again."""

import asyncio
import random
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass

from google.protobuf.duration_pb2 import Duration

from redoma.tenant.v1.api_key_pb2 import ApiKey, CreateApiKeyRequest, CreateApiKeyResponse, RevokeApiKeyRequest
from redoma.tenant.v1.tenant_pb2 import (
    CreateTenantRequest,
    CreateTenantResponse,
    DeleteTenantRequest,
    DisableTenantRequest,
    Tenant,
)
from redoma_cli.conformance.answer import OK
from redoma_cli.conformance.caller import Caller
from redoma_cli.conformance.edge import Edge
from redoma_cli.conformance.secrecy import Redactor
from redoma_cli.conformance.settings import Settings

PREFIX = "conformance-"
# Those that are made anew for each check, unlike the one that is kept for an adapter.
THROW_AWAY = re.compile(rf"{PREFIX}[0-9a-f]{{12}}")
DELETE_TRIES, DELETE_PAUSE_S = 4, 0.5
GONE = ("NOT_FOUND",)
# All that a tenant's own key can have: a guest who holds it is the strongest there is.
SCOPES = ("generate", "conversations", "tenant.read", "tenant.admin", "tenant.owner")


@dataclass(frozen=True, slots=True)
class LabKey:
    """A key that was made for a check.

    Attributes:
        name: Its resource name.
        secret: The whole key.
    """

    name: str
    secret: str


@dataclass(frozen=True, slots=True)
class LabTenant:
    """A tenant that was made for a check.

    Attributes:
        id: Its id.
        key: Its key, with every scope that a tenant's key can have.
        caller: Someone who calls with that key.
    """

    id: str
    key: LabKey
    caller: Caller

    @property
    def name(self) -> str:
        """Its resource name."""
        return f"tenants/{self.id}"


def random_id() -> str:
    """Makes an id of a throw-away tenant that nobody can have yet."""
    return f"{PREFIX}{secrets.token_hex(6)}"


class Lab:
    """What one check works with. Close it, and what it made is gone.

    Attributes:
        edge: The deployment.
        admin: The platform's administrator.
        anyone: Someone without a key.
        settings: Of the run.
        rng: For what must differ from run to run.
        tenants: Ids of the tenants that were made and not yet deleted.
    """

    def __init__(self, edge: Edge, admin: Caller, settings: Settings, redactor: Redactor, rng: random.Random) -> None:
        self.edge = edge
        self.admin = admin
        self.settings = settings
        self.rng = rng
        self.anyone = Caller(edge, "")
        self.tenants: list[str] = []
        self._redactor = redactor
        self._callers = [self.anyone]
        self._borrowed: list[LabKey] = []

    async def tenant(self, tenant_id: str = "", settings: Tenant | None = None) -> LabTenant:
        """Makes a tenant with a key.

        Raises:
            Unclear, Skipped: It can't be made.
        """
        tenant_id = tenant_id or random_id()
        wanted = Tenant(display_name="redoma conformance")
        if settings is not None:
            wanted.MergeFrom(settings)
        # Before the call: should it be interrupted the tenant may exist nevertheless.
        self.tenants.append(tenant_id)
        await self.admin.must(CreateTenantRequest(tenant_id=tenant_id, tenant=wanted), CreateTenantResponse)
        key = await self.key(f"tenants/{tenant_id}")
        return LabTenant(tenant_id, key, self.caller(key.secret))

    async def borrow(self, tenant_id: str) -> LabTenant:
        """Makes a key of a tenant that is there and stays there; the key is revoked in the end."""
        key = await self.key(f"tenants/{tenant_id}")
        self._borrowed.append(key)
        return LabTenant(tenant_id, key, self.caller(key.secret))

    async def key(self, tenant: str, scopes: tuple[str, ...] = SCOPES) -> LabKey:
        """Makes one more key of a tenant, by its resource name."""
        request = CreateApiKeyRequest(parent=tenant, api_key=ApiKey(display_name="redoma conformance", scopes=scopes))
        made = await self.admin.must(request, CreateApiKeyResponse)
        self._redactor.hide(made.secret)
        return LabKey(made.api_key.name, made.secret)

    def caller(self, key: str) -> Caller:
        """Gives someone who calls with `key`, on a connection of his own."""
        made = Caller(self.edge, key)
        self._callers.append(made)
        return made

    async def close(self, on_left: Callable[[str], None]) -> None:
        """Deletes the tenants, unless they are kept, and closes connections; tells of each tenant that is left."""
        try:
            for key in self._borrowed:
                await self.admin.ask(RevokeApiKeyRequest(name=key.name), patient=True)
            for tenant_id in list(self.tenants):
                if self.settings.keep or not await delete_tenant(self.admin, tenant_id):
                    on_left(tenant_id)
                self.tenants.remove(tenant_id)
        finally:
            for caller in self._callers:
                await caller.close()


async def delete_tenant(admin: Caller, tenant_id: str) -> bool:
    """Deletes a tenant and all that is held of it, as soon as can be; says whether it is gone or going.

    Where tenants can't be deleted its keys are refused at least, and it counts as left.
    """
    request = DeleteTenantRequest(name=f"tenants/{tenant_id}", grace=Duration())
    for attempt in range(DELETE_TRIES):
        answer = await admin.ask(request, patient=True)
        if answer.code == OK or answer.code in GONE:
            return True
        if answer.code == "UNIMPLEMENTED":
            await admin.ask(DisableTenantRequest(name=request.name), patient=True)
            return False
        await asyncio.sleep(DELETE_PAUSE_S * 2**attempt)
    return False
