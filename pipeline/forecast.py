"""What a restoration would do, before it does it: scenes, models, tiles, bytes, memory, time. No pixel is read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import numpy as np

import catalog
from catalog.marks import Marks
from catalog.publish import scene_collection
from catalog.root import NotJson, Root
from pipeline.config import RestoreJob
from pipeline.ledger import Refusal
from pipeline.plan import Plan, Refused
from pipeline.restore import plan_of, sources, todo


@dataclass(frozen=True, kw_only=True)
class PlannedScene:
    """What a restoration would do to one scene; ``plan`` is None where it is refused, for ``reason``."""

    collection: str
    scene: str
    plan: Plan | None = None
    reason: str = ""
    tiles_to_do: int = 0
    read_bytes: int = 0
    """Uncompressed, halos included; what is stored is smaller."""
    seconds: float | None = None
    """Of one worker, from the rate of the latest run with the same model; None before there was one."""

    def to_dict(self) -> dict[str, Any]:
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        if self.plan is not None:
            keys = ("id", "task", "source", "target", "model", "halo", "tile_px", "scale")
            guide = self.plan.guide
            values["plan"] = {
                **{key: getattr(self.plan, key) for key in keys},
                "models": [{"task": s.task, "model": s.model, "why": s.why} for s in self.plan.steps],
                "guide": None if guide is None else asdict(guide),
                "blocks": 0 if self.plan.blocks is None else len(self.plan.blocks),
                "tiles": len(self.plan.grid),
                "tile_memory_bytes": self.plan.tile_bytes,
                "warnings": self.plan.warnings,
            }
        return values


def planned(job: RestoreJob) -> Iterator[PlannedScene]:
    """Plan every scene of the job without reading a pixel.

    Raises:
        Refused: as ``restore``. A scene that the model does not accept is a row with its reason.
    """
    root = catalog.open(job.archive).root
    rate = cache(lambda model: _seconds_per_sample(root, model))
    for one in todo(job, root, sources(job)):
        if isinstance(one, Refusal):
            yield PlannedScene(collection=one.collection or "", scene=one.scene, reason=one.reason)
            continue
        try:
            plan = plan_of(one, root)
        except Refused as refusal:
            scene = one.source
            yield PlannedScene(collection=scene_collection(scene.collection), scene=scene.id, reason=str(refusal))
            continue
        to_do = len(plan.grid) - len(Marks(root, plan.target).tiles()[0])
        share = to_do / len(plan.grid)
        read_px = [px // plan.scale + 2 * plan.halo for px in plan.grid.read_px]
        itemsize = np.dtype(plan.spec.dtype).itemsize
        samples = plan.spec.bands * plan.spec.height * plan.spec.width
        yield PlannedScene(
            collection=plan.collection,
            scene=plan.scene_id,
            plan=plan,
            tiles_to_do=to_do,
            read_bytes=to_do * read_px[0] * read_px[1] * plan.spec.bands * itemsize,
            seconds=None if (per_sample := rate(plan.model)) is None else per_sample * samples * share,
        )


def _seconds_per_sample(root: Root, model: str) -> float | None:
    """Worker seconds for one band of one pixel in the latest run of ``model`` that wrote something."""
    reports = sorted(entry.key for entry in root.list("runs") if entry.key.endswith("-restore/report.json"))
    for key in reversed(reports):
        try:
            report = root.get_json(key)
            if report["notes"].get("model") == model and report["samples"]:
                return float(report["worker_s"]) / float(report["samples"])
        except (NotJson, KeyError, TypeError, ValueError, AttributeError):
            continue  # a report that is damaged tells nothing; another may
    return None
