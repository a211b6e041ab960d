"""What the house costs beside the bare work: `python -m benchmarks.io [--data DIR] [--only NAME ...]`.

One JSON line for each measurement, with `name`, `ours`, `reference` and `ratio`; both sides run in turn in one process
on one machine, and the median of the turns counts. `target` is what the project asks of itself; `met` says whether it
holds here.

    copy      identity restorer against a bare Zarr-to-Zarr copy of the same shards with the cube's codec (MiB/s)
    network   a restoration by one worker, start-up apart, against the network on the whole scene in one call (s)
    memory    largest resident size of a worker for a scene and for one of 16 times its area (bytes)
    ingest    files to a source cube against odc.stac.load(...).to_zarr of the same files (s); needs --data
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import odc.stac
import pystac
import rasterio
import torch
import xarray
import zarr
from affine import Affine
from odc.geo.geobox import GeoBox

import catalog
from catalog.cube import Cube, create
from catalog.publish import put_item, source_item
from catalog.root import Root
from catalog.scene import Scene
from catalog.sensors import sensor
from catalog.spec import VALID, CubeSpec
from models.card import ModelCard
from models.checkpoint import builtin, load
from pipeline.config import IngestJob, RestoreJob
from pipeline.demo_scenes import landscape
from pipeline.denoise_worker import bind
from pipeline.execute import serial, start_ray
from pipeline.ingest import catalog_folder, ingest
from pipeline.job import Engine, Run, RunReport
from pipeline.pixels import physical
from pipeline.plan import Plan
from pipeline.restore import DEFAULT_MODEL, restore

TRANSFORM = Affine(30, 0, 500000, 0, -30, 5800020)
WORTH_RESTORING = 300
"""Noise, of 10000, that the shipped model does not leave alone."""
Numbers = npt.NDArray[np.int16]


# ------------------------------------------------------------------------------------------------- scenes to work on


def noisy_numbers(bands: int, edge_px: int, seed: int, noise: float = 20) -> Numbers:
    """(bands, edge, edge) reflectance x 10000 with noise, so that a codec has real work to do."""
    truth = landscape(np.linspace(420, 2450, bands).tolist(), height=edge_px, width=edge_px, seed=seed)
    added = np.random.default_rng(seed).normal(0, noise, truth.shape)
    return np.asarray(np.clip(np.rint(truth * 10000 + added), 1, 32000), dtype=np.int16)


def make_source(archive: Path, scene_id: str, *, bands: int, edge_px: int, noise: float = 20) -> None:
    """Publish a source cube of (bands, edge, edge) int16, as if it had been ingested; tiles repeat four landscapes."""
    root = Root(str(archive))
    shape = (bands, edge_px, edge_px)
    chunk, shard = CubeSpec.layout(shape, "int16")
    spec = CubeSpec(
        shape=shape,
        dtype="int16",
        scale_factor=1e-4,
        fill=-32768,
        band=tuple(range(1, bands + 1)),
        band_name=tuple(f"B{b}" for b in range(1, bands + 1)),
        wavelength_nm=tuple(np.linspace(420, 2450, bands).tolist()),
        fwhm_nm=(8.0,) * bands,
        detector=("VNIR",) * bands,
        good=(True,) * bands,
        gsd_m=(30.0,) * bands,
        crs="EPSG:32633",
        transform=tuple(TRANSFORM)[:6],
        quantity="reflectance",
        units="1",
        sensor="enmap",
        stage="source",
        chunk=chunk,
        shard=shard,
    )
    key = f"source/{scene_id}/benchmark.zarr"
    create(root, key, spec)
    cube = Cube(root, key)
    parts = [noisy_numbers(bands, shard[1], seed, noise) for seed in range(4)]
    rows, columns = spec.tiles
    for iy in range(rows):
        for ix in range(columns):
            y, x = spec.window(iy, ix)
            part = np.ascontiguousarray(parts[(iy + ix) % 4][:, : y.stop - y.start, : x.stop - x.start])
            flags = np.full(part.shape[1:], VALID, dtype=np.uint8)
            cube.mark(iy, ix, cube.write(y, x, part, flags))
    cube.fold()
    scene = Scene(
        id=scene_id, collection="bench", datetime=datetime(2026, 1, 1, tzinfo=UTC), sensor="enmap", assets={},
        stage="raw", properties={},
    )  # fmt: skip
    put_item(root, source_item(scene, spec, key=key, ingest_id="benchmark", valid_fraction=1.0), run="benchmark")


def make_identity(archive: Path, halo: int) -> str:
    """A model of the archive that changes nothing and asks for a halo; its name."""
    card = replace(ModelCard.read(builtin("identity") / "card.json"), name=f"identity-halo-{halo}", halo=halo)
    folder = archive / "models" / card.name
    folder.mkdir(parents=True, exist_ok=True)
    card.write(folder / "card.json")
    return card.name


def forget_restored(archive: Path) -> None:
    """The archive as it was before any restoration."""
    for stale in (archive / "restored", archive / "items" / "bench-denoise", archive / "index" / "bench-denoise"):
        shutil.rmtree(stale, ignore_errors=True)


# -------------------------------------------------------------------------------------------------------- measuring


def timed(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def after_opening(run: Run) -> float:
    """Seconds from the first scene opened to the end of the run: start-up and whole-scene estimates apart."""
    start = 0.0
    for event in run:
        if event.kind == "opened" and start == 0.0:
            start = time.perf_counter()
    finished(run.report)
    return time.perf_counter() - start


def finished(report: RunReport) -> RunReport:
    """The report of a run that must have published its scene; a benchmark of failures measures nothing."""
    if report.exit_code or not report.count("published"):
        raise RuntimeError(f"the run did not publish: {[(s.scene, s.status, s.reason) for s in report.scenes]}")
    return report


def in_turn(ours: Callable[[], float], reference: Callable[[], float], turns: int) -> tuple[list[float], list[float]]:
    """Both sides, reference first, `turns` times."""
    pairs = [(reference(), ours()) for _ in range(turns)]
    return [mine for _, mine in pairs], [bare for bare, _ in pairs]


def line(
    name: str, ours: float, reference: float, *, target: float, lower_is_better: bool, **more: Any
) -> dict[str, Any]:
    ratio = ours / reference
    return {
        "name": name,
        "ours": round(ours, 4),
        "reference": round(reference, 4),
        "ratio": round(ratio, 3),
        "target": round(target, 3),
        "met": ratio <= target if lower_is_better else ratio >= target,
        **more,
        "versions": {p: version(p) for p in ("zarr", "xarray", "torch", "ray", "rasterio", "odc-stac")},
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
    }


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
            dtype="int16", tile_px=256, turns={"ours": _rounded(mine), "reference": _rounded(reference)},
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
    """A whole job with one worker against one call of its network, both with one thread."""
    archive = scratch / "network"
    make_source(archive, "network", bands=64, edge_px=options.network_px, noise=WORTH_RESTORING)
    torch.set_num_threads(1)  # what Ray grants an actor of one CPU
    start_ray()
    job = RestoreJob(archive=str(archive), workers=1, model=options.model)
    plans: list[Plan] = []

    def ours() -> float:
        forget_restored(archive)
        seconds = after_opening(restore(job))
        found = next((archive / "restored").rglob("*.plan.json"))
        plans.append(Plan.from_dict(json.loads(found.read_text())))
        if any(facts.get("kind") == "untouched" for facts in (plans[-1].scene_facts or {})["model"]):
            raise RuntimeError("the model left the scene alone: there is no network to compare with")
        return seconds

    def whole() -> float:
        plan = plans[-1]
        cube = Cube(Root(str(archive)), plan.source)
        stored, _ = cube.read(slice(0, plan.spec.height), slice(0, plan.spec.width))
        restorer = bind(plan, load(builtin(plan.model)))
        x = torch.from_numpy(physical(stored, cube.spec))[None]
        with torch.inference_mode():
            return timed(lambda: restorer(x))

    pairs = [(ours(), whole()) for _ in range(options.turns)]
    plan = plans[-1]
    rows, columns = plan.grid.read_px
    padded = len(plan.grid) * (rows + 2 * plan.halo) * (columns + 2 * plan.halo)
    factor = padded / (plan.spec.height * plan.spec.width)
    mine, reference = [a for a, _ in pairs], [b for _, b in pairs]
    yield line(
        "job-one-worker-against-network", statistics.median(mine), statistics.median(reference),
        target=1.15 * factor, lower_is_better=True, unit="s", shape=list(plan.spec.shape), model=plan.model,
        tile_px=plan.tile_px, halo=plan.halo, halo_factor=round(factor, 3),
        turns={"ours": _rounded(mine), "reference": _rounded(reference)},
    )  # fmt: skip


# ----------------------------------------------------------------------------------------------------------- memory


def bench_memory(scratch: Path, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Peak of one worker for a scene and for one 16 times its area; each in a fresh Ray actor."""
    start_ray()
    small, large = 512, 2048
    peaks = {edge: _peak_of_ingest(scratch / f"memory-ingest-{edge}", edge) for edge in (small, large)}
    yield line(
        "peak-memory-ingest-16-times-the-area", peaks[large], peaks[small], target=1.1, lower_is_better=True,
        unit="bytes resident, one worker", shapes=[[64, small, small], [64, large, large]],
    )  # fmt: skip
    for edge in (small, large):
        make_source(scratch / f"memory-restore-{edge}", "memory", bands=64, edge_px=edge, noise=WORTH_RESTORING)
    peaks = {edge: _peak_of_restore(scratch / f"memory-restore-{edge}", options.model) for edge in (small, large)}
    yield line(
        "peak-memory-restore-16-times-the-area", peaks[large], peaks[small], target=1.1, lower_is_better=True,
        unit="bytes resident, one worker", shapes=[[64, small, small], [64, large, large]],
        model=options.model,
    )  # fmt: skip


def _peak_of_ingest(folder: Path, edge_px: int) -> int:
    """One GeoTIFF of 64 bands in blocks of 256 pixels, ingested by one worker."""
    bands = 64
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
        file.scales = (1e-4,) * bands
        for b in range(bands):
            file.update_tags(b + 1, wavelength=f"{table.wavelength_nm[b]}", wavelength_units="Nanometers", bbl="1")
    catalog_folder(str(folder / "archive"), folder / "files", sensor="enmap", collection="bench")
    report = finished(ingest(IngestJob(archive=str(folder / "archive"), workers=1)).wait())
    return report.peak_worker_bytes


def _peak_of_restore(archive: Path, model: str) -> int:
    return finished(restore(RestoreJob(archive=str(archive), workers=1, model=model)).wait()).peak_worker_bytes


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
        cube = catalog.open(str(scratch / name / "archive")).search(stage="source")[0].dataset()
        yield line(
            f"ingest-{name}-against-odc-stac", statistics.median(mine), statistics.median(reference), target=1.0,
            lower_is_better=True, unit="s", shape=[cube.sizes[d] for d in ("band", "y", "x")], files=len(items),
            dtype=str(xarray.open_zarr(scratch / name / "odc.zarr")["data.1"].dtype),
            turns={"ours": _rounded(mine), "reference": _rounded(reference)},
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


# -------------------------------------------------------------------------------------------------------------- main


def _rounded(values: list[float]) -> list[float]:
    return [round(v, 3) for v in values]


BENCHES = {"copy": bench_copy, "network": bench_network, "memory": bench_memory, "ingest": bench_ingest}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of real scenes, for `ingest`")
    parser.add_argument("--only", nargs="+", choices=BENCHES, default=list(BENCHES))
    parser.add_argument("--scratch", type=Path, help="where to work; default a folder that is removed at the end")
    parser.add_argument("--gib", type=float, default=1.0, help="size of the scene of `copy`")
    parser.add_argument("--network-px", type=int, default=1024, help="edge of the scene of `network`")
    parser.add_argument("--model", default=DEFAULT_MODEL["denoise"], help="model of `network` and `memory`")
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
