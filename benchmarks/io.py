"""Overhead of Hypermend over the bare work: `python -m benchmarks.io [--data DIR] [--only NAME ...]`.

One JSON line for each measurement, with `name`, `ours`, `reference` and `ratio`; both sides run in turn in one process
on one machine, and the median of the turns counts. `target` is what the project asks of itself; `met` says whether it
holds here.

    copy      identity restorer against a bare Zarr-to-Zarr copy of the same shards with the cube's codec (MiB/s)
    network   a restoration by one worker, start-up apart, against the network on the whole scene in one call (s)
    memory    largest resident size of a worker for a scene and for one of 16 times its area (bytes)
    ingest    files to a source cube against odc.stac.load(...).to_zarr of the same files (s); needs --data
    overviews files to a source cube with overviews against the same without (s); also a real scene with --data
    report    a restoration with its figures, quicklooks and page against the same without (CPU s)
    scales    a file whose bands have scales of their own, so decoded to float32, against one with one scale (s, bytes)
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import odc.stac
import pystac
import rasterio
import torch
import xarray
import zarr
from odc.geo.geobox import GeoBox

import hypermend
from benchmarks.cubes import (
    TRANSFORM,
    WORTH_RESTORING,
    forget_restored,
    make_identity,
    make_source,
    noisy_numbers,
)
from benchmarks.measure import Clock, after_opening, finished, in_turn, line, rounded, timed
from hypermend.catalog.cube.cube import Cube
from hypermend.catalog.meaning.overrides import Overrides
from hypermend.catalog.meaning.statement import Field
from hypermend.catalog.sensors import sensor
from hypermend.catalog.storage.archive_store import ArchiveStore
from hypermend.models.checkpoint import builtin, load
from hypermend.pipeline.config import IngestJob, RestoreJob
from hypermend.pipeline.engine.cluster import start_ray
from hypermend.pipeline.engine.memory_grant import keep_freed_memory
from hypermend.pipeline.engine.ray_actors import on_ray
from hypermend.pipeline.engine.serial import serial
from hypermend.pipeline.ingest import catalog_folder, ingest
from hypermend.pipeline.registry.tasks import TASKS
from hypermend.pipeline.report.page import write_report
from hypermend.pipeline.restore import worker
from hypermend.pipeline.restore.chain import bind_steps
from hypermend.pipeline.restore.driver import restore
from hypermend.pipeline.restore.plan import Plan
from hypermend.pipeline.runs.run import Engine
from hypermend.pipeline.tiling.pixels import physical

# ------------------------------------------------------------------------------------------------------------- copy


def bench_copy(scratch: Path, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The identity restorer against a copy loop over the same shards."""
    archive = scratch / "copy"
    bands = 128
    edge_px = max(256, round(float(options.gib * 2**30 / 2 / bands) ** 0.5 / 256) * 256)
    make_source(archive, "copy", bands=bands, edge_px=edge_px)
    mib: float = bands * edge_px**2 * 2 / 2**20
    for halo, target in ((0, 0.7), (36, 0.0)):
        model = make_identity(archive, halo)
        job = RestoreJob(archive=str(archive), model=model, tile_px=256)

        def ours(job: RestoreJob = job) -> float:
            forget_restored(archive)
            return mib / after_opening(restore(job, engine=serial))

        def bare() -> float:
            shutil.rmtree(scratch / "bare.zarr", ignore_errors=True)
            source = archive / "source" / "copy" / "benchmark.zarr"
            return mib / timed(lambda: copy_shards(source, scratch / "bare.zarr"))

        mine, reference = in_turn(ours, bare, options.turns)
        yield line(
            f"identity-halo-{halo}-against-zarr-copy", statistics.median(mine), statistics.median(reference),
            target=target, lower_is_better=False, unit="MiB/s of stored numbers", shape=[bands, edge_px, edge_px],
            dtype="int16", tile_px=256, turns={"ours": rounded(mine), "reference": rounded(reference)},
        )  # fmt: skip


def copy_shards(source: Path, target: Path) -> None:
    """Every shard of a cube's two arrays, read and written whole, one after the other; as plain as zarr allows."""
    old, new = zarr.open_group(source, mode="r"), zarr.open_group(target, mode="w", zarr_format=3)
    for name in ("reflectance", "valid"):
        theirs: Any = old[name]
        mine: Any = new.create_array(
            name=name,
            shape=theirs.shape,
            dtype=theirs.dtype,
            chunks=theirs.chunks,
            shards=theirs.shards,
            compressors=theirs.compressors,
            filters=theirs.filters,
            fill_value=theirs.fill_value,
        )
        *_, height, width = theirs.shape
        *_, tile_y, tile_x = theirs.shards or theirs.chunks
        for y in range(0, height, tile_y):
            for x in range(0, width, tile_x):
                window = (..., slice(y, min(y + tile_y, height)), slice(x, min(x + tile_x, width)))
                mine[window] = theirs[window]


# ---------------------------------------------------------------------------------------------------------- network


def bench_network(scratch: Path, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A whole job with one worker against one call of its network on all of the scene, both with one thread.

    Two tiles along each axis, so that the halo factor is ((tile + 2 halo) / tile)^2. Of the reference only the call
    counts; it runs in memory kept as a worker keeps it.
    """
    archive = scratch / "network"
    make_source(archive, "network", bands=64, edge_px=options.network_px, noise=WORTH_RESTORING)
    torch.set_num_threads(1)
    keep_freed_memory()
    engine: Engine = serial if options.cpu else on_ray
    clock = time.process_time if options.cpu else time.perf_counter
    if not options.cpu:
        start_ray(cpus=1)  # an actor has as many threads as CPUs
    job = RestoreJob(archive=str(archive), workers=1, model=options.model, tile_px=options.network_px // 2)
    plans: list[Plan] = []

    def ours() -> float:
        forget_restored(archive)
        seconds = after_opening(restore(job, engine=engine), clock)
        found = next((archive / "restored").rglob("*.plan.json"))
        plans.append(Plan.from_dict(json.loads(found.read_text())))
        if any(facts.get("kind") == "untouched" for facts in (plans[-1].scene_facts or {})["steps"][0]):
            raise RuntimeError("the model left the scene alone: there is no network to compare with")
        return seconds

    def whole() -> float:
        plan = plans[-1]
        cube = Cube(ArchiveStore(str(archive)), plan.source)
        stored, _ = cube.read(slice(0, plan.spec.height), slice(0, plan.spec.width))
        assert plan.scene_facts is not None
        (restorer,) = bind_steps(plan, [load(builtin(plan.model))], plan.scene_facts["steps"])
        x = torch.from_numpy(physical(stored, cube.spec))[None]
        del stored
        with torch.inference_mode():
            return timed(lambda: restorer(x), clock)

    pairs = [(ours(), whole()) for _ in range(options.turns)]
    plan = plans[-1]
    factor = ((plan.tile_px + 2 * plan.halo) / plan.tile_px) ** 2
    mine, reference = [a for a, _ in pairs], [b for _, b in pairs]
    yield line(
        "job-one-worker-against-network", statistics.median(mine), statistics.median(reference),
        target=1.15 * factor, lower_is_better=True, unit="CPU s, serial engine" if options.cpu else "s",
        shape=list(plan.spec.shape), model=plan.model,
        tile_px=plan.tile_px, halo=plan.halo, halo_factor=round(factor, 3), tiles=len(plan.grid),
        turns={"ours": rounded(mine), "reference": rounded(reference)},
    )  # fmt: skip


# ----------------------------------------------------------------------------------------------------------- memory


def bench_memory(scratch: Path, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Peak of one worker for a scene and for one 16 times its area; each in a fresh Ray actor."""
    start_ray(cpus=1)
    small, large = options.memory_px, 4 * options.memory_px
    peaks = {edge: _peak_of_ingest(scratch / f"memory-ingest-{edge}", edge) for edge in (small, large)}
    yield line(
        "peak-memory-ingest-16-times-the-area", peaks[large], peaks[small], target=1.1, lower_is_better=True,
        unit="bytes resident, one worker", shapes=[[64, small, small], [64, large, large]],
    )  # fmt: skip
    for edge in (small, large):
        make_source(scratch / f"memory-restore-{edge}", "memory", bands=64, edge_px=edge, noise=WORTH_RESTORING)
    job = RestoreJob(archive="", workers=1, model=options.model, tile_px=small // 2)
    peaks = {edge: _peak_of_restore(job, scratch / f"memory-restore-{edge}") for edge in (small, large)}
    yield line(
        "peak-memory-restore-16-times-the-area", peaks[large], peaks[small], target=1.1, lower_is_better=True,
        unit="bytes resident, one worker", shapes=[[64, small, small], [64, large, large]],
        model=options.model, tile_px=small // 2,
    )  # fmt: skip


def _peak_of_ingest(folder: Path, edge_px: int) -> int:
    """One GeoTIFF of 64 bands in blocks of 256 pixels, ingested by one worker."""
    _write_scene(folder, 64, edge_px)
    report = finished(ingest(IngestJob(archive=str(folder / "archive"), workers=1)).wait())
    return report.peak_worker_bytes


def _write_scene(folder: Path, bands: int, edge_px: int, *, scale_step: float = 0.0) -> None:
    """A catalogued GeoTIFF in blocks of 256 pixels; `scale_step` is what the scale of a band adds to the last one's."""
    table = sensor("enmap")
    part = noisy_numbers(bands, 256, seed=1)
    (folder / "files").mkdir(parents=True)
    with rasterio.open(
        folder / "files" / "scene.tif", "w", driver="GTiff", count=bands, height=edge_px, width=edge_px, dtype="int16",
        nodata=-32768, crs="EPSG:32633", transform=TRANSFORM, tiled=True, blockxsize=256, blockysize=256,
        interleave="band",
    ) as file:  # fmt: skip
        for y in range(0, edge_px, 256):
            for x in range(0, edge_px, 256):
                file.write(part, window=rasterio.windows.Window(x, y, 256, 256))
        file.scales = tuple(1e-4 + scale_step * b for b in range(bands))
        for b in range(bands):
            file.update_tags(b + 1, wavelength=f"{table.wavelength_nm[b]}", wavelength_units="Nanometers", bbl="1")
    reflectance = Overrides(values={Field.QUANTITY: "reflectance"})
    archive = str(folder / "archive")
    catalog_folder(archive, folder / "files", sensor="enmap", collection="bench", overrides=reflectance)


def _peak_of_restore(job: RestoreJob, archive: Path) -> int:
    return finished(restore(job.model_copy(update={"archive": str(archive)})).wait()).peak_worker_bytes


# ----------------------------------------------------------------------------------------------------------- ingest


def bench_ingest(scratch: Path, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Items that exist already -> a Zarr on disk, by us (serial engine, one process) and by odc-stac."""
    if options.data is None:
        print("ingest: skipped; give --data, the folder of real scenes", file=sys.stderr)
        return
    cases = {
        "sentinel2-sample": (options.data / "sentinel2", "S2_L2A_sample.tif", "sentinel2a", 10),
        "enmap-18-tiles": (options.data / "enmap_potsdam", "*.tif", "enmap", 30),
    }
    for name, (folder, pattern, kind, gsd_m) in cases.items():
        files = scratch / name / "files"
        shutil.copytree(folder, files, ignore=lambda at, names, p=pattern: [n for n in names if not Path(n).match(p)])
        items = [odc_item(path) for path in sorted(files.glob(pattern))]
        engine: Engine = serial

        def ours(at: Path = scratch / name, kind: str = kind, files: Path = files, engine: Engine = engine) -> float:
            shutil.rmtree(at / "archive", ignore_errors=True)
            catalog_folder(str(at / "archive"), files, sensor=kind, collection="bench")
            return timed(lambda: finished(ingest(IngestJob(archive=str(at / "archive")), engine=engine).wait()))

        def theirs(at: Path = scratch / name, items: list[pystac.Item] = items, gsd_m: int = gsd_m) -> float:
            shutil.rmtree(at / "odc.zarr", ignore_errors=True)
            return timed(lambda: odc_to_zarr(items, at / "odc.zarr", gsd_m))

        mine, reference = in_turn(ours, theirs, options.turns)
        cube = hypermend.open(str(scratch / name / "archive")).search(stage="source")[0].dataset()
        yield line(
            f"ingest-{name}-against-odc-stac", statistics.median(mine), statistics.median(reference), target=1.0,
            lower_is_better=True, unit="s", shape=[cube.sizes[d] for d in ("band", "y", "x")], files=len(items),
            dtype=str(xarray.open_zarr(scratch / name / "odc.zarr")["data.1"].dtype),
            turns={"ours": rounded(mine), "reference": rounded(reference)},
        )  # fmt: skip


def odc_item(path: Path) -> pystac.Item:
    """A STAC item of one GeoTIFF, with what odc-stac needs to load all its bands."""
    with rasterio.open(path) as file:
        grid = GeoBox(file.shape, file.transform, file.crs)
        bands = [{"data_type": file.dtypes[0], "nodata": file.nodata}] * file.count
        names = [{"name": f"B{b}"} for b in range(1, file.count + 1)]
        proj = {"proj:shape": list(file.shape), "proj:transform": list(file.transform)[:6]}
        epsg = file.crs.to_epsg()
    outline = grid.extent.to_crs("EPSG:4326")
    item = pystac.Item(
        id=path.stem,
        geometry=outline.json,
        bbox=list(outline.boundingbox.bbox),
        datetime=datetime(2022, 7, 24, tzinfo=UTC),
        properties={"proj:code": f"EPSG:{epsg}", "proj:epsg": epsg, **proj},
        stac_extensions=[
            "https://stac-extensions.github.io/projection/v2.0.0/schema.json",
            "https://stac-extensions.github.io/raster/v1.1.0/schema.json",
            "https://stac-extensions.github.io/eo/v1.1.0/schema.json",
        ],
    )
    extra = {"raster:bands": bands, "eo:bands": names, **proj}
    media = "image/tiff; application=geotiff"
    item.add_asset("data", pystac.Asset(str(path), media_type=media, roles=["data"], extra_fields=extra))
    return item


def odc_to_zarr(items: list[pystac.Item], target: Path, gsd_m: int) -> None:
    """One mosaic of all bands at the items' own grid, through dask, as odc-stac's documentation does it."""
    count = len(items[0].assets["data"].extra_fields["eo:bands"])
    loaded = odc.stac.load(
        items,
        bands=[f"data.{b}" for b in range(1, count + 1)],
        groupby="solar_day",
        crs=items[0].properties["proj:code"],
        resolution=gsd_m,
        chunks={"x": 256, "y": 256},
    )
    loaded.to_zarr(target, zarr_format=3, mode="w")


# -------------------------------------------------------------------------------------------------------- overviews


def bench_overviews(scratch: Path, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The same ingest with and without overviews, in turn, in one process."""
    clock = time.process_time if options.cpu else time.perf_counter
    folders = {"geotiff": scratch / "overviews-geotiff"}
    _write_scene(folders["geotiff"], 224, 1024)
    if options.data is not None:
        folders["enmap-18-tiles"] = scratch / "overviews-enmap"
        archive = str(folders["enmap-18-tiles"] / "archive")
        catalog_folder(archive, options.data / "enmap_potsdam", sensor="enmap", collection="bench")
    for name, folder in folders.items():
        run = partial(_ingested_anew, folder / "archive", clock)
        run(overviews=True)  # the files are in the page cache from now on
        mine, reference = in_turn(partial(run, overviews=True), partial(run, overviews=False), options.turns)
        yield line(
            f"ingest-{name}-with-overviews", statistics.median(mine), statistics.median(reference), target=1.1,
            lower_is_better=True, unit="CPU s, serial engine" if options.cpu else "s, serial engine",
            turns={"ours": rounded(mine), "reference": rounded(reference)},
        )  # fmt: skip


def _ingested_anew(archive: Path, clock: Clock, *, overviews: bool = False) -> float:
    """Seconds of an ingest that finds no cube."""
    for made in ("source", "items/bench-source", "index"):
        shutil.rmtree(archive / made, ignore_errors=True)
    job = IngestJob(archive=str(archive), overviews=overviews)
    return timed(lambda: finished(ingest(job, engine=serial).wait()), clock)


# ----------------------------------------------------------------------------------------------------------- report


def bench_report(scratch: Path, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Two scenes of one tile and 31 bands, the smallest job that people run, with and without what shows its result."""
    archive = scratch / "report"
    for name in ("one", "two"):
        make_source(archive, name, bands=31, edge_px=512, noise=WORTH_RESTORING)
    job = RestoreJob(archive=str(archive), model=options.model)

    def restored() -> str:
        forget_restored(archive)
        return finished(restore(job, engine=serial).wait()).run

    def ours() -> float:
        return timed(lambda: write_report(str(archive), restored()), time.process_time)

    def bare() -> float:
        with (
            patch.object(worker, "tile_figures", lambda *_: {}),
            patch.object(worker, "write_quicklooks", lambda *_, **__: ()),
        ):
            return timed(restored, time.process_time)

    ours()  # imports and models are loaded from now on
    mine, reference = in_turn(ours, bare, options.turns)
    yield line(
        "restore-with-figures-quicklooks-and-page", statistics.median(mine), statistics.median(reference), target=1.05,
        lower_is_better=True, unit="CPU s, serial engine", shapes=[[31, 512, 512]] * 2, model=options.model,
        turns={"ours": rounded(mine), "reference": rounded(reference)},
    )  # fmt: skip


# ----------------------------------------------------------------------------------------------------------- scales


def bench_scales(scratch: Path, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Decoded bands against the same stored numbers, which is all that two arrays of factors beside them would add to.

    What a reader gets has no figure: without decoding, plain xarray shows counts under the name of a radiance.
    """
    clock = time.process_time if options.cpu else time.perf_counter
    folders = scratch / "scales-decoded", scratch / "scales-stored"
    for folder, step in zip(folders, (1e-7, 0.0), strict=True):
        _write_scene(folder, 224, 512, scale_step=step)
    decoded, stored = (partial(_ingested_anew, folder / "archive", clock) for folder in folders)
    decoded(), stored()  # the files are in the page cache from now on
    mine, reference = in_turn(decoded, stored, options.turns)
    yield line(
        "ingest-scale-of-each-band", statistics.median(mine), statistics.median(reference), target=2.0,
        lower_is_better=True, unit="CPU s, serial engine" if options.cpu else "s, serial engine",
        turns={"ours": rounded(mine), "reference": rounded(reference)},
    )  # fmt: skip
    sizes = [sum(e.size for e in ArchiveStore(str(folder / "archive")).list("source")) for folder in folders]
    yield line("bytes-scale-of-each-band", *sizes, target=2.0, lower_is_better=True, unit="bytes of the source cube")


# -------------------------------------------------------------------------------------------------------------- main


BENCHES = {
    "copy": bench_copy,
    "network": bench_network,
    "memory": bench_memory,
    "ingest": bench_ingest,
    "overviews": bench_overviews,
    "report": bench_report,
    "scales": bench_scales,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of real scenes, for `ingest`")
    parser.add_argument("--only", nargs="+", choices=BENCHES, default=list(BENCHES))
    parser.add_argument("--scratch", type=Path, help="where to work; default a folder that is removed at the end")
    parser.add_argument("--gib", type=float, default=1.0, help="size of the scene of `copy`")
    parser.add_argument("--network-px", type=int, default=1024, help="edge of the scene of `network`, a multiple of 32")
    parser.add_argument(
        "--cpu",
        action="store_true",
        help="`network`, `overviews` and `scales` in CPU seconds of one process, for a machine that others use",
    )
    parser.add_argument("--memory-px", type=int, default=512, help="edge of the smaller scene of `memory`")
    parser.add_argument("--model", default=TASKS["denoise"].builtins[0], help="model of `network` and `memory`")
    parser.add_argument("--turns", type=int, default=3, help="runs of each side")
    options = parser.parse_args()
    missed = 0
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        for name in options.only:
            for result in BENCHES[name](Path(scratch), options):
                missed += not result["met"]
                print(json.dumps(result), flush=True)
    print(f"{missed} targets missed" if missed else "all targets met", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
