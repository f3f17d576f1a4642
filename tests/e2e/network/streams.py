"""Answers that a model streams through the network, and when each of them ended."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import grpc

from redoma.common.v1 import sampling_pb2
from redoma.model.v1 import model_pb2, model_pb2_grpc
from tests.conftest import TestPki

if TYPE_CHECKING:
    # grpcio's classes take type arguments in its stubs alone.
    Call = grpc.aio.UnaryStreamCall[model_pb2.GenerateRequest, model_pb2.GenerateResponse]
ENDLESS = sampling_pb2.SamplingOptions(max_output_tokens=900, ignore_eos=True, temperature=0.0)

NOTHING: Mapping[str, str] = {}


def call_metadata(pki: TestPki, replica: str = "", more: Mapping[str, str] = NOTHING) -> tuple[tuple[str, str], ...]:
    """Gives what chat sends with a call: who it is for, and, if it matters, which replica is to answer."""
    chosen = (("redoma-replica", replica),) if replica else ()
    return (*pki.metadata(["model"], method="/redoma.chat.v1.ChatService/Ask"), *chosen, *more.items())


@dataclass(slots=True)
class Stream:
    """One answer that does not end by itself."""

    call: "Call"
    deltas: int = 0
    ended_at: float | None = None
    code: grpc.StatusCode | None = None
    details: str = ""
    last_at: float = 0.0
    grew: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] = field(init=False)

    def __post_init__(self) -> None:
        self.task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        try:
            async for response in self.call:
                if response.WhichOneof("event") == "delta":
                    self.deltas += 1
                    self.last_at = time.monotonic()
                    self.grew.set()
            self.code = grpc.StatusCode.OK
        except grpc.aio.AioRpcError as error:
            self.code, self.details = error.code(), error.details() or ""
        except asyncio.CancelledError:
            self.code = grpc.StatusCode.CANCELLED
        self.ended_at = time.monotonic()
        self.grew.set()

    @property
    def runs(self) -> bool:
        """Whether it has not ended."""
        return self.ended_at is None

    async def grows(self, bound_s: float = 20.0) -> None:
        """Waits until it has another piece."""
        before = self.deltas
        async with asyncio.timeout(bound_s):
            while self.deltas == before and self.runs:
                self.grew.clear()
                await self.grew.wait()
        assert self.runs, f"{self.code}: {self.details}"

    async def ends(self, bound_s: float) -> float:
        """Waits until it ends, and gives when that was."""
        async with asyncio.timeout(bound_s):
            await asyncio.shield(self.task)
        assert self.ended_at is not None
        return self.ended_at


async def open_streams(channel: grpc.aio.Channel, pki: TestPki, count: int, replica: str) -> list[Stream]:
    """Opens streams to one replica, and returns when each of them flows."""
    stub = model_pb2_grpc.ModelServiceStub(channel)
    streams = []
    for number in range(count):
        prompt = model_pb2.Message(role=model_pb2.ROLE_USER, content=f"Tell a long story, number {number}.")
        request = model_pb2.GenerateRequest(messages=[prompt], sampling=ENDLESS)
        streams.append(Stream(stub.Generate(request, metadata=call_metadata(pki, replica))))
    await asyncio.gather(*(stream.grows() for stream in streams))
    return streams


async def close_streams(streams: list[Stream]) -> None:
    """Ends streams that still run."""
    for stream in streams:
        stream.call.cancel()
    await asyncio.gather(*(stream.task for stream in streams), return_exceptions=True)


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a short call: the model that answered, or the status; and how long it took, in seconds."""

    model: str
    code: grpc.StatusCode
    took_s: float
    at: float

    @property
    def ok(self) -> bool:
        """Whether a model answered."""
        return self.code is grpc.StatusCode.OK


async def ask(
    channel: grpc.aio.Channel, pki: TestPki, replica: str = "", bound_s: float = 5.0, more: Mapping[str, str] = NOTHING
) -> Answer:
    """Makes a short call."""
    stub = model_pb2_grpc.ModelServiceStub(channel)
    began = time.monotonic()
    try:
        answer = await stub.GetModel(
            model_pb2.GetModelRequest(), metadata=call_metadata(pki, replica, more), timeout=bound_s
        )
        model, code = answer.model.id, grpc.StatusCode.OK
    except grpc.aio.AioRpcError as error:
        model, code = "", error.code()
    now = time.monotonic()
    return Answer(model, code, now - began, now)


async def until_answered(
    channel: grpc.aio.Channel, pki: TestPki, replica: str = "", bound_s: float = 20.0
) -> tuple[Answer, list[Answer]]:
    """Asks until a model answers, and gives that answer and the failures before it."""
    failures: list[Answer] = []
    end = time.monotonic() + bound_s
    while not (answer := await ask(channel, pki, replica, 1.0)).ok:
        failures.append(answer)
        assert time.monotonic() < end, f"no answer within {bound_s} s: {failures[-3:]}"
        await asyncio.sleep(0.02)
    return answer, failures
