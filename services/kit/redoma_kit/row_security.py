"""Row-level security of a table, for migrations: whose rows each role sees, and what it may do to them.

On PostgreSQL a table gets a policy and grants for each role, and its owner is under the policies too. Append-only
tables refuse changes on either database, whoever makes them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from redoma_kit.database.roles import owner_name, role_name
from redoma_kit.database.scope import Role

READ = ("SELECT",)
ADD = ("SELECT", "INSERT")
EDIT = ("SELECT", "INSERT", "UPDATE")
ALL = ("SELECT", "INSERT", "UPDATE", "DELETE")
# Between transactions the setting is empty, and so is the tenant of the platform's own rows.
ACTING_TENANT = "NULLIF(current_setting('redoma.tenant_id', true), '')"


@dataclass(frozen=True, slots=True)
class Guard:
    """How a table is guarded.

    Attributes:
        table: Its name.
        tenant: The column that holds the tenant; None where rows belong to no tenant, which all may read then.
        app: What Role.APP may do to its tenant's rows; empty is nothing, for what is only the platform's.
        auth: Whether Role.AUTH may read all rows.
        is_append_only: Whether rows are only ever added, also by Role.PLATFORM and by migrations.
    """

    table: str
    tenant: str | None = "tenant_id"
    app: Sequence[str] = ALL
    auth: bool = False
    is_append_only: bool = False

    @property
    def platform(self) -> Sequence[str]:
        """What Role.PLATFORM may do to all rows."""
        return ADD if self.is_append_only else ALL


def guard_tables(connection: Connection, guards: Sequence[Guard]) -> None:
    """Guards tables; done again, it replaces how they were guarded.

    SQLite forgets triggers with the table: a migration that makes an append-only table anew guards it again.
    """
    is_postgresql = connection.dialect.name == "postgresql"
    for guard in guards:
        for statement in _postgresql(connection, guard) if is_postgresql else _sqlite(guard):
            connection.exec_driver_sql(statement)


def _postgresql(connection: Connection, guard: Guard) -> list[str]:
    schema = connection.exec_driver_sql("SELECT current_schema()").scalar_one()
    app, auth, platform = (role_name(schema, role) for role in (Role.APP, Role.AUTH, Role.PLATFORM))
    owner, table = owner_name(schema), guard.table
    whose = "true" if guard.tenant is None else f"{guard.tenant} = {ACTING_TENANT}"
    statements = [
        f"GRANT USAGE ON SCHEMA {schema} TO {app}, {auth}, {platform}",
        f"REVOKE ALL ON {table} FROM {app}, {auth}, {platform}",
        *([f"GRANT {', '.join(guard.app)} ON {table} TO {app}"] if guard.app else []),
        f"GRANT {', '.join(guard.platform)} ON {table} TO {platform}",
        f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA {schema} TO {app}, {platform}",
        f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY",
        f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY",
        *(f"DROP POLICY IF EXISTS {policy} ON {table}" for policy in ("app", "auth", "platform")),
        f"CREATE POLICY app ON {table} TO {app} USING ({whose})",
        f"CREATE POLICY platform ON {table} TO {platform}, {owner} USING (true)",
    ]
    if guard.auth:
        statements += [
            f"GRANT SELECT ON {table} TO {auth}",
            f"CREATE POLICY auth ON {table} FOR SELECT TO {auth} USING (true)",
        ]
    if guard.is_append_only:
        statements += [
            "CREATE OR REPLACE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            "RAISE EXCEPTION 'rows of % are only ever added', TG_TABLE_NAME USING ERRCODE = 'restrict_violation'; "
            "END $$",
            f"CREATE OR REPLACE TRIGGER append_only BEFORE UPDATE OR DELETE ON {table} "
            "FOR EACH ROW EXECUTE FUNCTION refuse_change()",
            f"CREATE OR REPLACE TRIGGER append_only_whole BEFORE TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()",
        ]
    return statements


def _sqlite(guard: Guard) -> list[str]:
    if not guard.is_append_only:
        return []
    return [
        f"CREATE TRIGGER IF NOT EXISTS {guard.table}_refuses_{change.lower()} BEFORE {change} ON {guard.table} "
        f"BEGIN SELECT RAISE(ABORT, 'rows of {guard.table} are only ever added'); END"
        for change in ("UPDATE", "DELETE")
    ]
