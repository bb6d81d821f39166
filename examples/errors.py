"""Handlers that fail in every way."""

from __future__ import annotations

import ctypes
import os
import sys
import time

import snakepen


@snakepen.handler
def price(item: str) -> float:
    prices = {"tea": 2.5}
    try:
        return prices[item]
    except KeyError as error:
        raise ValueError(f"no price for {item!r}") from error


@snakepen.handler
def report() -> dict[str, object]:
    return {"rows": [1, 2, {3, 4}]}


@snakepen.handler
def work(seconds: float) -> str:
    time.sleep(seconds)
    return "done"


@snakepen.handler
def leave() -> None:
    print("cannot go on without the licence file", file=sys.stderr)
    os._exit(3)


@snakepen.handler
def crash() -> None:
    ctypes.string_at(0)
