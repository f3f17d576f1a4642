"""What a soak watches: the memory of each process, and that an idle engine holds nothing it shouldn't."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median

import grpc

from redoma.model.v1 import engine_pb2, engine_pb2_grpc
from tests.bench.figures import slope
from tests.bench.machine import resident_bytes
from tests.e2e.conftest import Site

# The first part of the run, in which caches, journals and pools fill.
WARM_UP = 0.3
# Growth after it that is a leak: so many bytes, and so large a part of the memory.
LEAK_BYTES, LEAK_PART = 32 << 20, 0.05
IDLE_WITHIN_S = 60.0
POLL_S = 0.25


@dataclass(slots=True)
class Memory:
    """One process's resident memory over time, in bytes by monotonic seconds."""

    pid: int
    times: list[float] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)

    def take(self) -> None:
        """Takes a sample.

        Raises:
            OSError: The process is gone.
        """
        self.sizes.append(resident_bytes(self.pid))
        self.times.append(time.monotonic())

    @property
    def warmed_up(self) -> int:
        """The place of the first sample after the warm-up."""
        begin, end = self.times[0], self.times[-1]
        return next(place for place, at in enumerate(self.times) if at - begin >= WARM_UP * (end - begin))

    @property
    def growth(self) -> float:
        """Bytes that it grew by since the warm-up, by the line that fits best."""
        times, sizes = self.times[self.warmed_up :], self.sizes[self.warmed_up :]
        return slope(times, sizes) * (times[-1] - times[0])

    @property
    def leaks(self) -> bool:
        """Whether that is too much."""
        return self.growth > max(LEAK_BYTES, LEAK_PART * median(self.sizes[self.warmed_up :]))


class EngineWatch:
    """Asks the model service what it holds, as an operator."""

    def __init__(self, site: Site, channel: grpc.aio.Channel) -> None:
        self._stub = engine_pb2_grpc.EngineServiceStub(channel)
        self._admin = (("authorization", f"Bearer {site.admin_key}"),)

    async def state(self) -> engine_pb2.ModelState:
        """Gives the state of the only model."""
        response = await self._stub.GetEngineState(engine_pb2.GetEngineStateRequest(), metadata=self._admin)
        return response.state.models[0]

    async def wait_idle(self) -> list[str]:
        """Waits until no request is there and gives what is wrong then; a request that stays is stuck."""
        end = time.monotonic() + IDLE_WITHIN_S
        while True:
            state = await self.state()
            if not (state.running or state.waiting or state.preempted):
                return _wrong_when_idle(state)
            if time.monotonic() > end:
                counts = f"{state.running} running, {state.waiting} waiting, {state.preempted} preempted"
                return [f"stuck {IDLE_WITHIN_S:.0f} s after the last client left: {counts}"]
            await asyncio.sleep(POLL_S)

    async def open_records(self) -> int:
        """Counts the usage records of requests that have not ended, among all that are kept."""
        request = engine_pb2.ListUsageRecordsRequest(page_size=1_000)
        open_records = 0
        while True:
            page = await self._stub.ListUsageRecords(request, metadata=self._admin)
            open_records += sum(not record.HasField("end_time") for record in page.records)
            if not page.next_page_token:
                return open_records
            request.page_token = page.next_page_token

    async def purge(self, tenants: Mapping[str, str]) -> list[str]:
        """Drops all that is held of the tenants and gives what is wrong then."""
        for tenant in tenants:
            await self._stub.PurgeTenant(engine_pb2.PurgeTenantRequest(tenant=tenant), metadata=self._admin)
        state = await self.state()
        return [f"{state.used_cells} KV cells are in use when nothing is kept"] if state.used_cells else []


def _wrong_when_idle(state: engine_pb2.ModelState) -> list[str]:
    wrong = []
    if state.used_cells != state.cached_cells:
        wrong.append(f"{state.used_cells - state.cached_cells} KV cells of no request and no cached prefix")
    if (of_tenants := sum(tenant.used_cells for tenant in state.tenants)) != state.used_cells:
        wrong.append(f"{state.used_cells} KV cells are in use, and {of_tenants} by all tenants")
    if state.swapped_bytes:
        wrong.append(f"{state.swapped_bytes} bytes are swapped")
    wrong += [
        f"{tenant.tenant}: {tenant.running + tenant.waiting + tenant.preempted} requests"
        for tenant in state.tenants
        if tenant.running or tenant.waiting or tenant.preempted
    ]
    return wrong
