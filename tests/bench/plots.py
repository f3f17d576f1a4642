"""Plots of the results, as SVG that is the same for the same figures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from tests.bench.report import Results

SIZE_INCHES = (7.5, 4.5)
# The conversation and OpenAI's client are in the tables; one line for the edge keeps the plot readable.
RATE_TARGETS = ("bare loop", "engine's core", "model service", "edge, bare SSE")


def draw(results: Results, folder: Path) -> dict[str, list[str]]:
    """Draws what the results hold and gives the files' names by bench."""
    mpl.rcParams["svg.hashsalt"] = "redoma"
    mpl.rcParams["svg.fonttype"] = "none"
    drawn: dict[str, list[str]] = {}
    for name, file, plot in (
        ("throughput", "rate.svg", rate_over_concurrency),
        ("flood", "first_token_under_flood.svg", first_token_under_flood),
    ):
        if name in results.entries:
            figure = plot(results.entries[name].findings.data)
            figure.savefig(folder / file, format="svg", metadata={"Date": None})
            drawn[name] = [file]
    return drawn


def rate_over_concurrency(data: Any) -> Figure:
    """Plots tokens per second over the number of streams."""
    figure = Figure(SIZE_INCHES, layout="constrained")
    axes = figure.subplots()
    concurrencies = sorted({row["concurrency"] for row in data["rows"]})
    for target in RATE_TARGETS:
        rows = sorted((row for row in data["rows"] if row["target"] == target), key=lambda row: row["concurrency"])
        axes.plot([row["concurrency"] for row in rows], [row["tokens_per_s"] for row in rows], marker="o", label=target)
    axes.set_xscale("log", base=2)
    axes.set_xticks(concurrencies, [str(count) for count in concurrencies])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.set_xlabel("streams at once")
    axes.set_ylabel("tokens/s, all streams")
    axes.set_title("Token rate over concurrency")
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def first_token_under_flood(data: Any) -> Figure:
    """Plots the share of the guest's requests whose first token came within a time."""
    targets = list(dict.fromkeys(flood["target"] for flood in data["floods"]))
    figure = Figure(SIZE_INCHES, layout="constrained")
    every = figure.subplots(1, len(targets), sharex=True, sharey=True, squeeze=False)[0]
    for axes, target in zip(every, targets, strict=True):
        floods = [flood for flood in data["floods"] if flood["target"] == target]
        _steps(axes, [seconds for flood in floods for seconds in flood["idle_s"]], "idle")
        for flood in floods:
            _steps(axes, flood["flood_s"], f"{flood['streams']} streams of another tenant")
        axes.set_title(target)
        axes.set_xlabel("first token within, ms")
        axes.set_xlim(left=0)
        axes.grid(alpha=0.3)
        axes.legend(loc="lower right", fontsize="small")
    every[0].set_ylabel("part of the guest's requests")
    return figure


def _steps(axes: Any, seconds: Sequence[float], label: str) -> None:
    axes.ecdf([1_000 * value for value in seconds], label=label)
