"""What the core reuses and for whom, and what a purge leaves of it."""

import pytest

from redoma_model.engine.backend import DecodeFailed
from redoma_model.engine.pace import PaceLimits
from redoma_model.engine.places import PlaceLimits
from redoma_model.engine.usage import Ending
from redoma_model.errors import TenantPurged
from tests.fakes.driven_core import HISTORY, DrivenCore
from tests.unit.model.conftest import LoadAdapter


def test_the_second_turn_reuses_the_first() -> None:
    driven = DrivenCore()
    first = driven.submit(HISTORY, output=20)
    driven.run()
    second = driven.submit(HISTORY + first.text + " And then?", output=5)
    driven.end_idle()
    assert first.cached == 0
    assert second.cached >= len(HISTORY)
    account = driven.core.snapshot().tenants[0]
    assert (account.input_tokens, account.cached_input_tokens) == (
        2 * len(HISTORY) + 30,
        second.cached,
    )


def test_no_tenant_profits_from_anothers_prompts() -> None:
    driven = DrivenCore()
    driven.submit(HISTORY, "a")
    driven.run()
    probe, own = driven.submit(HISTORY, "b"), driven.submit(HISTORY, "a")
    driven.end_idle()
    assert probe.cached == 0
    assert own.cached > 0
    assert driven.usage.counts["jti-1"].cached_input_tokens == 0
    assert driven.core.snapshot().prefill_tokens == 3 * len(HISTORY) - own.cached


def test_adapters_of_a_tenant_share_nothing(load_adapter: LoadAdapter) -> None:
    driven = DrivenCore()
    one, two = load_adapter(driven, 1), load_adapter(driven, 2)
    texts, cached = [], []
    for _ in range(2):
        readers = [driven.submit(HISTORY, adapter=adapter) for adapter in (None, one, two)]
        driven.run()
        texts.append([reader.text[:3] for reader in readers])
        cached.append([reader.cached > 0 for reader in readers])
    driven.end_idle()
    assert texts == [["abc", "bcd", "cde"]] * 2
    assert cached == [[False] * 3, [True] * 3]


def test_embeddings_reuse_and_leave_nothing() -> None:
    driven = DrivenCore()
    driven.submit(HISTORY)
    driven.run()
    cells = driven.core.snapshot().cached_cells
    embedding = driven.submit(HISTORY, pooled=True)
    driven.end_idle()
    assert embedding.cached == 0
    assert driven.core.snapshot().cached_cells == cells


def test_a_public_prefix_serves_all_and_is_reported_by_none() -> None:
    driven = DrivenCore()
    driven.core.publish(tuple(HISTORY.encode()))
    before = driven.computed_tokens
    readers = [driven.submit(HISTORY + "Hello", tenant, 1) for tenant in "ab"]
    driven.end_idle()
    assert driven.computed_tokens - before == 2 * len("Hello")
    assert [reader.cached for reader in readers] == [0, 0]
    assert [driven.usage.counts[f"jti-{number}"].cached_input_tokens for number in range(2)] == [0, 0]


def test_a_public_prefix_that_leaves_no_context_window_is_refused() -> None:
    driven = DrivenCore(cells=600, context_tokens=512)
    driven.core.publish((1,) * 64)
    with pytest.raises(ValueError, match="kv_cells"):
        driven.core.publish((2,) * 64)
    driven.submit("x" * 500, output=12)
    driven.end_idle()


def test_a_public_prefix_that_fails_half_way_leaves_no_cells() -> None:
    driven = DrivenCore(pace=PaceLimits(64))
    decode, calls = driven.backend.decode, iter(range(10))

    def fails_the_second_time(chunks: object, lane: object) -> None:
        if next(calls) == 1:
            raise DecodeFailed("no")
        decode(chunks, lane)  # type: ignore[arg-type]

    driven.backend.decode = fails_the_second_time  # type: ignore[method-assign]
    with pytest.raises(DecodeFailed):
        driven.core.publish(tuple(range(200)))
    driven.core.check_idle()
    reader = driven.submit("say:hello", output=None)
    driven.end_idle()
    assert reader.text == "hello"


def test_a_prefix_that_is_shared_in_part_gives_the_rest_of_its_cells_up() -> None:
    # With so little headroom nothing is evicted in advance.
    places = PlaceLimits(spare_slots=0, headroom_tokens=1)
    driven = DrivenCore(slots=1, cells=160, context_tokens=160, sequences=7, places=places)
    driven.submit("wordword" + "x" * 110, output=20)
    driven.run()
    assert driven.core.snapshot().cached_cells >= 128
    reader = driven.submit("wordword", output=100)
    driven.end_idle()
    assert reader.cached < 8
    assert reader.output_tokens == 100
    other = driven.submit("wordword" + "a" * 20, output=100)
    driven.end_idle()
    assert other.cached >= 8
    assert other.output_tokens == 100


def test_purge_ends_and_frees_all_of_a_tenant_and_nothing_else() -> None:
    driven = DrivenCore(slots=2, places=PlaceLimits(spare_slots=0))
    driven.submit(HISTORY, "b", 2)
    driven.submit(HISTORY, "a", 2)
    driven.run()
    mine = [driven.submit(f"{number} goes on and on", "a", None) for number in range(4)]
    for _ in range(30):
        driven.step()
    others = [driven.submit(f"{number} goes on and on", "b", 60) for number in range(2)]
    driven.run(lambda: driven.core.snapshot().preempted > 0)
    before = driven.core.snapshot()
    states = {tenant.tenant: tenant for tenant in before.tenants}
    assert (states["a"].running, states["a"].waiting, states["a"].preempted) == (1, 2, 1)

    purged = driven.purge("a")

    assert purged.ended_requests == 4
    assert purged.freed_host_bytes == before.swapped_bytes > 0
    assert purged.freed_cells == states["a"].used_cells
    assert all(isinstance(reader.error, TenantPurged) for reader in mine)
    assert [driven.usage.endings[reader.request.token_id] for reader in mine] == [[Ending.INTERRUPTED]] * 4
    probes = [driven.submit(HISTORY, tenant, 1) for tenant in "ab"]
    driven.end_idle()
    assert probes[0].cached == 0
    assert probes[1].cached > 0
    assert all(reader.done for reader in others)


def test_prefixes_nobody_uses_leave_the_kv_cache_while_others_run_and_come_back() -> None:
    driven = DrivenCore(places=PlaceLimits(spare_slots=0, host_cache_bytes=1 << 20, idle_cells=0))
    first = driven.submit(HISTORY, "a", output=20)
    driven.run()
    driven.submit("Something else.", "b", output=40)
    driven.run(until=lambda: driven.core.snapshot().cached_cells == 0)
    assert driven.core.snapshot().host_cache_bytes > 0
    again = driven.submit(HISTORY + first.text + " And then?", "a", output=5)
    probe = driven.submit(HISTORY + first.text + " And then?", "c", output=5)
    driven.end_idle()
    assert again.cached >= len(HISTORY)
    assert probe.cached == 0
