"""Faults in the core: what a failed step, missing cells and bad logits cost, and whom."""

import numpy as np
import pytest

from redoma_model.engine.backend import DecodeFailed
from redoma_model.engine.cells import OutOfCells
from redoma_model.errors import GenerationFailed
from tests.fakes.driven_core import HISTORY, DrivenCore


def test_a_poisoned_request_ends_alone() -> None:
    driven = DrivenCore()
    driven.backend.poison = tuple(b"poison")
    good = [driven.submit(f"say:fine {number}", "ab"[number % 2], None) for number in range(2)]
    for _ in range(3):
        driven.step()
    bad = driven.submit("poison", "c", None)
    good.append(driven.submit("say:fine too", "a", None))
    driven.end_idle()
    assert isinstance(bad.error, GenerationFailed)
    assert [reader.text for reader in good] == ["fine 0", "fine 1", "fine too"]


def test_a_passing_failure_ends_no_request_of_several() -> None:
    driven = DrivenCore(speculation=True)
    readers = [driven.submit(f"say:fine {number}", "ab"[number % 2], None) for number in range(4)]
    for _ in range(4):
        driven.step()
    driven.backend.faults.append(DecodeFailed("once"))
    driven.end_idle()
    assert [reader.text for reader in readers] == [f"fine {number}" for number in range(4)]


def test_a_failed_step_does_not_spoil_the_learned_pace() -> None:
    driven = DrivenCore(slots=8)
    for number in range(8):
        driven.submit(f"{number} goes on", "ab"[number % 2], 60)
    driven.run(lambda: driven.steps == 20)
    longest_s = driven.core.snapshot().step_max_s
    driven.backend.faults.append(DecodeFailed("once"))
    begun, recent = driven.clock.now, len(driven.backend.steps)
    driven.step()
    single_s = (driven.clock.now - begun) / (len(driven.backend.steps) - recent)
    assert single_s < longest_s
    recent_s = list(driven.core._pace.recent_s)[-8:]
    assert max(recent_s) == pytest.approx(single_s)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_running_out_of_cells_in_a_step_ends_no_request_of_several(count: int) -> None:
    driven = DrivenCore()
    readers = [driven.submit(f"say:fine {number}", "ab"[number % 2], None) for number in range(4)]
    for _ in range(3):
        driven.step()
    driven.backend.faults += [OutOfCells()] * min(count, 3)
    driven.end_idle()
    assert [reader.text for reader in readers] == [f"fine {number}" for number in range(4)]


def test_cells_that_never_suffice_end_the_request_and_not_the_engine() -> None:
    driven = DrivenCore()
    lost = driven.submit("go", output=None)
    driven.step()
    driven.backend.faults += [OutOfCells()] * 3
    driven.run(lambda: lost.ended)
    assert isinstance(lost.error, GenerationFailed)
    driven.backend.faults.clear()
    after = driven.submit("say:on", output=None)
    driven.end_idle()
    assert after.text == "on"


def test_logits_that_are_no_number_end_one_request() -> None:
    driven = DrivenCore(speculation=True)
    driven.backend.bad_prompt = tuple(b"bad")
    readers = [driven.submit(prompt, "a", None) for prompt in ("say:one", "bad", "say:two")]
    driven.end_idle()
    assert [reader.text for reader in readers] == ["one", "", "two"]
    assert isinstance(readers[1].error, GenerationFailed)


def test_an_embedding_without_direction_ends_one_request(monkeypatch: pytest.MonkeyPatch) -> None:
    driven = DrivenCore()
    bad, good = driven.submit("bad", pooled=True), driven.submit("good one", pooled=True)
    pooled = driven.backend.pooled
    monkeypatch.setattr(driven.backend, "pooled", lambda place: pooled(place) * (np.nan if place == 0 else 1))
    driven.end_idle()
    assert isinstance(bad.error, GenerationFailed)
    assert good.done is not None


def test_what_failed_leaves_nothing_in_the_prefix_cache() -> None:
    driven = DrivenCore()
    driven.backend.poison = tuple(HISTORY.encode())
    driven.submit(HISTORY)
    driven.end_idle()
    assert driven.core.snapshot().cached_cells == 0


def test_a_prompt_whose_logits_are_no_number_is_not_kept() -> None:
    driven = DrivenCore()
    driven.backend.bad_prompt = tuple(HISTORY.encode())
    reader = driven.submit(HISTORY)
    driven.end_idle()
    assert isinstance(reader.error, GenerationFailed)
    assert driven.computed_tokens == len(HISTORY)
    assert driven.core.snapshot().cached_cells == 0
