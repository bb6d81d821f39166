"""The same functions behind Mosec: one call of `/inference` is one call of the function."""

from __future__ import annotations

import os
from typing import Any

import work
from mosec import Server, Worker  # pyright: ignore

JOB = os.environ["COMPARE_JOB"]


class Small(Worker):  # pyright: ignore
    """JSON in, JSON out."""

    def forward(self, data: Any) -> Any:
        if JOB == "sleep5ms":
            return work.sleep5ms()
        if JOB == "spin200us":
            return work.spin(data)
        return work.echo(data)

    def __init__(self) -> None:
        if JOB == "import_heavy":
            import numpy  # noqa: F401  # pyright: ignore
            import pandas  # noqa: F401  # pyright: ignore


class Arrays(Worker):  # pyright: ignore
    """The bytes of a float64 array in, and out."""

    def deserialize(self, data: bytes) -> Any:
        import numpy  # pyright: ignore

        return numpy.frombuffer(data, "<f8")

    def forward(self, data: Any) -> Any:
        return work.echo(data)

    def serialize(self, data: Any) -> bytes:
        return data.tobytes()


if __name__ == "__main__":
    server = Server()
    server.append_worker(Arrays if JOB.startswith("array") else Small, num=int(os.environ["COMPARE_WORKERS"]))
    server.run()
