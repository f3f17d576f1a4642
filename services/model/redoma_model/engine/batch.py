"""The batching policy: which tokens of which sequences make up the next step.

A step has one lane: that of the sequence of the poorest tenant that has waited longest, so that lanes take turns as
tenants do. Every sequence of the lane that generates gets its one token; what the pace leaves goes to prompts, in
chunks, so that a long prompt stalls nobody. Where tokens are scarce tenants get them in turns, the poorest first, by
their virtual counters.

A newcomer's short prompt has a step for itself: that costs the others no more than sharing one, and its first token
need not wait for theirs.
"""

from collections import deque
from collections.abc import Iterator
from collections.abc import Sequence as Listing
from dataclasses import dataclass, field
from heapq import heapify, heappop, heapreplace
from itertools import chain

from redoma_model.engine.fair_share import Account
from redoma_model.engine.lane import Lane
from redoma_model.engine.pace import Pace
from redoma_model.engine.sequence import Sequence

# Prompt tokens that a tenant gets at one turn within a step.
TURN_TOKENS = 8
# How many times as long a step with others' prompts may be for a tenant with few rows.
SMALL_STRETCH = 2.0
# How many times as long as a step of the others' rows a newcomer's step for itself may take.
ALONE_STRETCH = 4.0
# Where not even drafts that are taken this often would pay, none is tried.
GOOD_CHANCE = 0.8
# Most drafts of one sequence in a step.
MOST_DRAFTS = 8


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive tokens of one sequence that one step computes, from the first that is not in the KV cache.

    Attributes:
        sequence: Whose tokens.
        count: How many, at least 1.
        drafts: Tokens that may follow the sequence's last one, to be verified in the same step; only where the chunk
            completes.
    """

    sequence: Sequence
    count: int
    drafts: tuple[int, ...] = ()

    @property
    def completes(self) -> bool:
        """Whether nothing of the sequence is left to compute after it, so that its logits give the next token."""
        return self.count == self.sequence.pending

    @property
    def context_tokens(self) -> int:
        """The tokens before each of its tokens, added up."""
        count = self.count + len(self.drafts)
        return count * self.sequence.computed + count * (count - 1) // 2

    @property
    def rows(self) -> int:
        """How many rows of logits it gives."""
        return 1 + len(self.drafts) if self.completes else 0


@dataclass(frozen=True, slots=True)
class Step:
    """What is computed next.

    Attributes:
        lane: Of all its sequences.
        chunks: At least one.
        alone: Whether a newcomer has it for itself.
        whole: Tenants that got all they could use of it, while others could have used more. Their counters are
            lifted to those of the others: who declines service does not save it up.
        cut: Those others.
    """

    lane: Lane
    chunks: list[Chunk]
    alone: bool = False
    whole: tuple[Account, ...] = ()
    cut: tuple[Account, ...] = ()


@dataclass(slots=True, eq=False)
class _Turns:
    """What a tenant could compute in this step."""

    account: Account
    rows: deque[Sequence] = field(default_factory=deque)
    prompts: deque[Sequence] = field(default_factory=deque)

    def sequences(self) -> Iterator[Sequence]:
        """Gives all of them."""
        return chain(self.rows, self.prompts)


def compose(running: Listing[Sequence], pace: Pace, room: int, may_go_alone: bool) -> Step:
    """Composes the next step.

    Args:
        running: The sequences that have a place; at least one.
        pace: Says how large the step may be.
        room: Free KV cells, at least 1.
        may_go_alone: Whether a newcomer may have the step for itself; not twice in a row.
    """
    lane = _next_lane(running)
    tenants = _by_tenant(running, lane)
    rows = sum(len(turns.rows) for turns in tenants)
    if may_go_alone and (newcomer := _newcomer(tenants, pace, min(room, pace.limits.step_tokens))) is not None:
        return Step(lane, [Chunk(newcomer, newcomer.pending)], alone=True)
    if rows <= min(room, pace.most_rows()) and not any(turns.prompts for turns in tenants):
        return Step(lane, [Chunk(sequence, 1) for turns in tenants for sequence in turns.rows])
    most_rows = min(rows, pace.most_rows(), room)
    rows_context = sum(map(_context, tenants))
    depth = max((turns.prompts[0].computed for turns in tenants if turns.prompts), default=0)
    most = pace.prompt_tokens(most_rows, _longest_s(tenants, pace), rows_context, depth)
    prompt_tokens = min(room - most_rows, most)
    return _take_turns(lane, tenants, most_rows, prompt_tokens)


def add_drafts(step: Step, pace: Pace, room: int) -> Step:
    """Adds drafts to the sequences that generate, as far as they are likely to pay and `room` cells go."""
    rows = len(step.chunks)
    if step.lane.pooled or not pace.draft_pays(rows, GOOD_CHANCE):
        return step
    room = min(room, pace.limits.step_tokens) - sum(chunk.count for chunk in step.chunks)
    chunks: list[Chunk] = []
    for chunk in step.chunks:
        lookup = chunk.sequence.lookup
        most = min(MOST_DRAFTS, room, chunk.sequence.limit - chunk.sequence.output_tokens - 1)
        if lookup is not None and not chunk.sequence.is_prefill and most > 0:
            drafts = lookup.draft(most, lambda chance: pace.draft_pays(rows, chance))
            chunk = Chunk(chunk.sequence, chunk.count, drafts)
            room -= len(drafts)
        chunks.append(chunk)
    return Step(step.lane, chunks, step.alone, step.whole, step.cut)


def _next_lane(running: Listing[Sequence]) -> Lane:
    first = running[0].lane
    if all(sequence.lane is first for sequence in running):
        return first
    return min(running, key=lambda sequence: (sequence.account.counter, sequence.turn)).lane


def _by_tenant(running: Listing[Sequence], lane: Lane) -> list[_Turns]:
    """Sorts the lane's sequences by tenant; in each, those that generate by how long they have waited for their
    turn."""
    tenants: dict[Account, _Turns] = {}
    for sequence in running:
        if sequence.lane is lane:
            turns = tenants.setdefault(sequence.account, _Turns(sequence.account))
            (turns.prompts if lane.pooled or sequence.is_prefill else turns.rows).append(sequence)
    for turns in tenants.values():
        turns.rows = deque(sorted(turns.rows, key=lambda sequence: sequence.turn))
    return list(tenants.values())


def _newcomer(tenants: list[_Turns], pace: Pace, most: int) -> Sequence | None:
    """Gives a sequence that should have the step for itself: the first of a tenant no richer than the others, if it
    is short and the others' rows would keep it waiting."""
    if len(tenants) < 2 or not pace.known:
        return None
    lowest = min(turns.account.counter for turns in tenants)
    poorest = (turns for turns in tenants if turns.account.counter <= lowest)
    turns = next((turns for turns in poorest if all(sequence.is_fresh for sequence in turns.sequences())), None)
    if turns is None:
        return None
    others = sum(len(other.rows) for other in tenants if other is not turns)
    if pace.row_s * others <= pace.fixed_s:
        return None
    first = next(turns.sequences())
    # Only a whole prompt: the rest of a long one shares steps to its end.
    short = first.turn == 0 and first.pending <= most
    takes_s = pace.prompt_token_s(first.computed) * first.pending
    return first if short and takes_s <= ALONE_STRETCH * pace.step_s(others, 0) else None


def _longest_s(tenants: list[_Turns], pace: Pace) -> float:
    """Gives how long the step may take so that each tenant's rows have its share of it when others' prompts go with
    them."""
    weights = sum(turns.account.weight for turns in tenants)
    rows_s = pace.rows_s(sum(len(turns.rows) for turns in tenants), sum(map(_context, tenants)))
    longest_s = float("inf")
    for turns in tenants:
        if turns.rows and any(other.prompts for other in tenants if other is not turns):
            share_s = pace.rows_s(len(turns.rows), _context(turns)) * weights / turns.account.weight
            # Who uses less than its share even of a step without prompts can't be given it.
            longest_s = min(longest_s, share_s if share_s >= rows_s else SMALL_STRETCH * rows_s)
    return longest_s


def _context(turns: _Turns) -> int:
    """Gives the tokens before each of a tenant's rows, added up."""
    return sum(sequence.computed for sequence in turns.rows)


def _take_turns(lane: Lane, tenants: list[_Turns], rows: int, prompt_tokens: int) -> Step:
    """Gives rows and prompt tokens away, one row or a few tokens at a turn, always to the poorest by then."""
    granted: dict[Sequence, int] = {}
    cut: list[Account] = []
    heap = [(turns.account.counter, place, turns) for place, turns in enumerate(tenants)]
    heapify(heap)
    while heap:
        counter, place, turns = heap[0]
        if turns.rows and rows > 0:
            granted[turns.rows.popleft()] = 1
            rows -= 1
            cost = turns.account.cost(0, 1)
        elif turns.prompts and prompt_tokens > 0:
            sequence = turns.prompts[0]
            before = granted.get(sequence, 0)
            count = min(TURN_TOKENS, sequence.pending - before, prompt_tokens)
            granted[sequence] = before + count
            prompt_tokens -= count
            if before + count == sequence.pending:
                turns.prompts.popleft()
            cost = turns.account.cost(count, 0)
        else:
            heappop(heap)
            if turns.rows or turns.prompts:
                cut.append(turns.account)
            continue
        heapreplace(heap, (counter + cost, place, turns))
    whole = (turns.account for turns in tenants if turns.account not in cut)
    return Step(lane, list(_chunks(granted)), whole=tuple(whole) if cut else (), cut=tuple(cut))


def _chunks(granted: dict[Sequence, int]) -> Iterator[Chunk]:
    for sequence, count in granted.items():
        yield Chunk(sequence, count)
