"""Tiles that are killed at any point of their work, and tiles that are poison: one scene, several faults at once."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hypermend
from hypermend.catalog.cube.cube import Cube
from hypermend.catalog.cube.stores import WriteStore
from hypermend.catalog.storage.archive_store import ArchiveStore
from hypermend.pipeline.config import RestoreJob
from hypermend.pipeline.engine.outcome import Policy, Workers
from hypermend.pipeline.engine.ray_actors import on_ray
from hypermend.pipeline.maintenance.failures import failures
from hypermend.pipeline.restore.chain import Chain
from hypermend.pipeline.restore.driver import restore
from tests.faults import MODEL, TILES, restore_here, restored_bytes

pytestmark = [pytest.mark.fault, pytest.mark.slow]
Handler = Callable[[Any], Any]


def restored_with(archive: str, make_faulty: Any, **policy: Any) -> Any:
    """The report of a restoration on two actors whose handler is ``make_faulty(make)``."""

    def engine(make: Any, tasks: Any, **_: Any) -> Any:
        workers = Workers(count=2, limit_bytes=2**29)
        return on_ray(partial(make_faulty, make), tasks, policy=Policy(**policy), workers=workers)

    return restore(RestoreJob(archive=archive, model=MODEL, tile_px=16), engine=engine).wait()


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


# ------------------------------------------------------------------------------------------- killed at five points

POINTS = {
    (0, 1): "before read",
    (1, 2): "before write",
    (2, 3): "mid-write",
    (3, 3): "before mark",
    (3, 5): "after mark",
}


def make_dying(log: Path, make: Callable[[], Handler]) -> Handler:
    """The handler, except that five tiles kill their worker once, each at another point; every try is logged."""
    handle = make()

    def dying(task: Any) -> Any:
        index = getattr(task, "index", None)
        if index is None:
            return handle(task)
        with (log / "tries").open("a") as file:
            file.write(f"{index[0]}-{index[1]}\n")
        point = POINTS.get(index)
        done = log / f"died {index[0]}-{index[1]}"
        if point is None or done.exists():
            return handle(task)
        done.touch()
        if point == "before read":
            die()
        with pytest.MonkeyPatch.context() as patch:
            if point == "before write":
                patch.setattr(Cube, "write", lambda *a: die())
            if point == "mid-write":
                patch.setattr(WriteStore, "set", dying_set)
            if point == "before mark":
                patch.setattr(Cube, "mark", lambda *a: die())
            answer = handle(task)
        die()
        return answer

    return dying


async def dying_set(self: Any, key: str, value: Any) -> None:
    """The first object of the tile is put, and half of the second."""
    if key.startswith("valid/"):
        store = self._store
        (store.root / f"{key}.{'0' * 32}.partial").parent.mkdir(parents=True, exist_ok=True)
        (store.root / f"{key}.{'0' * 32}.partial").write_bytes(value.as_numpy_array().tobytes()[:10])
        die()
    await self._store.set(key, value)


def test_f01_killed_before_read_before_write_in_it_and_around_the_mark(
    archive: str, clean: dict[str, str], ray_session: None, tmp_path: Path
) -> None:
    report = restored_with(archive, partial(make_dying, tmp_path))
    assert report.exit_code == 0, [s.reason for s in report.scenes]
    tries = (tmp_path / "tries").read_text().split()
    twice = {f"{iy}-{ix}" for iy, ix in POINTS}
    assert {tile for tile in tries if tries.count(tile) == 2} == twice
    assert len(tries) == TILES + len(POINTS)  # no other tile was touched again
    assert restored_bytes(archive) == clean


# ---------------------------------------------------------------------------------------------------------- poison

POISON = {(0, 2): "segfault", (1, 2): "kill", (2, 3): "hang", (1, 4): "nan", (3, 4): "memory"}
REASONS = {"segfault": "crash", "kill": "crash", "hang": "deadline", "nan": "error", "memory": "memory"}


def make_poisoned(make: Callable[[], Handler]) -> Handler:
    """The handler, except that five tiles are poison, each in another way."""
    handle = make()

    def poisoned(task: Any) -> Any:
        how = POISON.get(getattr(task, "index", None))  # type: ignore[arg-type]
        if how == "kill":
            die()
        if how == "segfault":
            ctypes.string_at(0)
        while how == "hang":
            time.sleep(0.1)
        if how == "memory":
            np.ones(3 * 2**30, np.uint8)
        if how == "nan":
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(Chain, "__call__", all_nan)
                return handle(task)
        return handle(task)

    return poisoned


def all_nan(chain: Any, values: Any) -> Any:
    inner = slice(chain.margin, -chain.margin or None)
    return np.full_like(values[:, inner, inner], np.nan)


def test_f02_poison_tiles_are_put_aside_alone_each_with_its_reason(
    archive: str, clean: dict[str, str], ray_session: None
) -> None:
    """What must stop them: `limit_growth`, `refuse_bad_output`, the deadline, and the count of deaths."""
    report = restored_with(archive, make_poisoned, max_deaths=2, deadline_s=6.0)
    (scene,) = report.scenes
    assert (scene.status, scene.tiles_failed, scene.tiles_written) == ("failed", len(POISON), TILES - len(POISON))
    assert report.exit_code == 1
    assert hypermend.open(archive).search(stage="restored") == []
    said = {failure.tiles[0]: failure for failure in failures(archive)}  # read without a cluster
    assert {index: said[index].kind for index in said} == {index: REASONS[how] for index, how in POISON.items()}
    assert "NaN or infinity in" in said[(1, 4)].message
    assert {said[index].attempts for index, how in POISON.items() if REASONS[how] == "crash"} == {2}
    lines = [
        json.loads(text)
        for entry in ArchiveStore(archive).list(f"runs/{report.run}/failures")
        for text in ArchiveStore(archive).get(entry.key).splitlines()
    ]
    assert {(line["run"], line["scene"]) for line in lines} == {(report.run, scene.scene)}
    assert restore_here(archive).tiles_written == len(POISON)
    assert restored_bytes(archive) == clean
