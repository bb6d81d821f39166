"""What Rust says about the pool and about one worker."""

from __future__ import annotations

from ._cgroup import Cgroups
from ._request import Place

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Config:
    """The pool's settings, from `configure`. Raises KeyError for a missing one."""

    __slots__ = (
        "actor",
        "cgroups",
        "concurrency",
        "expose",
        "fresh",
        "handlers",
        "log_level",
        "max_frame",
        "paths",
        "pool",
        "prefetch",
        "preload",
        "raw",
        "reuse_after_cancel",
        "shared_memory",
        "switch_interval",
    )

    def __init__(self, raw: dict[str, Any]) -> None:
        self.raw = raw
        self.pool: str = raw["pool"]
        self.handlers: dict[str, str] | None = raw["handlers"]
        self.actor: str | None = raw.get("actor")
        self.expose: dict[str, str] = raw["expose"]
        self.paths: list[str] = raw["paths"]
        self.preload: list[str] = raw["preload"]
        self.fresh: bool = raw["fresh"]
        self.max_frame: int = raw["max_frame"]
        self.log_level: int = raw["log_level"]
        self.concurrency: int = raw.get("concurrency", 1)
        self.prefetch: int = raw.get("prefetch", 0)
        self.shared_memory: int | None = raw.get("shared_memory")
        self.switch_interval: float | None = raw.get("switch_interval")
        self.reuse_after_cancel: bool = raw.get("reuse_after_cancel", False)
        cgroup = raw.get("cgroup")
        self.cgroups = Cgroups(cgroup) if cgroup else None


class Descriptors:
    """A worker's own, in the order in which they travel."""

    __slots__ = ("dump", "lane", "port", "status", "stderr", "stdout")

    def __init__(self, port: int, stdout: int, stderr: int, dump: int, status: int, lane: int) -> None:
        self.port = port
        self.stdout = stdout
        self.stderr = stderr
        self.dump = dump
        self.status = status
        self.lane = lane


class Birth:
    """All that a worker starts from."""

    __slots__ = ("cgroup", "config", "descriptors", "place")

    def __init__(self, config: Config, place: Place, descriptors: Descriptors, cgroup: str | None = None) -> None:
        self.cgroup = cgroup
        self.config = config
        self.place = place
        self.descriptors = descriptors
