"""Runs benches, prints their tables and keeps their figures in build/bench/results.json.

Sites it starts are its own, on free ports, so that a running one is left alone (but shares the processors: stop it
first). Ratios are taken within one run and round by round, as a machine's speed drifts.
"""

import argparse
import asyncio
import importlib
import logging
import os
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import structlog
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from redoma_kit.polling import SWITCH_INTERVAL_S
from redoma_model.engine.hardware import share_cores
from tests.bench.catalogue import BENCHES, MODEL
from tests.bench.findings import Findings, Plan, goals_table
from tests.bench.machine import commit, this_machine
from tests.bench.report import QUICK_RESULTS, RESULTS, Entry, Results, make_console, place_of, results_of, show

DEFAULT_ROUNDS = 3


def run_one(name: str, plan: Plan) -> Entry:
    """Runs one bench."""
    module = importlib.import_module(f"tests.bench.{name}")
    taken_at = datetime.now(UTC).isoformat(timespec="seconds")
    findings: Findings = asyncio.run(module.run(plan))
    return Entry(taken_at, commit(), plan.rounds, plan.quick, findings)


def run_all(names: Sequence[str], arguments: argparse.Namespace, console: Console) -> tuple[Results, list[str]]:
    """Runs benches one after the other; each one's figures are kept before the next begins.

    Returns:
        The results with theirs, and the names of those that failed.
    """
    failed: list[str] = []
    results = results_of(this_machine(arguments.model), arguments.results)
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("", total=len(names))
        for name in names:
            began = time.monotonic()

            def tell(text: str, name: str = name) -> None:
                progress.update(bar, description=f"{name}: {text}")

            tell("starting")
            try:
                entry = run_one(name, Plan(arguments.model, arguments.rounds, arguments.quick, tell))
            except Exception:
                console.print_exception()
                failed.append(name)
                progress.advance(bar)
                continue
            results = results.with_entry(entry)
            results.save(arguments.results)
            for table in entry.findings.tables:
                show(table, console)
            console.print(f"{name} took {time.monotonic() - began:.0f} s.", style="dim")
            progress.advance(bar)
    return results, failed


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"what to run, of {', '.join(BENCHES)}; all if none")
    parser.add_argument("--rounds", type=int, default=DEFAULT_ROUNDS, help="rounds of each (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="only see that it works; the figures mean nothing")
    parser.add_argument("--publish", action="store_true", help="write docs/bench from the results when all is done")
    parser.add_argument("--model", type=Path, default=MODEL, help="the GGUF file to measure with (%(default)s)")
    parser.add_argument("--results", type=Path, help=f"where figures are kept ({RESULTS}, or {QUICK_RESULTS})")
    arguments = parser.parse_args()
    names = arguments.names or list(BENCHES)
    if unknown := set(arguments.names) - set(BENCHES):
        parser.error(f"there is no bench {', '.join(sorted(unknown))}; there are {', '.join(BENCHES)}")
    if arguments.quick and arguments.publish:
        parser.error("the figures of a quick run mean nothing, so they are not published")
    arguments.results = place_of(arguments.results, arguments.quick)
    # As `redoma-model` does it: llama.cpp reads how its threads wait when it is brought in.
    share_cores(os.environ)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    # llama.cpp's remarks on a context that many sequences share.
    logging.getLogger().setLevel(logging.ERROR)
    # What parts of services that run in this process have to say.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    console = make_console()
    results, failed = run_all(names, arguments, console)
    ran = [results.entries[name].findings for name in names if name not in failed]
    show(goals_table(ran), console)
    console.print(f"Kept in {arguments.results}.", style="dim")
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")
    if arguments.publish:
        from tests.bench.publish import DOCS, publish

        publish(results, DOCS)
        console.print(f"Published in {DOCS}.", style="dim")


if __name__ == "__main__":
    main()
