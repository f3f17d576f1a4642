"""Writes docs/bench from the kept results: plots, tables, the machine. Nothing in that folder is typed by hand."""

import argparse
import textwrap
from dataclasses import asdict
from pathlib import Path

from tests.bench.catalogue import BENCHES
from tests.bench.findings import goals_table
from tests.bench.plots import draw
from tests.bench.report import RESULTS, Entry, Results, grid, read_results

DOCS = Path("docs/bench")
HEAD = """# Benchmarks

Written by `make bench ARGS=--publish`; don't edit it. Ratios are taken within one run, round by round, and medians over
the rounds count: absolute figures are this machine's, and drift.

## Repeat

Stop what else runs on the machine, then:

```sh
make bench                          # everything, some {minutes} minutes
make bench ARGS="flood turns"       # some of it
make bench ARGS="--rounds 5"        # more rounds
make bench ARGS=--quick             # only see that it works
make bench ARGS=--publish           # everything, and write this folder anew
make soak                           # 30 minutes of mixed load; fails on a leak or a stuck request
```
"""
MINUTES = 80
WIDTH = 120
SOAK = "soak"
_TITLES = {"van": "VAN"}
_LABELS = {"memory_gib": "memory, GiB", "llama_cpp_python": "llama-cpp-python"}


def publish(results: Results, folder: Path) -> None:
    """Writes the folder's README and plots."""
    folder.mkdir(parents=True, exist_ok=True)
    plots = draw(results, folder)
    parts = [HEAD.format(minutes=MINUTES), _machine(results), _goals(results)]
    parts += [_section(name, entry, plots.get(name, [])) for name, entry in ordered(results).items()]
    (folder / "README.md").write_text("\n".join(parts))


def ordered(results: Results) -> dict[str, Entry]:
    """Gives the entries in the order of the suite, the soak last."""
    return {name: results.entries[name] for name in (*BENCHES, SOAK) if name in results.entries}


def _machine(results: Results) -> str:
    lines = [f"- {_LABELS.get(name, name)}: {value}" for name, value in asdict(results.machine).items()]
    return "## Machine\n\n" + "\n".join(lines) + "\n"


def _goals(results: Results) -> str:
    return "## Goals\n\n" + grid(goals_table([entry.findings for entry in ordered(results).values()]))


def _section(name: str, entry: Entry, plots: list[str]) -> str:
    findings = entry.findings
    title = _TITLES.get(name, name.replace("_", " ").capitalize())
    taken = f"Taken {entry.taken_at[:10]} at commit {entry.commit}, {entry.rounds} rounds."
    warning = "\n**A quick run: these figures mean nothing.**\n" if entry.quick else ""
    images = "".join(f"\n![{plot.removesuffix('.svg').replace('_', ' ')}]({plot})\n" for plot in plots)
    tables = "\n".join(f"**{table.title}**\n\n{grid(table)}" for table in findings.tables)
    about = textwrap.fill(f"{findings.about} {taken}", WIDTH, break_on_hyphens=False)
    return f"## {title}\n\n{about}\n{warning}{images}\n{tables}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.publish", description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS, help="where figures are kept (%(default)s)")
    parser.add_argument("--into", type=Path, default=DOCS, help="the folder to write (%(default)s)")
    arguments = parser.parse_args()
    results = read_results(arguments.results)
    if results is None:
        parser.error(f"there are no results in {arguments.results}; run `make bench` first")
    publish(results, arguments.into)


if __name__ == "__main__":
    main()
