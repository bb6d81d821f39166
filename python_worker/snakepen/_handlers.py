"""The table of functions that may be called, and how it is filled."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from importlib.machinery import SourceFileLoader

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar, overload

    Function = TypeVar("Function", bound=Callable[..., Any])

MAX_NAME_BYTES = 255

MAX_BATCH = 256
MAX_WAIT_MS = 60_000
MAX_PREFETCH = 64

_CO_GENERATOR = 0x20
_CO_COROUTINE = 0x80
_CO_ASYNC_GENERATOR = 0x200

table: dict[str, Callable[..., Any]] = {}

batches: dict[str, tuple[int, float]] = {}
"""The handlers whose calls are gathered: how many, and for how many seconds from the first."""

prefetch: dict[str, int] = {}
"""How many calls are written ahead, of the handlers that say so."""

writable: set[str] = set()
"""The handlers whose buffers and arrays they may write to."""


if TYPE_CHECKING:

    @overload
    def handler(function: Function, /) -> Function: ...
    @overload
    def handler(
        *,
        name: str | None = None,
        batch: int | None = None,
        wait_ms: float = 0,
        prefetch: int | None = None,
        writable: bool = False,
    ) -> Callable[[Function], Function]: ...


def handler(
    function: Any = None,
    /,
    *,
    name: str | None = None,
    batch: int | None = None,
    wait_ms: float = 0,
    prefetch: int | None = None,
    writable: bool = False,
) -> Any:
    """Lets Rust call this function by its name, or by the one given.

    `@handler` and `@handler(name="x")` return the function unchanged. It may be `async def`.

    Buffers and arrays among its arguments are read-only; with `@handler(writable=True)` they are its own, to write to.
    Whoever called it sees nothing of that.

    With `batch=32` (1 to 256) calls that wait are gathered, up to so many: the function is called once with the list of
    their arguments, and returns a list of as many results, in their order. An exception in that list is the error of
    that call alone; one that is raised is everybody's. The item of a call is its argument, the list of them if it has
    several, or a dict if they are named. `wait_ms` is how long the first call of a batch waits for others (0 to 60 000;
    0 takes what is there). Each caller has a deadline of its own; the function is interrupted when none waits any more.

    With `prefetch=8` (0 to 64) so many calls are written ahead to a worker that is at work, so that it goes on with the
    next without a wake-up between: for functions that take microseconds. Without it the pool's own `prefetch` holds.

    Raises TypeError for what isn't a function, ValueError for a name that another function has, and for numbers out of
    these ranges.
    """
    if name is not None and not isinstance(name, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"a handler's name is a str, not {type(name).__name__}")
    gathered = _batch(batch, wait_ms)
    if prefetch is not None:
        _check_number("prefetch", prefetch, (int,))
        if not 0 <= prefetch <= MAX_PREFETCH:
            raise ValueError(f"@snakepen.handler(prefetch=...) is 0 to {MAX_PREFETCH}, not {prefetch}")
        if prefetch and gathered is not None:
            raise ValueError(
                "@snakepen.handler: calls that are gathered (batch=...) aren't written ahead (prefetch=...)"
            )
    if function is None:
        return lambda function: handler_of(function, name, gathered, prefetch, writable)
    return handler_of(function, name, gathered, prefetch, writable)


def _batch(batch: Any, wait_ms: Any) -> tuple[int, float] | None:
    for what, number, kinds in (("batch", batch, (int,)), ("wait_ms", wait_ms, (int, float))):
        if number is not None:
            _check_number(what, number, kinds)
    if batch is None:
        if wait_ms:
            raise ValueError("@snakepen.handler(wait_ms=...) goes with batch=..., the most calls that are gathered")
        return None
    if not 1 <= batch <= MAX_BATCH:
        raise ValueError(f"@snakepen.handler(batch=...) is 1 to {MAX_BATCH}, not {batch}")
    if not 0 <= wait_ms <= MAX_WAIT_MS:
        raise ValueError(f"@snakepen.handler(wait_ms=...) is 0 to {MAX_WAIT_MS} milliseconds, not {wait_ms}")
    return batch, wait_ms / 1000


def _check_number(what: str, number: Any, kinds: tuple[type, ...]) -> None:
    if isinstance(number, bool) or not isinstance(number, kinds):
        raise TypeError(f"@snakepen.handler({what}=...) is a number, not {type(number).__name__}")


def handler_of(
    function: Any,
    name: str | None,
    batch: tuple[int, float] | None = None,
    ahead: int | None = None,
    writes: bool = False,
) -> Any:
    if isinstance(function, type) or not callable(function):
        what = f"the class {function.__qualname__}" if isinstance(function, type) else f"{function!r:.80}"
        raise TypeError(f"@snakepen.handler decorates a function, not {what}")
    if name is None:
        name = getattr(function, "__name__", None)
        if not isinstance(name, str):
            raise TypeError(f"{function!r:.80} has no __name__: use @snakepen.handler(name=...)")
    if batch is not None and _flags(function) & (_CO_GENERATOR | _CO_ASYNC_GENERATOR):
        raise TypeError(f"a batch handler returns a list of results, so {name!r} can't be a generator")
    register(name, function)
    batches.pop(name, None)
    if batch is not None:
        batches[name] = batch
    prefetch.pop(name, None)
    if ahead is not None:
        prefetch[name] = ahead
    (writable.add if writes else writable.discard)(name)
    return function


def register(name: str, function: Callable[..., Any]) -> None:
    if not 0 < len(name.encode("utf-8", "replace")) <= MAX_NAME_BYTES or not name.isprintable():
        raise ValueError(f"a handler's name has 1 to {MAX_NAME_BYTES} bytes of printable text, not {name!r:.80}")
    taken = table.get(name)
    if taken is not None and taken is not function and not _comes_again(taken, function):
        raise ValueError(f"two handlers are called {name!r}: {_place(taken)} and {_place(function)}")
    table[name] = function


def _comes_again(taken: Any, function: Any) -> bool:
    """Whether a module that is imported anew brings its function again: by `importlib.reload`, or as another module."""
    if _origin(taken) != _origin(function):
        return False
    taken, function = _unwrapped(taken), _unwrapped(function)
    home = getattr(taken, "__globals__", None)
    if taken is function or home is None or home is not getattr(function, "__globals__", None):
        return True
    return bool(getattr(sys.modules["importlib"], "_RELOADING", None))


def is_async(function: Any) -> bool:
    return bool(_flags(function) & (_CO_COROUTINE | _CO_ASYNC_GENERATOR))


def _flags(function: Any) -> int:
    return getattr(getattr(function, "__code__", None), "co_flags", 0)


def gives_items(function: Any) -> bool:
    """Whether it is an asynchronous generator."""
    code = getattr(function, "__code__", None)
    return bool(getattr(code, "co_flags", 0) & _CO_ASYNC_GENERATOR)


def _origin(function: Any) -> str:
    module = getattr(function, "__module__", None) or type(function).__module__
    name = getattr(function, "__qualname__", None) or f"{type(function).__qualname__} object at {id(function):#x}"
    return f"{module}.{name}"


def _unwrapped(function: Any) -> Any:
    """What `functools.wraps` and its like have decorated."""
    for _ in range(32):  # they may go round in circles
        function = getattr(function, "__wrapped__", function)
    return function


def _place(function: Any) -> str:
    code = getattr(_unwrapped(function), "__code__", None)
    line = getattr(code, "co_firstlineno", None)
    return _origin(function) if line is None else f"{_origin(function)} (line {line})"


def load(handlers: dict[str, str] | None) -> None:
    """Imports the module of handlers, given as a file or by its name."""
    if handlers is None:
        return
    if "file" in handlers:
        load_file(handlers["file"])
    else:
        import_module(handlers["module"])


def module(handlers: dict[str, str] | None) -> Any:
    """The module that `load` has imported."""
    assert handlers is not None
    name = handlers["module"] if "module" in handlers else _stem(handlers["file"])
    return sys.modules[name]


def _stem(path: str) -> str:
    return os.path.splitext(os.path.basename(path))[0]


def load_file(path: str) -> None:
    stem = _stem(path)
    if not os.path.isfile(path):
        raise FileNotFoundError(f"the handler file {path} doesn't exist")
    present = sys.modules.get(stem)
    if present is not None:
        origin = getattr(present, "__file__", None)
        if origin is not None and os.path.exists(origin) and os.path.samefile(origin, path):
            return
        raise ImportError(
            f"handler file {path} would replace the module {stem!r} that is already imported"
            f"{f' from {origin}' if origin else ''}; rename the file"
        )
    if stem in sys.stdlib_module_names:
        raise ImportError(
            f"handler file {path} would hide the module {stem!r} of the standard library; rename the file"
        )
    # importlib.util re-exports these two, at the price of contextlib and functools.
    from _frozen_importlib import module_from_spec
    from _frozen_importlib_external import spec_from_file_location

    spec = spec_from_file_location(stem, path, loader=SourceFileLoader(stem, path))
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} can't be imported as a module")
    module = module_from_spec(spec)
    sys.modules[stem] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(stem, None)
        raise


def expose(name: str, target: str) -> None:
    """Adds a function that the Rust side names: `expose("sqrt", "math:sqrt")`."""
    module, colon, path = target.partition(":")
    if not (module and colon and path):
        raise ValueError(f'{name!r} is exposed as {target!r}, which isn\'t of the form "module:attribute.path"')
    function: Any = import_module(module)
    for attribute in path.split("."):
        function = getattr(function, attribute)
    if not callable(function):
        raise TypeError(f"{target!r}, exposed as {name!r}, is {type(function).__name__}, which can't be called")
    register(name, function)
