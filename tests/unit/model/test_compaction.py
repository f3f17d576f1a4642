"""Cells that are moved together: when, whose they stay, and what goes on undisturbed."""

import pytest

from redoma_model.engine import compaction
from redoma_model.engine.compaction import LEAST_SCATTERED, Compaction
from redoma_model.engine.places import PlaceLimits
from redoma_model.engine.prefix_cache import PrefixCache
from tests.fakes.cell_store import FakeCellStore
from tests.fakes.driven_core import HISTORY, DrivenCore

LONG_S = 60.0


@pytest.fixture
def counted() -> Compaction:
    store = FakeCellStore(10_000, 4)
    return Compaction(store, PrefixCache(store, range(2, 4)), lambda: 0.0)


def test_cells_on_top_of_all_others_are_not_scattered(counted: Compaction) -> None:
    for step in range(1_000):
        counted.count(10 * step, 10, 10)
    assert not counted.is_due(0, LONG_S)


def test_cells_are_moved_once_a_third_of_them_was_put_into_gaps(counted: Compaction) -> None:
    counted.count(0, 1_000, 1_000)
    for step in range(30):
        counted.count(500 + 10 * step, 10, 10)
    assert counted.is_due(900, LONG_S)
    assert not counted.is_due(901, LONG_S)


def test_a_few_cells_are_not_worth_moving(counted: Compaction) -> None:
    counted.count(0, LEAST_SCATTERED + 1, LEAST_SCATTERED + 1)
    counted.count(1, LEAST_SCATTERED - 1, LEAST_SCATTERED - 1)
    assert not counted.is_due(0, LONG_S)
    counted.count(1, 1, 1)
    assert counted.is_due(0, LONG_S)


def test_cells_of_an_empty_cache_are_not_scattered(counted: Compaction) -> None:
    counted.count(0, 1_000, 1_000)
    counted.count(0, 1_000, 1_000)
    assert not counted.is_due(0, LONG_S)


def test_cells_of_a_prompt_stay_together(counted: Compaction) -> None:
    counted.count(0, 0, 1_000)
    counted.count(100, 1, 800)
    assert not counted.is_due(0, LONG_S)


def test_cells_are_not_moved_where_that_would_take_too_long(counted: Compaction) -> None:
    counted.count(0, 1_000, 1_000)
    counted.count(1, 900, 900)
    assert counted.is_due(1_000, 0.1)
    assert not counted.is_due(1_000, 0.001)


def answers(places: PlaceLimits) -> list[str]:
    """Gives the answers of two tenants, some of whose prompts begin alike, and checks that nothing is left over."""
    driven = DrivenCore(slots=4, cells=4_096, places=places)
    readers = []
    for turn in range(12):
        for tenant in "ab":
            begin = HISTORY if turn % 3 else f"{tenant} {turn}"
            readers.append(driven.submit(f"{begin} {turn}", tenant, output=20 + 13 * turn % 90))
        for _ in range(20):
            driven.step()
    driven.end_idle()
    return [reader.text for reader in readers]


@pytest.mark.parametrize(("swap_bytes", "are_moved"), [(1 << 30, True), (0, False)])
def test_answers_go_on_as_they_would_while_cells_are_moved(
    monkeypatch: pytest.MonkeyPatch, swap_bytes: int, are_moved: bool
) -> None:
    ran: list[bool] = []
    run = Compaction.run

    def run_and_note(self: Compaction, *args: object) -> bool:
        ran.append(run(self, *args))  # type: ignore[arg-type]
        return ran[-1]

    monkeypatch.setattr(Compaction, "run", run_and_note)
    monkeypatch.setattr(compaction, "LEAST_SCATTERED", 8)
    undisturbed = answers(PlaceLimits(spare_slots=1))
    assert not ran
    assert undisturbed == answers(
        PlaceLimits(spare_slots=1, host_cache_bytes=1 << 20, idle_cells=0, swap_bytes=swap_bytes, compaction=True)
    )
    assert len(ran) > 3
    assert set(ran) == {are_moved}
