"""What the public end says of links and listeners."""

from collections.abc import Mapping, Sequence

from redoma_provisioner.network.condition import CONFIGURED, MATCHED, OPERATIONAL, REACHABLE, Condition
from redoma_provisioner.network.driver import AdmittedSite, DesiredListener
from redoma_provisioner.network.drivers.embedded.egress_calls import Reach

EGRESS_AWAY = "The egress does not answer: look whether it runs, and at its log (`redoma status`)."
# The gateway was there to say so, or more.
_THROUGH_THE_LINK = frozenset({Reach.ANSWERS, Reach.NO_SERVICE, Reach.NOT_EXPOSED})


def link_conditions(
    site: AdmittedSite, tunnels: int | None, reaches: Sequence[Reach], address: str
) -> tuple[Condition, ...]:
    """Says how the link of a site is.

    Args:
        site: The site.
        tunnels: How many tunnels it has; None is not known.
        reaches: What came of calls to its services.
        address: host:port where sites link.
    """
    return (_configured(site), _operational(site.id, tunnels, reaches, address))


def _configured(site: AdmittedSite) -> Condition:
    if site.certificates:
        return Condition(CONFIGURED, True, "Admitted")
    message = (
        f"The gateway of {site.id} has no certificate that counts: let it join anew with a token of "
        f"`redoma van grant --site {site.id} --rejoin`."
    )
    return Condition(CONFIGURED, False, "NoCertificate", message)


def _operational(site: str, tunnels: int | None, reaches: Sequence[Reach], address: str) -> Condition:
    if any(reach in _THROUGH_THE_LINK for reach in reaches):
        return Condition(OPERATIONAL, True, "Answers")
    if Reach.EGRESS_AWAY in reaches:
        return Condition(OPERATIONAL, False, "EgressAway", EGRESS_AWAY)
    if tunnels == 0 or (tunnels is None and Reach.NO_TUNNEL in reaches):
        message = (
            f"No tunnel from {site}: its gateway does not run, can't reach {address}, or its certificate is refused. "
            "`redoma van status` there says which."
        )
        return Condition(OPERATIONAL, False, "NoTunnels", message)
    if reaches and all(reach is Reach.SILENT for reach in reaches):
        message = f"{site} has tunnels, but nothing answers through them: look at its gateway, and at the link to it."
        return Condition(OPERATIONAL, False, "NoAnswer", message)
    if tunnels:
        return Condition(OPERATIONAL, True, "TunnelsUp")
    return Condition(OPERATIONAL, None, "NotKnown", f"Nothing of {site} was called yet; that takes a moment.")


def listener_conditions(listener: DesiredListener, reach: Reach) -> tuple[Condition, ...]:
    """Says how a listener is, from what came of a call to it."""
    return (_served(reach), _matched(listener, reach), _reachable(listener, reach))


def _served(reach: Reach) -> Condition:
    if reach is Reach.EGRESS_AWAY:
        return Condition(CONFIGURED, None, "EgressAway", EGRESS_AWAY)
    if reach is Reach.UNKNOWN_TO_EGRESS:
        message = "The egress does not know it yet: `redoma van proxies` says what it has."
        return Condition(CONFIGURED, False, "NotServed", message)
    return Condition(CONFIGURED, True, "Served")


def _matched(listener: DesiredListener, reach: Reach) -> Condition:
    if reach in (Reach.ANSWERS, Reach.NO_SERVICE):
        return Condition(MATCHED, True, "Exposed")
    if reach is Reach.NOT_EXPOSED:
        message = f"{listener.site} exposes no {listener.routing_key}: see `exposed` in its provisioner's settings."
        return Condition(MATCHED, False, "NotExposed", message)
    return Condition(MATCHED, None, "NotLinked", f"{listener.site} can't be asked, as it does not answer.")


_UNREACHABLE: Mapping[Reach, tuple[str, str]] = {
    Reach.NO_TUNNEL: ("NoTunnels", "No tunnel of {site} carries calls: see its link."),
    Reach.NOT_EXPOSED: ("NotExposed", "{site} exposes nothing of that routing key."),
    Reach.NO_SERVICE: ("ServiceDown", "Nothing answers there in {site}: look whether the service runs."),
    Reach.SILENT: ("NoAnswer", "A call got no answer in time: the service or the link to {site} hangs."),
    Reach.UNKNOWN_TO_EGRESS: ("NotServed", "The egress does not know it yet."),
    Reach.EGRESS_AWAY: ("EgressAway", EGRESS_AWAY),
}


def _reachable(listener: DesiredListener, reach: Reach) -> Condition:
    if reach is Reach.ANSWERS:
        return Condition(REACHABLE, True, "Answers")
    reason, message = _UNREACHABLE[reach]
    return Condition(REACHABLE, False, reason, message.format(site=listener.site))
