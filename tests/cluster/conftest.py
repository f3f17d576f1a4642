"""One cluster for the tests of this folder, which `make test-cluster` runs.

REDOMA_CLUSTER_BINARIES names the folder with what it consists of; without it nothing here is collected.
REDOMA_SKUPPER_CRDS may name a folder with Skupper's own CustomResourceDefinitions, which are used in place of
skupper_crds.yaml.
"""

import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client

from tests.cluster.cluster import Cluster
from tests.cluster.kubernetes_lab import KubernetesLab, documents, kubernetes_lab
from tests.fakes.skupper_controller import SkupperStandIn, admin, wait_for_kinds

BINARIES = os.environ.get("REDOMA_CLUSTER_BINARIES", "")
CRDS = os.environ.get("REDOMA_SKUPPER_CRDS", "")
collect_ignore_glob = [] if BINARIES else ["test_*.py"]


@pytest.fixture(scope="session")
def bare_cluster() -> Iterator[Cluster]:
    """A cluster without Skupper, until `cluster` installs it: ask for it in tests that run before, or alone."""
    with Cluster(Path(BINARIES)) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def cluster(bare_cluster: Cluster) -> Cluster:
    """A cluster that knows Skupper's kinds."""
    install_skupper_kinds(bare_cluster.kubeconfig)
    return bare_cluster


@pytest.fixture(scope="session")
def skupper_session(cluster: Cluster) -> Iterator[SkupperStandIn]:
    """The stand-in for Skupper's controller, for the whole session."""
    stand_in = SkupperStandIn(cluster.kubeconfig)
    stand_in.start()
    yield stand_in
    stand_in.stop()


@pytest.fixture
def skupper(skupper_session: SkupperStandIn) -> Iterator[SkupperStandIn]:
    """The same with no fault in it."""
    yield skupper_session
    skupper_session.cut.clear()
    skupper_session.silent = skupper_session.no_address = False
    skupper_session.refusing_tokens = ""


@pytest.fixture
async def lab(cluster: Cluster, skupper: SkupperStandIn) -> AsyncIterator[KubernetesLab]:
    """A lab of its own namespaces."""
    async with kubernetes_lab(cluster, skupper) as made:
        yield made


def install_skupper_kinds(kubeconfig: Path) -> None:
    """Has the API server know Skupper's kinds: Skupper's own where a folder of them is named, else ours."""
    ours = Path(__file__).with_name("skupper_crds.yaml")
    with tempfile.TemporaryDirectory() as aside:
        folder = Path(CRDS) if CRDS else Path(shutil.copy(ours, aside)).parent
        found = [one for one in documents(folder) if one.get("kind") == "CustomResourceDefinition"]
    assert found, f"no CustomResourceDefinition in {folder}"
    api: Any = client.ApiextensionsV1Api(admin(kubeconfig))
    for one in found:
        api.create_custom_resource_definition(one)
    wait_for_kinds(kubeconfig)
