"""The network at one moment, as people see it: what is wanted, what is there, and why they differ."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from redoma_provisioner.network.condition import (
    CONFIGURED,
    MATCHED,
    OPERATIONAL,
    REACHABLE,
    Condition,
    carried_on,
)
from redoma_provisioner.network.connector import Connector
from redoma_provisioner.network.driver import DriverKind
from redoma_provisioner.network.driving import Observation
from redoma_provisioner.network.kept import KeptNetwork
from redoma_provisioner.network.site import Site
from redoma_provisioner.network.site_conditions import SiteFacts, certificate_expire_time, site_conditions
from redoma_provisioner.network.standings import Standings
from redoma_provisioner.network.told import told, unknown

# As private sites call their one link.
LINK = "public"
SEEN_STEP = timedelta(seconds=10)


@dataclass(frozen=True, slots=True)
class SiteView:
    """A site and how it is."""

    site: Site
    conditions: tuple[Condition, ...]
    certificate_expire_time: datetime | None
    linked: bool


@dataclass(frozen=True, slots=True)
class LinkView:
    """The link of a private site.

    Attributes:
        site: The id of the site that made it.
        driver: What carries it.
        conditions: "Configured" and "Operational".
        tunnels: Connections it consists of now.
        operational_since: When it was last operational without a break since; None: it is not.
    """

    site: str
    driver: DriverKind
    conditions: tuple[Condition, ...]
    tunnels: int
    operational_since: datetime | None

    @property
    def id(self) -> str:
        """Its id in its site."""
        return LINK


@dataclass(frozen=True, slots=True)
class ListenerView:
    """A listener and how it is: "Configured", "Matched" and "Reachable"."""

    routing_key: str
    site: str
    address: str
    conditions: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class ConnectorView:
    """A connector and how it is: "Configured" and "Matched"."""

    connector: Connector
    conditions: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class NetworkView:
    """The whole network; sites and links by the site's id, listeners and connectors by routing key, each in order."""

    sites: Mapping[str, SiteView] = field(default_factory=dict)
    links: Mapping[str, LinkView] = field(default_factory=dict)
    listeners: Mapping[str, ListenerView] = field(default_factory=dict)
    connectors: Mapping[str, ConnectorView] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Sources:
    """What a view is made from.

    Attributes:
        kept: What the database says.
        observation: What the driver saw.
        driver: Which it is.
        standings: How the sites stand.
        trust_sequence: Number of the trust bundle that sites should have.
        now: The time.
    """

    kept: KeptNetwork
    observation: Observation
    driver: DriverKind
    standings: Standings
    trust_sequence: int
    now: datetime


def make_view(sources: Sources, former: NetworkView) -> NetworkView:
    """Gives the network as it is, with the times since when each thing said in `former` still holds."""
    links, listeners = _links(sources, former), _listeners(sources, former)
    facts = _facts(sources, links)
    return NetworkView(
        sites={site.id: _site(site, sources, facts, former) for site in sources.kept.sites},
        links=links,
        listeners=listeners,
        connectors=_connectors(sources, listeners, former),
    )


def site_views(sites: Iterable[Site], sources: Sources, view: NetworkView) -> list[SiteView]:
    """Gives sites that were just read as they are, which `view` may not know yet."""
    facts = _facts(sources, view.links)
    return [_site(site, sources, facts, view) for site in sites]


def _facts(sources: Sources, links: Mapping[str, LinkView]) -> SiteFacts:
    problems = {
        site: condition.message
        for site, link in links.items()
        for condition in link.conditions
        if condition.type == OPERATIONAL and condition.holds is False
    }
    return SiteFacts(sources.driver, sources.trust_sequence, sources.kept.certificates, problems)


def _site(site: Site, sources: Sources, facts: SiteFacts, former: NetworkView) -> SiteView:
    standing = sources.standings.of(site.id)
    seen = former.sites.get(site.id)
    conditions = site_conditions(site, standing, facts, sources.now)
    sequence = site.trust_sequence if standing.report is None else standing.report.trust_sequence
    last_seen_time = _last_seen(
        site.last_seen_time, standing.heard_time, None if seen is None else seen.site.last_seen_time
    )
    return SiteView(
        replace(site, last_seen_time=last_seen_time, trust_sequence=sequence),
        carried_on(sources.now, () if seen is None else seen.conditions, conditions),
        certificate_expire_time(site, standing, facts),
        standing.linked,
    )


def _last_seen(kept: datetime | None, heard: datetime | None, shown: datetime | None) -> datetime | None:
    """Gives when a site was last heard of, to within SEEN_STEP, so that nothing is sent each time that it says so."""
    latest = max((time for time in (kept, heard) if time is not None), default=None)
    if latest is not None and shown is not None and timedelta() <= latest - shown < SEEN_STEP:
        return shown
    return latest


def _links(sources: Sources, former: NetworkView) -> dict[str, LinkView]:
    links = {}
    for site in sources.kept.members(sources.driver):
        observed = sources.observation.network.links.get(site)
        said = () if observed is None else observed.conditions
        seen = former.links.get(site)
        conditions = carried_on(
            sources.now,
            () if seen is None else seen.conditions,
            told(sources.observation, said, (CONFIGURED, OPERATIONAL)),
        )
        since = [one.since for one in conditions if one.type == OPERATIONAL and one.holds is True]
        tunnels = 0 if observed is None else observed.tunnels
        links[site] = LinkView(site, sources.driver, conditions, tunnels, since[0] if since else None)
    return links


def _listeners(sources: Sources, former: NetworkView) -> dict[str, ListenerView]:
    listeners = {}
    members = sources.kept.members(sources.driver)
    for connector in sources.kept.connectors:
        if connector.site not in members:
            continue
        key = connector.routing_key
        observed = sources.observation.network.listeners.get(key)
        seen = former.listeners.get(key)
        said = () if observed is None else observed.conditions
        conditions = carried_on(
            sources.now,
            () if seen is None else seen.conditions,
            told(sources.observation, said, (CONFIGURED, MATCHED, REACHABLE)),
        )
        listeners[key] = ListenerView(key, connector.site, "" if observed is None else observed.address, conditions)
    return listeners


def _connectors(
    sources: Sources, listeners: Mapping[str, ListenerView], former: NetworkView
) -> dict[str, ConnectorView]:
    connectors = {}
    for connector in sources.kept.connectors:
        key = connector.routing_key
        standing = sources.standings.of(connector.site)
        said = () if standing.report is None else standing.report.connector_conditions.get(key, ())
        message = f"{connector.site} does not answer, so it can't say."
        answer = said if standing.linked and said else unknown((CONFIGURED, MATCHED), "NotLinked", message)
        seen = former.connectors.get(key)
        told_here = _matched_here(answer, listeners.get(key))
        conditions = carried_on(sources.now, () if seen is None else seen.conditions, told_here)
        connectors[key] = ConnectorView(connector, conditions)
    return connectors


def _matched_here(conditions: tuple[Condition, ...], listener: ListenerView | None) -> tuple[Condition, ...]:
    """Gives a connector's conditions; where its site can't know whether it is matched, its listener says so."""
    said = () if listener is None else listener.conditions
    matched = next((one for one in said if one.type == MATCHED), None)
    if matched is None:
        return conditions
    return tuple(matched if one.type == MATCHED and one.holds is None else one for one in conditions)
