"""The dispatcher without pixels: tiles per second, memory, and time to the first tile.

    python -m benchmarks.cluster                      all of it at CI size (20,000 tiles), about two minutes
    python -m benchmarks.cluster tiles --tiles 1000000
    python -m benchmarks.cluster scenes --scenes 50000
    python -m benchmarks.cluster soak --tiles 50000   1 % of the tiles fail in passing, five workers are killed (F24)
    python -m benchmarks.cluster resume --archive s3://BUCKET/PREFIX    on a store; AWS_* as ever

One JSON object for each measurement. A rate is that of all tiles; `rate_by_tenth` shows whether it stays; where others
use the machine, `driver_us_by_tenth` does: the driver's processor time for a tile. Seconds to a first tile are counted
from the call, with Ray running: `process_s` and `ray_s` are what came before (the interpreter and its imports; Ray
itself). `search_s` ends when the scenes are known, `opened_s` when a worker has opened the first one; between them the
workers start.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import secrets
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from benchmarks.empty_tiles import EmptyScene, EmptyTile, Worker, marks_of
from hypermend.catalog.cube.cube import Cube
from hypermend.catalog.cube.layout import create
from hypermend.catalog.cube.spec import VALID, CubeSpec
from hypermend.catalog.keys import item_key
from hypermend.catalog.scene import Asset, Scene
from hypermend.catalog.stac.index import rebuild
from hypermend.catalog.stac.publish import source_item, unsigned_item
from hypermend.catalog.storage.archive_store import ArchiveStore, to_json
from hypermend.pipeline.config import Job, RestoreJob
from hypermend.pipeline.engine.cluster import start_ray
from hypermend.pipeline.engine.outcome import Workers
from hypermend.pipeline.engine.ray_actors import on_ray
from hypermend.pipeline.restore.driver import restore
from hypermend.pipeline.runs.run import Run
from hypermend.pipeline.runs.unit import Unit

WORKERS = Workers(count=2)


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def process_s() -> float:
    """Seconds since this process began."""
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    return float(Path("/proc/uptime").read_text().split()[0]) - ticks / os.sysconf("SC_CLK_TCK")


def measure(run: Run, total: int) -> dict[str, Any]:
    """Work to the end and record when each tenth of the tiles was done."""
    before, begin = resident_bytes(), time.monotonic()
    first, times, resident = 0.0, [], []
    worked = [time.process_time()]
    done = 0
    for event in run:
        if event.kind != "tile":
            continue
        first = first or time.monotonic() - begin
        done += 1
        if done % max(1, total // 10) == 0:
            times.append(time.monotonic() - begin)
            resident.append(resident_bytes())
            worked.append(time.process_time())
    tenths = [b - a for a, b in zip([first, *times], times, strict=False)]
    report = run.report
    return {
        "tiles": done,
        "first_tile_s": round(first, 2),
        "tiles_per_s": round(done / (times[-1] - first), 1),
        "rate_by_tenth": [round(total / 10 / seconds) for seconds in tenths],
        "driver_us_by_tenth": [round((b - a) * 1e7 / total) for a, b in pairwise(worked)],
        "driver_growth_mib": round((max(resident) - before) / 2**20, 1),
        "driver_mib": round(resident_bytes() / 2**20),
        "driver_mib_by_tenth": [round(size / 2**20) for size in resident],
        "scenes_published": report.count("published"),
        "exit_code": report.exit_code,
    }


def beginning(run: Run, begin: float) -> dict[str, Any]:
    """Seconds from ``begin`` until the first scene is open and until the first tile is done."""
    seconds: dict[str, float] = {}
    for event in run:
        seconds.setdefault(event.kind, time.monotonic() - begin)
        if event.kind == "tile":
            break
    return {"opened_s": round(seconds["opened"], 2), "first_tile_s": round(seconds["tile"], 2)}


def empty_run(archive: str, units: Iterator[Unit], *, marks: bool, **faults: Any) -> Run:
    """A run as the verbs start it, with leases and a log, over scenes without pixels."""
    job = Job(archive=archive)
    factory = partial(Worker, archive if marks else None, **faults)
    return Run("benchmark", job, units, factory, on_ray, lease="benchmark", workers=WORKERS)


def tiles(archive: str, count: int, *, marks: bool) -> dict[str, Any]:
    """One scene of very many tiles."""
    return measure(empty_run(archive, iter([EmptyScene(0, count)]), marks=marks), count)


def scenes(archive: str, count: int, *, marks: bool) -> dict[str, Any]:
    """Very many scenes of 20 tiles."""
    return measure(empty_run(archive, (EmptyScene(n, 20) for n in range(count)), marks=marks), count * 20)


def resume(archive: str, done: int) -> dict[str, Any]:
    """A scene of which so many tiles are done and ten are not."""
    scene = EmptyScene(0, done + 10)
    marks, worker = marks_of(ArchiveStore(archive), scene.id), Worker(archive)
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda x: worker(EmptyTile(unit=scene.id, index=(0, x))), range(done)))
    begin = time.monotonic()
    figures = beginning(empty_run(archive, iter([scene]), marks=True), begin)
    return {"done_tiles": done, "marks": len(marks.tiles()[0]), **figures}


def many_scenes(archive: str, count: int) -> dict[str, Any]:
    """Time a restoration over so many scenes until its first tile, the search of the archive included."""
    fill_archive(ArchiveStore(archive), count)
    job = RestoreJob(archive=archive, model="identity", workers=2)
    begin = time.monotonic()
    run = restore(job)
    searched = time.monotonic() - begin
    return {"scenes": count, "search_s": round(searched, 2), **beginning(run, begin)}


def fill_archive(root: ArchiveStore, count: int) -> None:
    """So many source items, of which the first ten have a cube."""
    spec = CubeSpec(
        shape=(2, 32, 32), dtype="int16", scale_factor=1.0, fill=-1, band=(1, 2), band_name=("1", "2"),
        wavelength_nm=(500.0, 600.0), fwhm_nm=(10.0, 10.0), detector=("a", "a"), good=(True, True), gsd_m=(30.0, 30.0),
        crs="EPSG:32632", transform=(30.0, 0.0, 500000.0, 0.0, -30.0, 5000000.0), quantity="counts", units="1",
        sensor="cave", stage="source", chunk=(2, 16, 16), shard=(2, 16, 16), attrs={"hypermend:ingest": "x"},
    )  # fmt: skip
    for number in range(count):
        scene = _scene(number, spec)
        key = f"source/{scene.id}/x.zarr"
        if number < 10:
            create(root, key, spec)
            cube, (rows, columns) = Cube(root, key), spec.tiles
            for iy, ix in np.ndindex(rows, columns):
                y, x = spec.window(iy, ix)
                stored, flags = np.ones((2, 16, 16), np.int16), np.full((16, 16), VALID, np.uint8)
                cube.mark(iy, ix, cube.write(y, x, stored, flags))
        item = source_item(scene, spec, key=key, ingest_id="x", valid_fraction=1.0)
        document = unsigned_item(item)
        document["assets"]["cube"]["href"] = f"../../../{key}"
        document["links"] = []
        document["properties"]["updated"] = "2026-01-01T00:00:00Z"
        root.put(item_key(item), to_json(document))
    rebuild(root)


def _scene(number: int, spec: CubeSpec) -> Scene:
    return Scene(
        id=f"S{number:06d}", collection="many", datetime=datetime(2026, 1, 1 + number % 28, tzinfo=UTC), sensor="cave",
        grid=spec.grid, assets={"image": Asset(key="image", href="/nowhere.tif", roles=("data",))}, properties={},
    )  # fmt: skip


def soak(archive: str, count: int) -> dict[str, Any]:
    """F24: transient random faults and five killed workers; every tile is done, memory and rate stay flat."""
    with tempfile.TemporaryDirectory() as folder:
        return _soak(archive, count, Path(folder))


def _soak(archive: str, count: int, seen: Path) -> dict[str, Any]:
    kills = tuple(count * part // 6 for part in range(1, 6))
    run = empty_run(archive, iter([EmptyScene(0, count)]), marks=True, faults=0.01, kills=kills, seen=seen)
    figures = measure(run, count)
    marked = len(marks_of(ArchiveStore(archive), "empty/000000").done())
    return {**figures, "faults": len(list(seen.iterdir())), "marked": marked}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=("all", "tiles", "scenes", "resume", "many", "soak"), default="all")
    parser.add_argument("--tiles", type=int, default=20_000)
    parser.add_argument("--scenes", type=int, default=1_000)
    parser.add_argument("--done", type=int, default=100_000)
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--archive", help="folder or s3:// prefix under which archives are made and removed again")
    asked = parser.parse_args()
    lines, sys.stdout = sys.stdout, sys.stderr  # Ray prints what its raylet has to say, some of it at exit
    run_all(asked, lines)


def run_all(asked: argparse.Namespace, lines: TextIO) -> None:
    """Measure each requested case, one line each."""
    came_before = {"process_s": round(process_s(), 2)}
    begin = time.monotonic()
    start_ray(cpus=2)
    came_before["ray_s"] = round(time.monotonic() - begin, 2)
    todo = {
        "tiles": [("tiles", partial(tiles, count=asked.tiles, marks=m), m) for m in (False, True)],
        "scenes": [("scenes", partial(scenes, count=asked.scenes, marks=m), m) for m in (False, True)],
        "resume": [("resume", partial(resume, done=asked.done), True)],
        "many": [("many", partial(many_scenes, count=asked.items), True)],
        "soak": [("soak", partial(soak, count=min(asked.tiles, 2_000) if asked.what == "all" else asked.tiles), True)],
    }
    for name, work, marks in [one for key, ones in todo.items() if asked.what in ("all", key) for one in ones]:
        with tempfile.TemporaryDirectory(prefix="hypermend-") as folder:
            place = ArchiveStore(asked.archive or folder)
            key = f"benchmark-{secrets.token_hex(4)}"
            try:
                figures = work(place.href(key))
            finally:
                place.delete_prefix(key)
        where = {
            **came_before,
            "archive": "folder" if place.is_local else "s3",
            "machine": f"{platform.machine()}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}",
            "versions": {"ray": version("ray"), "obstore": version("obstore")},
            "date": f"{datetime.now(UTC):%Y-%m-%d}",
        }
        print(json.dumps({"name": f"cluster-{name}", "marks": marks, **figures, **where}), file=lines, flush=True)


if __name__ == "__main__":
    main()
