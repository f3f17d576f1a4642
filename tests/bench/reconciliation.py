"""How long the reconciler takes with few and many sites: with nothing to do, one change, and from nothing."""

import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from tests.bench.findings import Findings, Plan, Table
from tests.bench.reconciled_network import ReconciledNetwork, reconciled_network, until

SITES = (10, 100, 1_000)
LOOKS, CHANGES = 10, 3
ABOUT = (
    "The public site's reconciler on the fake driver, with its real database (SQLite) and its real snapshots of the "
    "egress, which no Envoy reads: sites with a model and a provisioner each, all of them linked. With nothing to do "
    "is a whole round, from reading the database to the picture that people see. One change is one more site that has "
    "joined: until the egress's snapshot with it is kept and served, and until the driver made what it needs and "
    "people see it. From nothing is the same after the start of a process that has served nothing yet. A site's part "
    "is the time by the number of sites, over that with the fewest."
)


@dataclass(frozen=True, slots=True)
class Row:
    """One number of sites, in milliseconds: medians."""

    sites: int
    nothing_ms: float
    change_told_ms: float
    change_seen_ms: float
    start_told_ms: float
    start_seen_ms: float


TIMES = ("nothing_ms", "change_told_ms", "change_seen_ms", "start_told_ms", "start_seen_ms")
HEADINGS = (
    *("nothing to do, ms", "one change: egress, ms", "picture, ms"),
    *("from nothing: egress, ms", "picture, ms"),
)


async def run(plan: Plan) -> Findings:
    """Measures each number of sites in each round, with a database of its own."""
    counts = plan.pick(SITES, (3, 10))
    taken: dict[int, list[dict[str, float]]] = {sites: [] for sites in counts}
    for turn in range(plan.rounds):
        for sites in counts:
            plan.tell(f"round {turn + 1} of {plan.rounds}, {sites:,} sites")
            taken[sites].append(await _measure(plan, sites))
    rows = [
        Row(sites, **{name: median(one[name] for one in rounds) for name in TIMES}) for sites, rounds in taken.items()
    ]
    whole = Table(
        "Reconciliation",
        ("sites", *HEADINGS),
        tuple((f"{row.sites:,}", *(f"{getattr(row, name):.1f}" for name in TIMES)) for row in rows),
    )
    parts = Table(
        f"A site's part, of that with {rows[0].sites:,} sites",
        ("sites", *(heading.removesuffix(", ms") for heading in HEADINGS)),
        tuple((f"{row.sites:,}", *(f"{part:.2f}" for part in parts_of(row, rows[0]))) for row in rows),
    )
    return Findings("reconciliation", ABOUT, (whole, parts), (), {"rows": [asdict(row) for row in rows]})


def parts_of(row: Row, fewest: Row) -> Sequence[float]:
    """Gives what a site takes of each time, over what it takes where there are the fewest: 1 is linear."""
    return [(getattr(row, name) / row.sites) / (getattr(fewest, name) / fewest.sites) for name in TIMES]


async def _measure(plan: Plan, sites: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="redoma-bench-", ignore_cleanup_errors=True) as folder:
        async with reconciled_network(Path(folder)) as network:
            await network.join(range(sites))
            began = time.perf_counter()
            network.reconciler.start()
            start_told_ms, start_seen_ms = await _led_to(network, sites - 1, began)
            looks = [await network.idle_round_s() for _ in range(plan.pick(LOOKS, 2))]
            changes = [await _change(network, sites + number) for number in range(plan.pick(CHANGES, 1))]
    return {
        "nothing_ms": median(looks) * 1e3,
        "change_told_ms": median(told for told, _ in changes),
        "change_seen_ms": median(seen for _, seen in changes),
        "start_told_ms": start_told_ms,
        "start_seen_ms": start_seen_ms,
    }


async def _change(network: ReconciledNetwork, number: int) -> tuple[float, float]:
    await network.join([number])
    began = time.perf_counter()
    network.reconciler.wake("a site joined")
    return await _led_to(network, number, began)


async def _led_to(network: ReconciledNetwork, number: int, began: float) -> tuple[float, float]:
    """Gives the milliseconds since `began` until the egress was told of a site, and until people see it."""
    await until(lambda: network.leads_to(number), "the egress is told")
    told_ms = (time.perf_counter() - began) * 1e3
    await until(lambda: network.is_driven(number), "people see it")
    return told_ms, (time.perf_counter() - began) * 1e3
