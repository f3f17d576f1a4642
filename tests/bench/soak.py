"""Keeps a whole site under mixed load, then looks whether anything leaked, hung or failed that should not have.

Several tenants stream, talk, embed, fill forms, leave, are killed, read too slowly and come in bursts. Exits with 1
when a process grew after its warm-up or was started anew, a request is stuck, the engine holds what nobody accounts
for, or a client saw an error that a full site does not owe it.
"""

import argparse
import asyncio
import random
import re
import shutil
import sys
import time
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import grpc
import openai
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from redoma.model.v1 import engine_pb2_grpc
from tests.bench.catalogue import MODEL
from tests.bench.findings import Findings, Table
from tests.bench.machine import commit, this_machine
from tests.bench.prompts import Prompts
from tests.bench.report import QUICK_RESULTS, RESULTS, Entry, make_console, place_of, results_of, show
from tests.bench.site import BenchSite, running_site
from tests.bench.soak_visits import VISITS, Guest, answer, guarded
from tests.bench.soak_watch import EngineWatch, Memory
from tests.bench.targets import Access, EdgeSse

MORE_TENANTS = ("initech", "umbrella")
# Fewer may wait than come in a burst, so that some are refused.
SETTINGS = {"max_waiting_per_tenant": 16, "host_cache_mib": 64}
ORDINARY_MINUTES = 30.0
SAMPLE_S = 2.0
MOST_SHOWN = 20
LOGS = Path("build/bench/soak-log")
# Told apart, each failure would be a problem of its own.
REQUEST_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
ABOUT = (
    "{minutes:g} minutes of mixed load by {clients} clients of four tenants, each visit chosen at random: answers of "
    "random length, long prompts, several turns, forms, embeddings, conversations by gRPC, deadlines too short, "
    "clients that leave, are killed as processes or read too slowly, and bursts of more requests than may wait. Then "
    "all clients leave at once, and the idle site is looked at. Growth is that of the line that fits the memory best "
    "after the first 30 % of the time."
)


@dataclass(slots=True)
class Record:
    """What happened.

    Attributes:
        outcomes: Visits by kind and outcome.
        problems: What should not have been, by how often.
    """

    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    problems: Counter[str] = field(default_factory=Counter)


async def soak(site: BenchSite, arguments: argparse.Namespace, progress: Progress) -> tuple[Record, dict[str, Memory]]:
    """Runs the clients for the time, ends them, and looks."""
    record = Record()
    async with AsyncExitStack() as stack:
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(site.site.edge.removeprefix("http://")))
        guests = [await _guest(site, number, channel, stack) for number in range(arguments.clients)]
        memories = {name: Memory(pid) for name, pid in site.site.processes().items()}
        clients = [asyncio.create_task(_keep_visiting(guest, record)) for guest in guests]
        try:
            await _watch(memories, record, arguments.minutes * 60, progress)
        finally:
            for client in clients:
                client.cancel()
            await asyncio.gather(*clients, return_exceptions=True)
        record.problems.update(await _look(site, EngineWatch(site.site, channel), guests, memories))
    return record, memories


async def _guest(site: BenchSite, number: int, channel: grpc.aio.Channel, stack: AsyncExitStack) -> Guest:
    tenant, key = list(site.keys.items())[number % len(site.keys)]
    edge = site.site.edge
    client = openai.AsyncOpenAI(base_url=f"{edge}/v1", api_key=key, max_retries=0, timeout=600)
    await stack.enter_async_context(client)
    sse = EdgeSse(Access(site.site, site.keys, engine_pb2_grpc.EngineServiceStub(channel)))
    chance, prompts = random.Random(number), Prompts(number)
    return Guest(tenant, key, edge.removeprefix("http://"), chance, prompts, client, channel, sse)


async def _keep_visiting(guest: Guest, record: Record) -> None:
    kinds, weights = list(VISITS), list(VISITS.values())
    while True:
        visit = guest.chance.choices(kinds, weights)[0]
        try:
            outcome = await guarded(visit, guest)
        except Exception as error:
            outcome = "failed"
            text = REQUEST_ID.sub("…", f"{error!s:.300}")
            record.problems[f"{visit.__name__}: {type(error).__name__}: {text}"] += 1
        record.outcomes[visit.__name__, outcome] += 1


async def _watch(memories: dict[str, Memory], record: Record, seconds: float, progress: Progress) -> None:
    """Takes samples until the time is over, or a process is gone."""
    bar = progress.add_task("", total=seconds)
    began = time.monotonic()
    while (passed := time.monotonic() - began) < seconds:
        text = f"{record.outcomes.total()} visits, {record.problems.total()} problems"
        progress.update(bar, completed=passed, description=text)
        for name, memory in memories.items():
            try:
                memory.take()
            except OSError:
                record.problems[f"{name} ended"] += 1
                return
        await asyncio.sleep(min(SAMPLE_S, seconds / 10))
    progress.update(bar, completed=seconds, description="waiting for the site to be idle")


async def _look(site: BenchSite, engine: EngineWatch, guests: list[Guest], memories: dict[str, Memory]) -> list[str]:
    """Gives what is wrong with the idle site."""
    wrong = await engine.wait_idle()
    # The engine looks for what it holds and shouldn't when it turns idle: give it an occasion.
    wrong += [f"afterwards {guest.tenant} is {outcome}" for guest, outcome in await _last_answers(guests)]
    wrong += await engine.wait_idle()
    if open_records := await engine.open_records():
        wrong.append(f"{open_records} usage records of requests that did not end")
    wrong += await engine.purge(site.keys)
    pids = site.site.processes()
    wrong += [f"{name} was started anew" for name, memory in memories.items() if pids.get(name) != memory.pid]
    wrong += [f"{name} grew by {memory.growth / 2**20:.0f} MiB" for name, memory in memories.items() if memory.leaks]
    return wrong


async def _last_answers(guests: list[Guest]) -> list[tuple[Guest, str]]:
    """Lets one guest of each tenant ask once more, and gives those that got no answer."""
    lasts = list({guest.tenant: guest for guest in guests}.values())
    outcomes = await asyncio.gather(*(guarded(answer, guest) for guest in lasts), return_exceptions=True)
    return [(guest, str(outcome)) for guest, outcome in zip(lasts, outcomes, strict=True) if outcome != "ok"]


def findings_of(record: Record, memories: dict[str, Memory], arguments: argparse.Namespace) -> Findings:
    """Puts what happened into tables."""
    visits = tuple((kind, outcome, f"{count:,}") for (kind, outcome), count in sorted(record.outcomes.items()))
    sizes = tuple(
        (
            name,
            f"{memory.sizes[0] / 2**20:.0f}",
            f"{memory.sizes[memory.warmed_up] / 2**20:.0f}",
            f"{memory.sizes[-1] / 2**20:.0f}",
            f"{memory.growth / 2**20:+.1f}",
        )
        for name, memory in memories.items()
        if memory.sizes
    )
    problems = tuple((text, str(count)) for text, count in record.problems.most_common(MOST_SHOWN))
    headings = ("process", "at the start, MiB", "warmed up", "at the end", "growth since")
    tables = (
        Table("Visits", ("kind", "outcome", "times"), visits),
        Table("Resident memory", headings, sizes),
        Table("Problems", ("problem", "times"), problems or (("none", "0"),)),
    )
    about = ABOUT.format(minutes=arguments.minutes, clients=arguments.clients)
    return Findings("soak", about, tables, (), {"problems": dict(record.problems)})


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=ORDINARY_MINUTES, help="how long the load lasts (%(default)g)")
    parser.add_argument("--clients", type=int, default=24, help="clients at once (%(default)s)")
    parser.add_argument("--results", type=Path, help=f"where figures are kept ({RESULTS}, or {QUICK_RESULTS})")
    arguments = parser.parse_args()
    is_short = arguments.minutes < ORDINARY_MINUTES
    path = place_of(arguments.results, is_short)
    console = make_console()
    percentage, description = TextColumn("{task.percentage:.0f} %"), TextColumn("{task.description}")
    progress = Progress(BarColumn(), percentage, description, TimeRemainingColumn(), console=console)
    with running_site(MODEL, MORE_TENANTS, **SETTINGS) as site, progress:
        taken_at = datetime.now(UTC).isoformat(timespec="seconds")
        record, memories = asyncio.run(soak(site, arguments, progress))
        if record.problems:
            shutil.copytree(site.site.home / "log", LOGS, dirs_exist_ok=True)
        results = results_of(this_machine(MODEL), path)
    findings = findings_of(record, memories, arguments)
    results.with_entry(Entry(taken_at, commit(), 1, is_short, findings)).save(path)
    for table in findings.tables:
        show(table, console)
    if record.problems:
        sys.exit(f"The soak found problems; the site's logs are in {LOGS}.")
    console.print("Nothing leaked, nothing is stuck, and no client saw an error that it was not owed.")


if __name__ == "__main__":
    main()
