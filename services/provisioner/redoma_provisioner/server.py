"""Opens the provisioner for the role that its settings name."""

from datetime import UTC, datetime

import structlog

from redoma_provisioner.private_server import PrivateServer
from redoma_provisioner.public_server import PublicServer
from redoma_provisioner.settings import ProvisionerSettings


def utc_now() -> datetime:
    """Gives the time."""
    return datetime.now(UTC)


def open_server(settings: ProvisionerSettings, log: structlog.stdlib.BoundLogger) -> PublicServer | PrivateServer:
    """Puts the provisioner together.

    Raises:
        CannotStart: A setting is missing, a file can't be used, or a private site has not joined.
    """
    if settings.role == "public":
        return PublicServer(settings, log, utc_now)
    return PrivateServer(settings, log, utc_now)
