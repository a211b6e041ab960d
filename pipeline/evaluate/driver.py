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
from hypermend.models.checkpoint import task_of
from hypermend.models.fuse.protocol import BadPair
from hypermend.pipeline.config import EvaluateJob, RestoreJob
from hypermend.pipeline.evaluate.protocols import FIGURES, Row, describe_protocol, make_trial
from hypermend.pipeline.registry.models import model_card
from hypermend.pipeline.restore.work_list import sources


@dataclass(kw_only=True)
class Evaluation:
    """What came out."""

    model: str
    task: str
    protocol: str
    rows: list[Row] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    """Scenes that the model was trained on."""
    failed: dict[str, str] = field(default_factory=dict)
    """Scenes that could not be scored, with the reason."""

    def means(self) -> list[dict[str, Any]]:
        """Of each level and method over the scenes."""
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
        said: is told of every scene that is done.

    Raises:
        Refused: nothing matches, the model is for another task, or every scene is one that it was trained on.
        BadCheckpoint: there is no such model.
    """
    root = hypermend.open(job.archive).root
    card = model_card(root, job.model)
    _fits(card, job)
    wanted = RestoreJob(archive=job.archive, scenes=job.scenes, collections=job.collections, sensor=job.sensor)
    found = [(scene, trained_on(card, scene)) for scene in sources(wanted)]
    known = [scene.id for scene, trained in found if trained]
    if known and not job.trained_on_too and (job.scenes or len(known) == len(found)):
        raise Refused(
            f"model {card.name} was trained on {', '.join(known[:3])}{' ...' * (len(known) > 3)}: a score there says "
            "nothing of it; name other scenes, or mark them with --trained-on-too"
        )
    out = Evaluation(model=card.name, task=job.task, protocol=describe_protocol(job))
    trial = make_trial(job, root, card)
    for scene, trained in found:
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


def _fits(card: ModelCard, job: EvaluateJob) -> None:
    if (task_of(card) == "fuse") != (job.task == "fuse"):
        raise Refused(f"model {card.name} is not for task {job.task!r}; `hypermend models` shows what each is for")
    if job.task == "sharpen" and (card.scale == 1 or job.scale not in (None, card.scale)):
        raise Refused(f"model {card.name} makes pixels {card.scale} times finer, not {job.scale or 'at all'}")
    if job.task == "denoise" and card.scale > 1:
        raise Refused(f"model {card.name} makes pixels finer: it is for task 'sharpen'")
