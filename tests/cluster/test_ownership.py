"""What is Redoma's is taken back, what is not is left, and all of it goes with its owner."""

import asyncio
from dataclasses import replace
from functools import partial

import pytest
from kubernetes.client import ApiException

from redoma_provisioner.network.driver import (
    AdmittedSite,
    DesiredListener,
    DesiredNetwork,
    DriverRefused,
)
from redoma_provisioner.network.drivers.skupper.name import object_name
from redoma_provisioner.network.drivers.skupper_kubernetes.driver import Options
from tests.cluster.cluster import Cluster, wait_until
from tests.cluster.kubernetes_lab import STRANGER, KubernetesLab, kubernetes_lab
from tests.fakes.driver_suite import PUBLIC, comes_true, holds, join, leave
from tests.fakes.skupper_controller import GROUP, KINDS, VERSION, SkupperStandIn

pytestmark = pytest.mark.cluster
KEY = "hospital-a.model-0"
NAME = object_name(KEY)
COLLECTED_S = 120.0


async def patch(lab: KubernetesLab, kind: str, site: str, name: str, body: dict[str, object]) -> None:
    """Changes a resource by another's hand."""
    namespace = await lab.namespace(site)
    call = partial(
        lab.objects.patch_namespaced_custom_object,
        field_manager=STRANGER,
        _content_type="application/merge-patch+json",
    )
    await asyncio.to_thread(call, GROUP, VERSION, namespace, KINDS[kind], name, body)


async def test_a_field_that_another_took_is_taken_back(lab: KubernetesLab) -> None:
    ends = await join(lab)
    await patch(lab, "Listener", PUBLIC, NAME, {"spec": {"port": 4}})
    await ends.apply()
    listener = (await lab.resources("Listener", PUBLIC))[NAME]
    assert listener["spec"]["port"] == Options().port
    await comes_true(lab, ends.is_linked, "linked as before")


async def test_a_field_of_ours_alone_is_forced(lab: KubernetesLab) -> None:
    """What another adds to a resource of ours, and we say nothing of, stays."""
    ends = await join(lab)
    await patch(lab, "Listener", PUBLIC, NAME, {"spec": {"observer": "none", "port": 4}})
    await ends.apply()
    assert (await lab.resources("Listener", PUBLIC))[NAME]["spec"]["observer"] == "none"


async def test_a_resource_of_anothers_under_our_name_is_refused(lab: KubernetesLab) -> None:
    public = await lab.public()
    theirs = {"routingKey": "theirs", "host": "theirs", "port": 80}
    await lab.create("Listener", PUBLIC, NAME, theirs)
    wanted = DesiredNetwork(
        PUBLIC, admitted=(AdmittedSite("hospital-a"),), listeners=(DesiredListener(KEY, "hospital-a"),)
    )
    with pytest.raises(DriverRefused, match="not Redoma's"):
        await public.apply(wanted)
    await public.apply(DesiredNetwork(PUBLIC))
    assert (await lab.resources("Listener", PUBLIC))[NAME]["spec"] == theirs


async def test_a_host_that_another_listener_has_is_refused(lab: KubernetesLab) -> None:
    public = await lab.public()
    await lab.create("Listener", PUBLIC, "theirs", {"routingKey": "theirs", "host": NAME, "port": 80})
    with pytest.raises(DriverRefused, match="another host"):
        await public.apply(DesiredNetwork(PUBLIC, listeners=(DesiredListener(KEY, "hospital-a"),)))


async def test_a_site_of_the_users_is_used_and_stays(lab: KubernetesLab) -> None:
    """A second Site would be refused by Skupper; the user's has no way in, so one is added to it."""
    await lab.create("Site", PUBLIC, "mine", {})
    await lab.create("Site", "hospital-a", "also-mine", {"ha": True})
    before = {site: (await lab.resources("Site", site)).keys() for site in (PUBLIC, "hospital-a")}
    ends = await join(lab)
    assert {site: (await lab.resources("Site", site)).keys() for site in before} == before
    await leave(ends)
    sites = await lab.resources("Site", "hospital-a")
    assert sites.keys() == {"also-mine"}
    assert sites["also-mine"]["spec"] == {"ha": True}
    assert not await lab.resources("Link", "hospital-a")
    assert not await lab.resources("RouterAccess", PUBLIC)


async def test_a_way_in_of_the_users_is_used(lab: KubernetesLab) -> None:
    await lab.create("Site", PUBLIC, "mine", {"linkAccess": "default"})
    await join(lab)
    assert not await lab.resources("RouterAccess", PUBLIC)


async def test_an_uninstall_leaves_nothing(lab: KubernetesLab) -> None:
    """The cluster collects everything with the owner, also the Link that Skupper made for a Site of the user's."""
    await lab.create("Site", "hospital-a", "mine", {})
    ends = await join(lab, models=2)
    for site in (PUBLIC, "hospital-a"):
        namespace = await lab.namespace(site)
        await asyncio.to_thread(lab.core.delete_namespaced_config_map, f"redoma-{site}", namespace)
    await ends.public.close()
    await ends.private.close()

    def left() -> list[str]:
        return [name for name in asyncio.run(lab.inventory()) if name != "hospital-a/Site/mine"]

    await asyncio.to_thread(wait_until, lambda: not left(), "all is collected", COLLECTED_S)
    assert "mine" in await lab.resources("Site", "hospital-a")


async def test_all_is_owned_by_what_the_settings_name(cluster: Cluster, skupper: SkupperStandIn) -> None:
    async with kubernetes_lab(cluster, skupper, Options(owner="configmap/release")) as lab:
        public = await lab.public()
        wanted = DesiredNetwork(PUBLIC, listeners=(DesiredListener(KEY, "hospital-a"),))
        with pytest.raises(DriverRefused, match=r"driver\.owner names the ConfigMap release"):
            await public.apply(wanted)
        body = {"metadata": {"name": "release"}}
        await asyncio.to_thread(lab.core.create_namespaced_config_map, await lab.namespace(PUBLIC), body)
        await public.apply(wanted)
        (owner,) = (await lab.resources("Listener", PUBLIC))[NAME]["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["name"]) == ("ConfigMap", "release")
        await public.apply(DesiredNetwork(PUBLIC))
        assert await asyncio.to_thread(lab.core.read_namespaced_config_map, "release", await lab.namespace(PUBLIC)), (
            "the owner is not ours to delete"
        )


async def test_what_was_deleted_by_hand_is_made_again(lab: KubernetesLab) -> None:
    ends = await join(lab)
    delete = lab.objects.delete_namespaced_custom_object
    await asyncio.to_thread(delete, GROUP, VERSION, await lab.namespace(PUBLIC), KINDS["Listener"], NAME)
    seen = await ends.seen_here()
    assert holds(seen.listeners[KEY].conditions, "Configured") is False
    await ends.apply()
    await comes_true(lab, ends.is_linked, "linked as before")


async def test_many_write_at_once(lab: KubernetesLab) -> None:
    """Replicas of the provisioner apply the same at the same time, and one that lags deletes nothing of a later one."""
    first, second, third = [await lab.public() for _ in range(3)]
    listeners = tuple(DesiredListener(f"hospital-a.model-{number}", "hospital-a") for number in range(8))
    wanted = DesiredNetwork(PUBLIC, listeners=listeners)
    await asyncio.gather(first.apply(wanted), second.apply(wanted), third.apply(replace(wanted, admitted=())))
    assert len(await lab.resources("Listener", PUBLIC)) == len(listeners)


async def test_a_missing_namespace_is_told(lab: KubernetesLab) -> None:
    public = await lab.public()
    namespace = await lab.namespace(PUBLIC)
    await asyncio.to_thread(lab.core.delete_namespace, namespace)

    def is_gone() -> bool:
        try:
            lab.core.read_namespace(namespace)
        except ApiException as error:
            return bool(error.status == 404)
        return False

    await asyncio.to_thread(wait_until, is_gone, "the namespace is gone", COLLECTED_S)
    with pytest.raises(DriverRefused, match=f"kubectl create namespace {namespace}"):
        await public.apply(DesiredNetwork(PUBLIC, listeners=(DesiredListener(KEY, "hospital-a"),)))
    lab.forget(PUBLIC)
