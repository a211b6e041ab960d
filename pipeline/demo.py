"""`hypermend demo`: an archive of synthetic scenes with known truth, and the whole walk over it.

    deliveries -> catalog -> ingest -> plan -> restore -> query -> compared with the truth

Nothing in it is a measurement, and it says so. The walk uses the same functions as the verbs of the command line. A
second run finds everything done, writes nothing and ends in the same way.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray
from rich.console import Console
from rich.table import Table

import catalog
from catalog.archive import Item
from catalog.sensors import sensor
from catalog.spec import VALID
from models.metrics import psnr, sam
from pipeline.config import IngestJob, RestoreJob
from pipeline.demo_files import Place, write_enmap_tiles, write_hyperion_files
from pipeline.demo_picture import Panel, draw
from pipeline.demo_scenes import Array, DemoSize, Flaws, SyntheticScene, landscape, spoiled_scene
from pipeline.execute import start_ray
from pipeline.ingest import catalog_folder, ingest
from pipeline.job import Run, RunReport
from pipeline.report import duration, follow, plan_table, size, summary
from pipeline.restore import planned, restore

PLACES = {
    "enmap": Place(crs="EPSG:32633", west=366000.0, north=5810010.0),
    "hyperion": Place(crs="EPSG:32631", west=445005.0, north=5420985.0),
}


@dataclass(frozen=True, kw_only=True)
class Score:
    """How near a scene is to its truth, before and after, over its good bands and valid pixels."""

    scene: str
    sensor: str
    psnr_before_db: float
    psnr_after_db: float
    sam_before_deg: float
    sam_after_deg: float


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
    console.print("[bold]Every scene of this demo is synthetic[/]: made by a program, not measured.", highlight=False)

    say("Deliveries", "two instruments, as files")
    truths, wrote = deliver(archive / "deliveries", chosen)
    for kind, scene in truths.items():
        bands, height, width = scene.truth.shape
        console.print(f"{kind}-like: {width} x {height} pixels x {bands} bands of {scene.quantity}", highlight=False)

    say("Catalog", "STAC items for folders that have none")
    for kind in truths:
        made = catalog_folder(str(archive), archive / "deliveries" / kind, sensor=kind, collection=f"demo-{kind}")
        wrote += made.bytes_written
        console.print(f"demo-{kind}: {', '.join(made.scenes)}", highlight=False)

    with console.status("starting Ray"):
        start_ray(address=None, cpus=None)
    say("Ingest", "files to source cubes (Zarr)")
    ingested = _carry_out(ingest(IngestJob(archive=str(archive), tile_px=chosen.tile_px)), console)

    say("Plan", "what a restoration would do")
    job = RestoreJob(archive=str(archive), tile_px=chosen.tile_px)
    plan_table(list(planned(job)), console)

    say("Restore", "tile by tile on an embedded Ray")
    restored = _carry_out(restore(job), console)
    wrote += ingested.bytes_written + restored.bytes_written

    say("Query", "what the archive now holds")
    cubes = {stage: catalog.open(str(archive)).search(stage=stage) for stage in ("source", "restored")}
    for item in (item for stage in cubes.values() for item in stage):
        console.print(f"{item.scene.collection}: {item.scene.id}", highlight=False)

    say("Truth", "the answer was known all along")
    before, after = ({item.scene.sensor: item for item in items} for items in cubes.values())
    compared = [compare(truths[kind], before[kind], after[kind]) for kind in truths]
    scores = [score for score, _ in compared]
    _score_table(scores, console)

    picture = archive / "demo" / "before-after.png"
    plans = " ".join(str(after[kind].scene.properties["hypermend:plan"]) for kind in truths)
    wrote += draw([panel for _, panel in compared], picture, made_from=plans)
    lines = _python_lines(after["hyperion"])
    _ending(console, picture, lines)
    console.print(
        f"\n{duration(time.monotonic() - begin)}, {size(wrote)} written"
        + ("" if wrote else ": everything was already there"),
        highlight=False,
    )
    return {
        "archive": str(archive),
        "seconds": round(time.monotonic() - begin, 1),
        "bytes_written": wrote,
        "scores": [vars(score) for score in scores],
        "picture": str(picture),
        "python": lines,
        "exit_code": max(ingested.exit_code, restored.exit_code),
    }


# ------------------------------------------------------------------------------------------------------ deliveries


def deliver(folder: Path, demo_size: DemoSize) -> tuple[dict[str, SyntheticScene], int]:
    """Make both scenes, write those files that are not there yet; the scenes by sensor and the bytes written."""
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
    return {"enmap": enmap, "hyperion": hyperion}, _bytes_in(folder) - before


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


# ------------------------------------------------------------------------------------------- compared with the truth


def compare(scene: SyntheticScene, before: Item, after: Item) -> tuple[Score, Panel]:
    """Score a scene's source and restored cube against its truth; the peak is the truth's maximum."""
    source, restored = before.dataset().load(), after.dataset().load()
    # The cube is sorted by wavelength and keeps the product's band numbers: the truth is brought into its order.
    truth = scene.truth[source["band"].values.astype(int) - 1]
    noisy, clean = in_unit_of_truth(source), in_unit_of_truth(restored)
    good = source["good"].values.astype(bool)
    usable = (source["valid"].values & VALID) != 0
    peak = float(truth[good][:, usable].max())
    score = Score(
        scene=after.scene.id,
        sensor=after.scene.sensor,
        psnr_before_db=psnr(truth[good], noisy[good], usable, peak=peak),
        psnr_after_db=psnr(truth[good], clean[good], usable, peak=peak),
        sam_before_deg=sam(truth[good], noisy[good], usable).degrees,
        sam_after_deg=sam(truth[good], clean[good], usable).degrees,
    )
    bands = [_band_near(source["wavelength"].values, good, nm) for nm in (650.0, 550.0, 470.0)]
    panel = Panel(
        title=f"{after.scene.id}\n(synthetic, {after.scene.sensor}-like)",
        before=noisy[bands],
        after=clean[bands],
        truth=truth[bands],
        usable=usable,
    )
    return score, panel


def in_unit_of_truth(cube: xarray.Dataset) -> Array:
    """A cube's numbers (band, y, x); counts of a Hyperion delivery become radiance by the factor of each band."""
    values = cube["reflectance"].values.astype(np.float32)
    factors = cube.attrs.get("hypermend:radiance_mult")
    return values if factors is None else values * np.asarray(factors, dtype=np.float32)[:, None, None]


def _band_near(wavelength_nm: npt.NDArray[Any], good: npt.NDArray[np.bool_], nm: float) -> int:
    return int(np.argmin(np.where(good, np.abs(wavelength_nm - nm), np.inf)))


# --------------------------------------------------------------------------------------------------------- telling


class _Steps:
    """Headings, numbered."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._count = 0

    def __call__(self, title: str, meaning: str) -> None:
        self._count += 1
        self._console.print(f"\n[bold]{self._count}. {title}[/]: {meaning}", highlight=False)


def _carry_out(begun: Run, console: Console) -> RunReport:
    report = follow(begun, console)
    summary(report, console)
    return report


def _score_table(scores: list[Score], console: Console) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("scene", overflow="fold")
    for name in ("PSNR before", "after", "SAM before", "after"):
        table.add_column(name, justify="right")
    for s in scores:
        table.add_row(
            s.scene,
            f"{s.psnr_before_db:.2f} dB",
            f"{s.psnr_after_db:.2f} dB",
            f"{s.sam_before_deg:.2f} deg",
            f"{s.sam_after_deg:.2f} deg",
        )
    console.print(table)


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
