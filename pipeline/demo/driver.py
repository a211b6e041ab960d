"""`hypermend demo`: an archive of synthetic scenes with known truth, and the whole walk over it.

    deliveries -> catalog -> ingest -> plan -> denoise -> fuse -> query -> compared with the truth

Nothing in it is a measurement, and it says so. The walk uses the same functions as the verbs of the command line. A
second run finds everything done, writes nothing and ends in the same way.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray
from rich.console import Console

import hypermend
from hypermend.catalog.archive import Item
from hypermend.catalog.cube.spec import VALID
from hypermend.catalog.sensors import sensor
from hypermend.models.arrays import F32
from hypermend.pipeline.config import IngestJob, RestoreJob
from hypermend.pipeline.demo.deliveries import Place, write_enmap_tiles, write_hyperion_files
from hypermend.pipeline.demo.pair import (
    COARSE,
    PAIR_SCALE,
    SHARP,
    SyntheticPair,
    compare_pair,
    deliver_pair,
    pair_scene,
)
from hypermend.pipeline.demo.picture import draw
from hypermend.pipeline.demo.scenes import DemoSize, Flaws, SyntheticScene, landscape, spoiled_scene
from hypermend.pipeline.demo.score import Compared, score_table
from hypermend.pipeline.engine.cluster import start_ray
from hypermend.pipeline.formatting import duration, size
from hypermend.pipeline.ingest import catalog_folder, ingest
from hypermend.pipeline.restore.driver import restore
from hypermend.pipeline.restore.dry_run import estimate_scenes, plan_table
from hypermend.pipeline.runs.progress import follow, summary
from hypermend.pipeline.runs.report import RunReport
from hypermend.pipeline.runs.run import Run

PLACES = {
    "enmap": Place(crs="EPSG:32633", west=366000.0, north=5810010.0),
    "hyperion": Place(crs="EPSG:32631", west=445005.0, north=5420985.0),
}


def run(archive: Path, console: Console, *, demo_size: DemoSize | None = None) -> dict[str, Any]:
    """Make the demo archive at ``archive``, walk it, and say what came out.

    Returns:
        archive, seconds, bytes_written (0 when everything was there), scores, picture, python (lines that open the
        result) and exit_code of the restoration: values that JSON can hold.
    """
    begin = time.monotonic()
    chosen = demo_size or DemoSize()
    archive.mkdir(parents=True, exist_ok=True)
    say = _Steps(console)
    say.line("[bold]Every scene of this demo is synthetic[/]: made by a program, not measured.")

    say("Deliveries", "two instruments, as files")
    truths, pair, wrote = deliver(archive / "deliveries", chosen)
    _show_deliveries(truths, pair, say)

    say("Catalog", "STAC items for folders that have none")
    wrote += _catalogued(archive, list(truths), say)

    with console.status("starting Ray"):
        start_ray(address=None, cpus=None)
    say("Ingest", "files to source cubes (Zarr)")
    ingested = _carry_out(ingest(IngestJob(archive=str(archive), tile_px=chosen.tile_px)), console)

    say("Plan", "what a restoration would do")
    alone = tuple(f"demo-{kind}" for kind in truths)
    job = RestoreJob(archive=str(archive), collections=alone, tile_px=chosen.tile_px)
    plan_table(list(estimate_scenes(job)), console)

    say("Denoise", "tile by tile on an embedded Ray")
    restored = _carry_out(restore(job), console)

    say("Fuse", "the many bands of one image with the sharp pixels of another")
    fusion = RestoreJob(
        archive=str(archive), task="fuse", collections=(COARSE,), guide_collection=SHARP, tile_px=chosen.tile_px
    )
    plan_table(list(estimate_scenes(fusion)), console)
    fused = _carry_out(restore(fusion), console)
    runs = (ingested, restored, fused)
    wrote += sum(report.bytes_written for report in runs)

    say("Query", "what the archive now holds")
    found = [item for stage in ("source", "restored") for item in hypermend.open(str(archive)).search(stage=stage)]
    for item in found:
        say.line(f"{item.scene.collection}: {item.scene.id}")

    say("Truth", "the answer was known all along")
    cubes = {item.scene.collection: item for item in found}
    compared = [compare(truths[k], cubes[f"demo-{k}-source"], cubes[f"demo-{k}-denoise"]) for k in truths]
    compared.append(compare_pair(pair, cubes[f"{COARSE}-source"], cubes[f"{COARSE}-fuse"]))
    scores = [c.score() for c in compared]
    score_table(scores, console)

    picture = archive / "demo" / "before-after.png"
    after = [cubes[name] for name in (*(f"{name}-denoise" for name in alone), f"{COARSE}-fuse")]
    plans = " ".join(str(item.scene.properties["hypermend:plan"]) for item in after)
    wrote += draw([c.panel() for c in compared], picture, made_from=plans)
    lines = _python_lines(cubes["demo-hyperion-denoise"])
    _ending(console, picture, lines)
    seconds = time.monotonic() - begin
    say.line(f"\n{duration(seconds)}, {size(wrote)} written" + ("" if wrote else ": everything was already there"))
    return {
        "archive": str(archive),
        "seconds": round(seconds, 1),
        "bytes_written": wrote,
        "scores": [vars(score) for score in scores],
        "picture": str(picture),
        "python": lines,
        "exit_code": max(report.exit_code for report in runs),
    }


def deliver(folder: Path, demo_size: DemoSize) -> tuple[dict[str, SyntheticScene], SyntheticPair, int]:
    """Make all scenes, write those files that are not there yet; the scenes by sensor, the pair, the bytes written."""
    before = _bytes_in(folder)
    enmap, hyperion = enmap_scene(*demo_size.enmap_px), hyperion_scene(*demo_size.hyperion_px)
    table = sensor("enmap")
    write_enmap_tiles(
        folder / "enmap",
        enmap.observed,
        enmap.valid,
        name=enmap.name,
        wavelength_nm=table.wavelength_nm,
        fwhm_nm=table.fwhm_nm,
        good=enmap.good,
        place=PLACES["enmap"],
        start_time="2022-07-24T10:45:26",
        tile_px=demo_size.delivery_px,
        without=[(demo_size.enmap_px[0] // demo_size.delivery_px - 1, 0)],
    )
    write_hyperion_files(
        folder / "hyperion",
        hyperion.observed,
        hyperion.valid,
        name=hyperion.name,
        detector=sensor("hyperion").detector,
        good=hyperion.good,
        place=PLACES["hyperion"],
        date="2009-07-19",
    )
    pair = pair_scene(*demo_size.pair_px)
    deliver_pair(folder, pair, delivery_px=demo_size.delivery_px // 2)
    return {"enmap": enmap, "hyperion": hyperion}, pair, _bytes_in(folder) - before


def _show_deliveries(truths: Mapping[str, SyntheticScene], pair: SyntheticPair, say: _Steps) -> None:
    for kind, scene in truths.items():
        bands, height, width = scene.truth.shape
        say.line(f"{kind}-like: {width} x {height} pixels x {bands} bands of {scene.quantity}")
    (bands, height, width), (few, _, _) = pair.coarse.shape, pair.sharp.shape
    say.line(
        f"a pair: enmap-like, {width} x {height} pixels x {bands} bands, and sentinel2-like, {few} bands on pixels "
        f"{PAIR_SCALE} times finer"
    )


def _catalogued(archive: Path, kinds: Sequence[str], say: _Steps) -> int:
    """Items for every folder of deliveries; the bytes written."""
    wrote = 0
    folders = [(kind, kind, f"demo-{kind}") for kind in kinds]
    for kind, folder, collection in [*folders, ("enmap", COARSE, COARSE), ("sentinel2a", SHARP, SHARP)]:
        made = catalog_folder(str(archive), archive / "deliveries" / folder, sensor=kind, collection=collection)
        wrote += made.bytes_written
        say.line(f"{collection}: {', '.join(made.scenes)}")
    return wrote


def enmap_scene(height: int, width: int) -> SyntheticScene:
    """Reflectance with small noise: a signal-to-noise ratio near 400 at 500 nm, near 150 at 2200 nm, and bad bands."""
    table = sensor("enmap")
    truth = landscape(table.wavelength_nm, height=height, width=width, seed=2022)
    wl_um = np.asarray(table.wavelength_nm, dtype=np.float32) / 1000
    noise = (0.0008 + 0.0008 * (wl_um - 0.4)).astype(np.float32)
    bad = tuple(b for b, usable in enumerate(table.usable) if not usable)
    flaws = Flaws(noise=noise, stripes=0.3 * noise, bad_bands=bad, nodata_corner=0.25)
    return spoiled_scene("DEMO", "reflectance", table.wavelength_nm, truth, flaws, seed=7)


def hyperion_scene(height: int, width: int) -> SyntheticScene:
    """Radiance with strong noise and stripes, dead columns, uncalibrated bands without numbers, a tilted edge."""
    table = sensor("hyperion")
    truth = landscape(table.wavelength_nm, height=height, width=width, seed=2009, quantity="radiance")
    level = truth.mean(axis=(1, 2))
    noise = (0.35 + 0.04 * level).astype(np.float32)
    bad = tuple(b for b, usable in enumerate(table.usable) if not usable)
    flaws = Flaws(noise=noise, stripes=0.5 * noise, dead_columns=60, bad_bands=bad, nodata_corner=0.35)
    return spoiled_scene("EO1HDEMO2009200", "radiance", table.wavelength_nm, truth, flaws, seed=9)


def _bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def compare(scene: SyntheticScene, before: Item, after: Item) -> Compared:
    """A scene's source and denoised cube beside its truth."""
    source, restored = before.dataset().load(), after.dataset().load()
    return Compared(
        scene=after.scene.id,
        sensor=after.scene.sensor,
        task="denoise",
        title=f"{after.scene.id}\n(synthetic, {after.scene.sensor}-like)",
        wavelength_nm=source["wavelength"].values,
        good=source["good"].values.astype(bool),
        usable=(source["valid"].values & VALID) != 0,
        before=in_unit_of_truth(source),
        after=in_unit_of_truth(restored),
        # The cube is sorted by wavelength and keeps the product's band numbers: the truth is brought into its order.
        truth=scene.truth[source["band"].values.astype(int) - 1],
    )


def in_unit_of_truth(cube: xarray.Dataset) -> F32:
    """A cube's numbers (band, y, x); counts of a Hyperion delivery become radiance by the factor of each band."""
    values = cube["reflectance"].values.astype(np.float32)
    factors = cube.attrs.get("hypermend:radiance_mult")
    return values if factors is None else values * np.asarray(factors, dtype=np.float32)[:, None, None]


class _Steps:
    """Headings, numbered, and what is said under them."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._count = 0

    def __call__(self, title: str, meaning: str) -> None:
        self._count += 1
        self.line(f"\n[bold]{self._count}. {title}[/]: {meaning}")

    def line(self, text: str) -> None:
        self._console.print(text, highlight=False)


def _carry_out(begun: Run, console: Console) -> RunReport:
    report = follow(begun, console)
    summary(report, console)
    return report


def _python_lines(item: Item) -> list[str]:
    return [
        "import xarray",
        f'ds = xarray.open_zarr("{item.scene.assets["cube"].href}")',
        "print(ds)",
    ]


def _ending(console: Console, picture: Path, lines: Sequence[str]) -> None:
    console.print(f"\nPicture: {picture}", highlight=False, soft_wrap=True)
    console.print("\nOpen a restored cube, with nothing of Hypermend:", highlight=False)
    for line in lines:
        console.print(f"  {line}", highlight=False, soft_wrap=True, markup=False)
