"""Deadlines in the core: who can't meet his is refused early, and nobody else."""

import pytest

from redoma_model.engine.pace import PaceLimits
from redoma_model.engine.places import PlaceLimits
from redoma_model.engine.usage import Ending
from redoma_model.errors import DeadlineUnreachable
from tests.fakes.driven_core import DrivenCore, Reader, StepCost


def at_pace(slots: int = 1, cells: int = 2_048, places: PlaceLimits | None = None) -> DrivenCore:
    """A core that knows how long its steps take."""
    driven = DrivenCore(slots=slots, cells=cells, places=places)
    for number in range(4):
        driven.submit(str(number) * 100, "z", 20)
    driven.run()
    driven.clock.now += 1.0
    return driven


def test_a_hopeless_request_is_refused_however_shortly_after_another() -> None:
    driven = at_pace()
    driven.submit("say:x", output=None)
    driven.run()
    hopeless = driven.submit("y" * 400, deadline_s=0.3)
    driven.step()
    assert isinstance(hopeless.error, DeadlineUnreachable)
    driven.end_idle()


def test_a_prompt_too_long_for_its_deadline_is_refused_early() -> None:
    driven = at_pace()
    hopeless = driven.submit("y" * 400, deadline_s=0.5)
    hopeful = driven.submit("z" * 400, deadline_s=1.2)
    driven.step()
    assert isinstance(hopeless.error, DeadlineUnreachable)
    driven.end_idle()
    assert hopeful.done is not None
    assert driven.usage.endings[hopeless.request.token_id] == [Ending.INTERRUPTED]


def test_what_is_cached_counts_towards_a_deadline() -> None:
    driven = at_pace()
    driven.submit("y" * 400, output=1)
    driven.run()
    warm = driven.submit("y" * 400 + "?", output=1, deadline_s=0.2)
    driven.end_idle()
    assert warm.done is not None


def test_what_the_host_has_counts_towards_a_deadline() -> None:
    places = PlaceLimits(spare_slots=0, headroom_tokens=16, host_cache_bytes=1 << 20)
    driven = at_pace(cells=512, places=places)
    driven.submit("y" * 400, output=1)
    driven.run()
    driven.submit("z" * 400, "b", 1)
    driven.run()
    assert driven.core.snapshot().host_cache_bytes > 0
    driven.clock.now += 1.0
    warm = driven.submit("y" * 400 + "?", output=1, deadline_s=0.2)
    driven.end_idle()
    assert warm.cached >= 392
    assert warm.ttft_s < 0.2


def test_a_request_at_the_end_of_a_slow_line_is_refused_early() -> None:
    driven = at_pace()
    line = [driven.submit("go", output=100) for _ in range(12)]
    driven.run(lambda: line[5].ended)
    late = driven.submit("go", output=1, deadline_s=1.0)
    driven.run(lambda: late.ended)
    assert isinstance(late.error, DeadlineUnreachable)
    assert not line[-1].ended
    driven.end_idle()


def test_requests_refused_before_it_keep_nobody_from_his_deadline() -> None:
    driven = at_pace()
    line = [driven.submit("go", output=100) for _ in range(4)]
    driven.run(lambda: line[2].ended)
    hopeless = [driven.submit("go", output=100, deadline_s=0.2) for _ in range(20)]
    feasible = driven.submit("go", output=1, deadline_s=1.5)
    driven.end_idle()
    assert all(isinstance(reader.error, DeadlineUnreachable) for reader in hopeless)
    assert feasible.done is not None
    assert feasible.ttft_s < 1.5


def test_a_line_that_moves_in_bursts_refuses_nobody_who_would_be_in_time() -> None:
    def last_of_a_burst(deadline_s: float | None) -> Reader:
        driven = at_pace(slots=4)
        line = [driven.submit(f"{number} goes on", output=100) for number in range(12)]
        driven.run(lambda: line[8].output_tokens > 80)
        for number in range(3):
            driven.submit(f"{number} comes before", output=100)
        late = driven.submit("late", output=1, deadline_s=deadline_s)
        driven.end_idle()
        return late

    needed_s = last_of_a_burst(None).ttft_s
    assert last_of_a_burst(1.5 * needed_s).error is None


@pytest.mark.parametrize("cost", [StepCost(0.008, 0.00005, 0.00001), StepCost(0.02, 0.002, 0.0001), StepCost()])
def test_a_feasible_deadline_is_not_refused_after_long_decoding(cost: StepCost) -> None:
    driven = DrivenCore(cost=cost, context_tokens=2_048, cells=8_192, pace=PaceLimits(512))
    driven.submit("warm " * 100, "z", 800)
    driven.run()
    driven.clock.now += 1.0
    reader = driven.submit("y" * 1_000, output=1, deadline_s=2.6)
    driven.end_idle()
    assert reader.error is None
    assert reader.ttft_s <= 2.5
