"""An actor: one instance of a class in a worker of its own. Its public methods are what may be called.

Rust sends what it is built from ahead of all calls: INIT with the arguments of `__init__`, and then the state that is
kept of it, as a REPLY.
"""

from __future__ import annotations

import sys

from . import _handlers, _json, _session, _store, _stream, _wire
from ._startup import StartupError
from ._store import StaleState, StateError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
    from types import AsyncGeneratorType, GeneratorType
    from typing import Any

    from ._config import Config
    from ._connection import Connection
    from ._wire import Frame

DUMP, LOAD = "dump_state", "load_state"


def settle(connection: Connection, config: Config, path: str) -> State | None:
    """Builds the instance, gives it its state, and makes its methods the only ones that can be called."""
    init = connection.expect(_wire.INIT)
    found = connection.expect(_wire.REPLY)
    stage = f"the class `{path}`"
    try:
        kind = _class(config, path)
        methods = _methods(kind)
        keeps = _keeps_state(kind)
        stage = f"`{path}.__init__`"
        instance = _build(kind, init)
        state = None
        if keeps:
            stage = f"the state of `{path}`"
            if _store.checked(found).name != "missing":
                stage = f"`{path}.{LOAD}`"
                getattr(instance, LOAD)(_session.value_of(found))
            state = State(connection, getattr(instance, DUMP), init.name, init.arg, found)
    except BaseException as error:
        raise StartupError(stage, None, error) from error
    # What the file has decorated besides is no method.
    _handlers.table.clear()
    _handlers.batches.clear()
    _handlers.prefetch.clear()
    _handlers.writable.clear()
    for name in methods:
        method = getattr(instance, name)
        _handlers.table[name] = method if state is None else state.keeping(name, method)
    return state


def _class(config: Config, path: str) -> type[Any]:
    found: Any = _handlers.module(config.handlers)
    for attribute in path.split("."):
        found = getattr(found, attribute)
    if not isinstance(found, type):
        raise TypeError(f"an actor is an instance of a class, and {path!r} is {type(found).__name__}")
    return found


def _methods(kind: type[Any]) -> list[str]:
    """Properties and other attributes are none, and are not looked at."""
    descriptors = [staticmethod, classmethod]
    functools = sys.modules.get("functools")  # who uses these has imported it
    if functools is not None:
        descriptors += [functools.partialmethod, functools.singledispatchmethod]
    names: list[str] = []
    for name in dir(kind):
        if name.startswith("_") or name in (DUMP, LOAD):
            continue
        raw = next((vars(base)[name] for base in kind.__mro__ if name in vars(base)), None)
        if isinstance(raw, tuple(descriptors)) or (callable(raw) and not isinstance(raw, type)):
            names.append(name)
    if not names:
        raise TypeError(f"the class {kind.__qualname__} has no public method, so nothing of it could be called")
    return names


def _keeps_state(kind: type[Any]) -> bool:
    dump, load = getattr(kind, DUMP, None), getattr(kind, LOAD, None)
    if dump is None and load is None:
        return False
    if dump is None or load is None:
        has, lacks = (DUMP, LOAD) if load is None else (LOAD, DUMP)
        raise TypeError(f"the class {kind.__qualname__} has {has} and no {lacks}: state is kept with both of them")
    for name, hook in ((DUMP, dump), (LOAD, load)):
        if not callable(hook) or _handlers.is_async(hook):
            raise TypeError(f"{kind.__qualname__}.{name} is a plain method, not an `async def` one or an attribute")
    return True


def _build(kind: type[Any], init: Frame) -> Any:
    arguments = _json.loads(init.json) if init.json else None
    if isinstance(arguments, list):
        return kind(*arguments)
    if isinstance(arguments, dict):
        return kind(**arguments)
    return kind() if arguments is None else kind(arguments)


class State:
    """What is kept of an actor outside of its process, and when."""

    def __init__(self, connection: Connection, dump: Callable[[], Any], key: str, every: int, found: Frame) -> None:
        self._connection = connection
        self._dump = dump
        self._key = key
        self._every = every
        self._version, self._saved = _kept(found)
        self._doubt: tuple[bytes, bytes | None] | None = None
        """What has perhaps been written: a save has failed or was cut off."""
        self._due = 0
        """Messages since the last save."""
        self._sound = True
        """The last message has not been cut off in its middle."""

    def keeping(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        """The method, and after it a save if one is due. Its answer comes after that."""
        if _handlers.is_async(method) and not _handlers.gives_items(method):

            async def call(*arguments: Any, **named: Any) -> Any:
                return await self._finish(name, method(*arguments, **named))

            return call

        def call_plain(*arguments: Any, **named: Any) -> Any:
            try:
                result = method(*arguments, **named)
            except BaseException as error:
                self._failed(error)
                raise
            kind = type(result)
            if kind is _stream.GENERATOR:
                return self._items(name, result)
            if kind is _stream.ASYNC_GENERATOR:
                return self._aitems(name, result)
            if hasattr(kind, "__await__"):
                return self._finish(name, result)
            if self._is_due():
                self._save(name)
            return result

        return call_plain

    def leave(self) -> None:
        """The process leaves in order: saves what is not saved yet."""
        if self._due and self._every and self._sound:
            try:
                self._save("the last message")
            except Exception as error:
                print(f"snakepen: the state of this actor is not saved: {error}", file=sys.stderr)

    async def _finish(self, name: str, running: Awaitable[Any]) -> Any:
        try:
            result = await running
        except BaseException as error:
            self._failed(error)
            raise
        if self._is_due():
            await self._asave(name)
        return result

    def _items(self, name: str, generator: GeneratorType[Any, Any, Any]) -> Generator[Any, None, None]:
        """What the method yields, and the save after its end. Like it, this may yield when it is closed."""
        try:
            try:
                # `yield from` would hide that it has yielded once more.
                for item in generator:  # noqa: UP028
                    yield item
            except GeneratorExit as leaving:
                try:
                    yield generator.throw(leaving)
                except StopIteration:
                    pass
                raise
        except BaseException as error:
            self._failed(error)
            raise
        if self._is_due():
            self._save(name)

    async def _aitems(self, name: str, generator: AsyncGeneratorType[Any, Any]) -> AsyncGenerator[Any, None]:
        try:
            try:
                async for item in generator:
                    yield item
            except GeneratorExit as leaving:
                try:
                    yield await generator.athrow(leaving)
                except StopAsyncIteration:
                    pass
                raise
        except BaseException as error:
            self._failed(error)
            raise
        if self._is_due():
            await self._asave(name)

    async def _asave(self, name: str) -> None:
        with _telling(name):
            if self._doubt is not None:
                self._find_out(await _store.aask(b"get", self._place()))
            write = self._write()
            if write is not None:
                self._written(await _store.aask_encoded(b"put", *write))

    def _save(self, name: str) -> None:
        with _telling(name):
            if self._doubt is not None:
                self._find_out(_store.ask(b"get", self._place()))
            write = self._write()
            if write is not None:
                self._written(_store.ask_encoded(b"put", *write))

    def _is_due(self) -> bool:
        self._sound = True
        self._due += 1
        return 0 < self._every <= self._due and not self._connection.abandoned

    def _failed(self, error: BaseException) -> None:
        if not isinstance(error, Exception) or isinstance(error, MemoryError):
            self._sound = False

    def _place(self) -> list[Any]:
        return [None, _session.VALUE, self._key, None]

    def _write(self) -> tuple[bytes, tuple[memoryview, ...]] | None:
        """What is to be written, from now on in doubt; None if that is what is kept already."""
        value, buffers = _session.split(self._dump())
        contents = _store.encoded(value), bytes(buffers[0]) if buffers else None
        if contents == self._saved:
            self._due = 0
            return None
        self._doubt = contents
        head = _json.dumps([None, _session.VALUE, self._key, self._version])
        return b"%b,%b]" % (head[:-1], contents[0]), buffers

    def _written(self, reply: Frame) -> None:
        self._version = reply.arg
        self._saved, self._doubt = self._doubt, None
        self._due = 0

    def _find_out(self, found: Frame) -> None:
        """Whether the last save, which has failed or was cut off, has been done all the same."""
        version, contents = _kept(found)
        if version != self._version:
            if contents != self._doubt:
                raise _store.Conflict("the value is another", version)
            self._version, self._saved = version, contents
        self._doubt = None


def _kept(found: Frame) -> tuple[int, tuple[bytes, bytes | None] | None]:
    """The version and the contents of what is kept."""
    if found.name == "missing":
        return _store.ABSENT, None
    text = found.json if isinstance(found.json, bytes) else found.json.encode()
    return found.arg, (text, bytes(found.buffers[0]) if found.buffers else None)


class _telling:
    """An error of a save says that the method has run."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        if isinstance(error, _store.Conflict):
            raise StaleState(
                f"`{self._name}` has run, and what it has changed is lost: somebody else has written the kept state "
                "meanwhile; the instance is built anew from that"
            ) from error
        if isinstance(error, Exception) and not isinstance(error, MemoryError):
            raise StateError(
                f"`{self._name}` has run, but the state is not saved: {error}; what it has changed is lost if the "
                "process ends before a later save succeeds"
            ) from error
