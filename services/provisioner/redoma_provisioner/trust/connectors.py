"""What a private site says that it exposes, checked before anything of it is kept."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from redoma_kit.errors import InvalidField
from redoma_provisioner.trust.names import CONNECTOR_NAME, EXPOSABLE_SERVICES

MAX_CONNECTORS = 64
MAX_TARGET = 255
TENANT_ID = re.compile(r"[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class ExposedConnector:
    """What a site exposes.

    Attributes:
        routing_key: `{site}.{name}`; a site that does not know its id yet gives the name alone.
        service: What it leads to: "model" or "provisioner".
        target: Where that listens in its own site.
        tenant: The id of the tenant that alone is served by it; empty is all.
    """

    routing_key: str
    service: str
    target: str
    tenant: str = ""


def checked_connectors(field: str, site: str, connectors: Sequence[ExposedConnector]) -> tuple[ExposedConnector, ...]:
    """Gives what a site exposes with its whole routing keys.

    Raises:
        InvalidField: There are too many, or one can't be kept or belongs to another site.
    """
    if len(connectors) > MAX_CONNECTORS:
        raise InvalidField(field, f"has {len(connectors)} connectors; the most is {MAX_CONNECTORS}.")
    checked = [_checked(f"{field}[{index}]", site, connector) for index, connector in enumerate(connectors)]
    if len({connector.routing_key for connector in checked}) != len(checked):
        raise InvalidField(field, "must have each routing key once.")
    return tuple(checked)


def _checked(field: str, site: str, connector: ExposedConnector) -> ExposedConnector:
    prefix, separator, name = connector.routing_key.rpartition(".")
    if not CONNECTOR_NAME.fullmatch(name) or (separator and prefix != site):
        raise InvalidField(f"{field}.routing_key", f"must be {site}.NAME, NAME being 1 to 40 of a-z, 0-9 and '-'.")
    if connector.service not in EXPOSABLE_SERVICES:
        raise InvalidField(f"{field}.service", f"must be one of {', '.join(EXPOSABLE_SERVICES)}.")
    if not 0 < len(connector.target) <= MAX_TARGET or not connector.target.isprintable():
        raise InvalidField(f"{field}.target", f"must have 1 to {MAX_TARGET} characters that can be shown.")
    if connector.tenant and not TENANT_ID.fullmatch(connector.tenant):
        raise InvalidField(f"{field}.tenant", "must be tenants/{tenant}, or empty.")
    return replace(connector, routing_key=f"{site}.{name}")
