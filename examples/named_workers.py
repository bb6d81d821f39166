"""A worker that has been given a book keeps an index of it in its memory, for as long as it lives."""

from __future__ import annotations

import re
from pathlib import Path

import snakepen

DATA = Path(__file__).parent / "data"
index: dict[str, list[int]] = {}


@snakepen.handler
def read(book: str) -> int:
    """Indexes a book: in which lines is each word?"""
    index.clear()
    for number, line in enumerate((DATA / f"{book}.txt").read_text().splitlines(), start=1):
        for word in set(re.findall(r"[a-z]+", line.lower())):
            index.setdefault(word, []).append(number)
    return len(index)


@snakepen.handler
def lines_with(word: str) -> list[int]:
    if not index:
        raise LookupError(f"{snakepen.current().worker} has not read a book yet")
    return index.get(word, [])
