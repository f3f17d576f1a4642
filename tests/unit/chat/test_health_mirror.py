"""The models' health as chat tells it: of all replicas behind the egress, and not of the one that was asked last."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc

from redoma_chat.health import MODEL_SERVICE, MORE_REPLICAS, HealthMirror
from tests.fakes.model_service import SERVER_OPTIONS

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
AWAY, CANCELLED = "no healthy upstream", "cancelled"
ALL = MORE_REPLICAS + 1
Answer = int | str


class Replicas(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """Answers as a replica that the egress picks: `answers` one after the other, then always the last."""

    def __init__(self) -> None:
        self.answers: list[Answer] = [SERVING]
        self.asked = 0

    async def Check(self, request: Any, context: Any) -> Any:
        assert request.service == MODEL_SERVICE
        self.asked += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, str):
            await context.abort(grpc.StatusCode.UNAVAILABLE if answer == AWAY else grpc.StatusCode.CANCELLED, answer)
        return health_pb2.HealthCheckResponse(status=answer)


class Told:
    """What the server's health service is told of the models."""

    def __init__(self) -> None:
        self.states: list[bool] = []

    async def set_serving(self, serving: bool, names: Sequence[str] | None = None) -> None:
        if names is not None:
            assert list(names) == [MODEL_SERVICE]
            self.states.append(serving)


async def ping() -> None:
    """The database answers."""


@asynccontextmanager
async def mirrored(replicas: Replicas) -> AsyncIterator[tuple[HealthMirror, Told]]:
    """Gives a mirror of the replicas, which looks when it is told to."""
    server = grpc.aio.server(options=SERVER_OPTIONS)
    health_pb2_grpc.add_HealthServicer_to_server(replicas, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    told = Told()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        await channel.channel_ready()
        yield HealthMirror(told, channel, ping, structlog.get_logger()), told  # type: ignore[arg-type]
    await server.stop(0)


async def test_one_replica_that_does_not_serve_says_nothing_of_the_others() -> None:
    replicas = Replicas()
    async with mirrored(replicas) as (mirror, told):
        for answers in ([SERVING], [NOT_SERVING, SERVING], [AWAY, NOT_SERVING, CANCELLED, SERVING]):
            replicas.answers = answers
            await mirror.look()
    assert told.states == [True]


async def test_a_round_that_meets_the_same_bad_replica_each_time_is_doubted_once() -> None:
    replicas = Replicas()
    async with mirrored(replicas) as (mirror, told):
        await mirror.look()
        for _ in range(3):
            replicas.answers = [*[NOT_SERVING] * ALL, SERVING]
            await mirror.look()
            await mirror.look()
    assert told.states == [True]


@pytest.mark.parametrize("answer", [NOT_SERVING, AWAY, CANCELLED])
async def test_models_that_are_all_away_are_told_after_two_rounds_and_back_at_once(answer: Answer) -> None:
    replicas = Replicas()
    async with mirrored(replicas) as (mirror, told):
        await mirror.look()
        replicas.answers = [answer]
        await mirror.look()
        assert told.states == [True]
        await mirror.look()
        assert told.states == [True, False]
        replicas.answers = [SERVING]
        await mirror.look()
    assert told.states == [True, False, True]


async def test_models_that_are_away_at_the_start_are_told_at_once() -> None:
    replicas = Replicas()
    replicas.answers = [AWAY]
    async with mirrored(replicas) as (mirror, told):
        await mirror.look()
    assert told.states == [False]


async def test_one_that_serves_is_asked_once_a_round() -> None:
    replicas = Replicas()
    async with mirrored(replicas) as (mirror, _):
        await mirror.look()
    assert replicas.asked == 1
