"""The table, in Markdown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .measure import Run

NOTES = Path(__file__).resolve().parents[1] / "not_like_for_like.md"


def number(figure: float) -> str:
    return f"{figure:,.0f}".replace(",", " ") if figure >= 100 else f"{figure:.1f}"


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}", *(f"| {' | '.join(row)} |" for row in rows)]


def markdown(run: Run, ratios: list[dict[str, Any]], machine: list[str], command: str) -> str:
    lines = ["# Snakepen beside others", "", f"By `{command}`:", "", *(f"- {line}" for line in machine), ""]
    lines += [
        f"Each figure is the median of {run.rounds} rounds of {run.seconds:g} s, in which all systems take turns; a "
        "ratio is that of neighbouring rounds: median (lowest to highest). "
        "Under `limit` is what the bound itself comes to: the same Python loop, driven by the least that can.",
        "",
        "## Ratios",
        "",
    ]
    lines += table(
        ["what", "ratio", "`limit`", "to be reached", ""],
        [
            [
                one["what"],
                f"{one['ratio']:g} ({one['low']:g} to {one['high']:g})",
                "" if one["bound"] is None else f"{one['bound']:g}",
                one["reach"],
                "yes" if one["reached"] else "**no**",
            ]
            for one in ratios
        ],
    )
    for job in dict.fromkeys(row["job"] for row in run.rows):
        lines += ["", f"## {job}", ""]
        lines += table(
            ["system", "workers", "callers", "per second", "p50 µs", "p99 µs", "CPU µs per call", "MB"],
            [
                [
                    row["system"], str(row["workers"]), str(row["callers"]), number(row["calls_per_s"]),
                    number(row["p50_us"]), number(row["p99_us"]), number(row["cpu_us_per_call"]), number(row["rss_mb"]),
                ]
                for row in run.rows
                if row["job"] == job
            ],
        )  # fmt: skip
    lines += ["", "## The host's share", ""]
    lines += [
        f"- {what}: {', '.join(f'{figure:g} {name}' for name, figure in figures.items())}"
        for what, figures in run.overhead.items()
    ]
    if run.failures:
        lines += ["", "## What failed", ""]
        lines += [f"- {one['system']}, {one['job']}: {one['error']}" for one in run.failures]
    lines += ["", "## What is not like for like", "", NOTES.read_text()]
    return "\n".join(lines)
