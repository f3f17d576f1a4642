"""What Skupper says of the network, in the driver's conditions.

"Matched" lags, and stays where a Site is deleted, so it counts only with "Configured", and a port is tried besides.
"""

from dataclasses import dataclass

from redoma_provisioner.network.condition import Condition
from redoma_provisioner.network.driver import ObservedConnector, ObservedLink, ObservedListener
from redoma_provisioner.network.drivers.skupper.name import object_name
from redoma_provisioner.network.drivers.skupper.status import Told, peer_of, peer_sites, told
from redoma_provisioner.network.drivers.skupper_kubernetes.api import Manifest
from redoma_provisioner.network.drivers.skupper_kubernetes.kinds import CONNECTOR, LISTENER
from redoma_provisioner.network.drivers.skupper_kubernetes.known import Known
from redoma_provisioner.network.drivers.skupper_kubernetes.link import lasting_problem, links_of, token_of
from redoma_provisioner.network.drivers.skupper_kubernetes.ownership import part

ROUTER = "skupper-router"
_OF_A_LINK = frozenset({"edge", "inter-router"})


@dataclass(frozen=True, slots=True)
class Sight:
    """What was found in a namespace, and how to tell people where to look."""

    known: Known
    namespace: str

    def admitted(self, site: str) -> ObservedLink:
        """Tells of the link of a private site, as the public one sees it."""
        problem = self.site_problem()
        if not problem and not has_endpoints(self.known.active_site):
            problem = (
                "Skupper's site has no address yet for links to come in. A load balancer takes a while: "
                f"kubectl -n {self.namespace} get services,routeraccesses"
            )
        peer = peer_of(peer_sites(self.known.active_site or {}), site)
        tunnels = peer.operational_links if peer else 0
        why = f"Skupper sees no link of the site {site}. Look there: redoma van status"
        return ObservedLink(
            (
                _condition("Configured", Told(not problem), problem),
                _condition("Operational", Told(tunnels > 0), problem or why),
            ),
            tunnels,
        )

    def link(self, link_id: str) -> ObservedLink:
        """Tells of the link that a private site makes."""
        links, token = links_of(link_id, self.known), token_of(link_id, self.known)
        if not links:
            return ObservedLink(self._link_to_be(token))
        problem = self.site_problem()
        configured, carrying = [_told(one, "Configured") for one in links], [_told(one, "Operational") for one in links]
        up = sum(one.holds is True for one in carrying)
        operational = Told(True) if up else (carrying[0] if carrying[0].holds is False else Told())
        why = (
            "Skupper's router does not get through to the public site. Check that this cluster may dial its address: "
            f"kubectl -n {self.namespace} describe links"
        )
        return ObservedLink(
            (
                _condition("Configured", _worst(configured), problem or "Skupper's controller has not taken it up yet"),
                _condition("Operational", Told(False) if problem else operational, problem or why),
            ),
            up,
        )

    def listener(self, routing_key: str, address: str, reachable: bool) -> ObservedListener:
        """Tells of a listener of the public site."""
        found = self.known.ours(LISTENER).get(object_name(routing_key))
        matched = (
            f"No site exposes {routing_key}. Look at its link and its connector: redoma van status; Skupper says so up "
            "to half a minute late"
        )
        closed = f"{address} does not open; Skupper opens it when a connector can be reached"
        return ObservedListener(
            (
                *self._configured_and_matched(found, matched),
                _condition("Reachable", Told(found is not None and reachable), closed),
            ),
            address,
        )

    def connector(self, routing_key: str, target: str) -> ObservedConnector:
        """Tells of a connector of a private site."""
        found = self.known.ours(CONNECTOR).get(object_name(routing_key))
        picks = found is not None and "selector" in part(found, "spec")
        if picks and not self.site_problem() and _told(found or {}, "Configured").holds is not True:
            why = f"No ready pod has the labels of {target}: kubectl -n {self.namespace} get pods --show-labels"
            return ObservedConnector(
                (_condition("Configured", Told(False), why), _condition("Matched", Told(False), why))
            )
        return ObservedConnector(
            self._configured_and_matched(
                found, f"The public site does not listen for {routing_key} yet, or is not linked"
            )
        )

    def site_problem(self) -> str:
        """Says what keeps the Site from working, without a trailing dot; empty where it works."""
        site = self.known.active_site
        if site is None:
            return "It was not applied yet: the namespace has no Skupper Site"
        configured, running = _told(site, "Configured"), _told(site, "Running")
        if configured.holds is None:
            return (
                "Skupper's controller has said nothing of the Site yet. If that lasts, see whether it runs and watches "
                f"this namespace: kubectl get deployments --all-namespaces; kubectl -n {self.namespace} get sites"
            )
        if configured.holds is False:
            return f"Skupper refused the Site ({_words(configured)}): kubectl -n {self.namespace} describe sites"
        if running.holds is not True:
            return (
                f"Skupper's router does not run yet ({_words(running)}): "
                f"kubectl -n {self.namespace} describe deployment {ROUTER}"
            )
        return ""

    def _configured_and_matched(self, found: Manifest | None, unmatched: str) -> tuple[Condition, Condition]:
        if found is None:
            why = "It was not applied yet"
            return _condition("Configured", Told(False), why), _condition("Matched", Told(False), why)
        problem = self.site_problem()
        configured, matched = _told(found, "Configured"), _told(found, "Matched")
        if configured.holds is not True:
            matched = Told(configured.holds and matched.holds)
        why = problem or "Skupper's controller has not taken it up yet"
        return _condition("Configured", configured, why), _condition("Matched", matched, problem or unmatched)

    def _link_to_be(self, token: Manifest | None) -> tuple[Condition, Condition]:
        if token is None:
            why = "It was not applied yet"
            return _condition("Configured", Told(False), why), _condition("Operational", Told(False), why)
        redeemed, lasting = _told(token, "Redeemed"), lasting_problem(token).rstrip(".")
        why = lasting or self.site_problem() or "Skupper has not redeemed the link's token yet"
        if lasting:
            redeemed = Told(False)
        elif redeemed.holds is True:
            why, redeemed = "The Link that Skupper made is gone; join again with a new token", Told(False)
        return _condition("Configured", redeemed, why), _condition("Operational", Told(False), why)


def has_endpoints(site: Manifest | None) -> bool:
    """Tells whether links can come in to a Site: it knows an address where a router listens for them."""
    endpoints = part(site or {}, "status").get("endpoints")
    found = [one for one in endpoints if isinstance(one, dict)] if isinstance(endpoints, list) else []
    return any(one.get("name") in _OF_A_LINK and one.get("host") for one in found)


def _told(manifest: Manifest, type_: str) -> Told:
    """Gives what is said of a resource as it is; what was said of a former generation is not known."""
    conditions = part(manifest, "status").get("conditions")
    generation = part(manifest, "metadata").get("generation")
    for one in conditions if isinstance(conditions, list) else ():
        if isinstance(one, dict) and one.get("type") == type_:
            seen = one.get("observedGeneration")
            if isinstance(seen, int) and isinstance(generation, int) and seen < generation:
                return Told()
    return told(manifest, type_)


def _worst(each: list[Told]) -> Told:
    return min(each, key=lambda one: {False: 0, None: 1, True: 2}[one.holds])


def _words(said: Told) -> str:
    return " ".join(said.message.split()).rstrip(". ") or "it says no more"


def _condition(type_: str, said: Told, why: str) -> Condition:
    """Gives a condition; `why`, without a trailing dot, is told where it does not hold."""
    if said.holds is True:
        return Condition(type_, True, type_)
    words = _words(said) if said.message else ""
    quoted = f" Skupper says: {words}." if words and words not in why else ""
    return Condition(type_, said.holds, f"Not{type_}" if said.holds is False else "Pending", f"{why}.{quoted}")
