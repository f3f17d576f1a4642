"""A service's database, SQLite or PostgreSQL: transactions on someone's behalf, and its schema brought up to date."""

from redoma_kit.database.database import DEFAULT_CONNECTIONS, Database
from redoma_kit.database.roles import SchemaNotReady, roles_script, roles_statements
from redoma_kit.database.scope import AUTH, PLATFORM, Role, Scope
from redoma_kit.database.url import DatabaseUrl

__all__ = [
    "AUTH",
    "DEFAULT_CONNECTIONS",
    "PLATFORM",
    "Database",
    "DatabaseUrl",
    "Role",
    "SchemaNotReady",
    "Scope",
    "roles_script",
    "roles_statements",
]
