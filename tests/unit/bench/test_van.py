"""What the benches of the network make of what they measured."""

from pathlib import Path

import pytest

from tests.bench.callers import Caller, until_content
from tests.bench.catalogue import BENCHES
from tests.bench.figures import rotated
from tests.bench.load import Sample
from tests.bench.outage import Visit
from tests.bench.push import Push, median_push
from tests.bench.pushed_replicas import LISTENER, TUNNEL, Replicas
from tests.bench.reconciliation import Row, parts_of
from tests.bench.van import Costed, goals_of, rate_rows, unary_rows
from tests.bench.ways import ALL, DIRECT, EGRESS, VAN, WAYS


def calls(direct: float, egress: float, van: float, everything: float) -> dict[str, list[float]]:
    """Gives one round of unary calls of so many milliseconds each."""
    return {way: [ms / 1e3] * 3 for way, ms in zip(WAYS, (direct, egress, van, everything), strict=True)}


def sample(rate: float) -> Costed:
    return Costed(Sample(rate, rate, (0.1,), 1.0), 0.02)


def rates(van: float) -> dict[tuple[str, int], list[Costed]]:
    return {(way, 8): [sample(van if way == VAN else 100.0)] for way in WAYS}


def test_what_a_way_adds_is_taken_round_by_round() -> None:
    rows = {row.way: row for row in unary_rows([calls(1, 2, 3, 9), calls(10, 11, 12, 30), calls(2, 3, 4, 5)])}
    assert rows[VAN].added_ms == pytest.approx(2.0)
    assert rows[VAN].added_to_egress_ms == pytest.approx(1.0)
    assert rows[ALL].added_ms == pytest.approx(8.0)
    assert rows[DIRECT].added_ms == 0.0


@pytest.mark.parametrize(
    ("van_ms", "rate", "met"), [(1.9, 98.0, True), (2.1, 98.0, False), (1.9, 96.0, False)], ids=str
)
def test_a_van_that_costs_too_much_misses_its_goals(van_ms: float, rate: float, met: bool) -> None:
    goals = goals_of(unary_rows([calls(1.0, 1.0, van_ms, 5.0)]), rate_rows(rates(rate)))
    assert len(goals) == 4
    assert all(goal.met for goal in goals) is met


def test_a_rate_is_compared_with_its_neighbours_of_the_same_round() -> None:
    by_way = {DIRECT: (100.0, 50.0, 10.0), EGRESS: (100.0, 50.0, 10.0), VAN: (90.0, 45.0, 9.0), ALL: (50.0, 25.0, 5.0)}
    rows = rate_rows({(way, 1): [sample(rate) for rate in taken] for way, taken in by_way.items()})
    assert [row.of_direct for row in rows] == pytest.approx([1.0, 1.0, 0.9, 0.5])


def test_each_goes_first_in_turn() -> None:
    assert [rotated("abc", places)[0] for places in range(4)] == ["a", "b", "c", "a"]
    assert rotated("abc", 1) == ["b", "c", "a"]


def test_a_site_takes_as_much_of_each_time_where_that_is_linear() -> None:
    fewest, linear = Row(10, 1.0, 2.0, 3.0, 4.0, 5.0), Row(100, 10.0, 20.0, 30.0, 40.0, 50.0)
    assert parts_of(linear, fewest) == pytest.approx([1.0] * 5)
    assert parts_of(Row(100, 100.0, 20.0, 30.0, 40.0, 50.0), fewest)[0] == pytest.approx(10.0)


def test_a_push_that_nothing_can_be_called_of_has_no_time_of_use() -> None:
    assert median_push([Push(1.0, 2.0, None), Push(3.0, 4.0, None), Push(2.0, 3.0, None)]) == Push(2.0, 3.0, None)
    assert median_push([Push(1.0, 2.0, 5.0)]) == Push(1.0, 2.0, 5.0)
    assert median_push([]) is None


def test_only_the_last_replicas_lead_to_somebody(tmp_path: Path) -> None:
    replicas = Replicas(LISTENER, tmp_path, tmp_path / "live")
    state = replicas.state(2, 1)
    assert [(tmp_path / f"{number}.sock").is_symlink() for number in range(3)] == [False, False, True]
    assert len({endpoint.address for endpoint in state.replicas}) == 3
    assert state.replicas[-1].routing_key == replicas.key(2)
    assert not state.tunnels


def test_each_replica_by_a_tunnel_has_a_site_of_its_own(tmp_path: Path) -> None:
    state = Replicas(TUNNEL, tmp_path, tmp_path / "live").state(2, 1)
    assert {site.id for site in state.tunnels} == {endpoint.site for endpoint in state.replicas}
    assert len({site.certificates for site in state.tunnels}) == 3
    assert not list(tmp_path.iterdir())


class Never:
    name = "never"

    async def is_met(self) -> bool:
        return False


async def test_a_site_that_is_not_well_again_is_no_success() -> None:
    with pytest.raises(RuntimeError, match="never"):
        await until_content([Caller(Never())], 0.0, 0.01, 0.0)


def test_a_caller_is_content_since_the_first_answer_after_its_last_failure() -> None:
    caller = Caller(Never())
    assert caller.content_since() == float("inf")
    caller.visits = [Visit(0, 1, True), Visit(1, 2, False), Visit(2, 3, True), Visit(3, 4, True)]
    assert caller.content_since() == 2
    caller.visits.append(Visit(4, 5, False))
    assert caller.content_since() == float("inf")


def test_every_bench_of_the_catalogue_is_there() -> None:
    folder = Path(__file__).parents[2] / "bench"
    missing = [name for name in BENCHES if not (folder / f"{name}.py").is_file()]
    assert not missing
    assert len(set(BENCHES)) == len(BENCHES)
