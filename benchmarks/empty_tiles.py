"""Scenes without pixels, to measure the dispatcher alone: a tile is a number, perhaps a mark, perhaps a fault.

Workers import this module, so that a task is a small value and not its class as well.
"""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypermend.catalog.cube.marks import DoneMarks, Shard
from hypermend.catalog.storage.archive_store import ArchiveStore
from hypermend.pipeline.engine.memory_grant import peak_bytes
from hypermend.pipeline.runs.run_log import TaskReceipt
from hypermend.pipeline.runs.unit import PreparedScene, SceneTotals
from hypermend.pipeline.tiling.tiles import Index, TileGrid

SHARD = Shard(key="reflectance/c/0/0/0", size=1 << 20, crc32="00000000")


@dataclass(frozen=True, kw_only=True)
class Prepare:
    unit: str
    tiles: int


@dataclass(frozen=True, kw_only=True)
class EmptyTile:
    unit: str
    index: Index

    @property
    def tiles(self) -> tuple[Index, ...]:
        return (self.index,)


@dataclass(frozen=True, kw_only=True)
class Finish:
    unit: str


def marks_of(root: ArchiveStore, unit: str) -> DoneMarks:
    return DoneMarks(root, f"restored/{unit.replace('/', '-')}/empty.zarr")


class EmptyScene:
    """A unit of ``tiles`` tiles."""

    collection = "empty"
    reads: tuple[str, ...] = ()

    def __init__(self, number: int, tiles: int) -> None:
        self.scene = f"{number:06d}"
        self.id = f"empty/{self.scene}"
        self._grid = TileGrid(height=1, width=tiles, tile_px=1)

    def prepare(self) -> Prepare:
        return Prepare(unit=self.id, tiles=len(self._grid))

    def tiles(self, prepared: PreparedScene) -> Iterator[EmptyTile]:
        return (EmptyTile(unit=self.id, index=i) for i in self._grid.indices() if i not in prepared.done)

    def finish(self, prepared: PreparedScene) -> Finish:
        return Finish(unit=self.id)

    def is_published(self, prepared: PreparedScene) -> bool:
        return False

    def commit(self, prepared: PreparedScene, totals: SceneTotals) -> int:
        return 1


class Worker:
    """Handler of an actor: does nothing but write marks.

    Args:
        archive: where marks are written, or None for none.
        faults: share of tiles that raise once, drawn by their index.
        kills: indices whose worker dies under them once; a file in ``seen`` remembers.
    """

    def __init__(
        self, archive: str | None, *, faults: float = 0.0, kills: tuple[int, ...] = (), seen: Path | None = None
    ) -> None:
        self._root = None if archive is None else ArchiveStore(archive)
        self._faults, self._kills, self._seen = faults, kills, seen

    def __call__(self, task: Prepare | EmptyTile | Finish) -> Any:
        if isinstance(task, Prepare):
            done = frozenset() if self._root is None else marks_of(self._root, task.unit).tiles()[0]
            return PreparedScene(total=task.tiles, done=done)
        if isinstance(task, Finish):
            return SceneTotals(valid_fraction=1.0)
        self._fault(task)
        if self._root is not None:
            marks_of(self._root, task.unit).mark(*task.index, [SHARD], {"valid_px": 1})
        return TaskReceipt(
            tiles=task.tiles, read_s=0.0, model_s=0.0, write_s=0.0, valid_fraction=1.0, samples=0, bytes_written=0,
            peak_bytes=peak_bytes(),
        )  # fmt: skip

    def _fault(self, task: EmptyTile) -> None:
        x = task.index[1]
        if self._seen is None or not (x in self._kills or random.Random(x).random() < self._faults):
            return
        try:
            (self._seen / str(x)).touch(exist_ok=False)
        except FileExistsError:
            return  # once is enough
        if x in self._kills:
            os.kill(os.getpid(), signal.SIGKILL)
        raise _Passing(f"tile {x} failed in passing")


class _Passing(Exception):
    transient = True
