"""What holds of the engine whatever comes: every request ends once, the books are exact, and shares are fair.

Times are a virtual machine's, so that shares, first-token times and gaps are asserted exactly. The cost model is that
of a small model on two cores.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from redoma_kit.errors import DomainError
from redoma_model.engine import compaction
from redoma_model.engine.adapters import LoadedAdapter
from redoma_model.engine.backend import DecodeFailed
from redoma_model.engine.cells import OutOfCells
from redoma_model.engine.pace import PaceLimits
from redoma_model.engine.places import PlaceLimits
from redoma_model.engine.scheduler import QUANTUM
from redoma_model.engine.stream import Delta, Done, FinishReason, Started
from redoma_model.engine.usage import Ending
from redoma_model.errors import DeadlineUnreachable, GenerationFailed, TenantPurged
from tests.bench.figures import jain_index
from tests.fakes.driven_core import DrivenCore, Reader, StepCost

INPUT_COST, OUTPUT_COST = 1.0, 2.0
PREFIXES = ("", "a system prompt of some length, said to all. ", "another, much shorter: ")


# Random scripts.


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request of a script.

    Attributes:
        at: The step before which it comes.
        cancel_after: How many of its own steps later its reader goes; None is never.
    """

    at: int
    tenant: int
    prefix: int
    length: int
    output: int
    scripted: bool
    pooled: bool
    adapter: int
    cancel_after: int | None
    deadline_s: float | None


@dataclass(frozen=True, slots=True)
class Shape:
    """An engine of a script."""

    slots: int
    spare_slots: int
    cells: int
    headroom: int
    swap_bytes: int
    host_bytes: int
    idle_cells: int
    compaction: bool
    step_tokens: int
    stretch: float
    inter_token_s: float
    speculation: bool
    prefix_cache: bool
    weights: tuple[int, ...]


CONTEXT = 160
ARRIVALS = st.builds(
    Arrival,
    at=st.integers(0, 60),
    tenant=st.integers(0, 3),
    prefix=st.integers(0, len(PREFIXES) - 1),
    length=st.integers(1, 90),
    output=st.integers(1, 60),
    scripted=st.booleans(),
    pooled=st.sampled_from([False] * 5 + [True]),
    adapter=st.sampled_from([0, 0, 0, 1, 2]),
    cancel_after=st.one_of(st.none(), st.none(), st.integers(0, 40)),
    deadline_s=st.one_of(st.none(), st.none(), st.floats(0.0, 3.0)),
)
SHAPES = st.builds(
    Shape,
    slots=st.integers(1, 5),
    spare_slots=st.integers(0, 2),
    cells=st.sampled_from([CONTEXT, CONTEXT + 1, 200, 300, 1_000]),
    headroom=st.sampled_from([1, 8, 64]),
    swap_bytes=st.sampled_from([0, 1_500, 1 << 30]),
    host_bytes=st.sampled_from([0, 0, 4_000]),
    idle_cells=st.sampled_from([0, 40, 10_000]),
    compaction=st.booleans(),
    step_tokens=st.sampled_from([9, 16, 64]),
    stretch=st.sampled_from([1.0, 2.6, 7.0]),
    inter_token_s=st.sampled_from([0.0, 0.0, 0.006, 0.05]),
    speculation=st.booleans(),
    prefix_cache=st.sampled_from([True, True, True, False]),
    weights=st.tuples(*[st.sampled_from([1, 2, 5, 100])] * 4),
)


@pytest.fixture(scope="module", autouse=True)
def cells_are_moved_often() -> Iterator[None]:
    """Has the few cells of these tests moved as well."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compaction, "LEAST_SCATTERED", 20)
        yield


# What goes wrong before which step, or which tenant is purged.
EVENTS = st.lists(
    st.tuples(st.integers(0, 80), st.sampled_from(["fails", "no cells", "purge t0", "purge t1"])), max_size=5
)


def prompt_of(arrival: Arrival) -> str:
    ask = f"say:{'answer ' * 9}"[: 4 + arrival.output] if arrival.scripted else ""
    return f"{PREFIXES[arrival.prefix]}{'word' * 40}"[: arrival.length] + ask


def core_of(shape: Shape) -> DrivenCore:
    return DrivenCore(
        slots=shape.slots,
        cells=shape.cells,
        context_tokens=CONTEXT,
        sequences=shape.slots + shape.spare_slots + 6,
        pace=PaceLimits(shape.step_tokens, shape.stretch, shape.inter_token_s),
        places=PlaceLimits(
            spare_slots=shape.spare_slots,
            headroom_tokens=shape.headroom,
            prefix_cache=shape.prefix_cache,
            host_cache_bytes=shape.host_bytes,
            idle_cells=shape.idle_cells,
            swap_bytes=shape.swap_bytes,
            compaction=shape.compaction,
        ),
        speculation=shape.speculation,
    )


def adapters_of(driven: DrivenCore, folder: Path) -> list[LoadedAdapter | None]:
    adapters: list[LoadedAdapter | None] = [None]
    for shift in (1, 2):
        path = folder / f"{shift}.gguf"
        path.write_bytes(b"FAKE-ADAPTER %d" % shift)
        adapter = LoadedAdapter(f"sha256:{shift:064x}", "", "", str(shift), 1.0)
        adapters.append(driven.core.load_adapter(adapter, path))
    return adapters


def check_books(driven: DrivenCore) -> None:
    """Checks what is true between any two steps."""
    snapshot = driven.core.snapshot()
    assert snapshot.used_cells == driven.backend.held_cells
    assert snapshot.used_cells <= snapshot.cells
    assert sum(tenant.used_cells for tenant in snapshot.tenants) == snapshot.used_cells
    assert sum(tenant.cached_cells for tenant in snapshot.tenants) == snapshot.cached_cells
    assert snapshot.running + snapshot.waiting + snapshot.preempted == sum(
        not reader.ended for reader in driven.readers.values()
    )


def check_ending(driven: DrivenCore, reader: Reader) -> None:
    """Checks the events of a request that ended, and what was counted of it."""
    request = reader.request
    counts = driven.usage.counts.get(request.token_id)
    (ending,) = driven.usage.endings[request.token_id]
    kinds = [type(event) for event in reader.events]
    deltas = kinds.count(Delta)
    assert kinds[: deltas + 1] == ([Started] + [Delta] * deltas if reader.started else kinds[:1])
    assert [event.output_tokens for event in reader.events if isinstance(event, Delta)] == list(range(1, deltas + 1))
    assert (counts.output_tokens if counts else 0) == deltas
    assert (counts.input_tokens if counts else 0) == (len(request.prompt) if reader.started else 0)
    if reader.started:
        assert counts
        assert counts.cached_input_tokens == reader.cached < len(request.prompt)
    if reader.done is not None:
        assert reader.events[-1] is reader.done
        assert kinds.count(Done) == 1
        assert reader.done.output_tokens == deltas
        assert ending.value == reader.done.finish_reason.value
        assert (reader.done.embedding is not None) == request.pooled == (deltas == 0)
        room = CONTEXT - len(request.prompt)
        limit = min(room, request.sampling.max_output_tokens or room)
        assert deltas <= limit
        assert request.pooled or (reader.done.finish_reason is FinishReason.STOP or deltas == limit)
    elif reader.error is not None:
        assert ending is Ending.INTERRUPTED
        assert deltas == 0 or not isinstance(reader.error, DeadlineUnreachable)
    else:
        assert reader.cancelled
        assert ending is Ending.CANCELLED


def play(shape: Shape, script: list[Arrival], events: list[tuple[int, str]], folder: Path) -> DrivenCore:
    """Plays a script and checks the books after every step."""
    driven = core_of(shape)
    adapters = adapters_of(driven, folder)
    left = sorted(script, key=lambda arrival: -arrival.at)
    cancels: list[tuple[int, Reader]] = []
    while left or not driven.core.idle:
        while left and (left[-1].at <= driven.steps or driven.core.idle):
            arrival = left.pop()
            reader = driven.submit(
                prompt_of(arrival),
                f"t{arrival.tenant}",
                arrival.output,
                weight=shape.weights[arrival.tenant],
                deadline_s=arrival.deadline_s,
                adapter=adapters[arrival.adapter],
                pooled=arrival.pooled,
            )
            if arrival.cancel_after is not None:
                cancels.append((driven.steps + arrival.cancel_after, reader))
        for at, reader in cancels:
            if at == driven.steps:
                driven.cancel(reader)
        for at, what in events:
            if at == driven.steps:
                happen(driven, what)
        if not driven.core.idle:
            driven.step()
        check_books(driven)
        assert driven.steps < 60 * (len(script) + 1) * 8, "no end in sight"
    driven.backend.faults.clear()
    return driven


def happen(driven: DrivenCore, what: str) -> None:
    """Lets the next step fail, or purges a tenant."""
    if what == "fails":
        driven.backend.faults.append(DecodeFailed("once"))
    elif what == "no cells":
        driven.backend.faults.append(OutOfCells())
    else:
        driven.purge(what.removeprefix("purge "))


@settings(max_examples=120, deadline=None)
@given(shape=SHAPES, script=st.lists(ARRIVALS, min_size=1, max_size=14), events=EVENTS)
def test_every_request_ends_once_and_nothing_leaks(
    shape: Shape, script: list[Arrival], events: list[tuple[int, str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    driven = play(shape, script, events, tmp_path_factory.mktemp("adapters"))
    allowed: set[type[DomainError]] = {DeadlineUnreachable}
    allowed |= {TenantPurged} if any("purge" in what for _, what in events) else set()
    allowed |= {GenerationFailed} if any("purge" not in what for _, what in events) else set()
    for reader in driven.readers.values():
        check_ending(driven, reader)
        assert reader.error is None or type(reader.error) in allowed
    assert len(driven.core.ended) == len(script)
    assert sorted(driven.usage.opened_ids) == sorted(driven.usage.endings)
    driven.core.check_idle()
    assert driven.backend.samplers == 0
    for tenant in {f"t{arrival.tenant}" for arrival in script}:
        driven.core.purge(tenant)
    assert driven.backend.held_cells == 0
    assert driven.core.snapshot().host_cache_bytes == 0


# Shares.


@dataclass(slots=True)
class Flood:
    """A tenant that keeps `streams` requests asked for, as long as it is on."""

    driven: DrivenCore
    tenant: str
    streams: int
    prompt: int
    output: int
    weight: int = 1
    on: bool = True
    readers: list[Reader] = field(default_factory=list)
    _asked: list[Reader] = field(default_factory=list)

    def refill(self) -> None:
        """Asks anew for what ended."""
        self._asked = [reader for reader in self._asked if not reader.ended]
        while self.on and len(self._asked) < self.streams:
            # No two begin alike, so that the prefix cache has no part in it.
            number = len(self.readers)
            prompt = (f"{number:06d}{self.tenant}" + "x" * self.prompt)[: self.prompt]
            reader = self.driven.submit(prompt, self.tenant, self.output, weight=self.weight)
            self._asked.append(reader)
            self.readers.append(reader)

    @property
    def output_tokens(self) -> int:
        """How many tokens it was given."""
        return sum(reader.output_tokens for reader in self.readers)

    @property
    def backlogged(self) -> bool:
        """Whether it has requests that wait for a place."""
        line = self.driven.core._scheduler.line(self.tenant)
        return line is not None and bool(line.waiting)

    @property
    def service(self) -> float:
        """What it was given, in weighted tokens: prompt tokens that were computed, and generated ones."""
        charged = (self.driven.core._sequences[reader.stream].charged for reader in self._asked if not reader.ended)
        ended = [reader for reader in self.readers if reader.ended]
        prompts = sum(len(reader.request.prompt) for reader in ended) + sum(charged)
        return INPUT_COST * prompts + OUTPUT_COST * self.output_tokens


def drive(driven: DrivenCore, floods: list[Flood], seconds: float, each: Callable[[], None] | None = None) -> None:
    """Drives floods for so many seconds of the virtual clock."""
    until = driven.clock.now + seconds
    while driven.clock.now < until:
        for flood in floods:
            flood.refill()
        if each is not None:
            each()
        driven.step()


MIXES = {
    "decode-heavy": ((10, 60), (10, 60)),
    "prefill-heavy": ((200, 3), (200, 3)),
    "one of each": ((200, 3), (10, 60)),
    "long answers against short": ((10, 200), (10, 4)),
}


@pytest.mark.parametrize("slots", [2, 8])
@pytest.mark.parametrize("weights", [(1, 1), (1, 3)])
@pytest.mark.parametrize("mix", MIXES)
def test_backlogged_tenants_differ_by_at_most_the_papers_bound(mix: str, weights: tuple[int, int], slots: int) -> None:
    """Theorem 4.4 of Sheng et al.: over any interval in which both always have requests waiting, weighted service
    differs by at most 2 max(w_p L_input, w_q M), with M the tokens that run at once."""
    driven = DrivenCore(slots=slots, cells=4_096, places=PlaceLimits(spare_slots=2))
    floods = [
        Flood(driven, name, 2 * slots + 4, prompt, output, weight)
        for name, (prompt, output), weight in zip("ab", MIXES[mix], weights, strict=True)
    ]
    differences: list[float] = []

    def note() -> None:
        assert all(flood.backlogged for flood in floods), "one is not backlogged"
        differences.append(floods[0].service / weights[0] - floods[1].service / weights[1])

    drive(driven, floods, 1.0)
    drive(driven, floods, 7.0, note)
    longest_prompt = max(prompt for prompt, _ in MIXES[mix])
    running_tokens = (slots + 2) * max(prompt + output for prompt, output in MIXES[mix])
    bound = 2 * max(INPUT_COST * longest_prompt, OUTPUT_COST * running_tokens) / min(weights)
    worst = max(differences) - min(differences)
    assert worst <= bound


@pytest.mark.parametrize("streams", [4, 16])
def test_equal_tenants_get_equal_shares(streams: int) -> None:
    driven = DrivenCore(slots=16, cells=8_192)
    floods = [Flood(driven, name, streams, 40, 60) for name in "abcd"]
    drive(driven, floods, 10.0)
    assert jain_index([flood.output_tokens for flood in floods]) >= 0.99


def test_shares_follow_the_weights() -> None:
    driven = DrivenCore(slots=8, cells=8_192)
    floods = [Flood(driven, str(weight), 16, 40, 60, weight) for weight in (1, 2, 5)]
    drive(driven, floods, 2.0)
    before = [flood.output_tokens for flood in floods]
    drive(driven, floods, 15.0)
    given = [flood.output_tokens - old for flood, old in zip(floods, before, strict=True)]
    assert jain_index([tokens / flood.weight for tokens, flood in zip(given, floods, strict=True)]) >= 0.99


def test_a_tenant_alone_gets_everything() -> None:
    driven = DrivenCore(slots=6, cells=8_192, places=PlaceLimits(spare_slots=3))
    flood = Flood(driven, "a", 12, 20, 40)
    drive(driven, [Flood(driven, "gone", 2, 10, 10)], 0.3)
    drive(driven, [flood], 0.5)
    running: list[int] = []
    drive(driven, [flood], 6.0, lambda: running.append(driven.core.snapshot().running))
    # A place that is given up is taken at the next step.
    assert sum(running) / len(running) > 5.5
    assert max(running) == 6


def test_rows_are_never_left_out_of_a_step_without_reason() -> None:
    driven = DrivenCore(slots=8, cells=8_192)
    for number in range(8):
        driven.submit(f"{number} goes on", "ab"[number % 2], 100)
    driven.run(lambda: all(reader.output_tokens > 1 for reader in driven.readers.values()))
    begun = len(driven.backend.steps)
    driven.run(lambda: any(reader.ended for reader in driven.readers.values()))
    assert {len(step) for step in driven.backend.steps[begun:-2]} == {8}


# Nobody starves.


@pytest.mark.parametrize("weights", [(1, 1, 1), (1, 100, 100)])
@pytest.mark.parametrize("cells", [600, 4_096])
def test_nobody_waits_longer_than_his_share_allows(weights: tuple[int, ...], cells: int) -> None:
    driven = DrivenCore(slots=3, cells=cells, places=PlaceLimits(spare_slots=1, headroom_tokens=32))
    shapes = [(300, 5), (20, 80), (5, 5)]
    floods = [
        Flood(driven, f"t{place}", 5, prompt, output, weight)
        for place, ((prompt, output), weight) in enumerate(zip(shapes, weights, strict=True))
    ]
    drive(driven, floods, 20.0)
    total = sum(weights)
    for flood in floods:
        ended = [reader for reader in flood.readers if reader.ended]
        cost = flood.prompt + OUTPUT_COST * flood.output
        # Four requests of its own before it, each at the tenant's share of some 400 weighted tokens a second.
        allowed_s = 5 * cost / (400 * flood.weight / total) + 3.0
        waits = [reader.times[0] - reader.submitted_at for reader in ended]
        if allowed_s < 20.0:
            assert len(waits) >= 2
            assert max(waits) <= allowed_s
        open_since = [reader.submitted_at for reader in flood.readers if not reader.ended]
        assert driven.clock.now - min(open_since) <= 2 * allowed_s


@pytest.mark.parametrize(("slots", "tenants", "seconds"), [(1, 5, 20.0), (4, 20, 40.0)])
def test_many_tenants_on_few_places_take_turns_without_thrashing(slots: int, tenants: int, seconds: float) -> None:
    driven = DrivenCore(slots=slots, cells=8_192, places=PlaceLimits(spare_slots=0))
    floods = [Flood(driven, f"t{number:02d}", 1, 10, 400) for number in range(tenants)]
    drive(driven, floods, seconds)
    tokens = [flood.output_tokens for flood in floods]
    assert jain_index([float(count) for count in tokens]) >= 0.9
    # A newcomer takes one place; from then on it takes a quantum of service to change places.
    preemptions = driven.core.snapshot().preemptions
    assert preemptions <= len(driven.readers) + sum(flood.service for flood in floods) / QUANTUM
    assert preemptions / sum(tokens) < 0.02


def test_requests_of_a_tenant_are_served_in_order() -> None:
    driven = DrivenCore(slots=2, cells=600, context_tokens=500, places=PlaceLimits(spare_slots=0, headroom_tokens=8))
    lengths = [300, 10, 400, 5, 250, 30]
    readers = [driven.submit("x" * length, output=20) for length in lengths]
    other = Flood(driven, "b", 3, 30, 30)
    while not all(reader.ended for reader in readers):
        other.refill()
        driven.step()
    starts = [reader.times[0] for reader in readers]
    assert starts == sorted(starts)


@pytest.mark.parametrize("lanes", ["adapters", "embeddings"])
def test_lanes_take_turns_by_what_their_tenants_got(lanes: str, tmp_path: Path) -> None:
    driven = DrivenCore(slots=8, cells=4_096)
    adapters = adapters_of(driven, tmp_path)
    readers: dict[str, list[Reader]] = {"a": [], "b": []}

    def refill() -> None:
        for tenant, adapter in (("a", None), ("b", adapters[1] if lanes == "adapters" else None)):
            open_ones = [reader for reader in readers[tenant] if not reader.ended]
            for _ in range(4 - len(open_ones)):
                pooled = tenant == "b" and lanes == "embeddings"
                prompt = f"{len(driven.readers):05d}" + "y" * (100 if pooled else 20)
                readers[tenant].append(driven.submit(prompt, tenant, 40, adapter=adapter, pooled=pooled))

    while driven.clock.now < 6.0:
        refill()
        driven.step()
    given = service_of(driven)
    assert min(given.values()) / max(given.values()) > 0.9


def service_of(driven: DrivenCore) -> dict[str, float]:
    return {tenant.tenant: tenant.counter for tenant in driven.core.snapshot().tenants}


# First tokens and gaps.


def gaps_of(readers: list[Reader], begun: float) -> list[float]:
    """Gives the seconds between two tokens of a stream, of those that came after `begun`."""
    return [
        later - earlier
        for reader in readers
        for earlier, later in zip(reader.tokens_at, reader.tokens_at[1:], strict=False)
        if later > begun
    ]


def one_at_a_time(driven: DrivenCore, flood: Flood | None, requests: int, output: int = 20) -> tuple[float, float]:
    """Sends tenant "b"'s requests one after the other, and gives their median TTFT and tokens per second of answering,
    in virtual seconds."""
    ttfts: list[float] = []
    rates: list[float] = []
    for number in range(requests):
        if driven.core.idle:
            driven.clock.now += 0.05
        reader = driven.submit((f"{number:04d} of b " + "q" * 40)[:40], "b", output)
        while not reader.ended:
            if flood is not None:
                flood.refill()
            driven.step()
        ttfts.append(reader.ttft_s)
        rates.append((output - 1) / (reader.tokens_at[-1] - reader.tokens_at[0]))
        # It reads the answer before it asks again.
        until = driven.clock.now + 0.02 * (number % 5)
        while flood is not None and driven.clock.now < until:
            flood.refill()
            driven.step()
    return sorted(ttfts)[requests // 2], sorted(rates)[requests // 2]


@pytest.mark.parametrize("streams", [16, 64])
def test_a_flood_hardly_delays_anothers_first_token(streams: int) -> None:
    def machine() -> DrivenCore:
        return DrivenCore(slots=16, cells=16_384, places=PlaceLimits())

    idle_s, _ = one_at_a_time(machine(), None, 20)

    alone = machine()
    flood = Flood(alone, "a", streams, 40, 128)
    drive(alone, [flood], 2.0)
    before = flood.output_tokens
    drive(alone, [flood], 10.0)
    alone_rate = (flood.output_tokens - before) / 10.0

    driven = machine()
    flood = Flood(driven, "a", streams, 40, 128)
    drive(driven, [flood], 2.0)
    before, begun = flood.output_tokens, driven.clock.now
    ttft_s, rate = one_at_a_time(driven, flood, 20)
    seconds = driven.clock.now - begun
    # What is promised of a real machine is 2.5 times.
    assert ttft_s <= 1.8 * idle_s
    # "a" loses the time that "b"'s tokens take, and hardly more.
    cost = StepCost()
    left = 1 - 20 * (40 * cost.prompt_s + 20 * cost.row_s) / seconds
    assert (flood.output_tokens - before) / seconds >= 0.9 * left * alone_rate
    # Both run in every step, so "b" has the pace of each of "a"'s streams at least.
    assert rate >= alone_rate / 17


@pytest.mark.parametrize(("stretch", "gap_steps", "prefill_share"), [(2.7, 3.0, 0.6), (6.5, 7.0, 0.8)])
def test_a_long_prompt_stalls_nobody_and_is_computed_at_most_of_the_full_rate(
    stretch: float, gap_steps: float, prefill_share: float
) -> None:
    cost = StepCost()
    driven = DrivenCore(
        slots=16, cells=32_768, context_tokens=8_192, pace=PaceLimits(64, stretch=stretch), places=PlaceLimits()
    )
    streams = [driven.submit(f"stream {number} of eight", "a", 1_000) for number in range(8)]
    driven.run(lambda: all(reader.output_tokens > 20 for reader in streams))
    begun = driven.clock.now
    long = driven.submit("long " * 800, "a", 1)
    driven.run(lambda: long.ended)
    assert max(gaps_of(streams, begun)) <= gap_steps * cost.step_s(8, 0)
    rate = 4_000 / (driven.clock.now - begun)
    assert rate >= prefill_share / cost.prompt_s


@pytest.mark.parametrize("step_tokens", [64, 256])
def test_anothers_long_prompt_stalls_nobody(step_tokens: int) -> None:
    driven = DrivenCore(slots=16, cells=32_768, context_tokens=4_096, pace=PaceLimits(step_tokens))
    streams = [driven.submit(f"stream {number} of eight", "a", 1_000) for number in range(8)]
    driven.run(lambda: all(reader.output_tokens > 20 for reader in streams))
    begun = driven.clock.now
    long = driven.submit("long " * 200, "b", 1)
    driven.run(lambda: long.ended)
    assert max(gaps_of(streams, begun)) <= 3 * StepCost().step_s(8, 0)


def test_a_target_between_tokens_is_kept_while_prompts_come() -> None:
    driven = DrivenCore(slots=8, cells=16_384, context_tokens=4_096, pace=PaceLimits(64, inter_token_s=0.04))
    streams = [driven.submit(f"stream {number}", "a", 400) for number in range(4)]
    driven.run(lambda: all(reader.output_tokens > 20 for reader in streams))
    begun = driven.clock.now
    long = driven.submit("long " * 400, "a", 1)
    driven.run(lambda: long.ended)
    assert max(gaps_of(streams, begun)) <= 1.05 * 0.04
    assert driven.clock.now - begun <= 1.3 * 2_000 * 0.0022 * 0.04 / (0.04 - StepCost().step_s(4, 0))


@pytest.mark.parametrize(("streams", "weight", "share"), [(4, 1, 1 / 2), (8, 1, 1 / 2), (8, 3, 3 / 4)])
def test_a_long_prompt_leaves_another_tenants_streams_their_share_of_the_time(
    streams: int, weight: int, share: float
) -> None:
    driven = DrivenCore(slots=10, cells=32_768, context_tokens=4_096, pace=PaceLimits(256, stretch=20))
    readers = [driven.submit(f"stream {number}", "a", 2_000, weight=weight) for number in range(streams)]
    driven.run(lambda: all(reader.output_tokens > 20 for reader in readers))
    begun, tokens = driven.clock.now, readers[0].output_tokens
    long = driven.submit("long " * 200, "b", 1)
    driven.run(lambda: long.ended)
    alone = (driven.clock.now - begun) / StepCost().step_s(streams, 0)
    assert 0.9 * share <= (readers[0].output_tokens - tokens) / alone <= 1.2 * share
