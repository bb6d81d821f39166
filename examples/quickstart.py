"""The handlers of the quickstart: pure Python at work on three books and a series of measurements.

This file is loaded once in each worker; what it computes at the top, here how often each author uses each
word, is there for every call.
"""

from __future__ import annotations

import math
import re
import statistics
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import snakepen

DATA = Path(__file__).parent / "data"
WORD = re.compile(r"[a-z]+(?:'[a-z]+)*")


def words(text: str) -> list[str]:
    return WORD.findall(text.lower())


@snakepen.handler
def add(a: int, b: int) -> int:
    return a + b


@snakepen.handler
def word_statistics(text: str) -> dict[str, object]:
    """How many words a text has, how rich its vocabulary is, and how long its sentences are."""
    found = words(text)
    counts = Counter(found)
    sentences = [words(part) for part in re.split(r"[.!?;]+", text)]
    lengths = [len(sentence) for sentence in sentences if sentence]
    return {
        "words": len(found),
        "distinct": len(counts),
        "longest": max(found, key=len, default=""),
        "mean_sentence": statistics.fmean(lengths) if lengths else 0.0,
        "most_common": counts.most_common(3),
    }


class Authors:
    """Tells authors apart by how often they use each word: naive Bayes."""

    def __init__(self, passages: Iterable[tuple[str, list[str]]]) -> None:
        self.counts: dict[str, Counter[str]] = {}
        for author, found in passages:
            self.counts.setdefault(author, Counter()).update(found)
        vocabulary = len(set().union(*self.counts.values()))
        self.denominators = {author: counts.total() + vocabulary for author, counts in self.counts.items()}

    def scores(self, found: list[str]) -> dict[str, float]:
        """The logarithm of how likely each author is to write these words."""
        return {
            author: sum(math.log((counts[word] + 1) / self.denominators[author]) for word in found)
            for author, counts in self.counts.items()
        }


BOOKS = {name: (DATA / f"{name}.txt").read_text().splitlines() for name in ("carroll", "milton", "shakespeare")}
# Learnt from the first half of each book; the second half is for the callers to ask about.
AUTHORS = Authors((name, words("\n".join(lines[: len(lines) // 2]))) for name, lines in BOOKS.items())


@snakepen.handler
def who_wrote(passage: str) -> dict[str, object]:
    """The most likely author of a passage, and how sure that is."""
    scores = AUTHORS.scores(words(passage))
    best = max(scores, key=lambda author: scores[author])
    total = sum(math.exp(score - scores[best]) for score in scores.values())
    return {"author": best, "probability": 1 / total}


@snakepen.handler
def cross_validate(lines: int) -> dict[str, int]:
    """How many passages of so many lines are told right, each by all the others: trains once for each of them."""
    passages = [
        (author, words("\n".join(book[start : start + lines])))
        for author, book in BOOKS.items()
        for start in range(0, len(book), lines)
    ]
    right = 0
    for left_out, (author, found) in enumerate(passages):
        scores = Authors(passages[:left_out] + passages[left_out + 1 :]).scores(found)
        right += max(scores, key=lambda name: scores[name]) == author
    return {"passages": len(passages), "right": right}


@snakepen.handler
def forecast(series: list[float], season: int, ahead: int) -> list[float]:
    """The next values of a series: a straight line through it, and what each month adds to that on average."""
    times = range(len(series))
    slope, intercept = statistics.linear_regression(times, series)
    above = [value - (intercept + slope * time) for time, value in enumerate(series)]
    seasonal = [statistics.fmean(above[month::season]) for month in range(season)]
    future = range(len(series), len(series) + ahead)
    return [intercept + slope * time + seasonal[time % season] for time in future]
