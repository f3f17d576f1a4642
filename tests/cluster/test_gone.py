"""A watch from a version that is forgotten says so, and a watch that ends says nothing wrong."""

import asyncio

import pytest

from redoma_provisioner.network.drivers.skupper_kubernetes.connection import connect
from redoma_provisioner.network.drivers.skupper_kubernetes.failure import VersionTooOld
from redoma_provisioner.network.drivers.skupper_kubernetes.kinds import LISTENER
from tests.cluster.cluster import Cluster
from tests.cluster.kubernetes_lab import KubernetesLab
from tests.fakes.driver_suite import PUBLIC

pytestmark = pytest.mark.cluster


async def test_a_forgotten_version_is_gone(cluster: Cluster, lab: KubernetesLab) -> None:
    api = connect(cluster.kubeconfig, await lab.namespace(PUBLIC))

    def watch_from_the_beginning() -> None:
        for _ in api.watch(LISTENER, "1"):
            return

    with pytest.raises(VersionTooOld):
        await asyncio.to_thread(watch_from_the_beginning)
    api.close()
