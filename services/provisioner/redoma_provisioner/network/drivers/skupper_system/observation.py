"""From what Skupper says, and what a probe finds, to conditions that say why and what to do.

Skupper's statuses lag by up to 30 s, stand still while its system controller is down, and call every failure of a link
"Not operational". So nothing is taken from them alone that a connection can tell.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from redoma_provisioner.network.condition import Condition
from redoma_provisioner.network.driver import ObservedConnector, ObservedLink, ObservedListener
from redoma_provisioner.network.drivers.skupper.probe import Trust
from redoma_provisioner.network.drivers.skupper.resource import Endpoint
from redoma_provisioner.network.drivers.skupper.status import PeerSite, Told

AGAIN = "The provisioner tries again by itself."


@dataclass(frozen=True, slots=True)
class Ground:
    """What holds for all of a site.

    Attributes:
        started: Whether the site was ever started.
        router_up: Whether its router listens.
        controller: Whether the system controller runs; None where that can't be known.
        how_to_start: Sentences on starting the router.
        how_to_read_log: The command that shows its log.
        how_to_run_controller: What starts the controller.
    """

    started: bool
    router_up: bool
    controller: bool | None
    how_to_start: str
    how_to_read_log: str
    how_to_run_controller: str

    @property
    def current(self) -> bool:
        """Whether what Skupper says can be of now."""
        return self.controller is not False

    def down(self, type_: str) -> Condition | None:
        """Gives what is said where there is no running router to ask; None where there is one."""
        if not self.started:
            return Condition(type_, False, "NotStarted", f"Skupper's site is not started yet. {AGAIN}")
        if not self.router_up:
            return Condition(type_, False, "RouterDown", f"Skupper's router does not run. {self.how_to_start}")
        return None

    def frozen(self, type_: str) -> Condition:
        """Gives what is said where statuses stand still."""
        return Condition(
            type_,
            None,
            "ControllerNotRunning",
            "Skupper's system controller does not run, so its statuses stand still. "
            f"Start it: {self.how_to_run_controller}.",
        )


@dataclass(frozen=True, slots=True)
class LinkFindings:
    """What was found of a private site's link: Skupper's word on it, and how far each endpoint could be reached."""

    told: Told = field(default_factory=Told)
    probed: Sequence[tuple[Endpoint, Trust]] = ()


def configured(wanted: bool, taken_up: bool, ground: Ground) -> Condition:
    """Says whether a resource is written and Skupper runs on it."""
    if not wanted:
        return Condition("Configured", False, "NotApplied", f"It is not applied yet. {AGAIN}")
    if not taken_up:
        return Condition(
            "Configured", False, "NotTakenUp", f"It is written, and Skupper has not taken it up yet. {AGAIN}"
        )
    return ground.down("Configured") or Condition("Configured", True, "Configured")


def private_link(base: Condition, findings: LinkFindings, ground: Ground) -> ObservedLink:
    """Says how a private site's link is."""
    operational = _private_operational(base, findings, ground)
    return ObservedLink((base, operational), 1 if operational.holds else 0)


def public_link(base: Condition, peer: PeerSite | None, reached: bool, ground: Ground) -> ObservedLink:
    """Says how the link of an admitted site is: its listeners prove it, else Skupper's picture of the network tells.

    Args:
        base: Whether the site has an access to link by.
        peer: The site in that picture.
        reached: Whether any of the site's listeners could be reached just now.
        ground: What holds for all of the site.
    """
    links = max(1, peer.operational_links if peer else 0)
    down = ground.down("Operational")
    if reached:
        return ObservedLink((base, Condition("Operational", True, "Operational")), links)
    if down is not None or base.holds is False:
        told = down or Condition("Operational", False, base.reason, base.message)
        return ObservedLink((base, told))
    if not ground.current:
        return ObservedLink((base, ground.frozen("Operational")))
    if peer is not None and peer.operational_links:
        return ObservedLink((base, Condition("Operational", True, "Operational")), links)
    message = (
        "No router of that site is linked. On that site, look at `redoma van status`: "
        "it says whether this machine can be reached from there and is trusted."
    )
    return ObservedLink((base, Condition("Operational", False, "NotLinked", message)))


def listener(base: Condition, told: Told, reached: bool, address: str, ground: Ground) -> ObservedListener:
    """Says how a listener is; its port is open while a connector of its key can be reached."""
    down = ground.down("Reachable")
    if reached:
        reachable = Condition("Reachable", True, "Reachable")
    elif down is not None:
        reachable = down
    else:
        reachable = Condition(
            "Reachable",
            False,
            "NothingListens" if base.holds else base.reason,
            f"{address or 'Its port'} is closed, as it is while no connector of its key is linked. "
            "Look at the site's link, and on that site at `redoma van status`.",
        )
    return ObservedListener((base, _matched(told, "connector", reached, ground), reachable), address)


def connector(base: Condition, told: Told, ground: Ground) -> ObservedConnector:
    """Says how a connector is."""
    return ObservedConnector((base, _matched(told, "listener", False, ground)))


def _matched(told: Told, other: str, proven: bool, ground: Ground) -> Condition:
    if proven:
        return Condition("Matched", True, "Matched")
    down = ground.down("Matched")
    if down is not None:
        return down
    if not ground.current:
        return ground.frozen("Matched")
    if told.holds:
        return Condition("Matched", True, "Matched")
    return Condition(
        "Matched",
        False,
        f"NoMatching{other.title()}",
        f"Skupper knows of no {other} of this routing key; it notices within 10 s. "
        f"Look whether the link is operational, and whether the other site wants the {other}.",
    )


def _private_operational(base: Condition, findings: LinkFindings, ground: Ground) -> Condition:
    down = ground.down("Operational")
    if down is not None:
        return down
    if base.holds is False:
        return Condition("Operational", False, base.reason, base.message)
    if findings.told.holds and ground.current:
        return Condition("Operational", True, "Operational")
    for endpoint, trust in findings.probed:
        place = f"{endpoint.host}:{endpoint.port}"
        if trust is Trust.UNREACHABLE:
            message = (
                f"{place} can't be reached from here. Check that the public site's router runs, "
                f"and that firewalls let this machine dial {place}."
            )
            return Condition("Operational", False, "EndpointUnreachable", message)
        if trust is Trust.UNTRUSTED:
            message = (
                f"{place} shows a certificate of another authority than this link was made with: "
                "the site was revoked or made anew there, or another machine answers. "
                "Join again with a new token: redoma van grant --site SITE on the public site."
            )
            return Condition("Operational", False, "EndpointNotTrusted", message)
    if not ground.current:
        return ground.frozen("Operational")
    return Condition(
        "Operational",
        False,
        "LinkPending",
        "The public site answers with a certificate of the link's authority, and the routers are not linked yet. "
        f"They link within 20 s; if they do not, the router's log says why: {ground.how_to_read_log}.",
    )


def manifest_of(found: Sequence[Mapping[str, object]], name: str) -> Mapping[str, object]:
    """Gives the resource of a name among those that a status command printed; empty where it is not there."""
    for one in found:
        metadata = one.get("metadata")
        if isinstance(metadata, Mapping) and metadata.get("name") == name:
            return one
    return {}
