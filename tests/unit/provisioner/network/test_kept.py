"""Whatever the database says, the egress leads to members of the network only, and to each of their services."""

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from redoma_provisioner.edge.state import EgressState
from redoma_provisioner.network.driver import DriverKind
from redoma_provisioner.network.kept import KeptNetwork, desired_network, egress_state, what_changed
from redoma_provisioner.network.site import Site, SiteCertificates, SiteState
from tests.fakes.memory_network import START, exposed

STATES = st.tuples(st.sampled_from(SiteState), st.sampled_from(DriverKind), st.integers(0, 9), st.integers(0, 3))


def network_of(states: dict[str, tuple[SiteState, DriverKind, int, int]]) -> KeptNetwork:
    """Gives a network with such sites."""
    ids = sorted(states)
    return KeptNetwork(
        tuple(Site(site, "", states[site][0], states[site][1], states[site][2], 1, START) for site in ids),
        tuple(one for site in ids for one in exposed(site, states[site][3])),
        {site: SiteCertificates((site.ljust(64, "0"),), START + timedelta(days=1)) for site in ids},
    )


@given(
    states=st.dictionaries(st.sampled_from(["a", "b", "c", "d"]), STATES),
    driver=st.sampled_from(DriverKind),
    has_address=st.booleans(),
)
def test_only_members_are_admitted_and_led_to(
    states: dict[str, tuple[SiteState, DriverKind, int, int]], driver: DriverKind, has_address: bool
) -> None:
    kept = network_of(states)
    by_skupper = {DriverKind.SKUPPER_KUBERNETES, DriverKind.SKUPPER_SYSTEM}
    linking = by_skupper if driver in by_skupper else {driver}
    members = {site for site, (state, kind, _, _) in states.items() if state is SiteState.JOINED and kind in linking}
    addresses = {one.routing_key: "127.0.0.1:10000" for one in kept.connectors} if has_address else {}
    desired = desired_network(kept, driver)
    state = egress_state(kept, driver, addresses)
    led_to = {endpoint.routing_key: endpoint for endpoint in (*state.replicas, *state.provisioners)}
    by_address = driver in by_skupper
    wanted = {one.routing_key for one in kept.connectors if one.site in members}
    assert {site.id for site in desired.admitted} == members
    assert {listener.routing_key for listener in desired.listeners} == wanted
    assert set(led_to) == (wanted if has_address or not by_address else set())
    assert {tunnel.id for tunnel in state.tunnels} == (set() if by_address else members)
    for endpoint in led_to.values():
        assert endpoint.priority == states[endpoint.site][2]
        assert (endpoint.service == "gateway") is (endpoint.address == "")


def test_what_changed_names_at_most_three() -> None:
    joined = (SiteState.JOINED, DriverKind.FAKE, 0, 1)
    few = egress_state(network_of({"a": joined}), DriverKind.FAKE, {})
    many = egress_state(network_of({"a": joined, "b": joined}), DriverKind.FAKE, {})
    assert what_changed(None, few) == "the service started"
    assert what_changed(few, many) == "site b added, replica b.model-0 added, provisioner b.provisioner added"
    assert what_changed(EgressState(), many).endswith("and 3 more")
    assert what_changed(many, few).startswith("site b removed")
