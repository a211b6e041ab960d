"""Requests: scene, models and, for a fusion, guide of one plan. The driver makes them, a worker plans them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from hypermend.catalog.cube.spec import CubeSpec
from hypermend.catalog.errors import ArchiveError, Refused
from hypermend.catalog.keys import cube_key, item_key, scene_collection
from hypermend.catalog.pairs.pairing import GuideMatch, SpectralOverlap, scale_between, spectral_overlap
from hypermend.catalog.scene import Scene
from hypermend.models.budget import AdaptationBudget
from hypermend.models.card import ModelCard
from hypermend.pipeline.registry.compatibility import good_nm, pair_advisory
from hypermend.pipeline.registry.selection import ModelChoice
from hypermend.pipeline.restore.plan import Guide
from hypermend.pipeline.restore.steps import LATTICE_PX, Step
from hypermend.pipeline.tiling.bad_bands import FILLED_ATTR, isolated

FULL_OVERLAP = 0.995
"""A smaller overlap is reported: outlines in two coordinate systems never agree exactly."""


@dataclass(frozen=True, kw_only=True)
class PlanDraft:
    """The parts of a plan that differ between one image and a pair."""

    steps: tuple[Step, ...]
    lattice_px: int
    """Source pixels; the edge of a tile is a multiple of it."""
    bounded: bool
    """Whether the size of a window in memory limits the default tile."""
    identity: Mapping[str, Any] = field(default_factory=dict)
    """Values that decide pixels and enter the plan's id, beside those of the steps."""
    attrs: Mapping[str, Any] = field(default_factory=dict)
    """Attributes of the restored cube."""
    warnings: tuple[str, ...] = ()
    guide: Guide | None = None
    budget: AdaptationBudget | None = None
    destripe: str = "off"
    fill_bands: str = "off"
    uncertainty: str = "off"


@dataclass(frozen=True, kw_only=True)
class SceneRequest:
    """One scene, restored by itself."""

    scene: Scene
    """Item of the source cube."""
    choices: tuple[ModelChoice, ...]
    """A model for each task, first done first. A worker takes only the names: a card it reads beside the weights."""
    tile_px: int | None = None
    """Target pixels; None for the default of model and cube."""
    overviews: bool = True
    """Whether the restored cube gets overviews; no part of the plan's id."""
    destripe: str = "off"
    """Whether stripes are subtracted before the first model: off or on."""
    fill_bands: str = "off"
    """Whether isolated bad bands are predicted from their neighbours: off or on."""
    uncertainty: str = "off"
    """Whether the cube gets the standard deviation of its numbers: off or on."""

    @property
    def collection(self) -> str:
        return scene_collection(self.scene.collection)

    @property
    def cubes(self) -> tuple[str, ...]:
        """Keys of the source cubes, the scene's first."""
        return (cube_key(self.scene),)

    @property
    def cards(self) -> dict[str, ModelCard]:
        """The card for each task."""
        return {choice.task: choice.card for choice in self.choices}

    @property
    def model(self) -> str:
        """Names of the models, as ``--model`` takes them."""
        return ",".join(choice.model for choice in self.choices)

    @property
    def guide_scene(self) -> Scene | None:
        """Item of the guide's source cube."""
        return None

    @property
    def item_properties(self) -> dict[str, Any]:
        """STAC properties that the published item gets from the request."""
        return {}

    def draft(self, specs: Sequence[CubeSpec], cards: Mapping[str, ModelCard]) -> PlanDraft:
        """Draft the plan.

        Args:
            specs: of ``cubes``.
            cards: for each task.

        Raises:
            Refused: stripes are to be subtracted or uncertainty to be stated, and the first model cannot.
        """
        steps = self._steps(cards)
        refines = any(step.scale > 1 for step in steps)
        draft = PlanDraft(steps=steps, lattice_px=LATTICE_PX, bounded=refines or len(steps) > 1)
        if self.fill_bands == "on":
            draft = self._filling(draft, specs[0])
        if self.uncertainty == "on":
            self._check("state the uncertainty of its numbers (--uncertainty on)", cards)
            if len(cards) > 1:
                raise Refused(
                    f"scene {self.scene.id}: no uncertainty is known of the chain {', '.join(cards)}; denoise alone "
                    "(--task denoise), or leave --uncertainty out"
                )
            draft = replace(draft, identity={**draft.identity, "uncertainty": "on"}, uncertainty="on")
        if self.destripe == "on":
            self._check("subtract stripes (--destripe on)", cards)
            draft = replace(draft, identity={**draft.identity, "destripe": "on"}, destripe="on")
        return draft

    def _check(self, what: str, cards: Mapping[str, ModelCard]) -> None:
        """
        Raises:
            Refused: the first model cannot do what only a denoiser on the signal subspace can.
        """
        first = next(iter(cards.values()))
        if first.architecture != "stas" or first.config.get("domain") != "subspace":
            raise Refused(
                f"scene {self.scene.id}: model {first.name} cannot {what}: only a denoiser on the signal subspace can, "
                "such as stas-subspace; choose it with --model, or leave the option out"
            )

    def _filling(self, draft: PlanDraft, spec: CubeSpec) -> PlanDraft:
        """The draft with isolated bad bands filled; a warning where there are bad bands and none is."""
        filled = [spec.band[band.band] for band in isolated(spec).bands]
        if not filled:
            bad = len(spec.good) - sum(spec.good)
            told = "no band is bad" if not bad else f"none of the {bad} bad bands is isolated outside of absorption"
            return replace(draft, warnings=(*draft.warnings, f"--fill-bands fills nothing: {told}"))
        return replace(
            draft,
            identity={**draft.identity, "fill_bands": filled},
            attrs={**draft.attrs, FILLED_ATTR: filled},
            fill_bands="on",
        )

    def _steps(self, cards: Mapping[str, ModelCard]) -> tuple[Step, ...]:
        return tuple(_step(choice, cards[choice.task]) for choice in self.choices)


@dataclass(frozen=True, kw_only=True)
class PairRequest(SceneRequest):
    """One scene, fused with a guide."""

    paired: GuideMatch
    budget: AdaptationBudget | None
    """None where the model does not adapt."""

    @property
    def cubes(self) -> tuple[str, ...]:
        return cube_key(self.scene), cube_key(self.paired.guide)

    @property
    def guide_scene(self) -> Scene:
        return self.paired.guide

    @property
    def item_properties(self) -> dict[str, Any]:
        guide = self._guide
        return {
            "hypermend:guide": item_key(self.paired.guide),
            "hypermend:overlap": guide.overlap,
            "hypermend:days_apart": guide.days_apart,
        }

    def draft(self, specs: Sequence[CubeSpec], cards: Mapping[str, ModelCard]) -> PlanDraft:
        """
        Raises:
            Refused: the guide does not fit the scene.
        """
        guide = self._guide
        try:
            scale, overlap = scale_between(*specs), spectral_overlap(*specs)
        except ArchiveError as error:
            raise Refused(f"scene {self.scene.id} with guide {guide.scene_id}: {error}") from error
        (step,), (card,) = self._steps(cards), cards.values()
        # Rounded: another machine's last digit must not change the id.
        response = [[round(float(value), 6) for value in row] for row in overlap.response]
        unlike = pair_advisory(card, scale=scale, nm=good_nm(specs[0]), response=overlap.response.astype(np.float32))
        identity = {"guide": guide.ingest_id, "bands": list(overlap.bands), "scale": scale, "response": response}
        return PlanDraft(
            steps=(replace(step, halo=card.halo_at(scale), scale=scale),),
            lattice_px=1,  # a pair is read up to the scene's edge, wherever that is
            bounded=True,
            identity=identity,
            attrs={"hypermend:guide": f"{guide.collection}/{guide.scene_id}"},
            warnings=(*_pair_warnings(guide, overlap), *([unlike] if unlike else [])),
            guide=guide,
            budget=self.budget,
        )

    @property
    def _guide(self) -> Guide:
        scene = self.paired.guide
        return Guide(
            scene_id=scene.id,
            collection=scene_collection(scene.collection),
            source=cube_key(scene),
            ingest_id=str(scene.properties["hypermend:ingest"]),
            overlap=round(self.paired.overlap, 4),
            days_apart=None if self.paired.days_apart is None else round(self.paired.days_apart, 4),
            others=self.paired.others,
        )


def _step(choice: ModelChoice, card: ModelCard) -> Step:
    return Step(
        task=choice.task,
        model=card.name,
        weights_sha256=card.weights_sha256,
        window_bands=card.window_bands,
        halo=card.halo,
        scale=card.scale,
        why=choice.why,
    )


def _pair_warnings(guide: Guide, overlap: SpectralOverlap) -> list[str]:
    """Facts of a pair that the user should know before it is fused."""
    warnings = []
    if guide.others:
        warnings.append(
            f"guide {guide.scene_id} is the nearest in time of {guide.others + 1} that cover the scene as well"
        )
    if guide.overlap < FULL_OVERLAP:
        warnings.append(
            f"guide {guide.scene_id} covers {guide.overlap:.0%} of the scene; the rest keeps its own detail"
        )
    if overlap.left_out:
        warnings.append(f"guide bands {', '.join(overlap.left_out)} are left out: the scene has no bands there")
    if overlap.beyond:
        low_nm, high_nm = overlap.range_nm
        warnings.append(
            f"{len(overlap.beyond)} bands below {low_nm:.0f} nm or above {high_nm:.0f} nm lie outside "
            "the range of the guide: their detail follows from the other bands and is less certain"
        )
    return warnings
