"""Estimate a restoration before it runs: scenes, models, tiles, bytes, memory, time. No pixel is read."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any, Literal

from rich.console import Console
from rich.text import Text

import hypermend
from hypermend.catalog.cube.marks import DoneMarks
from hypermend.catalog.documents import MALFORMED, visible
from hypermend.catalog.errors import Refused
from hypermend.catalog.storage.archive_store import ArchiveStore, NotJson
from hypermend.pipeline.config import RestoreJob
from hypermend.pipeline.engine.memory_grant import granted_bytes
from hypermend.pipeline.formatting import duration, plural, size
from hypermend.pipeline.registry.tasks import TASKS
from hypermend.pipeline.restore.make_plan import check_memory, plan_request
from hypermend.pipeline.restore.plan import Plan
from hypermend.pipeline.restore.work_list import scene_requests, sources
from hypermend.pipeline.runs.report import unit_id
from hypermend.pipeline.runs.run_log import SkippedScene

_COLUMNS = ("pixels", "bands", "tiles to do", "read", "tile memory", "time")


@dataclass(frozen=True, kw_only=True)
class PlannedScene:
    """Estimate of one scene; ``plan`` is None where it is refused, for ``reason``."""

    collection: str
    scene: str
    plan: Plan | None = None
    reason: str = ""
    tiles_to_do: int = 0
    read_bytes: int = 0
    """Uncompressed, halos included; what is stored is smaller."""
    seconds: float | None = None
    """Time of one worker; None for a scene that is refused."""
    seconds_from: Literal["runs", "benchmark"] | None = None
    """At which rate: that of the archive's latest run with the same models; before the first, that of a benchmark."""

    def to_dict(self) -> dict[str, Any]:
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        if self.plan is not None:
            keys = ("id", "task", "source", "target", "model", "halo", "tile_px", "scale")
            values["plan"] = {
                **{key: getattr(self.plan, key) for key in keys},
                "models": [{"task": s.task, "model": s.model, "why": s.why} for s in self.plan.steps],
                "guide": next((asdict(guide) for guide in self.plan.guides), None),
                "blocks": 0 if self.plan.blocks is None else len(self.plan.blocks),
                "tiles": len(self.plan.grid),
                "tile_memory_bytes": self.plan.tile_bytes,
                "warnings": self.plan.warnings,
            }
        return values


def estimate_scenes(job: RestoreJob) -> Iterator[PlannedScene]:
    """Plan every scene of the job without reading a pixel.

    Raises:
        Refused: as ``restore``. A scene that the model does not accept is a row with its reason.
    """
    root = hypermend.open(job.archive).root
    rate = cache(lambda model: _seconds_per_sample(root, model))
    for request in scene_requests(job, root, sources(job)):
        if isinstance(request, SkippedScene):
            yield PlannedScene(collection=request.collection or "", scene=request.scene, reason=request.reason)
            continue
        try:
            plan = plan_request(root, request, request.cards)
            check_memory(plan, granted_bytes(job))
        except Refused as refusal:
            yield PlannedScene(collection=request.collection, scene=request.scene.id, reason=str(refusal))
            continue
        tiles = len(plan.grid) - len(DoneMarks(root, plan.target).tiles()[0])
        own = rate(plan.model)
        rate_s = usual_seconds_per_sample(plan) if own is None else own
        yield PlannedScene(
            collection=plan.collection,
            scene=plan.scene_id,
            plan=plan,
            tiles_to_do=tiles,
            read_bytes=tiles * plan.read_bytes,
            seconds=rate_s * plan.samples * tiles / len(plan.grid),
            seconds_from="benchmark" if own is None else "runs",
        )


def usual_seconds_per_sample(plan: Plan) -> float:
    """Worker seconds for one band of one pixel of the result, as benchmarked for the tasks of a plan.

    The networks also compute the halo of every tile, which small tiles pay for more often.
    """
    tasks = [TASKS[step.task] for step in plan.steps]
    margin = 2 * plan.halo * plan.scale
    computed = math.prod((px + margin) / px for px in plan.grid.read_px)
    adapting = sum(t.adapting_seconds_per_sample for t in tasks) if plan.blocks else 0.0
    return computed * sum(t.seconds_per_sample for t in tasks) + adapting


def _seconds_per_sample(root: ArchiveStore, model: str) -> float | None:
    """Worker seconds for one band of one pixel in the latest run of ``model`` that wrote something."""
    reports = sorted(entry.key for entry in root.list("runs") if entry.key.endswith("-restore/report.json"))
    for key in reversed(reports):
        try:
            report = root.get_json(key)
            if report["notes"].get("model") == model and report["samples"]:
                return float(report["worker_s"]) / float(report["samples"])
        except (NotJson, *MALFORMED, ZeroDivisionError):
            continue  # a damaged report; an older one may do
    return None


def plan_table(planned: Sequence[PlannedScene], console: Console) -> None:
    """Scenes, tiles, bytes, memory and time of a restoration before it runs."""
    several = len({row.collection for row in planned}) > 1
    names = [unit_id(row.collection, row.scene) if several else row.scene for row in planned]
    rows = [_COLUMNS, *map(_cells, planned)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(_COLUMNS))]
    for cells, name in zip(rows, ("scene", *names), strict=True):  # the name last: few are broken there
        line = "  ".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
        console.print(Text(f"{line}  {visible(name)}", "bold" if cells is _COLUMNS else ""), soft_wrap=True)
    todo = [row for row in planned if row.plan is not None and row.tiles_to_do]
    total = f", about {duration(sum(row.seconds or 0.0 for row in todo))} of one worker" if todo else ""
    tiles = plural(sum(row.tiles_to_do for row in todo), "tile")
    console.print(f"{plural(len(planned), 'scene')}, {tiles} to do{total}", highlight=False)
    if any(map(_guessed, todo)):
        console.print("~ from a benchmark; after a first run, from this archive's own workers")
    for line, count in Counter(_models(row) for row in planned if row.plan is not None).items():
        console.print(f"{plural(count, 'scene')}: {line}", highlight=False, soft_wrap=True)
    for name, row in zip(names, planned, strict=True):
        if row.plan is not None:
            for line in _guide_lines(row.plan):
                console.print(f"{name}: {line}", highlight=False)
    for row in planned:
        if row.plan is None:
            console.print(Text.assemble(("refused", "red"), visible(f": {row.reason}")), soft_wrap=True)
    warned = (f"{n}: {w}" for n, row in zip(names, planned, strict=True) if row.plan for w in row.plan.warnings)
    for line in dict.fromkeys(warned):
        console.print(Text(visible(line), "yellow"), soft_wrap=True)


def _cells(row: PlannedScene) -> tuple[str, ...]:
    """A row of the table."""
    if row.plan is None:
        return *[""] * (len(_COLUMNS) - 1), "refused"
    spec = row.plan.spec
    return (
        f"{spec.width} x {spec.height}",
        str(spec.bands),
        f"{row.tiles_to_do} of {len(row.plan.grid)}",
        size(row.read_bytes),
        size(row.plan.tile_bytes),
        "-" if row.tiles_to_do == 0 or row.seconds is None else _guessed(row) + duration(row.seconds),
    )


def _guessed(row: PlannedScene) -> str:
    """The sign of a time that no run of this archive tells."""
    return "~" if row.seconds_from == "benchmark" else ""


def _guide_lines(plan: Plan) -> Iterator[str]:
    """Guide of a fusion, its scale, and the blocks that the model adapts to."""
    blocks = plural(len(plan.blocks), "block") if plan.blocks else "no block"
    for guide in plan.guides:
        yield f"guide {guide.collection}/{guide.scene_id}, scale {plan.scale}, {blocks} to adapt to"


def _models(row: PlannedScene) -> str:
    """Models of a planned scene, and why they were chosen."""
    assert row.plan is not None
    return ", then ".join(f"{s.task} with {s.model} ({s.why})" for s in row.plan.steps)
