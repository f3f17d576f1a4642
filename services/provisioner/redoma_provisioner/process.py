"""The provisioner's process: settings, logs, start, and its exit status."""

import sys
from collections.abc import Mapping

from redoma_kit.database import SchemaNotReady, roles_script
from redoma_kit.errors import DomainError
from redoma_kit.logs import configure_logs
from redoma_kit.polling import run_service
from redoma_kit.server import AddressInUse
from redoma_kit.settings import Action, settings_from_command_line
from redoma_provisioner.errors import CannotStart
from redoma_provisioner.machine import joined, link_grant, link_problem, printed_bootstrap
from redoma_provisioner.schema import SCHEMA, SERVICE
from redoma_provisioner.server import open_server
from redoma_provisioner.settings import ProvisionerSettings

PROG = "redoma-provisioner"
ACTIONS: Mapping[str, Action[ProvisionerSettings]] = {
    "--print-database-roles": Action(
        "print the SQL that prepares PostgreSQL for a login that may not make roles",
        lambda settings, _: roles_script(settings.database_url, SCHEMA),
    ),
    "--print-bootstrap": Action(
        "print what the Envoy of that name (edge, egress or gateway) is started with", printed_bootstrap, "PROXY"
    ),
    "--make-link-grant": Action(
        "make a grant by which a site can join, in the database, and print its token", link_grant, "SITE"
    ),
    "--make-rejoin-grant": Action(
        "the same for a site that has joined before; its former certificates are refused then",
        lambda settings, site: link_grant(settings, site, rejoin=True),
        "SITE",
    ),
    "--join": Action("join with the token on standard input", lambda settings, _: joined(settings)),
    "--probe-link": Action(
        "print why the gateway of this private site gets no tunnel", lambda settings, _: link_problem(settings)
    ),
}


async def serve(settings: ProvisionerSettings) -> None:
    """Serves until told to stop.

    Raises:
        CannotStart: Something the service needs can't be used.
        SchemaNotReady: The database can't be brought up to date.
        AddressInUse: The address can't be bound.
        OSError: A file of the service's identity can't be read.
    """
    server = open_server(settings, configure_logs(settings.log, SERVICE))
    await server.start()
    await server.serve_until_stopped()


def run() -> None:
    """Runs the service; exits with status 1 and one sentence if it can't start."""
    try:
        settings = settings_from_command_line(
            ProvisionerSettings,
            PROG,
            "Keeps the network of sites, and serves the Envoys what they need.",
            actions=ACTIONS,
        )
        run_service(serve(settings))
    except (CannotStart, SchemaNotReady, AddressInUse, OSError, DomainError) as error:
        sys.exit(f"{PROG}: {error}")
