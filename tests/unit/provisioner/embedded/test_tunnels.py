"""What holds of real tunnels: who does not read holds nobody up, and a closed tunnel is a new one's place."""

import asyncio
import time

import grpc

from redoma_provisioner.network.drivers.embedded.admin import EnvoyAdmin
from redoma_provisioner.network.drivers.embedded.egress_calls import GrpcEgressCalls, Reach
from redoma_provisioner.network.drivers.embedded.tunnel_count import EgressTunnels
from tests.fakes.driver_suite import comes_true, join
from tests.unit.provisioner.embedded.embedded_lab import FLOOD_METHOD, EmbeddedLab

Pour = grpc.aio.UnaryStreamMultiCallable[bytes, bytes]
UNREAD = 40
PATIENCE_S = 1.0


async def test_streams_that_nobody_reads_hold_no_other_call_up() -> None:
    async with EmbeddedLab.opened() as lab:
        await join(lab)
        key = "hospital-a.model-0"
        pour: Pour = lab.channel.unary_stream(FLOOD_METHOD)
        floods = [pour(b"", metadata=(("redoma-replica", key),)) for _ in range(UNREAD)]
        try:
            # Each has begun, and goes on until the windows are full; grpcio reads one message ahead.
            async with asyncio.timeout(lab.settle_s):
                assert all([isinstance(await flood.read(), bytes) for flood in floods])
            calls = GrpcEgressCalls(lab.channel)
            for _ in range(20):
                began = time.monotonic()
                assert await calls.reach(key) is Reach.ANSWERS
                assert time.monotonic() - began < PATIENCE_S
        finally:
            for flood in floods:
                flood.cancel()


async def test_a_flush_closes_unused_tunnels_only_and_they_come_back() -> None:
    async with EmbeddedLab.opened() as lab:
        await join(lab)
        key = "hospital-a.model-0"
        tunnels = EgressTunnels(EnvoyAdmin(lab.egress.folder / "egress-admin.sock"))
        pour: Pour = lab.channel.unary_stream(FLOOD_METHOD)
        flood = pour(b"", metadata=(("redoma-replica", key),))
        assert isinstance(await flood.read(), bytes)
        before = (await tunnels.by_site() or {})["hospital-a"]
        await GrpcEgressCalls(lab.channel).flush("hospital-a")
        left = (await tunnels.by_site() or {})["hospital-a"]
        assert 0 < left < before

        async def are_back() -> bool:
            return (await tunnels.by_site() or {})["hospital-a"] == before

        await comes_true(lab, are_back, "the tunnels are back")
        assert isinstance(await flood.read(), bytes), "the one that was in use still is"
        flood.cancel()


async def test_a_site_is_not_flushed_for_another_of_a_like_name() -> None:
    async with EmbeddedLab.opened() as lab:
        await join(lab)
        tunnels = EgressTunnels(EnvoyAdmin(lab.egress.folder / "egress-admin.sock"))
        before = await tunnels.by_site()
        for name in ("hospital", "hospital-a.", "hospital-a2", "", "%REQ(x)%"):
            await GrpcEgressCalls(lab.channel).flush(name)
        assert await tunnels.by_site() == before


async def test_an_egress_that_is_away_is_not_taken_for_a_site_that_is() -> None:
    async with EmbeddedLab.opened() as lab:
        ends = await join(lab)
        await lab.egress.stop()
        assert await GrpcEgressCalls(lab.channel).reach("hospital-a.model-0") is Reach.EGRESS_AWAY
        told = (await ends.seen_here()).links["hospital-a"].conditions
        assert {one.reason for one in told if one.type == "Operational"} == {"EgressAway"}
