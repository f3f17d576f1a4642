"""The tenant service's process: settings, logs, start, and its exit status."""

import sys
from collections.abc import Mapping

from redoma_kit.database import SchemaNotReady, roles_script
from redoma_kit.errors import StorageUnavailable
from redoma_kit.logs import configure_logs
from redoma_kit.polling import run_service
from redoma_kit.server import AddressInUse
from redoma_kit.settings import Action, settings_from_command_line
from redoma_tenant.errors import CannotStart
from redoma_tenant.recovery import operator_key
from redoma_tenant.server import SCHEMA, SERVICE, TenantServer
from redoma_tenant.settings import TenantSettings

PROG = "redoma-tenant"
ACTIONS: Mapping[str, Action[TenantSettings]] = {
    "--print-database-roles": Action(
        "print the SQL that prepares PostgreSQL for a login that may not make roles",
        lambda settings, _: roles_script(settings.database_url, SCHEMA),
    ),
    "--make-operator-key": Action(
        "make a key for an operator in the database, print it",
        lambda settings, _: operator_key(settings, SCHEMA),
    ),
}


async def serve(settings: TenantSettings) -> None:
    """Serves until told to stop.

    Raises:
        CannotStart: Something the service needs can't be used.
        SchemaNotReady: The database can't be brought up to date.
        AddressInUse: The address can't be bound.
        OSError: A file of the service's identity can't be read.
    """
    server = TenantServer(settings, configure_logs(settings.log, SERVICE))
    await server.start()
    await server.serve_until_stopped()


def run() -> None:
    """Runs the service; exits with status 1 and one sentence if it can't start."""
    try:
        settings = settings_from_command_line(
            TenantSettings, PROG, "Keeps tenants and API keys, and lets callers in at the edge.", actions=ACTIONS
        )
        run_service(serve(settings))
    except (CannotStart, SchemaNotReady, AddressInUse, OSError, StorageUnavailable) as error:
        sys.exit(f"{PROG}: {error}")
