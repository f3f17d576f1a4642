"""What the design promises of the link when something dies, freezes or is cut, measured on the real processes."""

import asyncio
import signal
import time
from collections.abc import Callable
from typing import NamedTuple

import grpc
import pytest

from redoma_chat.errors import ModelUnreachable
from redoma_chat.inference import Prompt, Role, Turn
from redoma_chat.model_channel import GrpcModelChannel
from redoma_chat.sampling import Sampling
from redoma_kit.identity import Identity, set_current_identity
from redoma_kit.settings import MetricsSettings, TracingSettings
from redoma_kit.telemetry import Telemetry
from tests.e2e.network.conftest import Van
from tests.e2e.network.namespaces import PUBLIC
from tests.e2e.network.processes import Process, until
from tests.e2e.network.sites import VAN_PORT
from tests.e2e.network.streams import ask, close_streams, open_streams, until_answered

# The promises, in seconds: a reset is told in one, a silence in three, and all is well two after the return.
RESET_S, SILENCE_S, RETURN_S = 1.0, 3.0, 2.0
BROKEN = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL}


class Victim(NamedTuple):
    """A process that streams to the first site go through."""

    name: str
    process: Callable[[Van], Process]
    spares_others: bool


VICTIMS = [
    Victim("gateway", lambda van: van.a.gateway, spares_others=True),
    Victim("model", lambda van: van.a.model, spares_others=True),
    Victim("egress", lambda van: van.public.egress, spares_others=False),
]
by_name = pytest.mark.parametrize("victim", VICTIMS, ids=lambda victim: victim.name)


@by_name
async def test_killed(van: Van, calls: grpc.aio.Channel, victim: Victim) -> None:
    """Streams end at once, new calls fail at once, and all is well soon after it is started again."""
    process = victim.process(van)
    hit = await open_streams(calls, van.pki, 3, van.a.model_key)
    others = await open_streams(calls, van.pki, 2, van.b.model_key)
    try:
        process.kill()
        began = time.monotonic()
        assert max([await stream.ends(RESET_S) for stream in hit]) - began <= RESET_S
        assert {stream.code for stream in hit} <= BROKEN
        refused = await ask(calls, van.pki, van.a.model_key)
        assert refused.code is grpc.StatusCode.UNAVAILABLE
        assert refused.took_s <= RESET_S
        if victim.spares_others:
            await asyncio.gather(*(stream.grows() for stream in others))
        process.start()
        if victim.name == "model":
            until(van.a.model_serves, "the model has loaded its weights")
        back = time.monotonic()
        answer, _ = await until_answered(calls, van.pki, van.a.model_key)
        assert answer.at - back <= RETURN_S
        if not victim.spares_others:
            await until_answered(calls, van.pki, van.b.model_key)
        assert all([(await ask(calls, van.pki, van.a.model_key)).ok for _ in range(20)])
    finally:
        await close_streams(hit + others)


@by_name
async def test_frozen(van: Van, calls: grpc.aio.Channel, victim: Victim) -> None:
    """Nobody waits for what does not move for longer than it takes to notice, and it may come back as it was."""
    process = victim.process(van)
    hit = await open_streams(calls, van.pki, 3, van.a.model_key)
    others = await open_streams(calls, van.pki, 2, van.b.model_key)
    try:
        process.send(signal.SIGSTOP)
        began = time.monotonic()
        try:
            assert max([await stream.ends(SILENCE_S + 1) for stream in hit]) - began <= SILENCE_S
            assert {stream.code for stream in hit} <= BROKEN
            if victim.spares_others:
                await asyncio.gather(*(stream.grows() for stream in others))
                refused = [await ask(calls, van.pki, van.a.model_key) for _ in range(3)]
                assert {one.code for one in refused} == {grpc.StatusCode.UNAVAILABLE}
                assert max(one.took_s for one in refused) <= SILENCE_S
        finally:
            process.send(signal.SIGCONT)
        back = time.monotonic()
        answer, _ = await until_answered(calls, van.pki, van.a.model_key)
        assert answer.at - back <= RETURN_S
        await until_answered(calls, van.pki, van.b.model_key)
    finally:
        await close_streams(hit + others)


@pytest.mark.parametrize("cut_s", [2.0, 6.0, 30.0])
async def test_a_link_that_is_cut_without_a_word(van: Van, calls: grpc.aio.Channel, cut_s: float) -> None:
    """It is noticed, said in words that people understand, and all is well soon after it is whole again."""
    streams = await open_streams(calls, van.pki, 2, van.a.model_key)
    streams += await open_streams(calls, van.pki, 2, van.b.model_key)
    try:
        van.network.cut()
        began = time.monotonic()
        try:
            if cut_s > SILENCE_S:
                assert max([await stream.ends(SILENCE_S + 1) for stream in streams]) - began <= SILENCE_S
                assert {stream.code for stream in streams} <= BROKEN
                await asyncio.sleep(began + SILENCE_S - time.monotonic())
                await _new_calls_fail_at_once(van, calls)
            if cut_s > 20:
                until(lambda: _linked(van)[:2] == (2, "NoLink"), "the operator is told why", cut_s / 2)
                assert f"{PUBLIC}:{VAN_PORT}" in _linked(van)[2]
            await asyncio.sleep(max(0.0, began + cut_s - time.monotonic()))
        finally:
            van.network.restore()
        back = time.monotonic()
        for site in (van.a, van.b):
            answer, _ = await until_answered(calls, van.pki, site.model_key)
            assert answer.at - back <= RETURN_S
        # What outlived it goes on.
        await asyncio.gather(*(stream.grows(SILENCE_S) for stream in streams if stream.runs))
    finally:
        await close_streams(streams)
    until(lambda: van.administrator.is_linked(van.a.name), "the operator is told")


async def _new_calls_fail_at_once(van: Van, calls: grpc.aio.Channel) -> None:
    """As chat's own channel sees it."""
    scopes, token = frozenset({"generate"}), van.pki.mint(["model"])
    set_current_identity(Identity("tenants/acme", "acme", scopes, "", "SHARED", 100, (), "", "", token))
    channel = GrpcModelChannel(calls, Telemetry("chat", MetricsSettings(), TracingSettings()))
    prompt = Prompt("", (Turn(Role.USER, "Hello."),))
    for _ in range(3):
        began = time.monotonic()
        with pytest.raises(ModelUnreachable):
            async for _event in channel.generate(prompt, Sampling(max_output_tokens=4), 10.0):
                pass
        assert time.monotonic() - began <= RESET_S


def _linked(van: Van) -> tuple[int, str, str]:
    return van.administrator.condition(van.a.name, "Linked")
