"""Places in the batch with what they cost: a slot, KV cells, copies in host memory, and the tenant's cached prefix.

The scheduler says who gets a place and who gives one up; here it is paid for. Cells that nobody computes on hold cached
prefixes until they are needed.

A cell is in one of two books: the cache's (`cache.cells`), where a running sequence's first `lease.length` tokens
are, or the sequence's own (`own_cells`), where the rest of what it computed is. What it may still need of its own is
promised to it beforehand (`reserved_cells`), so that those let in later don't take it.
"""

import sys
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from redoma_model.engine.backend import ModelInfo
from redoma_model.engine.cells import CellStore, OutOfCells
from redoma_model.engine.compaction import Compaction
from redoma_model.engine.fair_share import FairShare
from redoma_model.engine.prefix_cache import Partition, PrefixCache
from redoma_model.engine.scheduler import Capacity, Scheduler
from redoma_model.engine.sequence import NO_SLOT, Sequence

# Cells of idle prefixes that are copied to host memory after one step: a small part of what the step took.
DEMOTED_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class PlaceLimits:
    """Bounds of what is held.

    Attributes:
        spare_slots: Places beyond the ordinary ones, for tenants that run nothing.
        headroom_tokens: KV cells set aside for an answer when its request gets its place.
        prefix_cache: Whether computed prefixes are kept for their tenant.
        host_cache_bytes: Host memory for cached prefixes that left the KV cache; 0 is none.
        idle_cells: KV cells that prefixes may keep which no request uses, when host memory has room for them. Every
            cell in use makes steps longer on a CPU.
        swap_bytes: Host memory for preempted sequences; one that finds no room is computed again.
        compaction: Whether cells that are strewn about are moved together, by way of what `swap_bytes` leaves.
    """

    spare_slots: int = 4
    headroom_tokens: int = 256
    prefix_cache: bool = True
    host_cache_bytes: int = 0
    idle_cells: int = sys.maxsize
    swap_bytes: int = 1 << 30
    compaction: bool = False


class Places:
    """Holds all sequences, waiting and running, and the prefix cache. Not thread-safe: the engine's thread owns it."""

    def __init__(
        self, store: CellStore, info: ModelInfo, fair: FairShare, limits: PlaceLimits, clock: Callable[[], float]
    ) -> None:
        self._store = store
        self._limits = limits
        self.cells = info.cells
        capacity = Capacity(info.slots, limits.spare_slots)
        self.scheduler = Scheduler(capacity, fair)
        self.cache = PrefixCache(store, range(capacity.all_slots, info.sequences), limits.host_cache_bytes, clock)
        self._compaction = Compaction(store, self.cache, clock)
        self.swapped_bytes = 0
        self.preemptions = 0

    @property
    def used_cells(self) -> int:
        """KV cells that hold a token."""
        return self.cache.cells + sum(sequence.own_cells for sequence in self.scheduler.running)

    @property
    def free_cells(self) -> int:
        """KV cells that hold none."""
        return self.cells - self.used_cells

    def admit(self) -> list[Sequence]:
        """Gives places to waiting sequences, as the scheduler orders them, and gives those that got one."""
        return self.scheduler.admit(self)

    def fits(self, sequence: Sequence, without: Collection[Sequence]) -> bool:
        """Tells whether there would be cells for a waiting sequence if those running ones were not there."""
        rest = [other for other in self.scheduler.running if other not in without]
        reused = sequence.tokens if self._caches(sequence) and sequence.saved is None else ()
        leases = (other.lease for other in rest if other.lease is not None)
        kept, matched = self.cache.kept_cells(leases, self._partition(sequence), reused)
        return not rest or _promised(rest) + kept + self._wanted(sequence) - matched <= self.cells

    def seat(self, sequence: Sequence) -> bool:
        """Gives a sequence that has a slot its cells, and tells whether there were enough."""
        if sequence.saved is not None:
            if not self._make_room(self._wanted(sequence)):
                return False
            if self._swap_in(sequence):
                return True
        partition, weight = self._partition(sequence), sequence.request.weight
        if self._caches(sequence):
            free = self._make_room_for_saved(partition, sequence)
            lease = self.cache.acquire(partition, weight, sequence.tokens, sequence.slot, free_cells=free)
        else:
            lease = self.cache.empty_lease(partition, weight)
        wanted = self._wanted(sequence) - lease.length
        if not self._make_room(wanted):
            self.cache.release(lease)
            self._store.forget(sequence.slot)
            return False
        sequence.lease, sequence.computed, sequence.reserved_cells = lease, lease.length, wanted
        return True

    def make_room_to_go_on(self, step_tokens: int) -> None:
        """Frees cells for a step: all that generate must go on; prompts take what cached prefixes leave."""
        running = self.scheduler.running
        pending = min(step_tokens, sum(sequence.pending for sequence in running))
        if (short := pending - self.free_cells) > 0:
            self.cache.evict(short)
        while self.free_cells < len(running) and self.preempt_richest():
            pass

    def preempt_richest(self) -> bool:
        """Takes a place from the richest tenant's youngest sequence, unless only one runs; tells whether it did."""
        sequence = self.scheduler.richest()
        if sequence is not None:
            self.preempt(sequence)
        return sequence is not None

    def preempt(self, sequence: Sequence) -> None:
        """Takes a running sequence's place, and keeps its cells in host memory where there is room for them."""
        saved = self._store.save(sequence.slot) if sequence.computed else b""
        if saved and self.swapped_bytes + len(saved) <= self._limits.swap_bytes:
            sequence.saved = saved
            self.swapped_bytes += len(saved)
        else:
            sequence.computed, sequence.hidden = 0, None
        self._vacate(sequence)
        self.scheduler.preempt(sequence)
        self.preemptions += 1

    def leave(self, sequence: Sequence, keep: bool) -> None:
        """Frees all that a sequence holds; `keep` leaves what was computed to its tenant's cache."""
        if sequence.slot != NO_SLOT:
            if keep:
                self.keep_prefix(sequence)
            self._vacate(sequence)
        self.scheduler.remove(sequence)
        if sequence.saved is not None:
            self._drop_saved(sequence)

    def keep_prefix(self, sequence: Sequence) -> None:
        """Gives what was computed for a running sequence to its tenant's cache, and shares it from there."""
        if sequence.lease is not None and self._caches(sequence):
            before = sequence.lease.length
            self.cache.extend(sequence.lease, sequence.tokens[: sequence.computed], sequence.slot)
            sequence.reserved_cells -= sequence.lease.length - before

    def tidy(self, used_before: int, rows: int, tokens: int, most_s: float) -> None:
        """Keeps the KV cache quick to read: some of the prefixes that no request uses go to host memory, and cells that
        are strewn about are moved together.

        Args:
            used_before: Cells in use before the step that was just computed.
            rows: Its sequences that generated.
            tokens: All its tokens.
            most_s: The longest that moving cells may take, in seconds.
        """
        self.cache.demote(self._limits.idle_cells, DEMOTED_AT_ONCE)
        if self._limits.compaction:
            self._compaction.count(used_before, rows, tokens)
            if self._compaction.is_due(self.used_cells, most_s):
                self._compaction.run(self.scheduler.running, self._limits.swap_bytes - self.swapped_bytes)

    def reusable(self, sequence: Sequence) -> int:
        """Gives how many leading tokens of a waiting sequence's prompt its tenant's cache would spare it."""
        if not self._caches(sequence):
            return 0
        return self.cache.match(self._partition(sequence), sequence.request.prompt, with_saved=True)

    def check_idle(self) -> None:
        """Raises RuntimeError when something is held although there is no request: a defect."""
        held = [slot for slot in range(self.scheduler.capacity.all_slots) if self._store.span(slot)]
        if held or self.swapped_bytes or not self.scheduler.all_slots_free:
            raise RuntimeError(f"leaked: cells of the slots {held}, {self.swapped_bytes} swapped bytes, or a slot")
        self.cache.check()

    def _make_room_for_saved(self, partition: Partition, sequence: Sequence) -> int:
        """Drops other cached prefixes for what the host tier has of a sequence's, and gives the cells that are free."""
        cache, tokens = self.cache, sequence.tokens
        saved = cache.match(partition, tokens, with_saved=True) - cache.match(partition, tokens)
        if saved > self.free_cells:
            cache.evict(saved - self.free_cells, sequence.request.tenant)
        return max(0, self.free_cells)

    def _swap_in(self, sequence: Sequence) -> bool:
        """Brings a swapped sequence's cells back; one whose cells find no place after all is to be computed again."""
        saved = self._drop_saved(sequence)
        try:
            self._store.restore(sequence.slot, saved)
        except OutOfCells:
            sequence.computed, sequence.hidden = 0, None
            return False
        sequence.lease = self.cache.empty_lease(self._partition(sequence), sequence.request.weight)
        sequence.reserved_cells = self._wanted(sequence)
        return True

    def _drop_saved(self, sequence: Sequence) -> bytes:
        saved, sequence.saved = sequence.saved or b"", None
        self.swapped_bytes -= len(saved)
        return saved

    def _vacate(self, sequence: Sequence) -> None:
        if sequence.lease is not None:
            self.cache.release(sequence.lease)
            sequence.lease = None
        self._store.forget(sequence.slot)

    def _wanted(self, sequence: Sequence) -> int:
        to_come = sequence.limit - sequence.output_tokens
        return len(sequence.tokens) + min(to_come, self._limits.headroom_tokens)

    def _make_room(self, cells: int) -> bool:
        """Drops cached prefixes until so many cells are promised to nobody, and tells whether they are."""
        running = self.scheduler.running
        short = _promised(running) + self.cache.cells + cells - self.cells
        if short > 0:
            short -= self.cache.evict(short)
        # One alone has all there is; a context window fits the cells.
        return short <= 0 or not running

    def _caches(self, sequence: Sequence) -> bool:
        # An embedding needs every token's hidden state, so nothing of it can be left out.
        return self._limits.prefix_cache and not sequence.request.pooled

    def _partition(self, sequence: Sequence) -> Partition:
        request = sequence.request
        return self.cache.partition(request.tenant, request.adapter_digest, request.prompt)


def _promised(running: Iterable[Sequence]) -> int:
    """Gives the cells that running sequences have or may count on, beyond what the cache holds for them."""
    return sum(max(sequence.reserved_cells, sequence.own_cells + 1) for sequence in running)
