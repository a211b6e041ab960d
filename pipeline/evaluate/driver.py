"""The table of a paper for any model on the source cubes of an archive. No Ray: one scene after the other, here.

Protocols (the same code and figures as the benchmarks'):

    denoise  the scene divided by its largest value, its centre; white noise of sigma / 255 from default_rng([0, sigma])
             afresh for each scene, unclipped. Beside it: the noisy image, truncated SVD (the best rank of 3 to 8).
    sharpen  the same, or divided by 65535 where a camera's counts fill 16 bits (CAVE); the top-left pixels, reduced by
             antialiased bicubic. Beside it: bicubic.
    fuse     the scene divided by its largest value, its centre; blurred by the kernel, decimated, noise of 40 dB; the
             guide is the scene through its response. Not adapted. Beside it: bicubic, least squares.

A scene that the model's card was trained on says nothing of the model: it is left out, or marked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import hypermend
from hypermend.catalog.errors import ArchiveError, Refused
from hypermend.catalog.keys import scene_collection
from hypermend.catalog.scene import Scene
from hypermend.models.card import ModelCard
from hypermend.models.fuse.interface import BadPair
from hypermend.pipeline.config import EvaluateJob, RestoreJob
from hypermend.pipeline.evaluate.protocols import FIGURES, PROTOCOLS, Row
from hypermend.pipeline.registry.models import model_card
from hypermend.pipeline.registry.tasks import TASKS
from hypermend.pipeline.restore.work_list import sources


@dataclass(kw_only=True)
class Evaluation:
    """The scores of one evaluation."""

    model: str
    task: str
    protocol: str
    rows: list[Row] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    """Scenes that the model was trained on."""
    failed: dict[str, str] = field(default_factory=dict)
    """Scenes that could not be scored, with the reason."""

    def means(self) -> list[dict[str, Any]]:
        """Means over the scenes for each level and method."""
        groups: dict[tuple[str, str], list[Row]] = {}
        for row in self.rows:
            groups.setdefault((row.level, row.method), []).append(row)
        return [
            {"level": level, "method": method, "scenes": len(rows), **{n: _mean(rows, n) for n in FIGURES}}
            for (level, method), rows in groups.items()
        ]

    def to_dict(self) -> dict[str, Any]:
        head = {"model": self.model, "task": self.task, "protocol": self.protocol}
        rows = [row.to_dict() for row in self.rows]
        return {**head, "rows": rows, "means": self.means(), "left_out": self.left_out, "failed": self.failed}


def _mean(rows: Sequence[Row], name: str) -> float | None:
    values = [value for row in rows if (value := row.figures[name]) is not None]
    return sum(values) / len(values) if values else None


def evaluate(job: EvaluateJob, said: Callable[[str], None] = lambda line: None) -> Evaluation:
    """Score a model on the scenes of a job.

    Args:
        said: called with the id of each scene that was scored.

    Raises:
        Refused: nothing matches, the model is for another task, or every scene is one that it was trained on.
        BadCheckpoint: there is no such model.
    """
    root = hypermend.open(job.archive).root
    card = model_card(root, job.model)
    if (reason := TASKS[job.task].mismatch(card, job.scale)) is not None:
        raise Refused(reason)
    wanted = RestoreJob(archive=job.archive, scenes=job.scenes, collections=job.collections, sensor=job.sensor)
    scenes = [(scene, trained_on(card, scene)) for scene in sources(wanted)]
    overlap = [scene.id for scene, trained in scenes if trained]
    if overlap and not job.trained_on_too and (job.scenes or len(overlap) == len(scenes)):
        raise Refused(
            f"model {card.name} was trained on {', '.join(overlap[:3])}{' ...' * (len(overlap) > 3)}: a score there "
            "says nothing of it; name other scenes, or mark them with --trained-on-too"
        )
    protocol = PROTOCOLS[job.task]
    crop = job.crop_px or protocol.crop_px
    out = Evaluation(model=card.name, task=job.task, protocol=protocol.text.format(crop=crop))
    trial = protocol.trial(job, root, crop)
    for scene, trained in scenes:
        if trained and not job.trained_on_too:
            out.left_out.append(scene.id)
            continue
        try:
            for scored in trial(scene):
                out.rows.append(replace(scored, trained_on=trained))
            said(scene.id)
        except (ArchiveError, BadPair, ValueError) as error:
            out.failed[scene.id] = str(error)
    return out


def trained_on(card: ModelCard, scene: Scene) -> bool:
    """Whether the card names the scene, by its id or by collection and id; a CAVE folder with or without its `_ms`."""
    names = {name.removesuffix("_ms").lower() for name in card.trained_on}
    id = scene.id.removesuffix("_ms").lower()
    return bool({id, f"{scene_collection(scene.collection)}/{id}".lower()} & names)
