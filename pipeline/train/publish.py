"""The end of a training: its best weights become a model of the archive, `models/<name>`."""

from __future__ import annotations

import math
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from hypermend.catalog.errors import NotFound, Refused
from hypermend.catalog.storage.archive_store import ArchiveStore
from hypermend.models import checkpoint
from hypermend.models.card import ModelCard
from hypermend.pipeline.train.checkpoints import TrainingState, TrainingStopped, TrainingStore
from hypermend.pipeline.train.plan import TrainPlan
from hypermend.pipeline.train.task_table import plan_card, task_of


def published(root: ArchiveStore, name: str, plan: TrainPlan) -> bool:
    """Say whether the model is there, made by this training.

    Raises:
        Refused: a model of that name is there that something else made.
    """
    try:
        card = root.get_document(f"models/{name}/{checkpoint.CARD}", ModelCard.from_dict)
    except NotFound:
        return False
    made_by = card.recipe.get("training", "something else")
    if made_by != plan.id:
        raise Refused(
            f"models/{name} of {root.url} was made by {made_by}, and this is training {plan.id}: choose another --name"
        )
    return True


def publish(root: ArchiveStore, name: str, plan: TrainPlan, ledger: TrainingStore, record: TrainingState) -> ModelCard:
    """Make the model of a training's best weights. Weights are put before the card: a model with a card is whole.

    Raises:
        TrainingStopped: the best weights are gone or damaged.
        Refused: something else has made a model of that name meanwhile.
    """
    state = ledger.load(record.best) if record.best else None
    if record.best is None or state is None:
        raise TrainingStopped(f"{root.href(plan.folder)}: the best weights are gone; delete that folder to train anew")
    s, task = plan.settings, task_of(plan)
    draft = plan_card(plan, task.network(plan.config))
    card = replace(
        draft,
        name=name,
        trained_on=tuple(sorted(plan.scenes.values())),
        spectrum=_spectrum(plan, record),
        metrics={**draft.metrics, "scenes": record.scores, "psnr_db": record.psnr_db},
        recipe={
            "command": f"hypermend train --task {plan.task} --name {name}",
            "training": plan.id,
            "steps": record.best.step,
            "seconds": record.best.seconds,
            "batch": s.batch,
            "patch_px": s.patch_px,
            "learning_rate": s.learning_rate,
            "seed": s.seed,
            "sensors": list(plan.sensors),
        },
    )
    task.model(card, state)  # the card fits the weights, or this raises
    published(root, name, plan)  # again: a training takes days
    with tempfile.TemporaryDirectory() as folder:
        card = checkpoint.save(Path(folder), card, state)
        for file in (checkpoint.WEIGHTS, checkpoint.CARD):
            root.put(f"models/{name}/{file}", (Path(folder) / file).read_bytes())
    return card


def _spectrum(plan: TrainPlan, record: TrainingState) -> dict[str, Any]:
    """Give the spectrum by which `restore` selects the model; none if it scored no better than doing without it."""
    gains = [s["psnr_db"] - s["baseline_db"] for s in record.scores.values()]
    if sum(gains) <= 0:
        return {}
    s = plan.spectrum
    return {"bands": round(math.sqrt(s.bands[0] * s.bands[1])), "low_nm": s.low_nm, "high_nm": s.high_nm}
