"""Ingest in the worker: its tasks, and their handler, which reads windows of a scene's files and writes shards.

One task reads one window and writes one shard. A format without windows (.mat v5, PNG) takes one task for the whole
file, whose size is checked first.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hypermend.catalog.arrays import Flags, Stored
from hypermend.catalog.cube.codec_pipeline import use_one_cpu
from hypermend.catalog.cube.cube import Cube
from hypermend.catalog.cube.layout import create
from hypermend.catalog.cube.marks import DoneMarks
from hypermend.catalog.cube.quicklook import write_quicklooks
from hypermend.catalog.cube.spec import NODATA, VALID, CubeSpec
from hypermend.catalog.errors import BadAsset
from hypermend.catalog.keys import check_raw_collection, source_cube_key
from hypermend.catalog.meaning.of_scene import completed
from hypermend.catalog.readers.border import edge_border, edge_numbers
from hypermend.catalog.readers.scene_reader import READER_VERSION, SceneSource, open_scene
from hypermend.catalog.recent import Recent
from hypermend.catalog.scene import Scene
from hypermend.catalog.sensors import SHIPPED, SensorTables
from hypermend.catalog.stac.fields import rfc3339
from hypermend.catalog.storage.archive_store import ArchiveStore, digest
from hypermend.catalog.storage.signing import signer
from hypermend.pipeline.engine.memory_grant import peak_bytes
from hypermend.pipeline.runs.run_log import TaskReceipt
from hypermend.pipeline.runs.unit import PreparedScene, SceneTotals
from hypermend.pipeline.tiling.tiles import Index


@dataclass(frozen=True, kw_only=True)
class SceneFiles:
    """A scene and the options with which a worker opens its files."""

    scene: Scene
    bands: tuple[str, ...]
    gsd_m: float | None
    sign: str
    tile_px: int | None
    overviews: bool

    def open(self, tables: SensorTables) -> SceneSource:
        """Open the files."""
        return open_scene(self.scene, bands=self.bands or None, gsd_m=self.gsd_m, sign=signer(self.sign), tables=tables)


@dataclass(frozen=True, kw_only=True)
class Prepare:
    """Task: open a scene's files and create its source cube."""

    unit: str
    files: SceneFiles


@dataclass(frozen=True, kw_only=True)
class WriteTiles:
    """Task: write tiles of a source cube."""

    unit: str
    files: SceneFiles
    state: str
    """State of the files when the scene was prepared: a cube must not mix two versions of a file."""
    target: str
    tiles: tuple[Index, ...]


@dataclass(frozen=True, kw_only=True)
class Finish:
    """Task: fold the marks of a source cube and add up its usable pixels."""

    unit: str
    target: str
    files: SceneFiles | None
    """None where no tile was read"""
    state: str


@dataclass(frozen=True, kw_only=True)
class IngestContext:
    """Facts of a prepared scene that the driver keeps for its tiles and its item."""

    ingest_id: str
    key: str
    spec: CubeSpec
    scene: Scene
    """completed from its files"""
    state: str
    """of its files"""
    windowed: bool


KEEP_OPEN = 4
"""Number of scenes whose files a worker keeps open, and of cubes."""


class IngestWorker:
    """Handler of ingest tasks; keeps the files and cubes of the last few scenes open."""

    def __init__(self, archive: str, tables: SensorTables = SHIPPED) -> None:
        use_one_cpu()
        self._root = ArchiveStore(archive)
        self._tables = tables
        self._files: Recent[str, SceneSource] = Recent(KEEP_OPEN, close=lambda source: source.close())
        self._cubes: Recent[str, Cube] = Recent(KEEP_OPEN)

    def __call__(self, task: Prepare | WriteTiles | Finish) -> Any:
        if isinstance(task, Prepare):
            return self._prepare(task)
        if isinstance(task, WriteTiles):
            return self._write(task)
        return self._finish(task)

    def _prepare(self, task: Prepare) -> PreparedScene:
        check_raw_collection(task.files.scene.collection)
        source = self._source(task.unit, task.files)
        spec = replace(source.spec, defects=source.defects(slice(0, 1), slice(0, 1)) is not None)
        if task.files.tile_px is not None:
            chunk, shard = CubeSpec.layout(spec.shape, spec.dtype, task.files.tile_px)
            spec = replace(spec, chunk=chunk, shard=shard)
        scene = completed(task.files.scene, spec.sensor, source.meaning)
        when = scene.trusted_datetime
        spec = replace(spec.with_overviews(task.files.overviews), time=None if when is None else rfc3339(when))
        identity = {"files": source.identity, "spec": spec.to_dict(), "version": READER_VERSION}
        ingest_id = digest(identity)
        spec = replace(spec, attrs={**spec.attrs, "hypermend:ingest": ingest_id})
        key = source_cube_key(task.files.scene.id, ingest_id)
        create(self._root, key, spec, lonlat=source.lonlat)
        rows, columns = spec.tiles
        done, folded = DoneMarks(self._root, key).tiles()
        return PreparedScene(
            total=rows * columns,
            done=done,
            settled=folded and len(done) == rows * columns,
            context=IngestContext(
                ingest_id=ingest_id,
                key=key,
                spec=spec,
                scene=scene,
                state=source.state,
                windowed=source.windowed,
            ),
        )

    def _write(self, task: WriteTiles) -> TaskReceipt:
        source, cube = self._same_source(task.unit, task.files, task.state), self._cube(task.target)
        read_s = write_s = 0.0
        usable = pixels = samples = written = 0
        for index in task.tiles:
            y, x = cube.spec.window(*index)
            start = time.perf_counter()
            stored, flags = source.read(y, x)
            middle = time.perf_counter()
            shards = cube.write(y, x, stored, flags, source.defects(y, x), source.uncertainty(y, x))
            valid = int(np.count_nonzero(flags & VALID))
            data = int(np.count_nonzero(~flags & NODATA))
            edges = _edges(x, stored, flags, cube.spec)
            cube.mark(*index, shards, {"valid_px": valid, "data_px": data} | ({"edges": edges} if edges else {}))
            write_s += time.perf_counter() - middle
            read_s += middle - start
            usable, pixels, samples = usable + valid, pixels + flags.size, samples + stored.size
            written += sum(shard.size for shard in shards)
        return TaskReceipt(
            tiles=task.tiles,
            read_s=read_s,
            model_s=0.0,
            write_s=write_s,
            valid_fraction=usable / pixels,
            samples=samples,
            bytes_written=written,
            peak_bytes=peak_bytes(),
        )

    def _finish(self, task: Finish) -> SceneTotals:
        """Draw the quicklooks, fold the marks and add up the usable pixels.

        Raises:
            BadAsset: the files have changed since the scene was prepared: the marks are removed, because a server that
                knows no versions may have sent bytes of two.
            BadAsset: no pixel of the scene holds data; an empty cube is not published. One of clouds alone is: what
                its product flags, a user may still want to see.
        """
        cube = self._cube(task.target)
        if task.files is not None:
            try:
                self._same_source(task.unit, task.files, task.state).check_unchanged()
            except BadAsset:
                self._root.delete_prefix(cube.marks.folder)
                raise
        marks = cube.marks.fold().values()
        valid = sum(mark.extra["valid_px"] for mark in marks)
        if not any(mark.extra.get("data_px", mark.extra["valid_px"]) for mark in marks):
            raise BadAsset(f"scene {task.unit}: every pixel is nodata; there is nothing to publish")
        self._files.drop(task.unit)
        counts = Counter[float]()
        for mark in marks:
            counts.update({float(number): pixels for number, pixels in mark.extra.get("edges", {}).items()})
        border = edge_border(counts, cube.spec.height)
        figures = {} if border is None else {"border": border}
        return SceneTotals(
            valid_fraction=valid / (cube.spec.height * cube.spec.width),
            figures=figures,
            quicklooks=write_quicklooks(cube),
        )

    def _same_source(self, unit: str, files: SceneFiles, state: str) -> SceneSource:
        """The files of a scene, as they were when it was prepared."""
        source = self._source(unit, files)
        if source.state != state:
            self._files.drop(unit)
            raise BadAsset(f"scene {unit}: its files changed while they were ingested; run the same command again")
        return source

    def _source(self, unit: str, files: SceneFiles) -> SceneSource:
        def open() -> SceneSource:
            source = files.open(self._tables)
            if not source.windowed:  # a file that is read whole stays in memory whole: keep one at most
                self._files.clear()
            return source

        return self._files.get(unit, open)

    def _cube(self, key: str) -> Cube:
        return self._cubes.get(key, lambda: Cube(self._root, key))


def _edges(x: slice, stored: Stored, flags: Flags, spec: CubeSpec) -> dict[str, int]:
    """Constant numbers at the left and the right edge of the scene, where a tile meets them."""
    counts = Counter[float]()
    for column, at_edge in ((0, x.start == 0), (-1, x.stop == spec.width)):
        if at_edge:
            counts.update(edge_numbers(stored[:, :, column], flags[:, column], spec))
    return {f"{number:g}": pixels for number, pixels in counts.most_common(3)}
