"""Generators: a small model of a book that speaks one word after another, and a handler that reads while it is sent."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator
from difflib import SequenceMatcher
from itertools import combinations
from pathlib import Path

import snakepen

BOOK = Path(__file__).parent / "data" / "carroll.txt"


def _follow() -> dict[str, list[str]]:
    """Which words come after each word."""
    words = re.findall(r"[A-Za-z']+[.,;:!?]*", BOOK.read_text())
    follow: dict[str, list[str]] = {}
    for word, next in zip(words, words[1:] + words[:1], strict=True):
        follow.setdefault(word, []).append(next)
    return follow


follow = _follow()


@snakepen.handler
def generate(prompt: str, tokens: int) -> Iterator[str]:
    """So many words, each as likely as in the book after the one before."""
    chance = random.Random(prompt)
    word = chance.choice(sorted(follow))
    told = 0
    try:
        for told in range(1, tokens + 1):
            snakepen.progress(told, tokens, f"after {word!r}")
            yield f"{word} "
            word = chance.choice(follow[word])
    finally:
        # Also when the caller has heard enough.
        print(f"generate ends after {told} of {tokens} words")


@snakepen.handler
def longest(lines: Iterable[str], longer_than: int = 0) -> Iterator[str]:
    """Each line that is longer than those before it, while more of them are still being sent."""
    for line in lines:
        if len(line) > longer_than:
            longer_than = len(line)
            yield line


@snakepen.handler
def look_alikes(pages: int) -> list[tuple[str, str]]:
    """The two words of each page that are most alike. Takes a while, and says how far it is."""
    lines = BOOK.read_text().splitlines()
    size = len(lines) // pages
    found: list[tuple[str, str]] = []
    for page in range(pages):
        words = sorted(set(re.findall(r"[a-z]{6,}", "\n".join(lines[page * size : (page + 1) * size]))))
        found.append(max(combinations(words, 2), key=lambda pair: SequenceMatcher(None, *pair).ratio()))
        snakepen.progress(page + 1, pages, " and ".join(found[-1]))
    return found
