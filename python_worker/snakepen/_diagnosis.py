"""Which part of a value can't become JSON, and what to do about it."""

from __future__ import annotations

import sys
from json.encoder import encode_basestring

from ._json import Unserialisable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

_MAX_PATH = 512
_KEYS = (str, int, float, bool, type(None))

_ADVICE = {
    "builtins.bytes": "base64.b64encode(value).decode() or value.hex() makes it text",
    "builtins.bytearray": "base64.b64encode(value).decode() or value.hex() makes it text",
    "builtins.memoryview": "base64.b64encode(value).decode() or value.hex() makes it text",
    "builtins.set": "return sorted(value) or list(value)",
    "builtins.frozenset": "return sorted(value) or list(value)",
    "builtins.complex": "return [value.real, value.imag]",
    "builtins.range": "return list(value)",
    "builtins.dict_keys": "return list(value)",
    "builtins.dict_values": "return list(value)",
    "builtins.dict_items": "return list(value)",
    "builtins.generator": "return list(value), or let the handler itself yield its items",
    "builtins.async_generator": "collect it into a list, or let the handler itself yield its items",
    "collections.deque": "return list(value)",
    "datetime.datetime": "call .isoformat()",
    "datetime.date": "call .isoformat()",
    "datetime.time": "call .isoformat()",
    "datetime.timedelta": "call .total_seconds()",
    "decimal.Decimal": "return str(value), or float(value) if its precision is enough",
    "fractions.Fraction": "return str(value), or float(value) if its precision is enough",
    "uuid.UUID": "return str(value)",
    "numpy.ndarray": "call .tolist()",
    "pandas.core.frame.DataFrame": 'call .to_dict("records")',
    "pandas.core.series.Series": "call .tolist()",
}


def diagnose(value: Any, error: Exception, unfit: Callable[[Any], str | None] | None = None) -> Unserialisable:
    """What is wrong with a value that raised this error. `unfit` judges what isn't JSON: None is fine."""
    try:
        found = _Walk(unfit).find(value)
    except Exception:  # a __repr__, .items() or __iter__ of the user's
        found = None
    if found is not None:
        return found
    name = type(value).__name__
    if isinstance(error, RecursionError):
        return Unserialisable(
            name, "$", f"the result is nested too deeply for JSON (the recursion limit is {sys.getrecursionlimit()})"
        )
    text = "<unprintable>"
    try:
        text = str(error)
    except Exception:
        pass
    return Unserialisable(name, "$", f"the result can't become JSON: {type(error).__name__}: {text}"[:2048])


class _Walk:
    """Depth first and without recursion: what is looked at may be too deep for it."""

    def __init__(self, unfit: Callable[[Any], str | None] | None = None) -> None:
        self.unfit = unfit
        self.steps: list[str] = []
        self.open: list[tuple[Any, Iterator[tuple[str, Any]]]] = []
        self.on_path: set[int] = set()

    def find(self, value: Any) -> Unserialisable | None:
        found = self._enter(value)
        while found is None and self.open:
            container, children = self.open[-1]
            child = next(children, None)
            if child is None:
                self.open.pop()
                self.on_path.discard(id(container))
                if self.steps:
                    self.steps.pop()
                continue
            self.steps.append(child[0])
            depth = len(self.open)
            found = self._enter(child[1])
            if found is None and len(self.open) == depth:
                self.steps.pop()
        return found

    def _enter(self, value: Any) -> Unserialisable | None:
        if value is None or value is True or value is False:
            return None
        if isinstance(value, str):
            return self._check_text(value, value)
        if isinstance(value, float):
            if value != value or value in (float("inf"), float("-inf")):
                return self._found(
                    value, f"{float.__repr__(value)} isn't JSON: return None, or a string that you agree on"
                )
            return None
        if isinstance(value, int):
            try:
                int.__repr__(value)
            except ValueError:
                return self._found(value, f"an int of {value.bit_length()} bits has too many digits: return hex(value)")
            return None
        if isinstance(value, dict):
            for key in value:
                if not isinstance(key, _KEYS):
                    name = type(key).__name__
                    return self._found(key, f"a dict's key is {name}, JSON has only strings for keys: convert it", name)
                if isinstance(key, str) and (found := self._check_text(key, key)):
                    return found
                if isinstance(key, float) and (key != key or key in (float("inf"), float("-inf"))):
                    return self._found(key, f"a dict's key is {key!r}, which isn't JSON")
            return self._open(value, ((_step(key), item) for key, item in value.items()))
        if isinstance(value, (list, tuple)):
            return self._open(value, ((f"[{index}]", item) for index, item in enumerate(value)))
        why = "" if self.unfit is None else self.unfit(value)
        if why is None:
            return None
        return self._found(value, why or f"{_full_name(value)} can't become JSON: {_advice(value)}")

    def _open(self, value: Any, children: Iterator[tuple[str, Any]]) -> Unserialisable | None:
        if id(value) in self.on_path:
            return self._found(value, f"the {type(value).__name__} contains itself, JSON can't say that")
        self.on_path.add(id(value))
        self.open.append((value, children))
        return None

    def _check_text(self, text: str, value: Any) -> Unserialisable | None:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            return self._found(
                value,
                f"the string has a lone surrogate at {error.start}, which isn't UTF-8: "
                'clean it with value.encode("utf-8", "replace").decode()',
            )
        return None

    def _found(self, value: Any, message: str, name: str | None = None) -> Unserialisable:
        path = "$" + "".join(self.steps)
        if len(path) > _MAX_PATH:
            path = f"{path[: _MAX_PATH // 2]}...{path[-_MAX_PATH // 2 :]}"
        path = path.encode("utf-8", "backslashreplace").decode()
        return Unserialisable(name or type(value).__name__, path, message)


def _step(key: Any) -> str:
    if isinstance(key, str) and key.isidentifier():
        return f".{key}"
    return f"[{encode_basestring((key if isinstance(key, str) else repr(key))[:64])}]"


def _full_name(value: Any) -> str:
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _advice(value: Any) -> str:
    kind = type(value)
    for base in kind.__mro__:
        advice = _ADVICE.get(f"{base.__module__}.{base.__qualname__}")
        if advice:
            return advice
    if kind.__module__.partition(".")[0] == "numpy" and hasattr(kind, "item"):
        return "call .item()"
    for attribute, advice in (
        ("model_dump", 'call .model_dump(mode="json")'),
        ("__dataclass_fields__", "return dataclasses.asdict(value)"),
        ("__fspath__", "return os.fspath(value)"),
        ("_value2member_map_", "return value.value"),
        ("tolist", "call .tolist()"),
    ):
        if hasattr(kind, attribute):
            return advice
    if isinstance(value, type) or callable(value):
        return "return data, not code"
    return "convert it to dict, list, str, int, float, bool or None first"
