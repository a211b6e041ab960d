"""`hypermend demo`: an archive of synthetic scenes with known truth, processed from files to restored cubes.

    deliveries -> catalog -> ingest -> plan -> denoise -> fuse -> query -> comparison with the truth

Nothing in it is a measurement, and it says so. It calls the same functions as the verbs of the command line. A second
run finds everything done, writes nothing and ends in the same way.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

import hypermend
from hypermend.catalog.archive import Item
from hypermend.catalog.meaning.overrides import NO_OVERRIDES, Overrides
from hypermend.catalog.meaning.statement import Field
from hypermend.pipeline.config import IngestJob, RestoreJob
from hypermend.pipeline.demo.deliveries import SENTINEL2_NUMBERS
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
from hypermend.pipeline.demo.scenes import DemoSize, SyntheticScene
from hypermend.pipeline.demo.score import Comparison, score_table
from hypermend.pipeline.demo.single_images import compare_scene, deliver_scenes
from hypermend.pipeline.engine.cluster import start_ray
from hypermend.pipeline.formatting import duration, size
from hypermend.pipeline.ingest import catalog_folder, ingest
from hypermend.pipeline.restore.driver import restore
from hypermend.pipeline.restore.dry_run import estimate_scenes, plan_table
from hypermend.pipeline.runs.progress import follow, summary
from hypermend.pipeline.runs.report import RunReport
from hypermend.pipeline.runs.run import Run

_OVERRIDES = {
    "enmap": Overrides(values={Field.QUANTITY: "reflectance"}),
    "sentinel2a": Overrides(values={Field.QUANTITY: "reflectance", Field.SCALE: 1 / SENTINEL2_NUMBERS}),
}
"""By sensor, for deliveries that leave it open: the tiles have a scale and do not say of what, the bands have none."""


def run(archive: Path, console: Console, *, demo_size: DemoSize | None = None) -> dict[str, Any]:
    """Make the demo archive at ``archive``, process it, and compare the results with the truth.

    Returns:
        archive, seconds, bytes_written (0 when everything was there), scores, picture, python (lines that open the
        result) and exit_code of the restoration: values that JSON can hold.
    """
    begin = time.monotonic()
    demo = _Demo(archive, console, demo_size or DemoSize())
    scenes, pair = demo.deliver()
    demo.catalog(scenes)
    demo.ingest()
    demo.denoise(scenes)
    demo.fuse()
    cubes = demo.query()
    comparisons = demo.compare(scenes, pair, cubes)
    scores = [comparison.score() for comparison in comparisons]
    score_table(scores, console)
    picture = demo.draw(comparisons)
    lines = _python_lines(cubes["demo-hyperion-denoise"])
    _show_lines(lines, console)
    seconds = time.monotonic() - begin
    wrote = demo.bytes_written
    demo.show(f"\n{duration(seconds)}, {size(wrote)} written" + ("" if wrote else ": everything was already there"))
    return {
        "archive": str(archive),
        "seconds": round(seconds, 1),
        "bytes_written": wrote,
        "scores": [vars(score) for score in scores],
        "picture": str(picture),
        "python": lines,
        "exit_code": demo.exit_code,
    }


class _Demo:
    """The steps, each under a numbered heading."""

    def __init__(self, archive: Path, console: Console, demo_size: DemoSize) -> None:
        archive.mkdir(parents=True, exist_ok=True)
        self._archive = archive
        self._console = console
        self._size = demo_size
        self._steps = 0
        self.bytes_written = 0
        self.exit_code = 0
        """Highest exit code of the runs."""
        self.show(": made by a program, not measured.", bold="Every scene of this demo is synthetic")

    def deliver(self) -> tuple[dict[str, SyntheticScene], SyntheticPair]:
        """Make all scenes and write the files that are missing; return the single images by sensor, and the pair."""
        self._heading("Deliveries", "two instruments, as files")
        folder = self._archive / "deliveries"
        before = _bytes_in(folder)
        scenes, pair = deliver_scenes(folder, self._size), pair_scene(*self._size.pair_px)
        deliver_pair(folder, pair, delivery_px=self._size.delivery_px // 2)
        self.bytes_written += _bytes_in(folder) - before
        for kind, scene in scenes.items():
            bands, height, width = scene.truth.shape
            self.show(f"{kind}-like: {width} x {height} pixels x {bands} bands of {scene.quantity}")
        (bands, height, width), (few, _, _) = pair.coarse.shape, pair.sharp.shape
        self.show(
            f"a pair: enmap-like, {width} x {height} pixels x {bands} bands, and sentinel2-like, {few} bands on pixels "
            f"{PAIR_SCALE} times finer"
        )
        return scenes, pair

    def catalog(self, kinds: Iterable[str]) -> None:
        self._heading("Catalog", "STAC items for folders that have none")
        folders = [(kind, kind, f"demo-{kind}") for kind in kinds]
        for kind, folder, collection in [*folders, ("enmap", COARSE, COARSE), ("sentinel2a", SHARP, SHARP)]:
            made = catalog_folder(
                str(self._archive),
                self._archive / "deliveries" / folder,
                sensor=kind,
                collection=collection,
                overrides=_OVERRIDES.get(kind, NO_OVERRIDES),
            )
            self.bytes_written += made.bytes_written
            self.show(f"{collection}: {', '.join(made.scenes)}")

    def ingest(self) -> None:
        with self._console.status("starting Ray"):
            start_ray(address=None, cpus=None)
        self._heading("Ingest", "files to source cubes (Zarr)")
        self._finish(ingest(IngestJob(archive=str(self._archive), tile_px=self._size.tile_px)))

    def denoise(self, kinds: Iterable[str]) -> None:
        self._heading("Plan", "what a restoration would do")
        collections = tuple(f"demo-{kind}" for kind in kinds)
        job = RestoreJob(archive=str(self._archive), collections=collections, tile_px=self._size.tile_px)
        plan_table(list(estimate_scenes(job)), self._console)
        self._heading("Denoise", "tile by tile on an embedded Ray")
        self._finish(restore(job))

    def fuse(self) -> None:
        self._heading("Fuse", "the many bands of one image with the sharp pixels of another")
        job = RestoreJob(
            archive=str(self._archive),
            task="fuse",
            collections=(COARSE,),
            guide_collection=SHARP,
            tile_px=self._size.tile_px,
        )
        plan_table(list(estimate_scenes(job)), self._console)
        self._finish(restore(job))

    def query(self) -> dict[str, Item]:
        """List the cubes of the archive; return them by collection."""
        self._heading("Query", "what the archive now holds")
        archive = hypermend.open(str(self._archive))
        items = [item for stage in ("source", "restored") for item in archive.search(stage=stage)]
        for item in items:
            self.show(f"{item.scene.collection}: {item.scene.id}")
        return {item.scene.collection: item for item in items}

    def compare(
        self, scenes: Mapping[str, SyntheticScene], pair: SyntheticPair, cubes: Mapping[str, Item]
    ) -> list[Comparison]:
        self._heading("Truth", "the answer was known all along")
        return [
            *(compare_scene(s, cubes[f"demo-{k}-source"], cubes[f"demo-{k}-denoise"]) for k, s in scenes.items()),
            compare_pair(pair, cubes[f"{COARSE}-source"], cubes[f"{COARSE}-fuse"]),
        ]

    def draw(self, comparisons: Sequence[Comparison]) -> Path:
        """Draw the picture, unless one of the same plans exists."""
        path = self._archive / "demo" / "before-after.png"
        plans = " ".join(comparison.plan for comparison in comparisons)
        self.bytes_written += draw([comparison.panel() for comparison in comparisons], path, made_from=plans)
        self._console.print(f"\nPicture: {path}", highlight=False, soft_wrap=True)
        return path

    def show(self, text: str, bold: str = "") -> None:
        self._console.print(Text.assemble((bold, "bold"), text))

    def _heading(self, title: str, meaning: str) -> None:
        self._steps += 1
        self.show(f": {meaning}", bold=f"\n{self._steps}. {title}")

    def _finish(self, run: Run) -> None:
        """Follow a run to its end and print its report."""
        report: RunReport = follow(run, self._console)
        summary(report, self._console)
        self.bytes_written += report.bytes_written
        self.exit_code = max(self.exit_code, report.exit_code)


def _bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _python_lines(item: Item) -> list[str]:
    return [
        "import xarray",
        f'ds = xarray.open_zarr("{item.scene.assets["cube"].href}")',
        "print(ds)",
    ]


def _show_lines(lines: Sequence[str], console: Console) -> None:
    console.print("\nOpen a restored cube without Hypermend:", highlight=False)
    for line in lines:
        console.print(f"  {line}", highlight=False, soft_wrap=True, markup=False)
