"""Bars, as SVG that needs nothing to be looked at but a browser."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

WIDTH, BAR, GAP, LEFT = 720, 22, 8, 150
OURS, BOUND, OTHERS = "#2f6f4f", "#b0b7bd", "#c98b3c"

PLOTS = (
    ("echo", "echo of 80 bytes, 64 callers, each at its best of 2 and 4 workers: calls per second", 64, "calls_per_s"),
    ("sleep5ms", "a handler that sleeps 5 ms, 64 callers, 4 workers: calls per second", 64, "calls_per_s"),
    ("spin200us", "200 µs of pure Python, 64 callers, 2 workers: calls per second", 64, "calls_per_s"),
    ("array1m", "echo of a 1 MiB float64 array, one caller: calls per second", 1, "calls_per_s"),
    ("array16m", "echo of a 16 MiB float64 array, one caller: calls per second", 1, "calls_per_s"),
    (
        "import_heavy",
        "8 workers with NumPy and Pandas imported (limit: one import): milliseconds to ready",
        1,
        "p50_us",
    ),
    ("restart", "from kill -9 of a worker until it is made good: milliseconds", 1, "p50_us"),
    ("stream", "items of a stream per second", 1, "calls_per_s"),
)


def write(rows: list[dict[str, Any]], directory: Path) -> list[str]:
    """Writes a plot per job; returns the names of the files."""
    written: list[str] = []
    for job, title, callers, column in PLOTS:
        bars: dict[str, float] = {}
        for row in rows:
            if row["job"] == job and row["callers"] == callers:
                figure = row[column] / 1e3 if column == "p50_us" else row[column]
                bars[row["system"]] = max(figure, bars.get(row["system"], 0.0))
        if len(bars) > 1:
            name = f"{job}.svg"
            (directory / name).write_text(svg(title, sorted(bars.items(), key=lambda bar: -bar[1])))
            written.append(name)
    return written


def svg(title: str, bars: list[tuple[str, float]]) -> str:
    most = max(figure for _, figure in bars)
    height = 56 + len(bars) * (BAR + GAP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
        'font-family="sans-serif" font-size="13">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        f'<text x="16" y="26" font-size="15">{escape(title)}</text>',
    ]
    for at, (system, figure) in enumerate(bars):
        top = 44 + at * (BAR + GAP)
        length = max(1.0, (WIDTH - LEFT - 110) * figure / most)
        colour = OURS if system.startswith("snakepen") else BOUND if system == "limit" else OTHERS
        text = f"{figure:,.0f}".replace(",", " ") if figure >= 100 else f"{figure:.1f}"
        parts += [
            f'<text x="{LEFT - 8}" y="{top + 16}" text-anchor="end">{escape(system)}</text>',
            f'<rect x="{LEFT}" y="{top}" width="{length:.1f}" height="{BAR}" fill="{colour}"/>',
            f'<text x="{LEFT + length + 6:.1f}" y="{top + 16}">{text}</text>',
        ]
    return "\n".join([*parts, "</svg>", ""])
