"""Identity providers in SQL."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import RowMapping, delete, insert, select
from sqlalchemy.exc import IntegrityError

from redoma_kit.database import PLATFORM, Database
from redoma_kit.errors import InvalidField, ResourceExists
from redoma_tenant.identity_providers import IdentityProvider
from redoma_tenant.names import identity_provider_name, tenant_name
from redoma_tenant.store.changes import note_change
from redoma_tenant.store.schema import IDENTITY_PROVIDERS
from redoma_tenant.users import Role


class SqlIdentityProviderStore:
    """Keeps identity providers in a database."""

    __slots__ = ("_database",)

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add_identity_provider(self, provider: IdentityProvider, now: datetime) -> None:
        """Adds a provider and notes that.

        Raises:
            InvalidField: The tenant is missing.
            ResourceExists: There is one of that issuer and audience.
        """
        values = {
            "id": provider.id,
            "issuer": provider.issuer,
            "audience": provider.audience,
            "tenant_id": provider.tenant or None,
            "tenant_claim": provider.tenant_claim,
            "roles_claim": provider.roles_claim,
            "roles": {value: role.value for value, role in provider.roles.items()},
            "default_role": provider.default_role.value if provider.default_role else "",
            "operator_role": provider.operator_role,
            "create_time": now,
        }
        try:
            async with self._database.transaction(PLATFORM) as session:
                await session.execute(insert(IDENTITY_PROVIDERS).values(values))
                await note_change(session, "", "", "", now)
        except IntegrityError:
            other = await self._find(provider.issuer, provider.audience)
            if other is None:
                field, problem = "identity_provider.tenant", f"{tenant_name(provider.tenant)} does not exist."
                raise InvalidField(field, problem) from None
            raise ResourceExists(identity_provider_name(other)) from None

    async def list_identity_providers(self, after: str | None, limit: int) -> Sequence[IdentityProvider]:
        """Gives at most `limit` providers in the order of their ids, those after `after`."""
        query = select(IDENTITY_PROVIDERS).order_by(IDENTITY_PROVIDERS.c.id).limit(limit)
        if after is not None:
            query = query.where(IDENTITY_PROVIDERS.c.id > after)
        async with self._database.transaction(PLATFORM) as session:
            return [_provider(row) for row in (await session.execute(query)).mappings()]

    async def delete_identity_provider(self, provider: str, now: datetime) -> bool:
        """Deletes a provider and notes that; False if there is none."""
        columns = IDENTITY_PROVIDERS.c
        statement = delete(IDENTITY_PROVIDERS).where(columns.id == provider).returning(columns.id)
        async with self._database.transaction(PLATFORM) as session:
            if await session.scalar(statement) is None:
                return False
            await note_change(session, "", "", "", now)
        return True

    async def _find(self, issuer: str, audience: str) -> str | None:
        columns = IDENTITY_PROVIDERS.c
        query = select(columns.id).where(columns.issuer == issuer, columns.audience == audience)
        async with self._database.transaction(PLATFORM) as session:
            found: str | None = await session.scalar(query)
        return found


def _provider(row: RowMapping) -> IdentityProvider:
    return IdentityProvider(
        id=row["id"],
        issuer=row["issuer"],
        audience=row["audience"],
        tenant=row["tenant_id"] or "",
        tenant_claim=row["tenant_claim"],
        roles_claim=row["roles_claim"],
        roles={value: Role(role) for value, role in row["roles"].items()},
        default_role=Role(row["default_role"]) if row["default_role"] else None,
        operator_role=row["operator_role"],
        create_time=row["create_time"],
    )
