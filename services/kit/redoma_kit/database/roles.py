"""The roles of a service's schema on PostgreSQL, and the schema itself.

    <schema>_owner     owns the tables; only migrations run as it
    <schema>_app       one tenant's rows, by row-level security; owns nothing
    <schema>_auth      reads what it takes to look a credential up
    <schema>_platform  all tenants' rows

The service logs in as a role that may switch to these four and inherits nothing from them.
"""

from collections.abc import Sequence

import structlog
from sqlalchemy import Connection, make_url, text
from sqlalchemy.exc import ProgrammingError

from redoma_kit.database.scope import Role

LEAST_VERSION = 16
NOT_ALLOWED = "42501"
LOCK = text("SELECT pg_advisory_xact_lock(hashtextextended('redoma ' || CAST(:schema AS text), 0))")
STATE = text(
    """
    SELECT current_user AS login, current_database() AS database,
      (SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = current_user) AS sees_all,
      ARRAY(SELECT rolname::text FROM pg_roles WHERE rolname = ANY(CAST(:roles AS text[]))) AS made,
      ARRAY(SELECT rolname::text FROM pg_roles
            WHERE rolname = ANY(CAST(:roles AS text[])) AND pg_has_role(current_user, oid, 'SET')) AS held,
      (SELECT pg_get_userbyid(nspowner)::text FROM pg_namespace WHERE nspname = :schema) AS schema_owner
    """
)


class SchemaNotReady(Exception):
    """The database can't be opened or brought up to date; the message says why, for the operator."""


def role_name(schema: str, role: Role) -> str:
    """Gives the name of a role of a service's schema."""
    return f"{schema}_{role.value}"


def owner_name(schema: str) -> str:
    """Gives the name of the role that owns a service's tables."""
    return f"{schema}_owner"


def role_names(schema: str) -> list[str]:
    """Gives the names of all roles of a service's schema."""
    return [owner_name(schema), *(role_name(schema, role) for role in Role)]


def roles_statements(schema: str, login: str) -> list[str]:
    """Gives the SQL by which an administrator lets `login` keep a service's rows in the database it is run in."""
    roles = role_names(schema)
    return [
        *(f"CREATE ROLE {role} NOLOGIN" for role in roles),
        _grant(roles, login),
        f"CREATE SCHEMA {schema} AUTHORIZATION {owner_name(schema)}",
    ]


def roles_script(url: str, schema: str) -> str:
    """Gives that SQL as a script, for the login that a database's URL names."""
    address = make_url(url)
    if address.get_backend_name() != "postgresql":
        return "-- SQLite has no roles.\n"
    statements = "".join(f"{statement};\n" for statement in roles_statements(schema, address.username or "redoma"))
    return f"-- Run by an administrator in the database {address.database}.\n{statements}"


def prepare(connection: Connection, schema: str, log: structlog.stdlib.BoundLogger) -> None:
    """Makes what is missing of roles and schema, and makes the transaction the owner's, while others wait for its end.

    Raises:
        SchemaNotReady: The server is too old, or the login may not make what is missing.
    """
    version = int((connection.dialect.server_version_info or (0,))[0])
    if version < LEAST_VERSION:
        raise SchemaNotReady(f"PostgreSQL {LEAST_VERSION} or newer is needed; this server is {version}.")
    connection.execute(LOCK, {"schema": schema})
    state = connection.execute(STATE, {"schema": schema, "roles": role_names(schema)}).one()
    if state.sees_all:
        log.warning("the database's login bypasses row-level security until it switches roles", login=state.login)
    missing = _missing(schema, state.login, state.made, state.held, state.schema_owner)
    if missing:
        _make(connection, schema, missing, state.database)
    connection.exec_driver_sql(f"SET LOCAL ROLE {owner_name(schema)}")


def _grant(roles: Sequence[str], login: str) -> str:
    quoted = login.replace('"', '""')
    return f'GRANT {", ".join(roles)} TO "{quoted}" WITH INHERIT FALSE, SET TRUE'


def _missing(schema: str, login: str, made: Sequence[str], held: Sequence[str], schema_owner: str | None) -> list[str]:
    roles = role_names(schema)
    statements = [f"CREATE ROLE {role} NOLOGIN" for role in roles if role not in made]
    not_held = [role for role in roles if role not in held]
    if not_held:
        statements.append(_grant(not_held, login))
    if schema_owner is None:
        statements.append(f"CREATE SCHEMA {schema} AUTHORIZATION {owner_name(schema)}")
    elif schema_owner != owner_name(schema):
        statements.append(f"ALTER SCHEMA {schema} OWNER TO {owner_name(schema)}")
    return statements


def _make(connection: Connection, schema: str, statements: Sequence[str], database: str) -> None:
    try:
        with connection.begin_nested():
            for statement in statements:
                connection.exec_driver_sql(statement)
    except ProgrammingError as error:
        if getattr(error.orig, "sqlstate", None) != NOT_ALLOWED:
            raise
        listing = "".join(f"\n    {statement};" for statement in statements)
        raise SchemaNotReady(
            f"The database {database} lacks roles or the schema of {schema}, which this login may not make "
            f"({error.orig}). Let an administrator run this in it:{listing}"
        ) from error
