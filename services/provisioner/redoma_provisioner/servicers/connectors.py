"""What sites expose, on the wire."""

from collections.abc import Iterable

from redoma.provisioner.v1 import site_pb2
from redoma_provisioner.trust.connectors import ExposedConnector
from redoma_provisioner.trust.names import MODEL, PROVISIONER

SERVICES = {MODEL: site_pb2.Connector.SERVICE_MODEL, PROVISIONER: site_pb2.Connector.SERVICE_PROVISIONER}
NAMES = {message: name for name, message in SERVICES.items()}


def connectors_in(messages: Iterable[site_pb2.Connector]) -> tuple[ExposedConnector, ...]:
    """Gives what a site says that it exposes, unchecked; what it names wrongly has an empty service or tenant `?`."""
    return tuple(
        ExposedConnector(message.routing_key, NAMES.get(message.service, ""), message.target, _tenant(message.tenant))
        for message in messages
    )


def connector_message(connector: ExposedConnector) -> site_pb2.Connector:
    """Gives what a site exposes, without name and conditions."""
    return site_pb2.Connector(
        routing_key=connector.routing_key,
        service=SERVICES[connector.service],
        target=connector.target,
        tenant=f"tenants/{connector.tenant}" if connector.tenant else "",
    )


def _tenant(name: str) -> str:
    collection, _, tenant = name.partition("/")
    return (tenant if collection == "tenants" else "") or "?" if name else ""
