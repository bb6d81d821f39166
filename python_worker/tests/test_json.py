"""Values to JSON and back, and what is said of those that can't."""

from __future__ import annotations

import datetime
import decimal
import enum
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snakepen import _json
from snakepen._json import Unserialisable

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(values)
def test_round_trip_agrees_with_the_standard_library(value: Any) -> None:
    try:
        expected = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        with pytest.raises(Unserialisable, match="surrogate"):
            _json.dumps(value)
        return
    assert _json.dumps(value) == expected
    assert _json.loads(expected) == value == _json.loads(f" {expected.decode()} ")


@pytest.mark.parametrize("text", ["", "[1", "[1] 2", "NaN", "[Infinity]", "{1:2}", b'"\xff"', "nul"])
def test_invalid(text: str | bytes) -> None:
    with pytest.raises(ValueError):
        _json.loads(text)


class Colour(enum.Enum):
    RED = 1


def cycle() -> list[Any]:
    inner: list[Any] = [1]
    inner.append({"again": inner})
    return inner


def deep() -> list[Any]:
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    return value


CASES: list[tuple[Callable[[], Any], str, str, str]] = [
    (lambda: {"a": [0, 1, 2, {3}]}, "set", "$.a[3]", "sorted(value)"),
    (lambda: {"a b": (b"x",)}, "bytes", '$["a b"][0]', "hex()"),
    (lambda: float("nan"), "float", "$", "None"),
    (lambda: [float("-inf")], "float", "$[0]", "-inf"),
    (lambda: {"x": {1: {(2, 3): 4}}}, "tuple", '$.x["1"]', "key"),
    (lambda: {float("nan"): 1}, "float", "$", "key"),
    (cycle, "list", "$[1].again", "contains itself"),
    (deep, "list", "$", "nested too deeply"),
    (lambda: ["\ud800"], "str", "$[0]", "surrogate"),
    (lambda: {"\udfff": 1}, "str", "$", "surrogate"),
    (lambda: datetime.datetime(2024, 1, 1), "datetime", "$", "isoformat"),
    (lambda: decimal.Decimal(1), "Decimal", "$", "str(value)"),
    (lambda: Path("/"), "PosixPath", "$", "fspath"),
    (lambda: Colour.RED, "Colour", "$", "value.value"),
    (lambda: (n for n in ()), "generator", "$", "list(value)"),
    (lambda: len, "builtin_function_or_method", "$", "not code"),
    (object, "object", "$", "convert it"),
]


@pytest.mark.parametrize(
    ("make", "kind", "path", "hint"), CASES, ids=lambda case: case if isinstance(case, str) else ""
)
def test_diagnosis(make: Callable[[], Any], kind: str, path: str, hint: str) -> None:
    value = make()
    with pytest.raises(Unserialisable) as caught:
        _json.dumps(value)
    assert (caught.value.type_name, caught.value.path) == (kind, path)
    assert hint in caught.value.message
    # A failure leaves nothing behind that would fail the next.
    shared = [1]
    assert _json.dumps([shared, shared]) == b"[[1],[1]]"


@pytest.mark.skipif(not hasattr(sys, "set_int_max_str_digits"), reason="no limit in this version")
def test_an_int_of_too_many_digits() -> None:
    with pytest.raises(Unserialisable, match="too many digits") as caught:
        _json.dumps([10**5000])
    assert caught.value.path == "$[0]"


def test_numpy() -> None:
    numpy = pytest.importorskip("numpy")
    for value, hint in ((numpy.int64(3), ".item()"), (numpy.zeros(2), ".tolist()"), (numpy.float32(1), ".item()")):
        with pytest.raises(Unserialisable, match=hint) as caught:
            _json.dumps({"n": value})
        assert caught.value.path == "$.n"


def test_a_dict_whose_items_raise() -> None:
    class Odd(dict[str, int]):
        def items(self) -> Any:
            raise OSError("gone")

    with pytest.raises(Unserialisable, match="OSError: gone"):
        _json.dumps(Odd(a=1))


def test_without_the_c_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "_json", None)
    to_text, from_text = _json._build()
    assert to_text({"a": [1, "é", None]}) == '{"a":[1,"é",null]}'
    assert from_text('{"a":1.5}') == {"a": 1.5}
    with pytest.raises(ValueError):
        from_text("NaN")
