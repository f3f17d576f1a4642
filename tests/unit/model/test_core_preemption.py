"""Requests that give their place up for a time: nothing of them is lost or charged twice, and none does in vain."""

import numpy as np
import pytest

from redoma_model.engine.pace import PaceLimits
from redoma_model.engine.places import PlaceLimits
from redoma_model.engine.usage import TokenCounts
from tests.fakes.driven_core import HISTORY, DrivenCore, Reader


def short_of_places(swap_bytes: int, pooled: bool = False) -> tuple[DrivenCore, Reader]:
    """One slot, a request that runs in it, and another tenant's that takes it."""
    driven = DrivenCore(slots=1, places=PlaceLimits(spare_slots=0, swap_bytes=swap_bytes), pace=PaceLimits(64))
    first = driven.submit(HISTORY, "a", 40, pooled=pooled)
    driven.run(lambda: (driven.computed_tokens > 100) if pooled else first.output_tokens == 20)
    driven.submit("say:quick", "b", None)
    return driven, first


def test_a_preempted_request_goes_on_without_being_computed_again() -> None:
    driven, first = short_of_places(1 << 30)
    driven.end_idle()
    assert driven.core.snapshot().preemptions == 1
    assert driven.computed_tokens == len(HISTORY) + 39 + len("say:quick") + 5
    assert first.done is not None
    assert first.done.output_tokens == 40
    assert first.text == "abcdefghijklmnopqrstuvwxyz abcdefghijklm"


def test_a_preempted_request_beyond_the_swap_budget_is_computed_again() -> None:
    driven, first = short_of_places(0)
    driven.end_idle()
    # The prompt's whole blocks stay in the tenant's prefix cache: answer and the rest of a block come again.
    again = driven.computed_tokens - (len(HISTORY) + 39 + len("say:quick") + 5)
    assert 19 <= again <= 19 + 16
    assert first.text == "abcdefghijklmnopqrstuvwxyz abcdefghijklm"
    assert driven.usage.counts["jti-0"] == TokenCounts(len(HISTORY), 0, 40)


def test_a_prompt_computed_again_is_charged_once() -> None:
    driven = DrivenCore(slots=1, places=PlaceLimits(spare_slots=0, swap_bytes=0, prefix_cache=False))
    driven.submit(HISTORY, "a", 40)
    driven.run(lambda: driven.readers[next(iter(driven.readers))].output_tokens == 20)
    driven.submit("say:quick", "b", None)
    driven.run()
    snapshot = driven.core.snapshot()
    assert snapshot.preemptions == 1
    assert snapshot.prefill_tokens == len(HISTORY) + len("say:quick")
    counters = {tenant.tenant: tenant.counter for tenant in snapshot.tenants}
    assert counters["a"] == len(HISTORY) + 2 * 40


@pytest.mark.parametrize("swap_bytes", [0, 1 << 30])
def test_a_preempted_embedding_keeps_its_value(swap_bytes: int) -> None:
    driven, first = short_of_places(swap_bytes, pooled=True)
    alone = DrivenCore()
    expected = alone.submit(HISTORY, pooled=True)
    driven.end_idle()
    alone.end_idle()
    assert driven.core.snapshot().preemptions == 1
    assert first.done is not None
    assert expected.done is not None
    assert first.done.embedding is not None
    assert expected.done.embedding is not None
    np.testing.assert_allclose(first.done.embedding, expected.done.embedding, atol=1e-5)


def test_a_swapped_request_can_be_cancelled() -> None:
    driven, first = short_of_places(1 << 30)
    driven.run(lambda: driven.core.snapshot().preempted == 1)
    assert driven.core.snapshot().swapped_bytes > 0
    driven.cancel(first)
    assert driven.core.snapshot().swapped_bytes == 0
    driven.end_idle()


def test_cells_run_out_and_all_requests_still_end() -> None:
    places = PlaceLimits(spare_slots=1, headroom_tokens=4)
    driven = DrivenCore(cells=300, context_tokens=300, places=places, speculation=True)
    readers = [driven.submit(f"no. {number} goes on", "abc"[number % 3], 150) for number in range(9)]
    driven.end_idle()
    assert [reader.done and reader.done.output_tokens for reader in readers] == [150] * 9
    assert driven.core.snapshot().preemptions > 0


def test_nobody_is_preempted_for_a_request_that_does_not_fit_even_so() -> None:
    places = PlaceLimits(spare_slots=0, headroom_tokens=8, prefix_cache=False)
    driven = DrivenCore(slots=8, cells=512, context_tokens=500, places=places)
    # "b" runs one that holds most cells, and asks for another that can't be had beside it.
    driven.submit("b" * 300, "b", 150)
    driven.run(lambda: driven.readers[next(iter(driven.readers))].output_tokens == 1)
    driven.submit("b" * 400, "b", 5)
    for number in range(7):
        driven.submit(f"{number} goes on", "a", 100)
    driven.end_idle()
    assert driven.core.snapshot().preemptions <= 14
