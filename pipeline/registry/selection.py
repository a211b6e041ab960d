"""Which model a scene gets for a task, and why. No pixel is read.

1  the one that was asked for (--model)
2  the one promoted in the archive for the scene's sensor (`hypermend models promote`)
3  of the archive's models that accept the cube, the one trained on the nearest spectrum, if it is near
4  the built-in default
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from hypermend.catalog.cube.spec import CubeSpec
from hypermend.catalog.errors import Refused
from hypermend.catalog.storage.archive_store import ArchiveStore
from hypermend.models.card import ModelCard
from hypermend.pipeline.config import RestoreJob
from hypermend.pipeline.registry.compatibility import good_nm, incompatibility
from hypermend.pipeline.registry.models import archived, defaults, model_card
from hypermend.pipeline.registry.spectrum import NEAR_DISTANCE, Spectrum, training_spectrum
from hypermend.pipeline.registry.tasks import TASKS, TRAINED, UNTRAINED, slot_of

DEFAULT_SCALE = 2


@dataclass(frozen=True, kw_only=True)
class ModelChoice:
    """A model for one task of one scene."""

    task: str
    card: ModelCard
    why: str

    @property
    def model(self) -> str:
        return self.card.name


class ModelSelector:
    """Chooses for every scene of a job; what it knows of the archive's models is read once."""

    def __init__(self, job: RestoreJob, root: ArchiveStore) -> None:
        """
        Raises:
            Refused, BadCheckpoint: a model that was asked for is of another task, or there is none of this name.
        """
        self._root = root
        self._asked = dict(zip(job.tasks, job.models, strict=True)) if job.models else {}
        self._cards: dict[str, ModelCard] = {}
        self._scale = job.scale
        for task, name in self._asked.items():
            self._checked(task, self._card(name))

    def __call__(self, task: str, sensor: str, spec: Callable[[], CubeSpec], builtin: str | None = None) -> ModelChoice:
        """
        Args:
            spec: gives the spec of the scene's cube, where it is asked for.
            builtin: the default of the task, where it depends on more than the task.

        Raises:
            Refused, BadCheckpoint: the promoted model is of no use any more, or no default has the scale.
        """
        if task in self._asked:
            return ModelChoice(task=task, card=self._card(self._asked[task]), why="asked for")
        place = TASKS[task].slot(self._scale or DEFAULT_SCALE)
        if (name := self._promoted.get(sensor, {}).get(place)) is not None:
            card = self._card(name)
            self._checked(task, card)
            return ModelChoice(task=task, card=card, why=f"promoted for {sensor}")
        if (near := self._nearest(place, spec)) is not None:
            card, distance = near
            return ModelChoice(
                task=task, card=card,
                why=f"of the archive's models trained on the nearest spectrum ({training_spectrum(card)}; "
                f"distance {distance:.2f})",
            )  # fmt: skip
        name = builtin or TASKS[task].builtins[0].format(scale=self._scale or DEFAULT_SCALE)
        return ModelChoice(task=task, card=self._card(name), why="built-in default")

    def _card(self, name: str) -> ModelCard:
        if name not in self._cards:
            self._cards[name] = model_card(self._root, name)
        return self._cards[name]

    @cached_property
    def _promoted(self) -> dict[str, dict[str, str]]:
        return defaults(self._root)

    @cached_property
    def _archived(self) -> list[ModelCard]:
        """Models of the archive that say what they were trained on; a card that cannot be read is no candidate."""
        return [c for _, c in archived(self._root) if isinstance(c, ModelCard) and training_spectrum(c) is not None]

    def _nearest(self, place: str, spec: Callable[[], CubeSpec]) -> tuple[ModelCard, float] | None:
        candidates = [card for card in self._archived if slot_of(card) == place]
        if not candidates:
            return None
        cube = spec()
        nm = good_nm(cube)
        if not nm:
            return None
        scene = Spectrum(bands=len(nm), low_nm=nm[0], high_nm=nm[-1])
        ranked = []
        for card in candidates:
            trained = training_spectrum(card)
            assert trained is not None
            if incompatibility(cube, card) is None:
                ranked.append((trained.distance(scene), card.name, card))
        best = min(ranked, default=None)
        return None if best is None or best[0] > NEAR_DISTANCE else (best[2], best[0])

    def _checked(self, task: str, card: ModelCard) -> None:
        """
        Raises:
            Refused: the model is for another task, or another scale.
        """
        if (reason := TASKS[task].mismatch(card, self._scale)) is not None:
            raise Refused(reason)


def possible(job: RestoreJob, root: ArchiveStore) -> list[ModelCard]:
    """Cards of all models that a scene of the job may get."""
    if job.models:
        return [model_card(root, name) for name in job.models]
    scale = job.scale or DEFAULT_SCALE
    tasks = [TASKS[task] for task in job.tasks]
    places = {task.slot(scale) for task in tasks}
    names = {name for of_sensor in defaults(root).values() for place, name in of_sensor.items() if place in places}
    names |= {name for name, card in archived(root) if isinstance(card, ModelCard) and slot_of(card) in places}
    names |= {name.format(scale=scale) for task in tasks for name in task.builtins}
    return [model_card(root, name) for name in sorted(names)]


def default_model(hyper: str, guide: str) -> str:
    """The model of a pair of sensors."""
    return TRAINED.get((hyper, guide), UNTRAINED)
