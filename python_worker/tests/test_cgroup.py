"""The launcher where it can't make cgroups, and what it removes of them; real ones are tested from Rust."""

from __future__ import annotations

from pathlib import Path

import pytest
from harness import Launcher

from snakepen._cgroup import Cgroups


def raw(directory: Path) -> dict[str, object]:
    return {"directory": str(directory), "memory": 1 << 30}


@pytest.mark.parametrize("fresh", [False, True])
def test_a_worker_that_cannot_have_one_serves_all_the_same(launcher: Launcher, tmp_path: Path, fresh: bool) -> None:
    launcher.configure(cgroup=raw(tmp_path / "nowhere" / "pool"), fresh=fresh)
    launcher.worker().ping(1)
    assert launcher.leave() == 0
    assert "can't make a cgroup, so a worker's resident size is watched" in launcher.errors()


def test_half_a_cgroup_is_not_left(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    pool = tmp_path / "pool"
    pool.mkdir()
    (pool / "cgroup.subtree_control").touch()
    # Here the directory of a worker has no `memory.max`.
    assert Cgroups(raw(pool)).make(3, 7) is None
    assert "can't limit a cgroup" in capfd.readouterr().err
    assert not (pool / "3.7").exists()


def test_a_launcher_that_leaves_lets_others_be(tmp_path: Path) -> None:
    pool = tmp_path / "pool"
    (pool / "0.1").mkdir(parents=True)
    Cgroups(raw(pool)).leave()
    assert (pool / "0.1").exists()
    (pool / "0.1").rmdir()
    Cgroups(raw(pool)).leave()
    assert not pool.exists()


def test_the_end_of_the_host_removes_all(launcher: Launcher, tmp_path: Path) -> None:
    pool = tmp_path / "pool"
    launcher.configure(cgroup=raw(pool))
    for left in ("0.1/below", "1.5"):
        (pool / left).mkdir(parents=True)
    launcher.control.close()
    launcher.process.wait(10)
    assert not pool.exists()
