"""How long it takes until a real Envoy has what it is to be served, and uses it, with few and many endpoints."""

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from redoma_kit.channel import open_channel
from redoma_provisioner.edge.state import EgressState
from redoma_provisioner.network.drivers.embedded.egress_calls import GrpcEgressCalls, Reach
from tests.bench.bare_egress import BareEgress, bare_egress
from tests.bench.findings import Findings, Goal, Plan, Table
from tests.bench.identities import tls_of
from tests.bench.pushed_replicas import LISTENER, TUNNEL, Live, Replicas, live_model
from tests.fakes.control_plane import ControlPlane

ENDPOINTS = (10, 100, 1_000)
PUSHES = 3
MAX_MESSAGE_BYTES = 1 << 20
BOUND_S = 120.0
POLL_S = 0.001
ENDED = "Envoy ended"
WHAT_CHANGED, EVERYTHING = "what changed", "everything"
ABOUT = (
    "A real Envoy with the egress's identity and the provisioner's control plane, which keeps its snapshots in "
    "memory. First it is pushed that many endpoints at once, then one more, over and over; it is told what changed "
    "(incremental), or everything of a type each time (state of the world). Served is from publish() until the "
    "snapshot is built, checked and handed to the stream; accepted until Envoy has acknowledged the last part of it; "
    "used until a call by the routing key of the new endpoint is answered. Endpoints by a listener are dialled, as "
    "with Skupper. Those by a tunnel have a socket of the egress, and a site with tunnels of its own, but no "
    "gateway, so that none is called. Nobody answers at the endpoints of before, which Envoy's health checks keep "
    "trying all the while."
)


class EnvoyEnded(Exception):
    """The Envoy ended instead of taking what it was pushed."""


@dataclass(frozen=True, slots=True)
class Push:
    """One push, in milliseconds since publish() was called; `used_ms` is None where nothing can be called."""

    served_ms: float
    accepted_ms: float
    used_ms: float | None


@dataclass(frozen=True, slots=True)
class Case:
    """What is measured: so many endpoints of a kind, told in a way."""

    endpoints: int
    kind: str
    told: str


@dataclass(frozen=True, slots=True)
class Row:
    """What came of a case: medians.

    Attributes:
        first: The push of all its endpoints; None if the Envoy ended.
        more: The pushes of one more; None if the Envoy ended.
    """

    case: Case
    first: Push | None
    more: Push | None


async def run(plan: Plan) -> Findings:
    """Pushes each number of endpoints in each round, each time to an Envoy of its own."""
    cases = [
        Case(endpoints, kind, told)
        for endpoints in plan.pick(ENDPOINTS, (2, 5))
        for kind in (LISTENER, TUNNEL)
        for told in (WHAT_CHANGED, EVERYTHING)
    ]
    first: dict[Case, list[Push]] = {case: [] for case in cases}
    more: dict[Case, list[Push]] = {case: [] for case in cases}
    ended = 0
    async with live_model() as live:
        for turn in range(plan.rounds):
            for case in cases:
                plan.tell(f"round {turn + 1} of {plan.rounds}, {case.endpoints:,} by a {case.kind}, {case.told}")
                try:
                    pushes = await _measure(plan, case, live)
                except EnvoyEnded:
                    ended += 1
                    continue
                first[case].append(pushes[0])
                more[case] += pushes[1:]
    return _findings([Row(case, median_push(first[case]), median_push(more[case])) for case in cases], ended)


async def _measure(plan: Plan, case: Case, live: Live) -> list[Push]:
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="rdm-", ignore_cleanup_errors=True))
        replicas = Replicas(case.kind, Path(folder), live.socket)
        incremental = case.told == WHAT_CHANGED
        egress = await stack.enter_async_context(bare_egress(live.authority, EgressState(), incremental))
        channel = open_channel(egress.services, tls_of(live.authority, "provisioner"), MAX_MESSAGE_BYTES)
        await stack.enter_async_context(channel)
        calls = GrpcEgressCalls(channel)
        await _accepted(egress)
        await _reach(calls, replicas.key(0), {Reach.UNKNOWN_TO_EGRESS})
        pushes = []
        for extra in range(plan.pick(PUSHES, 1) + 1):
            key = replicas.key(case.endpoints + extra - 1) if extra and case.kind == LISTENER else ""
            pushes.append(await _push(egress, replicas.state(case.endpoints, extra), calls, key))
        return pushes


async def _push(egress: BareEgress, state: EgressState, calls: GrpcEgressCalls, key: str) -> Push:
    """Pushes a state, and calls `key` until it answers if there is one.

    Raises:
        EnvoyEnded: It did.
    """
    began = time.perf_counter()

    async def timed(what: Awaitable[object]) -> float:
        await what
        return (time.perf_counter() - began) * 1e3

    served_ms = await timed(egress.publisher.publish(state, "the bench"))
    accepted = timed(_accepted(egress))
    if not key:
        return Push(served_ms, await accepted, None)
    accepted_ms, used_ms = await asyncio.gather(accepted, timed(_reach(calls, key, {Reach.ANSWERS})))
    return Push(served_ms, accepted_ms, used_ms)


def _has_accepted(control: ControlPlane) -> bool:
    """Tells whether the Envoy has all that it is served.

    Raises:
        RuntimeError: It refuses something.
    """
    session, served = control.proxy.session, control.proxy.served
    if refusals := control.refusals():
        raise RuntimeError(f"the Envoy refuses what it is served: {refusals[0]}")
    if session is None or served is None or not session.subscriptions:
        return False
    version = served.snapshot.version
    return all(one.accepted_version == version for one in session.subscriptions.values())


async def _reach(calls: GrpcEgressCalls, key: str, wanted: set[Reach]) -> None:
    end = time.monotonic() + BOUND_S
    while (reach := await calls.reach(key)) not in wanted:
        if time.monotonic() > end:
            raise RuntimeError(f"{key} is still {reach.name} after {BOUND_S:.0f} s")
        await asyncio.sleep(POLL_S)


async def _accepted(egress: BareEgress) -> None:
    end = time.monotonic() + BOUND_S
    while not _has_accepted(egress.control):
        if egress.envoy.process is not None and egress.envoy.process.returncode is not None:
            raise EnvoyEnded
        if time.monotonic() > end:
            raise RuntimeError(f"the Envoy has not accepted what it is served after {BOUND_S:.0f} s")
        await asyncio.sleep(POLL_S)


def median_push(pushes: Sequence[Push]) -> Push | None:
    """Gives the medians of pushes of one kind; None of none."""
    if not pushes:
        return None
    used = [push.used_ms for push in pushes if push.used_ms is not None]
    return Push(
        median(push.served_ms for push in pushes),
        median(push.accepted_ms for push in pushes),
        median(used) if used else None,
    )


def _findings(rows: Sequence[Row], ended: int) -> Findings:
    headings = (
        *("endpoints", "by a", "told", "first push: served, ms", "accepted, ms"),
        *("one more: served, ms", "accepted, ms", "used, ms"),
    )
    table = Table("Pushing endpoints to an Envoy", headings, tuple(map(_cells, rows)))
    goal = Goal("Envoys that ended of what they were pushed", ended, 0, at_least=False)
    return Findings("push", ABOUT, (table,), (goal,), {"rows": [asdict(row) for row in rows]})


def _cells(row: Row) -> tuple[str, ...]:
    case = (f"{row.case.endpoints:,}", row.case.kind, row.case.told)
    if row.first is None or row.more is None:
        return (*case, ENDED, "", "", "", "")
    times = (row.first.served_ms, row.first.accepted_ms, row.more.served_ms, row.more.accepted_ms)
    used = "–" if row.more.used_ms is None else f"{row.more.used_ms:.0f}"
    return (*case, *(f"{time_ms:.0f}" for time_ms in times), used)
