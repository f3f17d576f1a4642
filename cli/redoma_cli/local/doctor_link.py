"""Looks at the link between the sites and at what the Envoys refused."""

from collections.abc import Callable, Iterable, Iterator

import grpc

from redoma.provisioner.v1.condition_pb2 import Condition
from redoma.provisioner.v1.edge_pb2 import ListProxiesRequest, Proxy
from redoma.provisioner.v1.network_pb2 import WatchNetworkResponse
from redoma_cli.client import CALL_TIMEOUT_S, Demo, EdgeClient
from redoma_cli.errors import CliError
from redoma_cli.local.driver import Driver
from redoma_cli.local.finding import Finding, Health
from redoma_cli.local.home import Home
from redoma_cli.local.membership import Failure, MembershipState
from redoma_cli.local.options import Sites
from redoma_cli.local.standing import NOT_RUNNING, REFUSED, own_state
from redoma_cli.network import LinkHealth, find_condition, health_of, health_of_state, links_of, private_sites
from redoma_cli.network import read_network as read_view

NETWORK_TIMEOUT_S = 5.0
# What the provisioner's probe calls it where nothing keeps the gateway from linking.
NOT_DIALLED = "NotDialled"
Probe = Callable[[], Failure]


def link(home: Home, sites: Sites, demo: Demo | None, probe: Probe) -> Iterator[Finding]:
    """Looks at the links, from the public site where it is here, else from the private one's files.

    `probe` dials the public site as the private one's gateway would, and says what is wrong there.
    """
    state = own_state(home)
    if sites.has_public and demo is not None:
        told = _ask(demo)
        if told is not None:
            view, proxies = told
            yield from _links(probe, sites, state, view)
            yield from refusals(proxies)
            return
        sentence = "The provisioner can't be asked for the network."
        yield Finding(
            "network", Health.BAD, sentence, "See which process is not ready above; `redoma logs provisioner`"
        )
    if sites.has_private and not state.linked:
        yield from _unlinked(probe, state, health_of_state(state))
    elif sites.has_private:
        yield Finding("link", Health.GOOD, f"site {state.site} is linked to {state.link_address}")


def _ask(demo: Demo) -> tuple[WatchNetworkResponse, Iterable[Proxy]] | None:
    try:
        with EdgeClient(demo.edge, demo.admin_key) as client:
            view = read_view(client, NETWORK_TIMEOUT_S)
            proxies = client.proxies.ListProxies(ListProxiesRequest(), timeout=CALL_TIMEOUT_S).proxies
    except (grpc.RpcError, CliError):
        return None
    return view, proxies


def _links(probe: Probe, sites: Sites, state: MembershipState, view: WatchNetworkResponse) -> Iterator[Finding]:
    found = private_sites(view)
    if not found:
        yield Finding("link", Health.WARNING, "No private site has joined.", "redoma van grant --site NAME")
    for site in found:
        health = health_of(site, links_of(view, site))
        if health.linked:
            tunnels = f", {health.tunnels} tunnels" if health.tunnels else ""
            yield Finding("link", Health.GOOD, f"site {health.site} is linked{tunnels}")
        elif health.word == "Revoked":
            mend = f"To let it in anew: redoma van delete {health.site}; then: redoma van grant --site {health.site}"
            bad = sites.has_private and state.site == health.site
            yield Finding("link", Health.BAD if bad else Health.WARNING, f"Site {health.site} was revoked.", mend)
        elif health.word == "Invited":
            yield Finding("link", Health.WARNING, f"Site {health.site}: {health.sentence}", health.mend)
        elif sites.has_private and state.site == health.site:
            yield from _unlinked(probe, state, health)
        else:
            yield Finding("link", Health.BAD, f"Site {health.site}: {health.sentence}", _there(health.site))
        yield from _clock_of(site.conditions, health.site)


def _clock_of(conditions: Iterable[Condition], site: str) -> Iterator[Finding]:
    told = find_condition(conditions, "ClockInStep")
    if told is not None and told.status == Condition.STATUS_FALSE:
        mend = "Set the clock that is wrong, and keep it set: timedatectl set-ntp true"
        yield Finding("clock", Health.BAD, told.message or f"Site {site}'s clock and this one differ.", mend)


def _unlinked(probe: Probe, state: MembershipState, health: LinkHealth) -> Iterator[Finding]:
    """Says why the private site of this machine is not linked, by dialling as its gateway would."""
    site, address = state.site, state.link_address
    if not site or not address:
        yield Finding("link", Health.BAD, health.sentence or "The private site has not joined.", health.mend)
        return
    if state.driver not in ("", Driver.EMBEDDED):
        # Its routers dial, not this site's processes.
        mend = health.mend or "`redoma van status` and `redoma logs private-provisioner` say more"
        yield Finding("link", Health.BAD, f"Over {state.driver}: {health.sentence}", mend)
        return
    try:
        problem = probe()
    except (CliError, OSError) as error:
        mend = error.mend if isinstance(error, CliError) else ""
        yield Finding("link", Health.BAD, health.sentence or str(error), health.mend or mend or _rejoin(site))
        return
    if problem.reason == NOT_DIALLED:
        sentence = problem.message if state.error is None or state.error.reason != NOT_RUNNING else health.sentence
        mend = health.mend or "Look at the Envoys above; `redoma logs gateway` and `redoma van status` say more"
        yield Finding("link", Health.BAD, sentence, mend)
        return
    mend = _rejoin(site) if problem.reason in REFUSED else "At its end: redoma doctor, on the public site's machine"
    yield Finding("link", Health.BAD, problem.message, mend)


def refusals(proxies: Iterable[Proxy]) -> Iterator[Finding]:
    """Tells what Envoys refused, and which are not connected to the control plane."""
    quiet = True
    for proxy in proxies:
        name = proxy.name.rsplit("/", 1)[-1]
        for kind in proxy.types:
            if kind.refusal:
                quiet = False
                short = kind.type_url.rsplit(".", 1)[-1]
                sentence = f"{name} refused its last {short} and keeps the former ones: {kind.refusal}"
                yield Finding("envoy config", Health.BAD, sentence, f"See what it was sent: redoma van proxies {name}")
        if proxy.withheld:
            quiet = False
            yield Finding("envoy config", Health.BAD, f"{name}: {proxy.withheld}", "redoma logs provisioner")
        if not proxy.connected:
            quiet = False
            sentence = f"{name} is not connected to its provisioner; it serves on as it was."
            yield Finding("envoy config", Health.BAD, sentence, f"redoma logs {name}; redoma logs provisioner")
    if quiet:
        yield Finding("envoy config", Health.GOOD, "accepted by every Envoy")


def _rejoin(site: str) -> str:
    return (
        f"On the public site: redoma van grant --site {site} --rejoin (after redoma van delete {site}, if it was "
        "revoked); then here: redoma van join TOKEN"
    )


def _there(site: str) -> str:
    return f"On the machine of {site}: redoma doctor"
