"""JSON with a scanner and an encoder that are built once, and why a value can't become JSON."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class Unserialisable(Exception):
    """A result that can't become JSON: the culprit's type, the path to it, and what to do."""

    def __init__(self, type_name: str, path: str, message: str) -> None:
        super().__init__(message)
        self.type_name = type_name
        self.path = path
        self.message = message


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} isn't JSON")


def _refuse_object(value: Any) -> Any:
    raise TypeError(f"{type(value).__name__} isn't JSON")


class _Scanning:
    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = staticmethod(_refuse_constant)


def _build() -> tuple[Callable[[Any], str], Callable[[str], Any]]:
    try:
        # json.encoder and json.decoder cost ten milliseconds of imports; this is what they call.
        from _json import encode_basestring, make_encoder, make_scanner

        context: Any = _Scanning()
        scan = make_scanner(context)
        join = "".join
        # An encoder serves one thread at a time, and none after a failure: it finds circular references by a dict
        # of what it is within.
        idle: list[Callable[..., Any]] = []

        def to_text(value: Any) -> str:
            try:
                encode: Any = idle.pop()
            except IndexError:
                encode = make_encoder({}, _refuse_object, encode_basestring, None, ":", ",", False, False, False)
            text = join(encode(value, 0))
            idle.append(encode)
            return text

        def from_text(text: str) -> Any:
            try:
                value, end = scan(text, 0)
            except (StopIteration, SystemError):
                # SystemError: up to 3.11 it raises its error only if json.decoder has been imported.
                return _plain_loads(text)
            return value if end == len(text) else _plain_loads(text)

        if to_text({"a": [1, "é", None]}) == '{"a":[1,"é",null]}' and from_text('{"a":[1.5]}') == {"a": [1.5]}:
            return to_text, from_text
    except (ImportError, TypeError, AttributeError):
        pass
    return _plain_dumps(), _plain_loads


def _plain_dumps() -> Callable[[Any], str]:
    from json import JSONEncoder

    return JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


def _plain_loads(text: str) -> Any:
    from json import loads

    return loads(text, parse_constant=_refuse_constant)


to_text, from_text = _build()
"""Raise whatever they meet: see `dumps` and `loads`."""


def encoder(default: Callable[[Any], Any]) -> Callable[[Any], str]:
    """Writes JSON, with what `default` makes of what isn't. For one value: `default` lets other threads run."""
    try:
        from _json import encode_basestring, make_encoder

        encode: Any = make_encoder({}, default, encode_basestring, None, ":", ",", False, False, False)
        return lambda value: "".join(encode(value, 0))
    except (ImportError, TypeError):
        from json import JSONEncoder

        return JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=default).encode


def reader(hook: Callable[[dict[str, Any]], Any]) -> Callable[[str], Any]:
    """Reads JSON; what `hook` makes of an object stands for it. Raises as `loads` and as `hook` do.

    For one thread at a time.
    """
    scan: Any = None
    try:
        from _json import make_scanner

        context: Any = _Scanning()
        context.object_hook = hook
        scan = make_scanner(context)
    except (ImportError, TypeError, AttributeError):
        pass

    def read(text: str) -> Any:
        if scan is not None:
            try:
                value, end = scan(text, 0)
                if end == len(text):
                    return value
            except (TypeError, AttributeError, StopIteration, SystemError):
                pass
        from json import loads

        return loads(text, object_hook=hook, parse_constant=_refuse_constant)

    return read


def loads(data: str | bytes) -> Any:
    """Raises ValueError or RecursionError."""
    return from_text(data if isinstance(data, str) else str(data, "utf-8"))


def dumps(value: Any) -> bytes:
    """Compact JSON. Raises Unserialisable, and whatever a dict subclass of the user's raises beyond Exception."""
    try:
        return to_text(value).encode()
    except MemoryError:
        raise
    except Exception as error:
        from . import _diagnosis

        raise _diagnosis.diagnose(value, error) from None
