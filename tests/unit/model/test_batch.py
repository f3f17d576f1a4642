"""The batching policy: whose tokens make up a step, however scarce they are."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redoma_model.engine.batch import MOST_DRAFTS, Chunk, Step, add_drafts, compose
from redoma_model.engine.fair_share import Account
from redoma_model.engine.lane import BASE_LANE, POOLED_LANE, Lane
from redoma_model.engine.lookup import PromptLookup
from redoma_model.engine.pace import Pace, PaceLimits
from redoma_model.engine.sampling import Sampling
from redoma_model.engine.sequence import Request, Sequence
from redoma_model.engine.text import TextAssembler

ROOM = 10_000
ADAPTER_LANE = Lane(adapter=object())


def account(tenant: str = "a", weight: int = 1, counter: float = 0.0) -> Account:
    return Account(tenant, weight, counter)


def sequence(of: Account, pending: int = 1, *, lane: Lane = BASE_LANE, turn: int = 0, fresh: bool = False) -> Sequence:
    """A running sequence: one that generates, unless more than one of its tokens is pending."""
    request = Request(tuple(range(50 + pending)), Sampling(), tenant=of.tenant, weight=of.weight)
    made = Sequence(request, TextAssembler((), False, False), 100, 0.0, account=of, lane=lane)
    made.computed, made.turn = 50, turn
    if pending == 1 and not fresh:
        made.first_token_at = 1.0
    return made


def pace(limits: PaceLimits | None = None, known: bool = True) -> Pace:
    """A pace that knows two cores' cost: 2.5 ms, 2.4 ms a row, 2.2 ms a prompt token."""
    made = Pace(limits or PaceLimits(64))
    for step in range(400 if known else 0):
        rows, tokens = step % 9, step % 7 * 4
        made.observe(rows, tokens, 0.0025 + rows * 0.0024 + tokens * 0.0022)
    return made


def counts(step: Step) -> dict[str, int]:
    """Gives the tokens of each tenant in a step."""
    of: dict[str, int] = {}
    for chunk in step.chunks:
        tenant = chunk.sequence.account.tenant
        of[tenant] = of.get(tenant, 0) + chunk.count
    return of


def test_every_sequence_that_generates_has_its_row() -> None:
    one, two = account("a"), account("b", counter=500)
    running = [sequence(one) for _ in range(3)] + [sequence(two) for _ in range(2)]
    step = compose(running, pace(), ROOM, True)
    assert {chunk.sequence for chunk in step.chunks} == set(running)
    assert [(chunk.count, chunk.rows) for chunk in step.chunks] == [(1, 1)] * 5
    assert step.cut == step.whole == ()


def test_rows_go_on_while_a_prompt_is_computed_in_chunks() -> None:
    mine = account()
    rows = [sequence(mine) for _ in range(8)]
    prompt = sequence(mine, 400)
    how_fast = pace()
    sizes: list[int] = []
    while prompt.pending > 1 and len(sizes) < 100:
        step = compose([*rows, prompt], how_fast, ROOM, True)
        assert {chunk.sequence for chunk in step.chunks} >= set(rows)
        (chunk,) = [chunk for chunk in step.chunks if chunk.sequence is prompt]
        assert chunk.rows == int(chunk.completes)
        prompt.computed += chunk.count
        sizes.append(chunk.count)
    assert sum(sizes) == 400
    assert max(sizes) <= 1.7 * how_fast.step_s(8, 0) / how_fast.prompt_token_s(0)


def test_prompts_of_a_tenant_are_computed_in_their_order() -> None:
    mine = account()
    first, second = sequence(mine, 40), sequence(mine, 40)
    step = compose([first, second], pace(PaceLimits(50)), ROOM, True)
    assert [(chunk.sequence, chunk.count) for chunk in step.chunks] == [(first, 40), (second, 10)]


def test_scarce_prompt_tokens_go_to_the_poorest_first() -> None:
    poor, rich = account("poor"), account("rich", counter=1_000)
    step = compose([sequence(rich, 200), sequence(poor, 200)], pace(PaceLimits(64)), ROOM, False)
    assert counts(step) == {"poor": 64}
    assert step.cut == (rich, poor) or set(step.cut) == {rich, poor}


def test_scarce_prompt_tokens_go_by_weight_among_equals() -> None:
    light, heavy = account("light", 1), account("heavy", 3)
    given_away = {"light": 0, "heavy": 0}
    prompts = [sequence(light, 5_000), sequence(heavy, 5_000)]
    for _ in range(20):
        step = compose(prompts, pace(PaceLimits(64)), ROOM, False)
        for chunk in step.chunks:
            chunk.sequence.computed += chunk.count
            chunk.sequence.account.charge(chunk.count, 0)
            given_away[chunk.sequence.account.tenant] += chunk.count
    assert given_away["heavy"] / given_away["light"] == pytest.approx(3, rel=0.05)


def test_who_gets_all_it_can_use_is_told_from_who_could_use_more() -> None:
    modest, greedy = account("modest"), account("greedy")
    step = compose([sequence(modest), sequence(greedy, 900)], pace(), ROOM, False)
    assert step.whole == (modest,)
    assert step.cut == (greedy,)


def test_scarce_rows_take_turns() -> None:
    mine, other = account("a"), account("b")
    running = [sequence(mine) for _ in range(6)] + [sequence(other) for _ in range(2)]
    how_fast = pace(PaceLimits(64, inter_token_s=0.0122))
    assert how_fast.most_rows() == 4
    served = dict.fromkeys(running, 0)
    for turn in range(1, 31):
        step = compose(running, how_fast, ROOM, False)
        assert len(step.chunks) == 4
        for chunk in step.chunks:
            served[chunk.sequence] += 1
            chunk.sequence.turn = turn
            chunk.sequence.account.charge(0, 1)
    assert [served[one] for one in running] == [10] * 6 + [30] * 2


def test_scarce_rows_pass_from_one_sequence_to_the_next() -> None:
    flooder, guest = account("flooder"), account("guest")
    running = [sequence(flooder) for _ in range(16)] + [sequence(guest)]
    how_fast = pace(PaceLimits(64, inter_token_s=0.041))
    assert how_fast.most_rows() == 16
    served = dict.fromkeys(running, 0)
    for number in range(32):
        step = compose(running, how_fast, ROOM, False)
        assert len(step.chunks) == 16
        for place, chunk in enumerate(step.chunks, 1):
            served[chunk.sequence] += 1
            chunk.sequence.turn = 16 * number + place
            chunk.sequence.account.charge(0, 1)
        for one in step.whole:
            one.lift(step.cut)
    assert [served[one] for one in running] == [30] * 16 + [32]


def test_a_newcomers_short_prompt_has_a_step_for_itself() -> None:
    others = [sequence(account("rich", counter=100)) for _ in range(8)]
    new = sequence(account("new", counter=100), 30)
    for other in others[1:]:
        other.account = others[0].account
    step = compose([*others, new], pace(), ROOM, True)
    assert step.alone
    assert [(chunk.sequence, chunk.count) for chunk in step.chunks] == [(new, 30)]
    assert not compose([*others, new], pace(), ROOM, False).alone


@pytest.mark.parametrize(
    "why", ["richer", "long", "goes on", "has another that generates", "nobody to wait for", "pace unknown", "no room"]
)
def test_no_step_alone_for_who_need_not_have_it(why: str) -> None:
    rich = account("rich", counter=100)
    others = [sequence(rich) for _ in range(1 if why == "nobody to wait for" else 8)]
    mine = account("new", counter=101 if why == "richer" else 50)
    new = sequence(mine, 65 if why == "long" else 30, turn=int(why == "goes on"))
    running = [*others, new]
    if why == "has another that generates":
        running.append(sequence(mine))
    how_fast = pace(known=why != "pace unknown")
    if why == "nobody to wait for":
        how_fast = pace(known=False)
        for _ in range(200):
            how_fast.observe(1, 4, 0.02)
            how_fast.observe(4, 0, 0.02)
    step = compose(running, how_fast, 20 if why == "no room" else ROOM, True)
    assert not step.alone
    assert {chunk.sequence for chunk in step.chunks} >= set(others)


def test_an_embedding_is_a_prompt_to_its_last_token() -> None:
    mine = account()
    running = [sequence(mine, 1, lane=POOLED_LANE, fresh=True), sequence(mine, 30, lane=POOLED_LANE)]
    step = compose(running, pace(), ROOM, True)
    assert step.lane is POOLED_LANE
    assert [chunk.count for chunk in step.chunks] == [1, 30]


def test_lanes_take_turns_by_their_tenants_counters() -> None:
    base, adapted = account("base"), account("adapted")
    running = [sequence(base) for _ in range(4)] + [sequence(adapted, lane=ADAPTER_LANE) for _ in range(4)]
    lanes = []
    for turn in range(1, 21):
        step = compose(running, pace(), ROOM, True)
        assert {chunk.sequence.lane for chunk in step.chunks} == {step.lane}
        lanes.append(step.lane)
        for chunk in step.chunks:
            chunk.sequence.turn = turn
            chunk.sequence.account.charge(0, 1)
    assert all(earlier is not later for earlier, later in pairwise(lanes))


def test_lanes_of_one_tenant_take_turns_too() -> None:
    mine = account()
    running = [sequence(mine), sequence(mine, lane=ADAPTER_LANE), sequence(mine, 30, lane=POOLED_LANE)]
    lanes = []
    for turn in range(1, 4):
        step = compose(running, pace(), ROOM, True)
        lanes.append(step.lane)
        for chunk in step.chunks:
            chunk.sequence.turn = turn
            mine.charge(0, 1)
    assert set(lanes) == {BASE_LANE, ADAPTER_LANE, POOLED_LANE}


@pytest.mark.parametrize("room", [1, 2, 3, 9])
def test_a_step_is_no_larger_than_the_room(room: int) -> None:
    mine, other = account("a"), account("b")
    running = [sequence(mine) for _ in range(4)] + [sequence(other, 200), sequence(mine, 3)]
    assert sum(counts(compose(running, pace(), room, True)).values()) <= room


SEQUENCES = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.sampled_from([1, 1, 2, 5, 40, 300]),
        st.sampled_from([BASE_LANE, BASE_LANE, ADAPTER_LANE, POOLED_LANE]),
        st.integers(0, 3),
        st.booleans(),
    ),
    min_size=1,
    max_size=12,
)


@given(
    sequences=SEQUENCES,
    counters=st.lists(st.floats(0, 500), min_size=3, max_size=3),
    weights=st.lists(st.sampled_from([1, 3, 100]), min_size=3, max_size=3),
    room=st.integers(1, 400),
    limits=st.builds(PaceLimits, st.integers(1, 80), st.floats(1, 8), st.sampled_from([0.0, 0.0001, 0.01, 0.1])),
    known=st.booleans(),
    may_go_alone=st.booleans(),
)
def test_a_step_is_never_empty_nor_too_large_nor_mixed(
    sequences: list[tuple[int, int, Lane, int, bool]],
    counters: list[float],
    weights: list[int],
    room: int,
    limits: PaceLimits,
    known: bool,
    may_go_alone: bool,
) -> None:
    accounts = [account(f"t{place}", weights[place], counters[place]) for place in range(3)]
    running = [
        sequence(accounts[who], pending, lane=lane, turn=turn, fresh=fresh)
        for who, pending, lane, turn, fresh in sequences
    ]
    how_fast = pace(limits, known)
    step = compose(running, how_fast, room, may_go_alone)
    chunks = step.chunks
    assert chunks
    assert sum(chunk.count for chunk in chunks) <= min(room, limits.step_tokens)
    assert all(1 <= chunk.count <= chunk.sequence.pending for chunk in chunks)
    assert len({chunk.sequence for chunk in chunks}) == len(chunks)
    assert {chunk.sequence.lane for chunk in chunks} == {step.lane}
    assert not step.alone or (may_go_alone and len(chunks) == 1)
    poorest = min(accounts[who].counter for who, *_ in sequences)
    assert any(one.account.counter == poorest for one in running if one.lane is step.lane)
    rows = [one for one in running if one.lane is step.lane and not step.lane.pooled and one.pending == 1]
    if len(rows) <= min(room, how_fast.most_rows()) and not step.alone:
        assert {chunk.sequence for chunk in chunks} >= set(rows)


# Drafts.


def drafting(of: Account, limit: int = 100, tokens: int = 40) -> Sequence:
    """A sequence that generates, and whose text repeats itself."""
    made = Sequence(
        Request(tuple(at % 10 for at in range(tokens)), Sampling()),
        TextAssembler((), False, False),
        limit,
        0.0,
        account=of,
    )
    made.computed, made.first_token_at = tokens - 1, 1.0
    made.lookup = PromptLookup(made.tokens)
    made.lookup.acceptance = 0.99
    return made


def rows_only(*sequences: Sequence) -> Step:
    return Step(sequences[0].lane, [Chunk(one, 1) for one in sequences])


def drafts(step: Step) -> list[int]:
    return [len(chunk.drafts) for chunk in step.chunks]


def test_drafts_go_with_the_last_token_only() -> None:
    mine = account()
    prompt = sequence(mine, 30)
    step = Step(BASE_LANE, [Chunk(drafting(mine), 1), Chunk(prompt, 10)])
    assert drafts(add_drafts(step, pace(), ROOM)) == [MOST_DRAFTS, 0]


def test_drafts_keep_within_the_room_for_all() -> None:
    mine = account()
    for room, expected in ((3 + 10, 10), (3, 0)):
        step = add_drafts(rows_only(*(drafting(mine) for _ in range(3))), pace(), room)
        assert sum(drafts(step)) == expected


def test_drafts_keep_within_the_step() -> None:
    step = add_drafts(rows_only(*(drafting(account()) for _ in range(3))), pace(PaceLimits(8)), ROOM)
    assert sum(drafts(step)) == 5


@pytest.mark.parametrize(("limit", "most"), [(1, 0), (2, 1), (5, 4)])
def test_drafts_end_where_the_answer_does(limit: int, most: int) -> None:
    assert drafts(add_drafts(rows_only(drafting(account(), limit)), pace(), ROOM)) == [most]


def test_no_draft_is_even_tried_where_good_ones_would_not_pay() -> None:
    dear = Pace(PaceLimits(64))
    for step in range(200):
        rows, tokens = step % 9, step % 5
        dear.observe(rows, tokens, 0.0001 + 0.01 * rows + 0.01 * tokens)
    streams = [drafting(account()) for _ in range(8)]
    for stream in streams:
        assert stream.lookup is not None
        stream.lookup.acceptance = 0.5
    assert sum(drafts(add_drafts(rows_only(*streams), dear, ROOM))) == 0
    assert sum(drafts(add_drafts(rows_only(*streams), pace(known=False), ROOM))) == 0


@pytest.mark.parametrize("room", [-3, 0, 1])
def test_no_drafts_without_room(room: int) -> None:
    assert drafts(add_drafts(rows_only(drafting(account())), pace(), room)) == [0]
