"""What a private site exposes to the network."""

from collections.abc import Sequence
from dataclasses import dataclass

from redoma_provisioner.trust.connectors import ExposedConnector, checked_connectors


@dataclass(frozen=True, slots=True)
class Connector:
    """One service of a private site that the network leads to.

    Attributes:
        site: The id of its site.
        routing_key: Its name in the network: the site's id, a dot, and its name in the site.
        service: What it leads to: "model" or "provisioner".
        target: Where that listens in its own site.
        tenant: The id of the tenant that alone is served by it; empty is all.
    """

    site: str
    routing_key: str
    service: str
    target: str
    tenant: str = ""

    @property
    def name(self) -> str:
        """Its name in the site."""
        return self.routing_key.partition(".")[2]


def connectors_told(site: str, told: Sequence[ExposedConnector]) -> tuple[Connector, ...]:
    """Gives what a site says that it exposes, by routing key. It may name only itself in one, so that none takes
    another's calls.

    Raises:
        InvalidField: There are too many, or one can't be kept or belongs to another site.
    """
    checked = checked_connectors("connectors", site, told)
    connectors = [Connector(site, one.routing_key, one.service, one.target, one.tenant) for one in checked]
    return tuple(sorted(connectors, key=lambda connector: connector.routing_key))
