"""What the public site does of its own to keep out one that it admits no more. What it can't do is said in ADR 0028."""

import asyncio
from dataclasses import replace

import pytest

from redoma_provisioner.network.driver import DesiredNetwork, DriverRefused, DriverUnavailable
from redoma_provisioner.network.drivers.skupper_kubernetes.driver import Options
from tests.cluster.cluster import Cluster
from tests.cluster.kubernetes_lab import KubernetesLab, kubernetes_lab
from tests.fakes.driver_suite import PUBLIC, comes_true, holds, join, join_beside, leave
from tests.fakes.skupper_controller import SkupperStandIn

pytestmark = pytest.mark.cluster


async def test_nothing_leads_to_a_site_that_is_no_longer_admitted(lab: KubernetesLab) -> None:
    """Its listeners and its grant are gone, and the other site's are as they were."""
    first = await join(lab, "hospital-a")
    second = await join_beside(first, "hospital-b")
    wanted = first.wanted_here
    first.wanted_here = second.wanted_here = replace(
        wanted,
        admitted=tuple(one for one in wanted.admitted if one.id != "hospital-a"),
        listeners=tuple(one for one in wanted.listeners if one.site != "hospital-a"),
    )
    await first.public.apply(first.wanted_here)
    assert not [name for name in await lab.resources("Listener", PUBLIC) if name.startswith("hospital-a")]
    assert not [name for name in await lab.resources("AccessGrant", PUBLIC) if "hospital-a" in name]
    assert await second.is_linked()


async def test_a_grant_of_a_revoked_site_lets_nobody_in(lab: KubernetesLab) -> None:
    """Neither one that was not used when the site was revoked, nor one that another replaced."""
    ends = await join(lab)
    replaced = await ends.public.invite("hospital-a", 600.0)
    unused = await ends.public.invite("hospital-a", 600.0)
    await ends.apply()
    assert len(await lab.resources("AccessGrant", PUBLIC)) == 1, "one replaces the other"
    await leave(ends)
    assert not await lab.resources("AccessGrant", PUBLIC)
    for token in (replaced, unused):
        again = DesiredNetwork("hospital-a", links=(await lab.link("hospital-a", token),))
        await ends.private.apply(again)
        with pytest.raises(DriverRefused, match=r"used up or has expired.*redoma van grant"):
            await ends.private.apply(again)
        await ends.private.apply(DesiredNetwork("hospital-a"))
    assert not await lab.inventory()


async def test_a_token_lets_in_one(lab: KubernetesLab) -> None:
    public, first, second = await lab.public(), await lab.private("hospital-a"), await lab.private("hospital-b")
    token = await public.invite("hospital-a", 600.0)
    await first.apply(DesiredNetwork("hospital-a", links=(await lab.link("hospital-a", token),)))
    wanted = DesiredNetwork("hospital-b", links=(await lab.link("hospital-b", token),))
    await second.apply(wanted)
    seen = (await second.observe(wanted)).links["main"].conditions
    assert holds(seen, "Configured") is False
    assert any("used up" in condition.message for condition in seen)


async def test_an_invitation_outlives_a_round_of_the_reconciler(lab: KubernetesLab) -> None:
    """Between invitation and admission nothing is wanted yet; what the newcomer needs stays all the same."""
    public = await lab.public()
    await public.invite("hospital-a", 600.0)
    before = await lab.inventory()
    assert before
    await public.apply(DesiredNetwork(PUBLIC))
    assert await lab.inventory() == before


async def test_an_invitation_that_is_over_leaves_nothing(lab: KubernetesLab) -> None:
    public = await lab.public()
    await public.invite("hospital-a", 1.0)
    await asyncio.sleep(1.1)
    await public.apply(DesiredNetwork(PUBLIC))
    assert not await lab.inventory()


async def test_a_site_without_an_address_invites_nobody(cluster: Cluster, skupper: SkupperStandIn) -> None:
    """A token redeemed now would be used up for nothing; the Site stays, so that it gets its address meanwhile."""
    async with kubernetes_lab(cluster, skupper, Options(ready_s=1.0)) as lab:
        public = await lab.public()
        skupper.no_address = True
        with pytest.raises(DriverUnavailable, match=r"no address yet.*kubectl"):
            await public.invite("hospital-a", 600.0)
        await public.apply(DesiredNetwork(PUBLIC))
        assert await lab.resources("Site", PUBLIC)
        skupper.no_address = False

        async def is_invited() -> bool:
            try:
                return "code:" in await public.invite("hospital-a", 600.0)
            except DriverUnavailable:
                return False

        await comes_true(lab, is_invited, "invited once there is an address")


async def test_a_controller_that_does_not_run_is_told(cluster: Cluster, skupper: SkupperStandIn) -> None:
    async with kubernetes_lab(cluster, skupper, Options(ready_s=0.5)) as lab:
        skupper.silent = True
        public = await lab.public()
        with pytest.raises(DriverUnavailable, match="controller has said nothing"):
            await public.invite("hospital-a", 600.0)


async def test_a_token_that_fails_for_a_while_is_tried_again(lab: KubernetesLab, skupper: SkupperStandIn) -> None:
    skupper.refusing_tokens = "Controller got error: dial tcp: connect: connection refused"
    public, private = await lab.public(), await lab.private("hospital-a")
    token = await public.invite("hospital-a", 600.0)
    wanted = DesiredNetwork("hospital-a", links=(await lab.link("hospital-a", token),))
    await private.apply(wanted)
    (configured, _) = (await private.observe(wanted)).links["main"].conditions
    assert "connection refused" in configured.message
    skupper.refusing_tokens = ""

    async def is_linked() -> bool:
        await private.apply(wanted)
        return holds((await private.observe(wanted)).links["main"].conditions, "Operational") is True

    await comes_true(lab, is_linked, "linked after all")


async def test_the_link_of_a_former_token_makes_way(lab: KubernetesLab) -> None:
    """Joining again leaves one Link, one Secret and one token."""
    ends = await join(lab)
    before = (await lab.resources("Link", "hospital-a")).keys()
    token = await ends.public.invite("hospital-a", 600.0)
    ends.wanted_there = replace(ends.wanted_there, links=(await lab.link("hospital-a", token),))
    await ends.apply()
    await comes_true(lab, ends.is_linked, "linked by the later token")
    after = (await lab.resources("Link", "hospital-a")).keys()
    assert len(after) == 1 and after != before
    assert (await lab.resources("AccessToken", "hospital-a")).keys() == after
