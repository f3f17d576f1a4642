"""The prefix cache: whose cells serve whom, who makes room, and exact books whatever happens."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from redoma_model.engine.cells import OutOfCells
from redoma_model.engine.prefix_cache import BLOCK_TOKENS, Lease, Partition, PrefixCache
from tests.fakes.cell_store import FakeCellStore

SLOTS = range(4)
ONE, TWO = Partition("one"), Partition("two")


def blocks(text: str, tail: int = 0) -> list[int]:
    """Gives one block of tokens for each letter, and `tail` tokens of one more."""
    return [ord(letter) * 100 + at for letter in text for at in range(BLOCK_TOKENS)] + list(range(tail))


@dataclass(eq=False)
class Running:
    """A sequence as an engine has it."""

    tokens: list[int]
    slot: int
    lease: Lease
    computed: int


class Engine:
    """As much of an engine as the cache sees of one."""

    def __init__(self, cells: int = 1000, ids: int = 20, host_bytes: int = 0) -> None:
        self.store = FakeCellStore(cells, len(SLOTS) + ids)
        self.cache = PrefixCache(
            self.store, range(len(SLOTS), len(SLOTS) + ids), host_bytes, itertools.count(1.0).__next__
        )
        self.public: list[list[int]] = []
        self.running: list[Running] = []

    @property
    def free_slots(self) -> list[int]:
        return sorted(set(SLOTS) - {sequence.slot for sequence in self.running})

    def publish(self, tokens: list[int]) -> int:
        self.store.compute(self.free_slots[0], tokens, 0, len(tokens), ("", ""))
        index = self.cache.publish(tokens, self.free_slots[0])
        self.store.forget(self.free_slots[0])
        self.public.append(tokens)
        return index

    def start(self, partition: Partition, tokens: Sequence[int], free_cells: int = 0, weight: int = 1) -> Running:
        known = self.cache.match(partition, tokens)
        slot = self.free_slots[0]
        lease = self.cache.acquire(partition, weight, tokens, slot, free_cells=free_cells)
        assert known <= lease.length < len(tokens)
        assert free_cells or lease.length == known
        sequence = Running(list(tokens), slot, lease, lease.length)
        self.running.append(sequence)
        return sequence

    def compute(self, sequence: Running, count: int | None = None) -> None:
        end = len(sequence.tokens) if count is None else min(len(sequence.tokens), sequence.computed + count)
        owner = (sequence.lease.partition.tenant, sequence.lease.partition.adapter)
        self.store.compute(sequence.slot, sequence.tokens, sequence.computed, end, owner)
        sequence.computed = end

    def extend(self, sequence: Running) -> None:
        self.cache.extend(sequence.lease, sequence.tokens[: sequence.computed], sequence.slot)

    def finish(self, sequence: Running) -> None:
        self.cache.release(sequence.lease)
        self.store.forget(sequence.slot)
        self.running.remove(sequence)

    def serve(self, partition: Partition, tokens: Sequence[int], weight: int = 1, free_cells: int = 0) -> Lease:
        """Computes a request from its start to its end."""
        sequence = self.start(partition, tokens, free_cells, weight)
        self.compute(sequence)
        self.extend(sequence)
        self.check()
        self.finish(sequence)
        self.check()
        return sequence.lease

    def check(self) -> None:
        self.cache.check()
        own = sum(sequence.computed - sequence.lease.length for sequence in self.running)
        assert self.cache.cells + own == len(self.store.cells)
        assert sum(self.cache.tenant_cells().values()) == self.cache.cells
        for sequence in self.running:
            self._check_content(sequence)

    def _check_content(self, sequence: Running) -> None:
        partition = sequence.lease.partition
        public = len(self.public[partition.public]) if partition.public >= 0 else 0
        cells = self.store.content(sequence.slot)
        assert [cell.content for cell in cells] == self.store.contents(sequence.tokens[: sequence.computed])
        for at, cell in enumerate(cells):
            owners = {(partition.tenant, partition.adapter)} | ({("", "")} if at < public else set())
            assert cell.owner in owners
            shared = bool(cell.sequences - set(SLOTS))
            assert shared == (at < sequence.lease.length)


@pytest.fixture
def engine() -> Engine:
    return Engine()


def test_the_next_turn_finds_all_whole_blocks(engine: Engine) -> None:
    assert engine.serve(ONE, blocks("abc", tail=3)).own == 0
    assert engine.serve(ONE, blocks("abcd")).own == 24


def test_one_token_is_left_to_compute(engine: Engine) -> None:
    engine.serve(ONE, blocks("ab"))
    assert engine.cache.match(ONE, blocks("ab")) == 8
    assert engine.serve(ONE, blocks("ab")).own == 8


@pytest.mark.parametrize("other", [TWO, Partition("one", "sha256:1"), Partition("two", "sha256:1")])
def test_nothing_passes_between_tenants_or_adapters(engine: Engine, other: Partition) -> None:
    engine.serve(ONE, blocks("abc"))
    assert engine.cache.match(other, blocks("abcd")) == 0
    assert engine.start(other, blocks("abcd")).lease.length == 0


def test_turns_of_a_conversation_take_one_id() -> None:
    engine = Engine(ids=1)
    for turn in range(1, 9):
        engine.serve(ONE, blocks("abcdefgh"[:turn]))
    assert engine.cache.match(ONE, blocks("abcdefgh", tail=1)) == 64


def test_prompts_that_part_share_what_they_have_in_common(engine: Engine) -> None:
    engine.serve(ONE, blocks("abcd"))
    assert engine.serve(ONE, blocks("abxy")).own == 16
    assert engine.cache.cells == 6 * BLOCK_TOKENS
    assert engine.serve(ONE, blocks("abcd", tail=1)).own == 32


def test_same_prompt_computed_twice_at_once_is_kept_once(engine: Engine) -> None:
    first, second = engine.start(ONE, blocks("abc")), engine.start(ONE, blocks("abcd", tail=5))
    for sequence in (first, second):
        engine.compute(sequence)
        engine.extend(sequence)
        engine.check()
    assert len(engine.store.cells) == 4 * BLOCK_TOKENS + 5
    assert (first.lease.length, second.lease.length) == (24, 32)


def test_a_sequence_from_host_memory_joins_what_is_cached(engine: Engine) -> None:
    engine.publish(blocks("p", tail=3))
    tokens = [*blocks("p", tail=3), *blocks("abc", tail=2)]
    partition = engine.cache.partition("one", "", tokens)
    engine.serve(partition, tokens)
    sequence = Running(tokens, 0, engine.cache.empty_lease(partition, 1), 0)
    engine.running.append(sequence)
    engine.compute(sequence)
    engine.check()
    engine.extend(sequence)
    engine.check()
    assert sequence.lease.length == 11 + 24
    assert len(engine.store.cells) == len(tokens)


def test_public_prefix_serves_all_tenants_but_counts_for_none(engine: Engine) -> None:
    public = blocks("p", tail=5)
    index = engine.publish(public)
    prompt = [*public, *blocks("ab")]
    assert engine.cache.partition("one", "", prompt) == Partition("one", "", index)
    lease = engine.serve(engine.cache.partition("one", "", prompt), prompt)
    assert (lease.length, lease.own) == (13 + 16, 0)
    other = engine.start(engine.cache.partition("two", "", prompt), prompt)
    assert (other.lease.length, other.lease.own) == (13, 0)
    engine.check()


def test_public_prefix_is_not_used_under_an_adapter_nor_without_a_token_more(engine: Engine) -> None:
    public = blocks("p", tail=5)
    engine.publish(public)
    assert engine.cache.partition("one", "sha256:1", [*public, 1]).public == -1
    assert engine.cache.partition("one", "", public).public == -1
    assert engine.cache.partition("one", "", blocks("p", tail=4)).public == -1


def test_longest_public_prefix_is_used(engine: Engine) -> None:
    engine.publish(blocks("p"))
    longer = engine.publish(blocks("pq"))
    engine.publish(blocks("pr"))
    assert engine.cache.partition("one", "", blocks("pqr")).public == longer
    assert engine.cache.publish(blocks("pq"), 0) == longer


def test_a_partition_of_other_tokens_is_refused(engine: Engine) -> None:
    index = engine.publish(blocks("p"))
    for partition, text in ((Partition("one", "", index), "q"), (Partition("one", "sha256:1", index), "p")):
        with pytest.raises(ValueError, match="public prefix"):
            engine.cache.acquire(partition, 1, blocks(text, tail=1), 0)
    engine.check()


def test_a_slot_with_cells_is_refused(engine: Engine) -> None:
    engine.store.compute(0, blocks("x"), 0, 1, ("one", ""))
    with pytest.raises(RuntimeError, match="still has cells"):
        engine.cache.acquire(ONE, 1, blocks("ab"), 0)


def test_public_prefixes_are_never_evicted(engine: Engine) -> None:
    engine.publish(blocks("p"))
    engine.serve(ONE, blocks("abc"))
    assert engine.cache.evict(1000) == 24
    assert engine.cache.tenant_cells() == {"": 8}
    engine.check()


def test_what_a_lease_holds_is_not_evicted(engine: Engine) -> None:
    engine.serve(ONE, blocks("abcd"))
    held = engine.start(ONE, blocks("abx"))
    # What the leaf has beyond the lease is nobody's.
    assert engine.cache.evict(1000) == 16
    engine.compute(held)
    engine.extend(held)
    assert engine.cache.evict(1000) == 0
    engine.check()
    engine.finish(held)
    assert engine.cache.evict(1000) == 24
    assert engine.store.cells == []


def test_a_lease_lets_go_of_what_is_split_off_behind_it(engine: Engine) -> None:
    engine.serve(ONE, blocks("abcd"))
    held = engine.start(ONE, blocks("ab", tail=1))
    engine.serve(ONE, blocks("abx"))
    assert engine.cache.evict(1000) == 24
    assert engine.cache.evict(1000) == 0
    assert held.lease.length == 16
    engine.check()


def test_eviction_takes_no_more_than_whole_blocks_need(engine: Engine) -> None:
    engine.serve(ONE, blocks("abcd"))
    assert engine.cache.evict(9) == 16
    assert engine.cache.match(ONE, blocks("abcd")) == 16
    engine.check()


def test_least_recently_used_leaf_goes_first(engine: Engine) -> None:
    for text in ("ab", "cd", "ef"):
        engine.serve(ONE, blocks(text))
    engine.serve(ONE, blocks("ab", tail=1))
    engine.cache.evict(16)
    found = {text: engine.cache.match(ONE, blocks(text, tail=1)) for text in ("ab", "cd", "ef")}
    assert found == {"ab": 16, "cd": 0, "ef": 16}


def test_a_flood_leaves_the_share_of_others_alone() -> None:
    engine = Engine(cells=200)
    engine.serve(TWO, blocks("abcdefgh"))
    for flood in range(300):
        tokens = [flood, *blocks("wxyz")]
        missing = len(tokens) - engine.store.free
        assert missing <= 0 or engine.cache.evict(missing, "one") >= missing
        engine.serve(ONE, tokens)
    assert engine.cache.match(TWO, blocks("abcdefgh", tail=1)) == 64
    assert engine.cache.tenant_cells()["one"] > 64


def test_a_flood_of_short_prompts_leaves_the_ids_of_others_alone() -> None:
    engine = Engine(ids=8)
    for text in ("ab", "cd", "ef"):
        engine.serve(TWO, blocks(text))
    for flood in range(50):
        engine.serve(ONE, [flood, *blocks("w")])
    assert all(engine.cache.match(TWO, blocks(text, tail=1)) == 16 for text in ("ab", "cd", "ef"))
    assert engine.cache.tenant_cells() == {"two": 48, "one": 40}


def test_a_tenant_that_holds_most_ids_takes_none_of_another() -> None:
    engine = Engine(ids=3)
    engine.serve(TWO, blocks("ab"))
    for text in ("cd", "ef", "gh"):
        sequence = engine.start(ONE, blocks(text))
        engine.compute(sequence)
        engine.extend(sequence)
        engine.check()
    assert [sequence.lease.length for sequence in engine.running] == [16, 16, 0]
    assert engine.cache.match(TWO, blocks("ab", tail=1)) == 16


def test_room_is_made_down_to_the_level_of_the_next_by_weight(engine: Engine) -> None:
    engine.serve(ONE, blocks("abcdefgh"), weight=2)
    engine.serve(TWO, blocks("ijklmnop"), weight=1)
    assert engine.cache.evict(56) == 56
    assert engine.cache.tenant_cells() == {"one": 48, "two": 24}
    engine.check()


def test_a_large_tenant_below_its_share_gives_nothing(engine: Engine) -> None:
    engine.serve(ONE, blocks("abcdefgh"))
    engine.serve(TWO, blocks("abcdefgh"))
    engine.serve(Partition("three"), blocks("abcdefghij"), weight=4)
    assert engine.cache.evict(16) == 16
    assert engine.cache.tenant_cells() == {"one": 56, "two": 56, "three": 80}
    engine.check()


def test_among_equals_the_tenant_that_wants_room_gives_first(engine: Engine) -> None:
    for partition in (ONE, TWO):
        engine.serve(partition, blocks("ab"))
    engine.cache.evict(8, "one")
    assert engine.cache.tenant_cells() == {"one": 8, "two": 16}


def test_chains_are_joined_before_anything_is_evicted_and_stay_recent() -> None:
    engine = Engine(ids=3)
    engine.serve(ONE, blocks("abcd"))
    engine.serve(ONE, blocks("abxy"))
    assert engine.cache.evict(16) == 16
    engine.serve(ONE, blocks("ef"))
    engine.serve(ONE, blocks("ab", tail=1))
    engine.serve(TWO, blocks("gh"))
    assert engine.cache.tenant_cells() == {"one": 48, "two": 16}
    assert engine.cache.evict(8) == 8
    assert engine.cache.match(ONE, blocks("abxy", tail=1)) == 32
    engine.check()


def test_without_an_id_cells_stay_the_sequence_own() -> None:
    engine = Engine(ids=1)
    first = engine.start(ONE, blocks("abc"))
    engine.compute(first)
    engine.extend(first)
    second = engine.start(ONE, blocks("abx"))
    engine.compute(second)
    engine.extend(second)
    engine.check()
    assert (first.lease.length, second.lease.length) == (24, 16)


def test_purge_drops_one_tenant_under_all_adapters(engine: Engine) -> None:
    for partition in (ONE, Partition("one", "sha256:1"), TWO):
        engine.serve(partition, blocks("abc"))
    assert engine.cache.purge("one") == (48, 0)
    assert engine.cache.tenant_cells() == {"two": 24}
    assert engine.cache.purge("one") == (0, 0)
    engine.check()


def test_purge_of_an_adapter_leaves_the_base_model_alone(engine: Engine) -> None:
    for partition in (ONE, Partition("one", "sha256:1"), Partition("two", "sha256:1")):
        engine.serve(partition, blocks("abc"))
    assert engine.cache.purge_adapter("sha256:1") == 48
    assert engine.cache.tenant_cells() == {"one": 24}
    engine.check()


def test_purge_refuses_what_runs(engine: Engine) -> None:
    sequence = engine.start(Partition("one", "sha256:1"), blocks("ab"))
    with pytest.raises(RuntimeError):
        engine.cache.purge("one")
    with pytest.raises(RuntimeError):
        engine.cache.purge_adapter("sha256:1")
    engine.finish(sequence)
    assert engine.cache.purge("one") == (0, 0)


def test_a_lease_ends_once(engine: Engine) -> None:
    sequence = engine.start(ONE, blocks("ab"))
    engine.finish(sequence)
    with pytest.raises(KeyError):
        engine.cache.release(sequence.lease)


def test_host_tier_gives_evicted_prefixes_back() -> None:
    engine = Engine(host_bytes=1 << 20)
    engine.serve(ONE, blocks("abcd"))
    engine.serve(ONE, blocks("abxy"))
    assert engine.cache.evict(1000) == 48
    assert engine.store.cells == [] and engine.cache.host_bytes > 0
    assert engine.cache.match(ONE, blocks("abcd", tail=1)) == 0
    assert engine.serve(ONE, blocks("abcd", tail=1), free_cells=1000).own == 32
    assert engine.serve(ONE, blocks("abxy", tail=1), free_cells=1000).own == 32
    assert engine.cache.host_bytes == 0


def test_host_tier_is_left_alone_without_cells_for_it() -> None:
    engine = Engine(host_bytes=1 << 20)
    engine.serve(ONE, blocks("abcd"))
    engine.cache.evict(1000)
    assert engine.start(ONE, blocks("abcd", tail=1), free_cells=31).lease.length == 0
    engine.check()


def test_a_failed_restore_leaves_nothing_behind() -> None:
    engine = Engine(cells=40, host_bytes=1 << 20)
    engine.serve(ONE, blocks("abcd"))
    engine.cache.evict(1000)
    engine.store.capacity = 16
    sequence = engine.start(ONE, blocks("abcd", tail=1), free_cells=1000)
    assert sequence.lease.length == 0 and engine.cache.host_bytes > 0
    engine.check()
    engine.finish(sequence)
    engine.check()


def test_fresh_cells_replace_saved_ones_and_keep_what_hangs_below() -> None:
    engine = Engine(host_bytes=1 << 20)
    engine.serve(ONE, blocks("abcd"))
    engine.serve(ONE, blocks("abxy"))
    engine.cache.evict(1000)
    engine.serve(ONE, blocks("ab"))
    assert engine.cache.cells == 16
    assert engine.serve(ONE, blocks("abcd", tail=1), free_cells=1000).own == 32


def test_host_tier_keeps_its_budget_and_the_share_of_others() -> None:
    probe = Engine(host_bytes=1 << 20)
    probe.serve(TWO, blocks("abcd"))
    probe.cache.evict(1000)
    budget = 3 * probe.cache.host_bytes
    engine = Engine(host_bytes=budget)
    engine.serve(TWO, blocks("abcd"))
    engine.cache.evict(1000)
    for flood in range(20):
        engine.serve(ONE, [flood, *blocks("abc", tail=7)])
        engine.cache.evict(1000)
        engine.check()
    assert 0 < engine.cache.host_bytes <= budget
    assert engine.serve(TWO, blocks("abcd", tail=1), free_cells=1000).own == 32
    cells, host_bytes = engine.cache.purge("one")
    assert cells == 0 and host_bytes > 0
    assert engine.cache.host_bytes == 0


def test_what_the_host_tier_has_no_room_for_is_trimmed() -> None:
    engine = Engine(host_bytes=1)
    engine.serve(ONE, blocks("abcd"))
    assert engine.cache.evict(8) == 8
    assert engine.cache.match(ONE, blocks("abcd")) == 24
    engine.check()


def test_trimming_drops_the_saved_prefixes_behind() -> None:
    def evicted_children(host_bytes: int) -> Engine:
        engine = Engine(host_bytes=host_bytes)
        for last in "gh":
            engine.serve(ONE, blocks("abcdef" + last))
        assert engine.cache.evict(16) == 16
        return engine

    engine = evicted_children(evicted_children(1 << 20).cache.host_bytes)
    assert engine.cache.host_bytes > 0
    assert engine.cache.evict(8) == 8
    assert (engine.cache.cells, engine.cache.host_bytes) == (40, 0)
    engine.check()


def test_idle_prefixes_go_to_host_memory_bit_by_bit_and_come_back() -> None:
    engine = Engine(host_bytes=1 << 20)
    engine.serve(ONE, blocks("abcdef"))
    assert [engine.cache.demote(16, 16) for _ in range(3)] == [16, 16, 0]
    assert engine.cache.match(ONE, blocks("abcdef", tail=1)) == 16
    engine.check()
    assert engine.serve(ONE, blocks("abcdef", tail=1), free_cells=1000).own == 48
    assert engine.cache.host_bytes == 0


def test_prefixes_in_use_and_public_ones_stay_in_the_kv_cache() -> None:
    engine = Engine(host_bytes=1 << 20)
    engine.publish(blocks("p"))
    engine.serve(ONE, blocks("ab"))
    held = engine.start(ONE, blocks("ab", tail=1))
    engine.serve(TWO, blocks("cd"))
    assert [engine.cache.demote(0, 1000) for _ in range(2)] == [16, 0]
    assert engine.cache.match(ONE, blocks("ab", tail=1)) == 16
    engine.finish(held)
    assert engine.cache.demote(0, 1000) == 16
    assert engine.cache.cells == 8
    engine.check()


def test_idle_prefixes_stay_where_they_are_without_a_host_tier(engine: Engine) -> None:
    engine.serve(ONE, blocks("ab"))
    assert engine.cache.demote(0, 1000) == 0
    assert engine.cache.match(ONE, blocks("ab", tail=1)) == 16


def test_a_short_prefix_of_a_long_saved_one_is_worth_bringing_back() -> None:
    engine = Engine(host_bytes=1 << 20)
    engine.serve(ONE, blocks("abcdefghijklmnop"))
    engine.cache.evict(1000)
    assert engine.serve(ONE, blocks("aX"), free_cells=1000).own == 8
    engine.check()


def test_check_names_a_leaked_cell(engine: Engine) -> None:
    engine.serve(ONE, blocks("ab"))
    engine.store.forget(4, 8)
    with pytest.raises(RuntimeError, match="sequence 4"):
        engine.cache.check()


TENANTS = st.sampled_from(["one", "one", "two"])
ADAPTERS = st.sampled_from(["", "", "", "sha256:1"])
# Few blocks, and alike, so that prompts share prefixes and part inside nodes.
PROMPTS = st.builds(
    lambda texts, tail: [*blocks("".join(texts)), *range(tail)],
    st.lists(st.sampled_from("ab"), min_size=1, max_size=6),
    st.integers(1, BLOCK_TOKENS),
)


class CacheMachine(RuleBasedStateMachine):
    """Random requests of two tenants over few cells and ids; the store sees every wrong cell."""

    @initialize(
        cells=st.sampled_from([60, 200, 400]),
        ids=st.integers(0, 12),
        host_bytes=st.sampled_from([0, 500, 1 << 20]),
        public=st.sampled_from(["", "a", "ab"]),
    )
    def begin(self, cells: int, ids: int, host_bytes: int, public: str) -> None:
        self.engine = Engine(cells, ids + len(public), host_bytes)
        for end in range(1, len(public) + 1):
            self.engine.publish(blocks(public[:end], tail=end % 2))
        self.swapped: list[tuple[Running, int, bytes]] = []

    def pick(self, data: st.DataObject) -> Running:
        return data.draw(st.sampled_from(self.engine.running))

    @precondition(lambda self: self.engine.free_slots)
    @rule(tenant=TENANTS, adapter=ADAPTERS, tokens=PROMPTS, weight=st.integers(1, 3), restore=st.booleans())
    def arrive(self, tenant: str, adapter: str, tokens: list[int], weight: int, restore: bool) -> None:
        partition = self.engine.cache.partition(tenant, adapter, tokens)
        self.engine.start(partition, tokens, self.engine.store.free if restore else 0, weight)

    @precondition(lambda self: self.engine.free_slots)
    @rule(tenant=TENANTS, adapter=ADAPTERS, tokens=PROMPTS, restore=st.booleans(), ends=st.booleans())
    def serve(self, tenant: str, adapter: str, tokens: list[int], restore: bool, ends: bool) -> None:
        partition = self.engine.cache.partition(tenant, adapter, tokens)
        sequence = self.engine.start(partition, tokens, self.engine.store.free if restore else 0)
        missing = len(tokens) - sequence.computed - self.engine.store.free
        if missing <= 0 or self.engine.cache.evict(missing, tenant) >= missing:
            self.engine.compute(sequence)
            self.engine.extend(sequence)
        if ends:
            self.engine.finish(sequence)

    @precondition(lambda self: self.engine.running)
    @rule(data=st.data(), count=st.integers(1, 40), more=st.lists(st.sampled_from(blocks("ab")), max_size=9))
    def compute(self, data: st.DataObject, count: int, more: list[int]) -> None:
        sequence = self.pick(data)
        sequence.tokens += more
        missing = min(count, len(sequence.tokens) - sequence.computed) - self.engine.store.free
        if missing > 0 and self.engine.cache.evict(missing, sequence.lease.partition.tenant) < missing:
            with pytest.raises(OutOfCells):
                self.engine.compute(sequence, count)
        else:
            self.engine.compute(sequence, count)

    @precondition(lambda self: self.engine.running)
    @rule(data=st.data())
    def extend(self, data: st.DataObject) -> None:
        sequence = self.pick(data)
        before = sequence.lease.length
        self.engine.extend(sequence)
        assert before <= sequence.lease.length <= sequence.computed
        known = self.engine.cache.match(sequence.lease.partition, [*sequence.tokens[: sequence.lease.length], -1])
        assert known == sequence.lease.length

    @precondition(lambda self: self.engine.running)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        self.engine.finish(self.pick(data))

    @precondition(lambda self: self.engine.running)
    @rule(data=st.data(), weight=st.integers(1, 3))
    def preempt(self, data: st.DataObject, weight: int) -> None:
        sequence = self.pick(data)
        self.swapped.append((sequence, weight, self.engine.store.save(sequence.slot)))
        self.engine.finish(sequence)

    @precondition(lambda self: self.swapped and self.engine.free_slots)
    @rule()
    def resume(self) -> None:
        sequence, weight, saved = self.swapped[0]
        if sequence.computed > self.engine.store.free:
            return
        self.swapped.pop(0)
        sequence.slot = self.engine.free_slots[0]
        self.engine.store.restore(sequence.slot, saved)
        sequence.lease = self.engine.cache.empty_lease(sequence.lease.partition, weight)
        self.engine.running.append(sequence)

    @rule(cells=st.integers(1, 30), tenant=st.none() | TENANTS)
    def evict(self, cells: int, tenant: str | None) -> None:
        before = self.engine.cache.cells
        freed = self.engine.cache.evict(cells, tenant)
        assert before - self.engine.cache.cells == freed
        assert freed >= cells or self.engine.cache.evict(1) == 0

    @rule(idle=st.integers(0, 30), most=st.integers(1, 4))
    def demote(self, idle: int, most: int) -> None:
        before = self.engine.cache.cells
        moved = self.engine.cache.demote(idle, most * BLOCK_TOKENS)
        assert before - self.engine.cache.cells == moved

    @rule(tenant=TENANTS)
    def purge(self, tenant: str) -> None:
        for sequence in [one for one in self.engine.running if one.lease.partition.tenant == tenant]:
            self.engine.finish(sequence)
        before, host_before = self.engine.cache.cells, self.engine.cache.host_bytes
        cells, host_bytes = self.engine.cache.purge(tenant)
        assert (before - cells, host_before - host_bytes) == (self.engine.cache.cells, self.engine.cache.host_bytes)
        assert all(cell.owner[0] != tenant for cell in self.engine.store.cells)

    @invariant()
    def books_are_exact(self) -> None:
        self.engine.check()

    def teardown(self) -> None:
        if not hasattr(self, "engine"):
            return
        for sequence in list(self.engine.running):
            self.engine.finish(sequence)
        self.engine.cache.evict(self.engine.store.capacity)
        self.engine.check()
        assert len(self.engine.store.cells) == sum(map(len, self.engine.public))


TestCacheMachine = CacheMachine.TestCase
TestCacheMachine.settings = settings(max_examples=200, stateful_step_count=50, deadline=None)
