"""Handlers that return what JSON has no word for."""

import collections
import dataclasses
import datetime
import decimal
import enum
import os
from collections.abc import Callable
from typing import Any

import snakepen


def _cycle() -> list[Any]:
    cycle: list[Any] = [1]
    cycle.append({"again": cycle})
    return cycle


def _deep(depth: int, kind: str = "list") -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value] if kind == "list" else {"a": value}
    return value


class _Hostile:
    def __repr__(self) -> str:
        raise RuntimeError("no repr")

    def __str__(self) -> str:
        raise RuntimeError("no str")


class _HostileDict(dict):  # type: ignore[type-arg]
    def items(self) -> Any:
        raise RuntimeError("no items")


class Colour(enum.IntEnum):
    RED = 1


@dataclasses.dataclass
class Point:
    x: int


_VALUES: dict[str, Callable[[], Any]] = {
    "nan": lambda: float("nan"),
    "inf": lambda: {"a": [1.5, float("inf")]},
    "-inf": lambda: [float("-inf")],
    "nan_key": lambda: {float("nan"): 1},
    "huge": lambda: 1 << 200,
    "too_huge": lambda: 10**5000,
    "surrogate": lambda: {"text": "a\ud800b"},
    "surrogate_key": lambda: {"a\udfff": 1},
    "set": lambda: [{"a": {1, 2}}],
    "tuple_key": lambda: {"a": {(1, 2): 3}},
    "cycle": _cycle,
    "deep_list": lambda: _deep(10_000),
    "deep_dict": lambda: _deep(10_000, "dict"),
    "hostile": _Hostile,
    "hostile_dict": lambda: _HostileDict(a=1),
    "complex": lambda: 1j,
    "decimal": lambda: {"price": decimal.Decimal("1.10")},
    "date": lambda: {"when": [datetime.date(2024, 1, 2)]},
    "generator": lambda: [(n for n in range(3))],
    "function": lambda: _deep,
    "class": lambda: Point,
    "dataclass": lambda: {"rows": [{}, {}, {"point": Point(1)}]},
    "exception": lambda: ValueError("returned, not raised"),
    "file": lambda: {"odd key": [open(os.devnull)]},  # noqa: SIM115
    # These can be said.
    "ordered": lambda: collections.OrderedDict(b=1, a=2),
    "enum": lambda: [Colour.RED],
    "int_keys": lambda: {1: "a", True: "b", None: "c"},  # noqa: F601
    "tuple": lambda: (1, (2, 3)),
    "text": lambda: '\0 \x7f \u2028 \U0001f40d "\\/',
    "floats": lambda: [-0.0, 5e-324, 1.7976931348623157e308, 1e16],
    "ints": lambda: [(1 << 64) - 1, -(1 << 63)],
}


@snakepen.handler
def odd(name: str) -> Any:
    return _VALUES[name]()


@snakepen.handler
def raise_odd() -> None:
    raise ValueError("half a pair: \ud800", _Hostile.__name__)


@snakepen.handler
def echo(value: Any = None) -> Any:
    return value


@snakepen.handler
def depth(value: Any) -> int:
    levels = 0
    while isinstance(value, list) and value:
        value = value[0]
        levels += 1
    return levels


@snakepen.handler
def kind(value: Any) -> str:
    return f"{type(value).__name__} {value!r}"


@snakepen.handler
def pid() -> int:
    return os.getpid()
