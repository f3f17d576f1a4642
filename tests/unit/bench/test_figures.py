"""The statistics that verdicts of the benches rest on."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.bench.figures import jain_index, median_ratio, quantile, slope
from tests.bench.findings import Findings, Goal, Table, goals_table
from tests.bench.load import full_batch_rate
from tests.bench.machine import Machine
from tests.bench.prompts import Prompts
from tests.bench.report import Entry, Results, grid, read_results, results_of
from tests.bench.soak_watch import LEAK_BYTES, Memory

MACHINE = Machine("a processor", 2, 4.0, "Linux", "3.11", "0.3", "a.gguf")


def findings(value: float) -> Findings:
    table = Table("A table", ("name", "value"), (("one", "1"),))
    return Findings("one", "About it.", (table,), (Goal("is small", value, 2.0, False),), {"values": [1, 2.5]})


def entry(value: float) -> Entry:
    return Entry("2026-01-01T00:00:00+00:00", "abc", 3, False, findings(value))


@given(st.lists(st.floats(0.01, 1e6), min_size=1, max_size=20))
def test_jains_index_lies_between_one_nth_and_one(shares: list[float]) -> None:
    assert 1 / len(shares) - 1e-9 <= jain_index(shares) <= 1 + 1e-9


def test_jains_index_tells_equal_from_everything_for_one() -> None:
    assert jain_index([3.0, 3.0, 3.0, 3.0]) == pytest.approx(1)
    assert jain_index([3.0, 0.0, 0.0, 0.0]) == pytest.approx(0.25)


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=50), st.floats(0.01, 1))
def test_a_quantile_is_the_least_that_so_many_do_not_exceed(values: list[float], part: float) -> None:
    found = quantile(values, part)
    assert sum(value <= found for value in values) >= part * len(values) - 1e-9
    assert sum(value < found for value in values) < part * len(values) + 1e-9


def test_a_ratio_is_taken_round_by_round() -> None:
    assert median_ratio([10.0, 100.0, 30.0], [5.0, 50.0, 30.0]) == 2.0


def test_a_slope_follows_a_line_and_is_none_for_one_point() -> None:
    assert slope([0.0, 1.0, 2.0, 3.0], [5.0, 7.0, 9.0, 11.0]) == pytest.approx(2)
    assert slope([1.0], [5.0]) == 0


def test_a_goal_is_met_on_its_own_side_only() -> None:
    assert Goal("", 1.0, 2.0, at_least=False).met and not Goal("", 1.0, 2.0, at_least=True).met
    assert Goal("", 2.0, 2.0, at_least=False).met and Goal("", 2.0, 2.0, at_least=True).met


def test_a_missed_goal_shows() -> None:
    assert [row[-1] for row in goals_table([findings(1.0), findings(3.0)]).rows] == ["yes", "NO"]


def test_results_come_back_as_they_were_kept(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "results.json"
    results = Results(MACHINE, {}).with_entry(entry(1.0))
    results.save(path)
    assert read_results(path) == results
    assert json.loads(path.read_text())["entries"]["one"]["findings"]["data"] == {"values": [1, 2.5]}


def test_results_of_another_machine_do_not_count(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    Results(MACHINE, {}).with_entry(entry(1.0)).save(path)
    other = Machine("another processor", 2, 4.0, "Linux", "3.11", "0.3", "a.gguf")
    assert results_of(MACHINE, path).entries.keys() == {"one"}
    assert not results_of(other, path).entries


def test_results_of_another_form_do_not_count(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text('{"rows": []}')
    assert not results_of(MACHINE, path).entries


def test_a_table_in_markdown_has_a_cell_for_each_heading() -> None:
    lines = grid(findings(1.0).tables[0]).strip().splitlines()
    assert {line.count("|") for line in lines} == {3}


def memory(*sizes_mib: float) -> Memory:
    return Memory(1, [float(place) for place in range(len(sizes_mib))], [int(size * 2**20) for size in sizes_mib])


def test_growth_while_warming_up_is_no_leak() -> None:
    assert not memory(10, 200, 400, 500, 500, 500, 500, 500, 500, 500, 500).leaks


def test_steady_growth_after_the_warm_up_is_a_leak() -> None:
    grown = memory(*(100 + 20 * place for place in range(11)))
    assert grown.leaks
    assert grown.growth > LEAK_BYTES


def test_no_two_prompts_begin_alike_within_a_block() -> None:
    prompts = Prompts()
    firsts = {prompts.number()[:5] for _ in range(20_000)}
    assert len(firsts) == 20_000


def test_a_full_batch_is_the_time_in_which_all_streams_generate() -> None:
    assert full_batch_rate([[0.0, 1.0, 2.0, 3.0], [1.0, 2.0, 3.0, 4.0]]) == 2.0
    assert full_batch_rate([[0.0, 1.0], [2.0, 3.0]]) == 0.0
