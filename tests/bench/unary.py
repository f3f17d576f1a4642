"""How long a call that the model answers at once takes on each way, all ways in turns."""

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack

import grpc

from redoma.chat.v1 import openai_pb2, openai_pb2_grpc
from redoma.model.v1 import model_pb2, model_pb2_grpc
from tests.bench.fast_site import FastSite, fast_site
from tests.bench.figures import rotated
from tests.bench.findings import Plan
from tests.bench.identities import Identities
from tests.bench.ways import ALL, FORWARDERS, open_ways

TENANT = "acme"
GET_MODEL = "/redoma.model.v1.ModelService/GetModel"
STEP_S = 0.01
# The ways take turns after so many calls, so that a machine that drifts drifts for all of them.
BLOCKS, CALLS = 40, 50
WARM_UP = 200
READY_S = 30.0

# Makes one call; what it needs beforehand was made before.
Call = Callable[[], Awaitable[object]]
# Gives a call of some moment, as identities last a minute.
Prepare = Callable[[], Call]


async def measure_unary(plan: Plan) -> list[dict[str, list[float]]]:
    """Gives the seconds of each call by way, of each round."""
    async with fast_site(STEP_S, forwarders=FORWARDERS) as site, AsyncExitStack() as stack:
        ways = await _ways(site, stack)
        for prepare in ways.values():
            await _take(prepare, plan.pick(WARM_UP, 5))
        rounds = []
        for turn in range(plan.rounds):
            plan.tell(f"round {turn + 1} of {plan.rounds}, unary calls")
            rounds.append(await _round(ways, plan.pick(BLOCKS, 2), plan.pick(CALLS, 5)))
        return rounds


async def _round(ways: Mapping[str, Prepare], blocks: int, calls: int) -> dict[str, list[float]]:
    taken: dict[str, list[float]] = {way: [] for way in ways}
    for block in range(blocks):
        for way in rotated(list(ways), block):
            taken[way] += await _take(ways[way], calls)
    return taken


async def _take(prepare: Prepare, calls: int) -> Sequence[float]:
    call = prepare()
    taken = []
    for _ in range(calls):
        began = time.perf_counter()
        await call()
        taken.append(time.perf_counter() - began)
    return taken


async def _ways(site: FastSite, stack: AsyncExitStack) -> dict[str, Prepare]:
    identities = Identities(site.authority)
    ways: dict[str, Prepare] = {}
    model = ""
    for way, channel in (await open_ways(site.home, stack)).channels.items():
        stub = model_pb2_grpc.ModelServiceStub(channel)
        ways[way] = _of_model(stub, identities)
        answer = await stub.GetModel(
            model_pb2.GetModelRequest(),
            metadata=identities.metadata(TENANT, GET_MODEL),
            timeout=READY_S,
            wait_for_ready=True,
        )
        model = answer.model.id
    edge = await stack.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{site.edge_port}"))
    ways[ALL] = _of_chat(openai_pb2_grpc.OpenAIServiceStub(edge), model, site.api_key)
    return ways


def _of_model(stub: "model_pb2_grpc.ModelServiceAsyncStub", identities: Identities) -> Prepare:
    def prepare() -> Call:
        metadata = identities.metadata(TENANT, GET_MODEL)
        return lambda: stub.GetModel(model_pb2.GetModelRequest(), metadata=metadata)

    return prepare


def _of_chat(stub: "openai_pb2_grpc.OpenAIServiceAsyncStub", model: str, key: str) -> Prepare:
    metadata = (("authorization", f"Bearer {key}"),)
    return lambda: lambda: stub.GetModel(openai_pb2.GetModelRequest(model=model), metadata=metadata)
