"""Changes are told of, whatever happens to the connection they come by."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

import pytest

from redoma_provisioner.network.driver import NetworkDriver
from tests.cluster.cluster import Cluster
from tests.cluster.kubernetes_lab import KubernetesLab
from tests.fakes.driver_suite import PUBLIC
from tests.fakes.skupper_controller import GROUP, KINDS, VERSION

pytestmark = pytest.mark.cluster
SOON_S = 30.0
QUIET_S = 1.5


class Told:
    """Counts what a driver tells of, and waits for it."""

    def __init__(self) -> None:
        self.count = 0
        self._event = asyncio.Event()

    async def follow(self, driver: NetworkDriver) -> None:
        """Takes every change until it is cancelled."""
        async with aclosing(driver.changes()) as changes:
            async for _ in changes:
                self.count += 1
                self._event.set()

    async def quiet(self) -> None:
        """Waits until nothing was told for a while."""
        while True:
            self._event.clear()
            try:
                async with asyncio.timeout(QUIET_S):
                    await self._event.wait()
            except TimeoutError:
                return

    async def more(self) -> None:
        """Waits for something told after the last `quiet`."""
        async with asyncio.timeout(SOON_S):
            await self._event.wait()


@asynccontextmanager
async def following(driver: NetworkDriver) -> AsyncIterator[Told]:
    """Follows a driver's changes, and has been told of the first."""
    told = Told()
    task = asyncio.create_task(told.follow(driver))
    await told.quiet()
    yield told
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def watchers() -> int:
    """Counts the threads that watch."""
    return sum(thread.name.startswith("watch-") for thread in threading.enumerate())


async def make_listener(lab: KubernetesLab, name: str) -> None:
    """Makes a Listener by another's hand."""
    await lab.create("Listener", PUBLIC, name, {"routingKey": name, "host": name, "port": 80})


async def test_each_change_is_told(lab: KubernetesLab) -> None:
    async with following(await lab.public()) as told:
        await make_listener(lab, "one")
        await told.more()
        await told.quiet()
        namespace = await lab.namespace(PUBLIC)
        delete = lab.objects.delete_namespaced_custom_object
        await asyncio.to_thread(delete, GROUP, VERSION, namespace, KINDS["Listener"], "one")
        await told.more()


async def test_a_killed_api_server_is_followed_again(cluster: Cluster, lab: KubernetesLab) -> None:
    async with following(await lab.public()) as told:
        await lab.take_away()
        await told.quiet()
        await lab.bring_back()
        await told.quiet()
        await make_listener(lab, "after")
        await told.more()


async def test_what_changed_while_it_was_away_and_forgotten_is_told(cluster: Cluster, lab: KubernetesLab) -> None:
    """etcd forgets the versions that the watches would go on from: 410 Gone, and the driver lists anew."""
    async with following(await lab.public()) as told:
        await lab.take_away()
        await lab.bring_back()
        await make_listener(lab, "meanwhile")
        listed = await asyncio.to_thread(lab.core.list_namespaced_config_map, await lab.namespace(PUBLIC))
        await asyncio.to_thread(cluster.compact, int(listed.metadata.resource_version))
        await told.quiet()
        await make_listener(lab, "later")
        await told.more()


async def test_nothing_is_left_of_a_watch_that_ended(lab: KubernetesLab) -> None:
    before = watchers()
    driver = await lab.public()
    for _ in range(3):
        async with following(driver):
            assert watchers() > before
    await driver.close()

    async with asyncio.timeout(SOON_S):
        while watchers() > before:  # noqa: ASYNC110  threads say nothing when they end
            await asyncio.sleep(0.05)
