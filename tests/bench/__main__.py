"""Compares the whole site with its own engine on this machine, in turns, and prints medians and ratios.

Starts a site of its own on free ports, so that a running one is left alone (but shares the processors: stop it first).
"""

import argparse
import asyncio
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.bench import targets
from tests.bench.load import OpenStream, Sample, measure
from tests.e2e.conftest import Site, site_environment

ENGINE, MODEL = "engine", "model service"
SSE, EDGE, OPENAI = "edge, bare SSE", "edge, gRPC conversation", "edge, OpenAI client"
LATENCY_REQUESTS = 40
RESULTS = Path("build/bench/results.json")


@dataclass(frozen=True, slots=True)
class Row:
    """One target at one concurrency, over all rounds."""

    target: str
    concurrency: int
    tokens_per_s: float
    ratio_to_engine: float
    first_token_s: float


@dataclass(frozen=True, slots=True)
class Latency:
    """Median time to the only token of a short request, in seconds."""

    model_s: float
    edge_sse_s: float
    edge_grpc_s: float


def summarize(samples: dict[tuple[str, int], list[Sample]]) -> list[Row]:
    """Takes medians over the rounds; the ratio is taken round by round first, as a machine's speed drifts."""
    rows = []
    for (target, concurrency), rounds in samples.items():
        peers = samples[ENGINE, concurrency]
        ratios = [own.tokens_per_s / peer.tokens_per_s for own, peer in zip(rounds, peers, strict=True)]
        rows.append(
            Row(
                target,
                concurrency,
                statistics.median(sample.tokens_per_s for sample in rounds),
                statistics.median(ratios),
                statistics.median(sample.median_first_token_s for sample in rounds),
            )
        )
    return rows


def show(rows: list[Row], console: Console) -> None:
    """Prints the table."""
    table = Table(title="Token rate and time to first token")
    for heading in ("streams", "target", "tokens/s", "of the engine", "first token, ms"):
        table.add_column(heading, justify="left" if heading == "target" else "right")
    for row in sorted(rows, key=lambda row: row.concurrency):
        table.add_row(
            str(row.concurrency),
            row.target,
            f"{row.tokens_per_s:.0f}",
            f"{row.ratio_to_engine:.2f}",
            f"{row.first_token_s * 1_000:.0f}",
        )
    console.print(table)


async def added_latency(streams: dict[str, OpenStream]) -> Latency:
    """Times requests of one token, one after the other, the targets in turns."""
    times: dict[str, list[float]] = {MODEL: [], SSE: [], EDGE: []}
    for _ in range(LATENCY_REQUESTS):
        for target, seen in times.items():
            seen.extend((await measure(streams[target], 1, 1)).first_token_s)
    return Latency(*(statistics.median(times[target]) for target in (MODEL, SSE, EDGE)))


async def compare(
    site: Site, concurrencies: list[int], tokens: int, rounds: int, console: Console
) -> tuple[list[Row], Latency]:
    """Measures every target at every concurrency, in turns, then the latency of short requests."""
    async with AsyncExitStack() as stack:
        streams: dict[str, OpenStream] = {
            ENGINE: await targets.engine(site.home, stack),
            MODEL: await targets.model_service(site.home, stack),
            SSE: await targets.edge_sse(site.edge, site.keys["acme"], stack),
            EDGE: await targets.edge_grpc(site.edge, site.keys["acme"], stack),
            OPENAI: await targets.edge_openai(site.edge, site.keys["acme"], stack),
        }
        for open_stream in streams.values():
            await measure(open_stream, 1, 8)
        samples: dict[tuple[str, int], list[Sample]] = {}
        for turn in range(rounds):
            for concurrency in concurrencies:
                for target, open_stream in streams.items():
                    console.print(f"round {turn + 1} of {rounds}: {concurrency} streams, {target}", style="dim")
                    sample = await measure(open_stream, concurrency, tokens)
                    samples.setdefault((target, concurrency), []).append(sample)
        return summarize(samples), await added_latency(streams)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--concurrency", default="1,4,8,16", help="streams at once, comma separated (%(default)s)")
    parser.add_argument("--tokens", type=int, default=96, help="tokens a stream (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds, of which the median counts (%(default)s)")
    arguments = parser.parse_args()
    console = Console()
    with tempfile.TemporaryDirectory(prefix="redoma-bench-") as folder:
        site = Site(Path(folder), site_environment(Path(folder)), 0)
        console.print("starting a site", style="dim")
        site.up()
        try:
            concurrencies = [int(part) for part in arguments.concurrency.split(",")]
            rows, latency = asyncio.run(compare(site, concurrencies, arguments.tokens, arguments.rounds, console))
        finally:
            site.redoma("down", check=False)
    show(rows, console)
    for name, seconds in ((SSE, latency.edge_sse_s), (EDGE, latency.edge_grpc_s)):
        added_ms = (seconds - latency.model_s) * 1_000
        console.print(f"A request of one token takes {added_ms:+.1f} ms by {name} than by the model service alone.")
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    commit = ["git", "rev-parse", "HEAD"]
    machine = {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    results = {
        "machine": machine,
        "python": sys.version.split()[0],
        "commit": subprocess.run(commit, capture_output=True, text=True, check=False).stdout.strip(),
        "one_token_request": asdict(latency),
        "rows": [asdict(row) for row in rows],
    }
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")
    console.print(f"Written to {RESULTS}.", style="dim")


if __name__ == "__main__":
    main()
