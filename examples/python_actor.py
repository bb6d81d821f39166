"""An actor: an object that lives in a process of its own, and that Rust and Python reach by its name."""

from __future__ import annotations

import os


class Counter:
    def __init__(self, start: float = 0) -> None:
        self.count = start

    def add(self, amount: float) -> float:
        self.count += amount
        return self.count

    def crash(self) -> None:
        os.abort()

    # What outlives the process.

    def dump_state(self) -> float:
        return self.count

    def load_state(self, state: float) -> None:
        self.count = state
