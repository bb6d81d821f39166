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


# Circular references are found by it; emptied after a failure, which leaves its path in there.
_on_path: dict[int, Any] = {}


def _build() -> tuple[Callable[[Any], str], Callable[[str], Any]]:
    try:
        # json.encoder and json.decoder cost ten milliseconds of imports; this is what they call.
        from _json import encode_basestring, make_encoder, make_scanner

        context: Any = _Scanning()
        scan = make_scanner(context)
        encode = make_encoder(_on_path, _refuse_object, encode_basestring, None, ":", ",", False, False, False)
        join = "".join

        def to_text(value: Any) -> str:
            return join(encode(value, 0))

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


_to_text, _from_text = _build()


def loads(data: str | bytes) -> Any:
    """Raises ValueError or RecursionError."""
    return _from_text(data if isinstance(data, str) else str(data, "utf-8"))


def dumps(value: Any) -> bytes:
    """Compact JSON. Raises Unserialisable, and whatever a dict subclass of the user's raises beyond Exception."""
    try:
        return _to_text(value).encode()
    except MemoryError:
        _on_path.clear()
        raise
    except Exception as error:
        _on_path.clear()
        from . import _diagnosis

        raise _diagnosis.diagnose(value, error) from None
    except BaseException:
        _on_path.clear()
        raise
