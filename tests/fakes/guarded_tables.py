"""A service's schema on PostgreSQL with rows of two tenants in every table, and what its catalogue says of each."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy import Boolean, Column, DateTime, Integer, LargeBinary, MetaData, Table, Text, insert, text
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from redoma_kit.database import Database
from tests.fakes.postgres import SUPERUSER, PostgresServer

TENANTS = ("acme", "globex")
VERBS = ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER")
ROLES = ("app", "auth", "platform")


@dataclass(frozen=True, slots=True)
class Schema:
    """A service's tables. Those in `shared` belong to no tenant."""

    name: str
    metadata: MetaData
    migrations: Path
    shared: frozenset[str] = frozenset()

    def tenant_column(self, table: Table) -> Column[Any] | None:
        """Gives the column that says whose a row is; None in a shared table."""
        if table.name in self.shared:
            return None
        found = [table.c[name] for name in ("tenant_id", "tenant") if name in table.c]
        return found[0] if found else table.c["id"]

    def row(self, table: Table, tenant: str) -> dict[str, Any]:
        """Makes a row of a tenant, which fits the rows of the other tables."""
        return {column.name: self._value(column, tenant) for column in table.columns}

    def _value(self, column: Column[Any], tenant: str) -> object:
        if column is self.tenant_column(column.table):
            return tenant
        for key in column.foreign_keys:
            return self._value(key.column, tenant)
        kind = column.type
        if isinstance(kind, Boolean):
            return False
        if isinstance(kind, Integer):
            return TENANTS.index(tenant) + 1
        if isinstance(kind, LargeBinary):
            return tenant.encode()
        if isinstance(getattr(kind, "impl_instance", kind), DateTime):
            return datetime(2026, 1, 1, tzinfo=UTC)
        return tenant if isinstance(kind, Text) or kind.python_type is str else []


@dataclass(frozen=True, slots=True)
class Guarded:
    """The schema in a database, with a row of each tenant in every table."""

    schema: Schema
    database: Database
    superuser: AsyncConnection

    async def count(self, table: Table, tenant: str) -> int:
        """Counts a tenant's rows, past all policies."""
        column = self.schema.tenant_column(table)
        where = "" if column is None else f" WHERE {column.name} = '{tenant}'"
        return int(await self.superuser.scalar(text(f"SELECT count(*) FROM {self.schema.name}.{table.name}{where}")))

    async def security(self) -> Mapping[str, tuple[bool, bool, str]]:
        """Gives of each table whether row-level security is enabled and forced, and the owner."""
        rows = await self.superuser.execute(
            text(
                "SELECT relname, relrowsecurity, relforcerowsecurity, pg_get_userbyid(relowner) FROM pg_class "
                "WHERE relnamespace = CAST(:schema AS regnamespace) AND relkind IN ('r', 'p')"
            ),
            {"schema": self.schema.name},
        )
        return {name: (enabled, forced, owner) for name, enabled, forced, owner in rows}

    async def policies(self, table: str) -> Mapping[str, tuple[set[str], str, str, str | None]]:
        """Gives a table's policies: roles, kind of statement, whose rows, whose new rows."""
        rows = await self.superuser.execute(
            text(
                "SELECT policyname, CAST(roles AS text[]), cmd, qual, with_check FROM pg_policies "
                "WHERE schemaname = :schema AND tablename = :table"
            ),
            {"schema": self.schema.name, "table": table},
        )
        return {name: (set(roles), verb, whose, new) for name, roles, verb, whose, new in rows}

    async def grants(self, table: str) -> tuple[str, ...]:
        """Gives what app, auth and platform may do to a table, as first letters of verbs."""
        held = []
        for role in ROLES:
            letters = ""
            for verb in VERBS:
                query = text("SELECT has_table_privilege(:role, :table, :verb)")
                names = {"role": f"{self.schema.name}_{role}", "table": f"{self.schema.name}.{table}", "verb": verb}
                letters += verb[0] if await self.superuser.scalar(query, names) else ""
            held.append(letters)
        return tuple(held)


@asynccontextmanager
async def guarded(server: PostgresServer, schema: Schema) -> AsyncIterator[Guarded]:
    """Makes a database with the schema and its rows."""
    name = server.create_database()
    database = Database(server.url(name), structlog.get_logger(), schema.name)
    await database.upgrade(schema.migrations)
    settings = {"server_settings": {"search_path": schema.name}}
    engine = create_async_engine(server.url(name, SUPERUSER), connect_args=settings, isolation_level="AUTOCOMMIT")
    async with engine.connect() as superuser:
        for table in schema.metadata.sorted_tables:
            for tenant in TENANTS:
                await superuser.execute(insert(table).values(schema.row(table, tenant)))
        yield Guarded(schema, database, superuser)
    await engine.dispose()
    await database.close()
    server.drop_database(name)
