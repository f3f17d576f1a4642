"""The network's resources on the wire."""

from collections.abc import Iterable
from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp

from redoma.provisioner.v1 import condition_pb2, network_pb2, site_pb2
from redoma_provisioner.edge.state import Endpoint
from redoma_provisioner.network.condition import Condition
from redoma_provisioner.network.site import SiteState
from redoma_provisioner.network.sites import etag_of
from redoma_provisioner.network.view import ConnectorView, LinkView, ListenerView, NetworkView, SiteView
from redoma_provisioner.servicers.connectors import SERVICES
from redoma_provisioner.servicers.drivers import DRIVERS
from redoma_provisioner.servicers.times import timestamp
from redoma_provisioner.trust.names import site_name

STATUSES = {
    True: condition_pb2.Condition.STATUS_TRUE,
    False: condition_pb2.Condition.STATUS_FALSE,
    None: condition_pb2.Condition.STATUS_UNKNOWN,
}
STATES = {
    SiteState.INVITED: site_pb2.Site.STATE_INVITED,
    SiteState.JOINED: site_pb2.Site.STATE_JOINED,
    SiteState.REVOKED: site_pb2.Site.STATE_REVOKED,
}
# What a private site says of itself is kept to this, whatever it sends.
MOST_CONDITIONS = 16
LONGEST_WORD = 64
LONGEST_SENTENCE = 1_000


def condition_messages(conditions: Iterable[Condition]) -> list[condition_pb2.Condition]:
    """Gives conditions as protobuf has them."""
    return [
        condition_pb2.Condition(
            type=condition.type,
            status=STATUSES[condition.holds],
            reason=condition.reason,
            message=condition.message,
            last_transition_time=timestamp(condition.since),
        )
        for condition in conditions
    ]


def conditions_in(messages: Iterable[condition_pb2.Condition]) -> tuple[Condition, ...]:
    """Gives conditions that another site sent, cut to what can be shown; since when they hold is left to the reader."""
    holds = {status: told for told, status in STATUSES.items()}
    return tuple(
        Condition(
            shown(message.type, LONGEST_WORD),
            holds.get(message.status),
            shown(message.reason, LONGEST_WORD),
            shown(message.message, LONGEST_SENTENCE),
        )
        for message, _ in zip(messages, range(MOST_CONDITIONS), strict=False)
    )


def shown(text: str, most: int) -> str:
    """Gives what another site said, cut to `most` characters, with a blank for each that does more than be shown: a
    terminal would obey it."""
    return "".join(character if character.isprintable() else " " for character in text[:most])


def time_in(message: Timestamp) -> datetime:
    """Gives a time.

    Raises:
        ValueError: It is outside the years 1 to 9999.
    """
    try:
        return message.ToDatetime(tzinfo=UTC)
    except OverflowError as error:
        raise ValueError("out of range") from error


def site_message(view: SiteView) -> site_pb2.Site:
    """Gives a site as protobuf has it."""
    site = view.site
    return site_pb2.Site(
        name=site_name(site.id),
        display_name=site.display_name,
        state=STATES[site.state],
        priority=site.priority,
        driver=DRIVERS[site.driver],
        conditions=condition_messages(view.conditions),
        join_time=timestamp(site.join_time),
        last_seen_time=timestamp(site.last_seen_time),
        certificate_expire_time=timestamp(view.certificate_expire_time),
        revoke_time=timestamp(site.revoke_time),
        trust_sequence=site.trust_sequence,
        etag=etag_of(site.version),
    )


def link_message(view: LinkView) -> site_pb2.Link:
    """Gives a link as protobuf has it."""
    return site_pb2.Link(
        name=f"{site_name(view.site)}/links/{view.id}",
        driver=DRIVERS[view.driver],
        conditions=condition_messages(view.conditions),
        tunnels=view.tunnels,
        operational_since=timestamp(view.operational_since),
    )


def listener_message(view: ListenerView) -> site_pb2.Listener:
    """Gives a listener as protobuf has it."""
    return site_pb2.Listener(
        name=f"listeners/{view.routing_key}",
        routing_key=view.routing_key,
        address=view.address,
        conditions=condition_messages(view.conditions),
        site=site_name(view.site),
    )


def connector_message(view: ConnectorView) -> site_pb2.Connector:
    """Gives a connector as protobuf has it."""
    connector = view.connector
    return site_pb2.Connector(
        name=f"{site_name(connector.site)}/connectors/{connector.name}",
        routing_key=connector.routing_key,
        service=SERVICES[connector.service],
        target=connector.target,
        tenant=_tenant_name(connector.tenant),
        conditions=condition_messages(view.conditions),
    )


def network_message(view: NetworkView) -> network_pb2.WatchNetworkResponse:
    """Gives the whole network as protobuf has it."""
    return network_pb2.WatchNetworkResponse(
        sites=[site_message(site) for site in view.sites.values()],
        links=[link_message(link) for link in view.links.values()],
        listeners=[listener_message(listener) for listener in view.listeners.values()],
        connectors=[connector_message(connector) for connector in view.connectors.values()],
    )


def replicas_message(replicas: Iterable[Endpoint]) -> network_pb2.WatchReplicasResponse:
    """Gives the replicas of models as protobuf has them."""
    return network_pb2.WatchReplicasResponse(
        replicas=[
            network_pb2.Replica(
                routing_key=replica.routing_key,
                site=site_name(replica.site),
                tenant=_tenant_name(replica.tenant),
            )
            for replica in replicas
        ]
    )


def _tenant_name(tenant: str) -> str:
    return f"tenants/{tenant}" if tenant else ""
