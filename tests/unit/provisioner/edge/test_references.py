"""What names something that is not there is found before an Envoy is told of it."""

import copy
from collections.abc import Callable

import pytest

from redoma_provisioner.edge.references import DanglingReference, check_references
from redoma_provisioner.edge.snapshot import CLUSTER, ENDPOINTS, LISTENER, ROUTES, SECRET, Config, Snapshot
from tests.unit.provisioner.edge.sites import an_edge, an_egress, busy

Resources = dict[str, dict[str, Config]]


def broken(snapshot: Snapshot, change: Callable[[Resources], object]) -> str:
    """Changes a snapshot that is whole, and gives why it is refused."""
    check_references(snapshot)
    resources: Resources = copy.deepcopy({key: dict(named) for key, named in snapshot.resources.items()})
    change(resources)
    with pytest.raises(DanglingReference) as refused:
        check_references(Snapshot(resources))
    return str(refused.value)


@pytest.mark.parametrize(
    ("type_url", "name", "words"),
    [
        (CLUSTER, "models", "RouteConfiguration services names the Cluster models"),
        (CLUSTER, "models/acme", "RouteConfiguration services names the Cluster models/acme"),
        (CLUSTER, "tunnel/hospital-a", "Listener replica-hospital-a."),
        (ENDPOINTS, "models", "Cluster models names the ClusterLoadAssignment models"),
        (ROUTES, "services", "Listener services names the RouteConfiguration services"),
        (SECRET, "identity", "names the Secret identity"),
        (SECRET, "authorities", "names the Secret authorities"),
        (LISTENER, "replica-hospital-a.model-0", "names the socket replica-hospital-a.model-0.sock"),
    ],
)
def test_each_part_of_the_egress_is_missed(type_url: str, name: str, words: str) -> None:
    assert words in broken(an_egress(busy()), lambda resources: resources[type_url].pop(name))


@pytest.mark.parametrize(
    ("type_url", "name", "words"),
    [
        (CLUSTER, "tenant", "Listener edge names the Cluster tenant"),
        (CLUSTER, "answering", "Listener edge names the Cluster answering"),
        (CLUSTER, "chat", "names the Cluster chat"),
        (CLUSTER, "egress", "RouteConfiguration edge names the Cluster egress"),
        (CLUSTER, "provisioner", "RouteConfiguration edge names the Cluster provisioner"),
        (ROUTES, "edge", "Listener edge names the RouteConfiguration edge"),
    ],
)
def test_each_part_of_the_edge_is_missed(type_url: str, name: str, words: str) -> None:
    assert words in broken(an_edge(), lambda resources: resources[type_url].pop(name))


def test_endpoints_of_no_cluster_are_found() -> None:
    def change(resources: Resources) -> None:
        resources[ENDPOINTS]["lost"] = {"cluster_name": "lost"}

    assert broken(an_egress(busy()), change) == "ClusterLoadAssignment lost is of no Cluster."


def test_weighted_and_mirrored_clusters_are_followed() -> None:
    def weigh(resources: Resources) -> None:
        route = resources[ROUTES]["services"]["virtual_hosts"][0]["routes"][0]["route"]
        del route["cluster"]
        route["weighted_clusters"] = {"clusters": [{"name": "models", "weight": 1}, {"name": "lost", "weight": 1}]}

    def mirror(resources: Resources) -> None:
        route = resources[ROUTES]["services"]["virtual_hosts"][0]["routes"][0]["route"]
        route["request_mirror_policies"] = [{"cluster": "lost"}]

    for change in (weigh, mirror):
        assert "names the Cluster lost" in broken(an_egress(busy()), change)


def test_two_listeners_on_one_address_are_found() -> None:
    def change(resources: Resources) -> None:
        resources[LISTENER]["second"] = {**resources[LISTENER]["services"], "name": "second"}

    assert "second and services listen on the same address, 127.0.0.1:4" in broken(an_egress(busy()), change)
