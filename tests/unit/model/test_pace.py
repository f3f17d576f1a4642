"""The learned cost of steps: found again from noisy times, and never a step of nothing or beyond its bounds."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redoma_model.engine.pace import LEAST_CHUNK, Pace, PaceLimits

# Seconds that are fixed, of a row and of a prompt token: two cores, a GPU, and one that is nearly all fixed.
MACHINES = [(0.0025, 0.0024, 0.0022), (0.008, 0.0002, 0.00005), (0.02, 0.0001, 0.00001)]


def observe(pace: Pace, machine: tuple[float, float, float], steps: int, noise: float, seed: int = 1) -> None:
    """Shows a pace mixed steps of a machine, with noise and one outlier in twenty."""
    fixed_s, row_s, prompt_s = machine
    chance = random.Random(seed)
    for step in range(steps):
        rows, tokens = chance.randint(0, 16), chance.choice([0, 0, 4, 12, 40])
        if not rows and not tokens:
            rows = 1
        duration_s = fixed_s + row_s * rows + prompt_s * tokens
        duration_s *= 1 + noise * chance.uniform(-1, 1)
        if noise and step % 20 == 19:
            duration_s *= 30
        pace.observe(rows, tokens, duration_s)


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize(("noise", "tolerance"), [(0.0, 0.05), (0.1, 0.35)])
def test_a_machines_cost_is_found_again(machine: tuple[float, float, float], noise: float, tolerance: float) -> None:
    pace = Pace(PaceLimits(64))
    observe(pace, machine, 400, noise)
    fixed_s, row_s, prompt_s = machine
    # Of steps of ordinary size: with outliers, the smallest are told less well.
    for rows, tokens in ((8, 0), (16, 0), (8, 20), (1, 60)):
        expected_s = fixed_s + row_s * rows + prompt_s * tokens
        assert pace.step_s(rows, tokens) == pytest.approx(expected_s, rel=tolerance)


def test_rows_and_prompt_tokens_are_told_apart_where_they_differ_in_cost() -> None:
    pace = Pace(PaceLimits(64))
    observe(pace, (0.005, 0.001, 0.0001), 400, 0.0)
    assert pace.row_s == pytest.approx(0.001, rel=0.1)
    assert pace.prompt_token_s(0) == pytest.approx(0.0001, rel=0.3)


def test_a_machine_that_turns_slow_is_learned_anew() -> None:
    pace = Pace(PaceLimits(64))
    observe(pace, (0.0025, 0.0024, 0.0022), 200, 0.0)
    observe(pace, (0.025, 0.024, 0.022), 300, 0.0, seed=2)
    assert pace.step_s(8, 0) == pytest.approx(0.025 + 8 * 0.024, rel=0.1)


def test_what_prompts_cost_is_remembered_over_long_decoding() -> None:
    pace = Pace(PaceLimits(512))
    observe(pace, (0.008, 0.0002, 0.00005), 200, 0.0)
    for _ in range(2_000):
        pace.observe(1, 0, 0.0082)
    assert pace.step_s(1, 1_000) == pytest.approx(0.0082 + 0.05, rel=0.5)


def test_one_outlier_hardly_moves_the_estimate() -> None:
    pace = Pace(PaceLimits(64))
    observe(pace, MACHINES[0], 200, 0.0)
    before_s = pace.step_s(8, 0)
    pace.observe(8, 0, 10.0)
    assert pace.step_s(8, 0) < 1.2 * before_s


@pytest.mark.parametrize("duration_s", [0.0, 0.01])
@pytest.mark.parametrize(("rows", "tokens"), [(1, 0), (8, 0), (0, 64), (4, 4), (0, 0)])
def test_constant_load_divides_by_nothing(rows: int, tokens: int, duration_s: float) -> None:
    pace = Pace(PaceLimits(64, inter_token_s=0.02))
    for _ in range(600):
        pace.observe(rows, tokens, duration_s)
    if rows or tokens:
        assert pace.step_s(rows, tokens) == pytest.approx(duration_s, rel=0.1, abs=1e-6)
    assert 1 <= pace.most_rows() <= 64
    assert 0 < pace.prompt_tokens(4) <= 60
    assert pace.draft_pays(4, 0.0) is False


STEPS = st.lists(
    st.tuples(st.integers(0, 32), st.integers(0, 64), st.floats(0, 20, allow_subnormal=False)), max_size=60
)


@given(
    steps=STEPS,
    limits=st.builds(PaceLimits, st.integers(1, 128), st.floats(1, 20), st.sampled_from([0.0, 0.000001, 0.01, 5.0])),
    rows=st.integers(0, 128),
    longest_s=st.one_of(st.just(float("inf")), st.floats(0, 5)),
)
def test_a_chunk_is_never_too_small_nor_beyond_the_step(
    steps: list[tuple[int, int, float]], limits: PaceLimits, rows: int, longest_s: float
) -> None:
    pace = Pace(limits)
    for step in steps:
        pace.observe(*step)
    assert 1 <= pace.most_rows() <= limits.step_tokens
    rows = min(rows, limits.step_tokens)
    left = limits.step_tokens - rows
    assert min(LEAST_CHUNK, left) <= pace.prompt_tokens(rows, longest_s) <= left
    assert min(pace.fixed_s, pace.row_s, pace.prompt_token_s(0)) >= 0


def test_nothing_is_held_back_before_the_pace_is_known() -> None:
    pace = Pace(PaceLimits(64, stretch=1.0, inter_token_s=0.000001))
    assert not pace.known
    assert pace.most_rows() == 64
    assert pace.prompt_tokens(8) == 56
    assert not pace.draft_pays(1, 1.0)


@pytest.mark.parametrize("stretch", [1.5, 2.6, 6.5])
def test_prompts_stretch_a_step_as_far_as_set(stretch: float) -> None:
    pace = Pace(PaceLimits(512, stretch=stretch))
    observe(pace, MACHINES[0], 300, 0.0)
    tokens = pace.prompt_tokens(8)
    assert tokens > LEAST_CHUNK or stretch < 2
    assert pace.step_s(8, max(LEAST_CHUNK, tokens)) <= stretch * pace.step_s(8, 0) + 1e-9
    assert pace.step_s(8, tokens + 1) > stretch * pace.step_s(8, 0)


def test_a_target_between_tokens_sizes_rows_and_prompts() -> None:
    pace = Pace(PaceLimits(64, inter_token_s=0.02))
    observe(pace, MACHINES[0], 300, 0.0)
    assert pace.most_rows() == 7
    assert pace.step_s(2, pace.prompt_tokens(2)) <= 0.0201
    assert pace.step_s(2, pace.prompt_tokens(2) + 1) > 0.0199


def test_a_draft_pays_by_what_a_row_costs() -> None:
    pace = Pace(PaceLimits(64))
    observe(pace, (0.0025, 0.0024, 0.0022), 300, 0.0)
    assert pace.draft_pays(1, 0.6)
    assert not pace.draft_pays(1, 0.4)
    assert not pace.draft_pays(8, 0.6)
    fixed = Pace(PaceLimits(64))
    observe(fixed, (0.02, 0.0001, 0.00001), 300, 0.0)
    assert fixed.draft_pays(8, 0.2)


def test_the_last_steps_are_kept_for_the_median_and_no_more() -> None:
    pace = Pace(PaceLimits(64))
    for _ in range(1_000):
        pace.observe(1, 0, 0.01)
    assert len(pace.recent_s) <= 256
    assert pace.steps == 1_000


def test_a_deep_prompt_keeps_steps_as_long_as_a_shallow_one() -> None:
    pace = Pace(PaceLimits(64))
    rows, row_context = 8, 8 * 50

    def took_s(tokens: int, depth: int) -> float:
        context = tokens * depth + tokens * (tokens - 1) / 2
        return 0.0025 + 0.0024 * rows + 0.0022 * tokens + 0.0016 * context / 1_000

    for _ in range(20):
        pace.observe(rows, 0, took_s(0, 0), 0, row_context)
    depth, steps = 0, []
    while depth < 4_000:
        tokens = pace.prompt_tokens(rows, rows_context=row_context, depth=depth)
        steps.append(took_s(tokens, depth))
        pace.observe(rows, tokens, steps[-1], tokens * depth + tokens * (tokens - 1) // 2, row_context)
        depth += tokens
    assert max(steps) <= 1.1 * pace.limits.stretch * took_s(0, 0)
    # Another prompt that begins shallow is not held back by how deep the last one went.
    assert pace.prompt_tokens(rows, rows_context=row_context) >= 2 * tokens
