"""What the database says of the network at one moment, and what of the driver and the egress is wanted therefore."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from redoma_provisioner.edge.state import EgressState, Endpoint
from redoma_provisioner.network.connector import Connector
from redoma_provisioner.network.driver import AdmittedSite, DesiredListener, DesiredNetwork, DriverKind
from redoma_provisioner.network.site import Site, SiteCertificates, SiteState
from redoma_provisioner.trust.names import GATEWAY, MODEL, PUBLIC_SITE

# These lead to a private site by a host:port of their own.
BY_ADDRESS = frozenset({DriverKind.SKUPPER_KUBERNETES, DriverKind.SKUPPER_SYSTEM})


@dataclass(frozen=True, slots=True)
class KeptNetwork:
    """Sites and connectors by id and by routing key, and certificates by site."""

    sites: tuple[Site, ...] = ()
    connectors: tuple[Connector, ...] = ()
    certificates: Mapping[str, SiteCertificates] = field(default_factory=dict)

    def members(self, driver: DriverKind) -> dict[str, Site]:
        """Gives the private sites that belong to the network and that `driver` can carry, by id."""
        return {
            site.id: site
            for site in self.sites
            if site.state is SiteState.JOINED and site.driver.links_with(driver) and site.id != PUBLIC_SITE
        }


def desired_network(kept: KeptNetwork, driver: DriverKind) -> DesiredNetwork:
    """Gives what the public site wants of its driver."""
    members = kept.members(driver)
    return DesiredNetwork(
        PUBLIC_SITE,
        admitted=tuple(AdmittedSite(site, _fingerprints(kept, site)) for site in members),
        listeners=tuple(
            DesiredListener(connector.routing_key, connector.site)
            for connector in kept.connectors
            if connector.site in members
        ),
    )


def egress_state(kept: KeptNetwork, driver: DriverKind, addresses: Mapping[str, str]) -> EgressState:
    """Gives what the egress leads to; `addresses` are the listeners' by routing key, where the driver gives them one.

    What has no address yet where it needs one is left out.
    """
    members = kept.members(driver)
    endpoints = []
    for connector in kept.connectors:
        address = addresses.get(connector.routing_key, "")
        if connector.site in members and (address or driver not in BY_ADDRESS):
            priority = members[connector.site].priority
            endpoints.append((connector.service, _endpoint(connector, priority, address)))
    return EgressState(
        replicas=tuple(endpoint for service, endpoint in endpoints if service == MODEL),
        provisioners=tuple(endpoint for service, endpoint in endpoints if service != MODEL),
        tunnels=()
        if driver in BY_ADDRESS
        else tuple(AdmittedSite(site, _fingerprints(kept, site)) for site in members),
    )


def what_changed(former: EgressState | None, state: EgressState) -> str:
    """Tells in a few words what sets two states apart, such as "site hospital-a admitted"."""
    if former is None:
        return "the service started"
    words = [
        *_differences("site {} {}", {one.id: one for one in former.tunnels}, {one.id: one for one in state.tunnels}),
        *_differences("replica {} {}", _by_key(former.replicas), _by_key(state.replicas)),
        *_differences("provisioner {} {}", _by_key(former.provisioners), _by_key(state.provisioners)),
    ]
    return ", ".join(words[:3]) + (f" and {len(words) - 3} more" if len(words) > 3 else "") or "the order changed"


def _fingerprints(kept: KeptNetwork, site: str) -> tuple[str, ...]:
    return kept.certificates[site].gateway if site in kept.certificates else ()


def _endpoint(connector: Connector, priority: int, address: str) -> Endpoint:
    return Endpoint(
        routing_key=connector.routing_key,
        site=connector.site,
        # What a connection through a site's tunnels meets first.
        service=connector.service if address else GATEWAY,
        tenant=connector.tenant,
        priority=priority,
        address=address,
    )


def _by_key(endpoints: tuple[Endpoint, ...]) -> Mapping[str, object]:
    return {endpoint.routing_key: endpoint for endpoint in endpoints}


def _differences(words: str, former: Mapping[str, object], now: Mapping[str, object]) -> list[str]:
    return [
        *(words.format(key, "added") for key in now if key not in former),
        *(words.format(key, "removed") for key in former if key not in now),
        *(words.format(key, "changed") for key in now if key in former and now[key] != former[key]),
    ]
