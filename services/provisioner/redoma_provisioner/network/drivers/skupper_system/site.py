"""What the driver knows of its own site."""

from dataclasses import dataclass

from redoma_provisioner.network.drivers.skupper_system.access import LinkAccess
from redoma_provisioner.network.drivers.skupper_system.place import Place


@dataclass(frozen=True, slots=True)
class SystemSite:
    """What the driver needs to know of its site.

    Attributes:
        place: Where Skupper keeps its namespace.
        listen_host: Where listeners listen.
        first_port: The first port given to a listener.
        link_access: How private sites reach it; None for a private site, which is then an edge.
    """

    place: Place
    listen_host: str = "127.0.0.1"
    first_port: int = 10_000
    link_access: LinkAccess | None = None
