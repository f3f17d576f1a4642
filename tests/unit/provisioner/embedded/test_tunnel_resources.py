"""What the egress and the gateway are served for tunnels: who is pinned to what, and what stays when a site goes."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redoma_kit.settings import UpstreamSettings
from redoma_provisioner.edge.encoding import Encoder, envoy_descriptors
from redoma_provisioner.edge.references import check_references
from redoma_provisioner.edge.resources.egress import egress_snapshot
from redoma_provisioner.edge.resources.gateway import gateway_snapshot
from redoma_provisioner.edge.resources.names import replica_pipe
from redoma_provisioner.edge.snapshot import CLUSTER, LISTENER, SECRET, Snapshot
from redoma_provisioner.edge.state import EgressState, Endpoint, Exposed, GatewayState
from redoma_provisioner.network.driver import AdmittedSite
from redoma_provisioner.settings import EgressSettings, ProxySettings

FILES = ProxySettings(ca_file=Path("/i/ca.crt"), cert_file=Path("/i/tls.crt"), key_file=Path("/i/tls.key"))
SETTINGS = EgressSettings(listen="127.0.0.1:7002", tunnels="0.0.0.0:8443")
PROVISIONER = UpstreamSettings(target="127.0.0.1:7001", server_name="provisioner.public.redoma")
# The longest path of a Unix socket, less its end.
LONGEST_PATH = 107


def egress(*sites: AdmittedSite) -> Snapshot:
    """Gives what the egress is served that admits these, with a model each."""
    replicas = tuple(Endpoint(f"{site.id}.model-0", site.id, "gateway") for site in sites)
    state = EgressState(replicas, (), sites)
    return egress_snapshot(SETTINGS, PROVISIONER, FILES, 600.0, "PEM of the authorities", state)


def admitted(site: str, *digests: str) -> AdmittedSite:
    """Admits a site with certificates of these digests."""
    return AdmittedSite(site, tuple(digest * 64 for digest in digests))


def test_all_of_it_is_valid_and_names_what_is_there() -> None:
    snapshots = [
        egress(),
        egress(admitted("a", "1"), admitted("b", "2", "3")),
        gateway_snapshot(FILES, GatewayState("a", "van.example:8443", (Exposed("a.model-0", "model", "unix:m"),)), 9.0),
        gateway_snapshot(FILES, GatewayState("a", ""), 9.0),
    ]
    for snapshot in snapshots:
        Encoder(envoy_descriptors()).encode_snapshot(snapshot, {})
        check_references(snapshot)


def test_a_tunnel_is_pinned_to_its_site_and_its_certificates() -> None:
    snapshot = egress(admitted("a", "1"), admitted("b", "2"))
    (chain,) = [one for one in snapshot.of(LISTENER)["tunnels"]["filter_chains"] if one["name"] == "a"]
    assert chain["filter_chain_match"]["server_names"] == ["a.site.redoma"]
    assert chain["transport_socket"]["typed_config"]["require_client_certificate"] is True
    (tunnel,) = chain["filters"]
    assert tunnel["typed_config"]["validation"] == {"node_id_format": "a", "cluster_id_format": "a"}
    for where in (chain, snapshot.of(CLUSTER)["tunnel/a"]):
        assert "gateway of a" in json.dumps(where)
        assert "gateway of b" not in json.dumps(where)
    context = snapshot.of(SECRET)["gateway of a"]["validation_context"]
    assert context["verify_certificate_hash"] == ["1" * 64]
    assert context["match_typed_subject_alt_names"] == [
        {"san_type": "URI", "matcher": {"exact": "spiffe://redoma/a/gateway"}}
    ]
    assert context["trusted_ca"] == {"inline_string": "PEM of the authorities"}


def test_new_certificates_change_a_secret_and_nothing_that_carries_calls() -> None:
    former, new = egress(admitted("a", "1")), egress(admitted("a", "1", "2"))
    changed = {
        (kind, name)
        for kind in former.resources
        for name in former.of(kind).keys() | new.of(kind).keys()
        if former.of(kind).get(name) != new.of(kind).get(name)
    }
    assert changed == {(SECRET, "gateway of a")}


def test_a_site_without_a_certificate_that_counts_is_let_in_by_none() -> None:
    context = egress(admitted("a")).of(SECRET)["gateway of a"]["validation_context"]
    assert context["verify_certificate_hash"] == ["0" * 64]


def test_a_site_that_goes_takes_nothing_of_another_with_it() -> None:
    both, one = egress(admitted("a", "1"), admitted("b", "2")), egress(admitted("b", "2"))
    gone = {name for kind in (CLUSTER, LISTENER, SECRET) for name in both.of(kind).keys() - one.of(kind).keys()}
    assert gone == {"tunnel/a", "replica/a.model-0", "replica-a.model-0", "gateway of a"}
    for kind, name in ((CLUSTER, "tunnel/b"), (LISTENER, "replica-b.model-0"), (SECRET, "gateway of b")):
        assert both.of(kind)[name] == one.of(kind)[name]
    chains = [one.of(LISTENER)["tunnels"]["filter_chains"], both.of(LISTENER)["tunnels"]["filter_chains"]]
    assert [chain for chain in chains[1] if chain["name"] != "a"] == chains[0]


def test_no_key_is_in_it() -> None:
    assert "private_key" in json.dumps(egress().of(SECRET))
    assert "inline" not in json.dumps(egress().of(SECRET))


@given(st.integers(1, 40), st.integers(1, 40))
def test_paths_of_sockets_are_short_enough(site: int, connector: int) -> None:
    assert len(replica_pipe(f"{'s' * site}.{'c' * connector}")) <= LONGEST_PATH


def test_the_gateway_dials_with_its_site_and_as_many_tunnels_as_told() -> None:
    snapshot = gateway_snapshot(FILES, GatewayState("a", "van.example:8443", (), tunnels=6), 600.0)
    address = snapshot.of(LISTENER)["tunnel"]["address"]["socket_address"]["address"]
    assert address == "rc://a:a:redoma@egress:6"
    assert not gateway_snapshot(FILES, GatewayState("a", ""), 600.0).of(LISTENER)


@pytest.mark.parametrize("exposed", [(), (Exposed("a.model-0", "model", "unix:model.sock"),)])
def test_the_gateways_listener_is_the_same_whatever_is_exposed(exposed: tuple[Exposed, ...]) -> None:
    bare = gateway_snapshot(FILES, GatewayState("a", "van.example:8443"), 600.0)
    full = gateway_snapshot(FILES, GatewayState("a", "van.example:8443", exposed), 600.0)
    assert bare.of(LISTENER) == full.of(LISTENER)
