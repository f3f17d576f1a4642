"""What the Envoys are served: the same for the same state, whole, and without a key in it."""

import json
import random
from pathlib import Path

import pytest

from redoma_provisioner.edge.bootstrap import bootstrap, bootstrap_secrets
from redoma_provisioner.edge.encoding import Encoder, envoy_descriptors
from redoma_provisioner.edge.references import check_references
from redoma_provisioner.edge.resources.clusters import InvalidAddress, address_of, service_cluster
from redoma_provisioner.edge.resources.parts import DuplicateResource
from redoma_provisioner.edge.resources.tls import watched_directory
from redoma_provisioner.edge.snapshot import CLUSTER, ENDPOINTS, LISTENER, ROUTES, SECRET, Snapshot
from redoma_provisioner.edge.state import EgressState
from redoma_provisioner.errors import CannotStart
from redoma_provisioner.network.driver import AdmittedSite
from tests.conftest import TestPki
from tests.fakes.control_plane import settings_of
from tests.unit.provisioner.edge.sites import an_edge, an_egress, busy, edge_settings, skupper, tunnelled, upstream


@pytest.mark.parametrize(
    "snapshot", [an_edge(), an_edge(Path("public")), an_egress(EgressState()), an_egress(busy())], ids=str
)
def test_all_that_is_made_is_envoys_and_whole(snapshot: Snapshot) -> None:
    Encoder(envoy_descriptors()).encode_snapshot(snapshot, {})
    check_references(snapshot)


def test_order_of_facts_is_no_other_version() -> None:
    state = busy()
    for seed in range(5):
        shuffled = random.Random(seed)
        replicas, tunnels = list(state.replicas), list(state.tunnels)
        shuffled.shuffle(replicas)
        shuffled.shuffle(tunnels)
        other = EgressState(tuple(replicas), state.provisioners, tuple(tunnels))
        assert an_egress(other).version == an_egress(state).version


def test_listener_of_services_is_the_same_whatever_is_behind() -> None:
    """A changed listener would end what runs on it."""
    before, after = an_egress(EgressState()), an_egress(busy())
    assert before.of(LISTENER)["services"] == after.of(LISTENER)["services"]


def test_secrets_name_files_and_hold_none() -> None:
    for snapshot in (an_edge(Path("public")), an_egress(busy())):
        assert snapshot.of(SECRET)
        identities = [secret for secret in snapshot.of(SECRET).values() if "tls_certificate" in secret]
        assert identities
        for secret in identities:
            assert "inline" not in json.dumps(secret)
            assert "watched_directory" in json.dumps(secret)
        # Of others it says whom to believe, which is no secret.
        assert "private_key" not in json.dumps([one for one in snapshot.of(SECRET).values() if one not in identities])


def test_sites_take_no_file_watch_each_of_which_a_system_has_few() -> None:
    def watches(sites: int) -> int:
        state = EgressState(tunnels=tuple(AdmittedSite(f"site-{number}", ("ab" * 32,)) for number in range(sites)))
        return json.dumps(an_egress(state).resources).count("watched_directory")

    assert watches(200) == watches(1) > 0


def test_watched_folder_is_where_something_is_moved() -> None:
    assert watched_directory(Path("/pki/edge/tls.crt")) == "/pki/edge"
    assert watched_directory(Path("/membership/current/gateway/tls.crt")) == "/membership"


def test_priorities_become_ranks_without_gaps() -> None:
    state = EgressState(replicas=(skupper(0, priority=7), skupper(1, "b", priority=3), skupper(2, "b", priority=7)))
    localities = an_egress(state).of(ENDPOINTS)["models"]["endpoints"]
    found = [(one["priority"], one["locality"]["zone"], len(one["lb_endpoints"])) for one in localities]
    assert found == [(0, "b", 1), (1, "b", 1), (1, "hospital-a", 1)]


def test_tenant_with_replicas_of_its_own_has_a_cluster_that_no_other_tenant_has() -> None:
    snapshot = an_egress(EgressState(replicas=(skupper(0), skupper(1, tenant="acme"))))
    assert [one["cluster_name"] for one in snapshot.of(ENDPOINTS).values()] == [
        "models",
        "models/acme",
        "replica/hospital-a.model-0",
        "replica/hospital-a.model-1",
    ]
    shared = json.dumps(snapshot.of(ENDPOINTS)["models"])
    assert "1000" in shared and "1001" not in shared
    routes = snapshot.of(ROUTES)["services"]["virtual_hosts"][0]["routes"]
    models = [one["route"]["cluster"] for one in routes if one.get("route", {}).get("cluster", "").startswith("models")]
    assert models == ["models/acme", "models"]


def test_endpoint_without_a_mark_can_be_talked_to_by_nobody() -> None:
    cluster = an_egress(EgressState(replicas=(skupper(0), tunnelled(1)))).of(CLUSTER)["models"]
    assert "spiffe://redoma/none/none" in json.dumps(cluster["transport_socket"])
    (tls, pipe) = cluster["transport_socket_matches"]
    assert "spiffe://redoma/hospital-a/model" in json.dumps(tls["transport_socket"])
    assert pipe["match"] == {"peer": "pipe"}


def test_only_what_reached_no_service_is_tried_again() -> None:
    for route in an_egress(busy()).of(ROUTES)["services"]["virtual_hosts"][0]["routes"]:
        policy = route.get("route", {}).get("retry_policy", {})
        tried = set(policy.get("retry_on", "").split(",")) - {""}
        assert tried <= {"connect-failure", "refused-stream", "reset-before-request", "retriable-headers"}


def test_two_endpoints_of_one_routing_key_are_refused() -> None:
    with pytest.raises(DuplicateResource, match=r"replica/hospital-a\.model-0"):
        an_egress(EgressState(replicas=(skupper(0), skupper(0))))


@pytest.mark.parametrize("target", ["", "host", "host:", "host:0", "host:65536", ":1", "host:-1", "host:x"])
def test_address_that_is_none_is_named(target: str) -> None:
    with pytest.raises(InvalidAddress):
        address_of(target)


def test_service_is_found_by_address_name_or_socket() -> None:
    assert service_cluster("c", upstream("chat", 1))["type"] == "STATIC"
    by_name = upstream("chat", 1).model_copy(update={"target": "chat.redoma.svc:1"})
    assert service_cluster("c", by_name)["type"] == "STRICT_DNS"
    by_socket = upstream("chat", 1).model_copy(update={"target": "unix:chat.sock"})
    assert service_cluster("c", by_socket)["type"] == "STATIC"
    with pytest.raises(InvalidAddress, match=r"chat\.public\.redoma"):
        service_cluster("c", by_name.model_copy(update={"server_name": "chat"}))


@pytest.mark.parametrize("incremental", [True, False])
@pytest.mark.parametrize("proxy", ["edge", "egress"])
def test_envoy_is_started_with_its_name_and_site_and_no_key(pki: TestPki, proxy: str, incremental: bool) -> None:
    files = {name: pki.tls("public", name) for name in ("edge", "egress")}
    provisioner = pki.tls("public", "provisioner")
    edge = edge_settings().model_dump(mode="json")
    settings = settings_of("public", "127.0.0.1:3", provisioner, files, edge=edge)
    config = json.loads(bootstrap(settings, proxy, incremental))
    assert config["node"] == {"id": proxy, "cluster": "public"}
    assert config["dynamic_resources"]["ads_config"]["api_type"] == ("DELTA_GRPC" if incremental else "GRPC")
    secrets = bootstrap_secrets(settings, proxy)
    assert str(files[proxy].key_file) in secrets
    assert "inline" not in secrets and "PRIVATE KEY" not in secrets


def test_envoy_without_an_identity_is_not_started(pki: TestPki) -> None:
    settings = settings_of("public", "127.0.0.1:3", pki.tls("public", "provisioner"), {})
    with pytest.raises(CannotStart, match=r"proxies\.edge"):
        bootstrap(settings, "edge")
