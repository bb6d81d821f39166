"""The class of the chaos run's named actors."""

from __future__ import annotations

import os
import time
from typing import NoReturn

from chaos_notes import note


class Counter:
    """Counts; what it has told somebody it must never tell anybody else, whatever dies in between."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.count = 0

    def add(self, nonce: int) -> tuple[int, int, str]:
        note("ran", nonce)
        self.count += 1
        return nonce, self.count, self.name

    async def add_async(self, nonce: int) -> tuple[int, int, str]:
        return self.add(nonce)

    def read(self, nonce: int) -> tuple[int, int, str]:
        note("ran", nonce)
        return nonce, self.count, self.name

    def sleeps(self, nonce: int, seconds: float) -> tuple[int, int, str]:
        note("ran", nonce)
        time.sleep(seconds)
        note("ended", nonce)
        return nonce, self.count, self.name

    def dies(self, nonce: int) -> NoReturn:
        note("ran", nonce)
        os._exit(7)

    def dump_state(self) -> int:
        return self.count

    def load_state(self, state: int) -> None:
        self.count = state
