"""Classes that are actors."""

import asyncio
import os
import signal
import time
from pathlib import Path
from typing import Any

import snakepen


@snakepen.handler
def decorated() -> None:
    """No method of any class."""


class Log:
    """What it was told, in order; its attributes are lost with it."""

    label = "an attribute"

    def __init__(self, *items: Any, **named: Any) -> None:
        self.items: list[Any] = [*items, *named.items()]
        self.open = 0

    @property
    def broken(self) -> None:
        raise RuntimeError("a property was looked at")

    def add(self, item: Any) -> int:
        self.items.append(item)
        return len(self.items)

    def all(self) -> list[Any]:
        return self.items

    def _private(self) -> None:
        pass

    @staticmethod
    def double(number: int) -> int:
        return 2 * number

    @classmethod
    def kind(cls) -> str:
        return cls.__name__

    async def add_slowly(self, item: Any) -> int:
        self.open += 1
        most = self.open
        await asyncio.sleep(0.01)
        self.open -= 1
        self.items.append(item)
        return most

    def pid(self) -> int:
        return os.getpid()

    def die(self, signal: int) -> None:
        os.kill(os.getpid(), signal)
        while True:
            time.sleep(1000)

    def leave(self, code: int) -> None:
        os._exit(code)

    def fail(self, message: str) -> None:
        raise ValueError(message)

    def hang(self, started: str) -> None:
        Path(started).touch()
        while True:
            time.sleep(1000)

    def wait_for(self, started: str, file: str) -> str:
        Path(started).touch()
        while not os.path.exists(file):
            time.sleep(0.001)
        return "ended"


class Derived(Log):
    def more(self) -> str:
        return "more"

    class Inner:
        def where(self) -> str:
            return "inside"


class Counter:
    def __init__(self, start: int = 0) -> None:
        self.count = start

    def dump_state(self) -> Any:
        return self.count

    def load_state(self, state: int) -> None:
        self.count = state

    def add(self, amount: int = 1) -> int:
        self.count += amount
        return self.count

    def get(self) -> int:
        return self.count

    async def add_async(self, amount: int) -> int:
        self.count += amount
        await asyncio.sleep(0)
        return self.count

    def add_and_fail(self, amount: int) -> None:
        self.count += amount
        raise ValueError("after it has added")

    def add_and_hang(self, amount: int, started: str) -> None:
        self.count += amount
        Path(started).touch()
        while True:
            time.sleep(1000)

    def add_and_die(self, amount: int) -> None:
        self.count += amount
        os.kill(os.getpid(), signal.SIGKILL)

    def pid(self) -> int:
        return os.getpid()


class Anything:
    """Its state is whatever it is given."""

    def __init__(self) -> None:
        self.state: Any = None
        self.loaded: Any = "nothing"

    def dump_state(self) -> Any:
        return self.state

    def load_state(self, state: Any) -> None:
        self.loaded = self.state = state

    def put_bytes(self, size: int) -> None:
        self.state = bytes(size)

    def put_object(self) -> None:
        self.state = {"rows": [1, object()]}

    def put(self, state: Any) -> None:
        self.state = state

    def found(self) -> str:
        text = repr(self.loaded)
        return text if len(text) < 100 else f"{len(self.loaded)} {type(self.loaded).__name__}"


class Startless:
    """Starts as the file says; the count of its tries is beside it."""

    def __init__(self, file: str) -> None:
        with open(f"{file}.tries", "a") as tries:
            tries.write("x")
        text = Path(file).read_text()
        if text == "raise":
            raise RuntimeError("not today")
        if text == "hang":
            time.sleep(1000)

    def pid(self) -> int:
        return os.getpid()


class Half:
    def dump_state(self) -> int:
        return 1

    def method(self) -> None:
        pass


class Empty:
    attribute = 1


class Fussy(Counter):
    def load_state(self, state: int) -> None:
        raise ValueError(f"{state} is no state of mine")
