"""Plans: everything that decides the pixels of one restored cube, as one frozen value. No pixels, no Ray, no torch.

The id of a plan is a hash of what changes pixels and of nothing else, so a rerun finds its own work and a changed
setting can never resume into an old cube. Workers, threads, memory, paths and package versions are never in it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np

from hypermend.catalog.cube.spec import CubeSpec
from hypermend.catalog.errors import ArchiveError, Refused
from hypermend.catalog.pairs.pairing import SpectralOverlap, finer_spec, scale_between, spectral_overlap
from hypermend.catalog.storage.archive_store import ArchiveStore, NotJson, digest, safe_name
from hypermend.models.budget import AdaptationBudget
from hypermend.models.card import ModelCard
from hypermend.models.memory import activation_bytes
from hypermend.pipeline.registry.compatibility import advisory, good_nm, incompatibility
from hypermend.pipeline.restore.steps import LATTICE_PX, Step, chain_tile_px, margins, scale_of, windows_px
from hypermend.pipeline.tiling.blocks import BlockGrid
from hypermend.pipeline.tiling.spectral_windows import SpectralWindow, spectral_windows
from hypermend.pipeline.tiling.tiles import Index, TileGrid

RESULT_VERSION = 2
"""Bumped by hand whenever the same plan would give other pixels (a golden-bytes test fails until it is)."""
FULL_OVERLAP = 0.995
"""Less, and it is said that the guide does not cover the scene: outlines in two systems are never quite the same."""


@dataclass(frozen=True, kw_only=True)
class Guide:
    """The sharper image that a scene is fused with."""

    scene_id: str
    collection: str
    source: str
    """Key of its source cube in the archive."""
    ingest_id: str
    overlap: float = 1.0
    """Share of the scene that it covers."""
    days_apart: float = 0.0
    others: int = 0
    """How many more there were to choose from."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One scene, one chain of models, one restored cube."""

    id: str
    scene_id: str
    collection: str
    task: str
    """Of every step, joined: denoise, denoise-sharpen."""
    source: str
    """Key of the source cube in the archive."""
    target: str
    """Key of the restored cube in the archive."""
    steps: tuple[Step, ...]
    tile_px: int
    """Target pixels, a multiple of ``scale``."""
    guide: Guide | None = None
    budget: AdaptationBudget | None = None
    """Of each block's adaptation; None where the model does not adapt."""
    network_bytes: int = 0
    """What the networks hold of one tile at their peak, on top of its pixels."""
    spec: CubeSpec
    """Of the restored cube."""
    scene_facts: Mapping[str, Any] | None = None
    """What was estimated once from the whole scene; None until it was."""
    warnings: tuple[str, ...] = ()

    @property
    def model(self) -> str:
        """Names of the models, as ``--model`` takes them."""
        return ",".join(step.model for step in self.steps)

    @property
    def halo(self) -> int:
        """Source pixels around a tile that its pixels may depend on."""
        return margins(self.steps)[0]

    @property
    def scale(self) -> int:
        """Target pixels along the edge of a source pixel."""
        return scale_of(self.steps)

    @property
    def grid(self) -> TileGrid:
        return TileGrid(height=self.spec.height, width=self.spec.width, tile_px=self.tile_px)

    @property
    def source_grid(self) -> TileGrid:
        """The same tiles in source pixels."""
        height, width = self.source_px
        return TileGrid(height=height, width=width, tile_px=self.tile_px // self.scale)

    @property
    def source_px(self) -> tuple[int, int]:
        """(rows, columns) of the source cube."""
        return self.spec.height // self.scale, self.spec.width // self.scale

    @property
    def blocks(self) -> BlockGrid | None:
        """The lattice on which the model adapts, or None where it does not."""
        if self.budget is None:
            return None
        height, width = self.source_px
        return BlockGrid(height=height, width=width, scale=self.scale)

    @property
    def adapted(self) -> str:
        """Where in the archive the blocks' weights lie: beside the cube."""
        return self.target.removesuffix(".zarr") + ".adapt"

    @property
    def key(self) -> str:
        """Where the plan itself lies in the archive: beside its cube."""
        return plan_key(self.target)

    def windows(self, step: Step) -> tuple[SpectralWindow, ...] | None:
        """The spectral windows of a step, or None where its model takes every band at once."""
        if step.window_bands is None:
            return None
        return spectral_windows(self.spec.wavelength_nm, self.spec.detector, self.spec.good, step.window_bands)

    @property
    def tile_bytes(self) -> int:
        """Memory that one tile takes in a worker, halo included: its pixels, and what the networks make of them.

        Pixels are stored numbers in and out, and float32 in, filled, out and their difference.
        """
        pixels = max(math.prod(window) for window in windows_px(self.steps, self.grid.read_px))
        return pixels * self.spec.bands * (2 * np.dtype(self.spec.dtype).itemsize + 4 * 4) + self.network_bytes

    def with_facts(self, facts: Mapping[str, Any]) -> Plan:
        return replace(self, scene_facts=facts)

    def to_dict(self) -> dict[str, Any]:
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return values | {
            "spec": self.spec.to_dict(),
            "steps": [asdict(step) for step in self.steps],
            "warnings": list(self.warnings),
            "guide": None if self.guide is None else asdict(self.guide),
            "budget": None if self.budget is None else asdict(self.budget),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Plan:
        values = _of_one_model(values)
        parsed = {
            "spec": CubeSpec.from_dict(values["spec"]),
            "steps": tuple(Step(**step) for step in values["steps"]),
            "warnings": tuple(values["warnings"]),
            "guide": Guide(**g) if (g := values.get("guide")) else None,
            "budget": AdaptationBudget(**b) if (b := values.get("budget")) else None,
        }
        return cls(**{**values, **parsed})


def _of_one_model(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """A plan as it was written before there were chains, in today's keys: its cube must still be found complete."""
    if "steps" in values:
        return values
    rest = dict(values)
    step = {key: rest.pop(key) for key in ("model", "weights_sha256", "window_bands", "halo", "scale")}
    rest.pop("activation_bytes_per_px", None)
    facts = rest.get("scene_facts")
    if facts is not None and rest.get("guide") is None:
        rest["scene_facts"] = {"mean": facts["mean"], "steps": [facts["model"]]}
    return {**rest, "steps": [{"task": rest["task"], **step}]}


def plan_key(target: str) -> str:
    """Where the plan of a restored cube lies in the archive."""
    return target.removesuffix(".zarr") + ".plan.json"


def read_plan(root: ArchiveStore, key: str) -> Plan:
    """The plan that lies at ``key``.

    Raises:
        NotFound: none does.
        Refused: it is damaged.
    """
    try:
        return Plan.from_dict(root.get_json(key))
    except (NotJson, KeyError, TypeError, ValueError, AttributeError) as error:
        raise Refused(
            f"the plan {root.href(key)} is damaged; `hypermend verify` removes it, and the same command makes it anew"
        ) from error


def make_plan(
    *,
    scene_id: str,
    collection: str,
    source: str,
    ingest_id: str,
    spec: CubeSpec,
    models: Mapping[str, ModelCard],
    why: Mapping[str, str] = MappingProxyType({}),
    tile_px: int | None = None,
    guide: tuple[Guide, CubeSpec] | None = None,
    budget: AdaptationBudget | None = None,
    granted_bytes: int | None = None,
) -> Plan:
    """Plan the restoration of the source cube ``spec`` by a chain of models.

    Args:
        models: the card for each task, first done first.
        why: why each task got its model.
        guide: what it is fused with, and the spec of that source cube.
        budget: of the adaptation of each block; None where the model does not adapt.
        granted_bytes: memory that a worker has; None for any. It decides whether there is a plan, and nothing in it.

    Raises:
        Refused: a model does not accept the cube's quantity, wavelengths or band spacing, the guide does not fit,
            the tile is no multiple of the scale, or it takes more memory than is granted.
    """
    warnings = tuple(w for card in models.values() if (w := _accepted(scene_id, spec, card)) is not None)
    steps = tuple(_step(task, card, why.get(task, "")) for task, card in models.items())
    lattice_px = LATTICE_PX
    of_guide: dict[str, Any] = {}
    if guide is not None:
        scale, seen, of_guide = _beside(scene_id, spec, *guide)
        (card,) = models.values()
        steps = (replace(steps[0], halo=card.halo_at(scale), scale=scale),)
        warnings += _said_of(guide[0], seen)
        lattice_px = 1  # a pair is read up to the scene's edge, wherever that is
    scale = scale_of(steps)
    if scale > 1:
        spec = finer_spec(spec, scale)
    step_px = math.lcm(16, lattice_px * scale)
    if tile_px is None:
        tile_px = chain_tile_px(spec.bands, steps, step_px=step_px)
    tile_px = _tile(scene_id, spec, tile_px, scale=scale, step_px=step_px)
    dtype = "float32" if spec.dtype == "uint8" else spec.dtype  # 8 bits cannot hold what a network resolves
    chunk, shard = CubeSpec.layout(spec.shape, dtype, tile_px)
    task = "-".join(models)
    first, *then = (_identity(step, models[step.task]) for step in steps)
    decides = {"ingest": ingest_id, "task": task, **first, "tile_px": tile_px, "result_version": RESULT_VERSION}
    decides |= of_guide
    if then:
        decides["then"] = then
    if budget is not None:
        decides["budget"] = asdict(budget)
    plan_id = digest(decides)
    names = ",".join(step.model for step in steps)
    attrs = {**spec.attrs, "hypermend:plan": plan_id, "hypermend:model": names, "hypermend:task": task}
    if guide is not None:
        attrs["hypermend:guide"] = f"{guide[0].collection}/{guide[0].scene_id}"
    plan = Plan(
        id=plan_id,
        scene_id=scene_id,
        collection=collection,
        task=task,
        source=source,
        target=f"restored/{safe_name(scene_id)}/{plan_id}.zarr",
        steps=steps,
        tile_px=tile_px,
        guide=None if guide is None else guide[0],
        budget=budget,
        spec=replace(spec, stage="restored", dtype=dtype, chunk=chunk, shard=shard, attrs=attrs),
        warnings=warnings,
    )
    plan = replace(plan, network_bytes=_network_bytes(plan, models))
    if granted_bytes is not None:
        _check_grant(plan, granted_bytes)
    return plan


def _check_grant(plan: Plan, granted_bytes: int) -> None:
    if plan.tile_bytes > granted_bytes:
        raise Refused(
            f"scene {plan.scene_id}: a tile of {plan.tile_px} pixels takes {plan.tile_bytes / 2**30:.2f} GiB with "
            f"model {plan.model}, and a worker is granted {granted_bytes / 2**30:.2f} GiB; make tiles smaller "
            "(--tile-px), workers fewer (--workers), or grant more (--memory-gib)"
        )


def _beside(
    scene_id: str, spec: CubeSpec, guide: Guide, guide_spec: CubeSpec
) -> tuple[int, SpectralOverlap, dict[str, Any]]:
    """Scale and sight of a pair, and what of them decides pixels."""
    try:
        scale, seen = scale_between(spec, guide_spec), spectral_overlap(spec, guide_spec)
    except ArchiveError as error:
        raise Refused(f"scene {scene_id} with guide {guide.scene_id}: {error}") from error
    # Rounded: another machine's last digit must not give the work of this one another name.
    response = [[round(float(value), 6) for value in row] for row in seen.response]
    return scale, seen, {"guide": guide.ingest_id, "bands": list(seen.bands), "scale": scale, "response": response}


def _said_of(guide: Guide, seen: SpectralOverlap) -> tuple[str, ...]:
    """What a person should know of the pair before it is fused."""
    said = []
    if guide.others:
        said.append(f"guide {guide.scene_id} is the nearest in time of {guide.others + 1} that cover the scene as well")
    if guide.overlap < FULL_OVERLAP:
        said.append(f"guide {guide.scene_id} covers {guide.overlap:.0%} of the scene; the rest keeps its own detail")
    if seen.left_out:
        said.append(f"guide bands {', '.join(seen.left_out)} are left out: the scene has no bands there")
    if seen.beyond:
        said.append(
            f"{len(seen.beyond)} bands below {seen.range_nm[0]:.0f} nm or above {seen.range_nm[1]:.0f} nm lie outside "
            "the range of the guide: their detail follows from the other bands and is less certain"
        )
    return tuple(said)


def _accepted(scene_id: str, spec: CubeSpec, card: ModelCard) -> str | None:
    """What is worth saying of the model on this cube.

    Raises:
        Refused: no band is good, or the model does not accept the cube.
    """
    if not good_nm(spec):
        raise Refused(f"scene {scene_id}: all {spec.bands} bands are marked bad; nothing to restore")
    if (reason := incompatibility(spec, card)) is not None:
        raise Refused(f"scene {scene_id} {reason}; choose another with --model")
    return advisory(spec, card)


def _step(task: str, card: ModelCard, why: str) -> Step:
    return Step(
        task=task,
        model=card.name,
        weights_sha256=card.weights_sha256,
        window_bands=card.window_bands,
        halo=card.halo,
        scale=card.scale,
        why=why,
    )


def _identity(step: Step, card: ModelCard) -> dict[str, Any]:
    """What of a step decides pixels; the scale of a sharpener is in its config."""
    return {
        "architecture": card.architecture,
        "config": card.config,
        "weights": card.weights_sha256,
        "window_bands": card.window_bands,
        "halo": step.halo,
    }


def _network_bytes(plan: Plan, models: Mapping[str, ModelCard]) -> int:
    """The most that a step of the chain holds."""
    _, *made = windows_px(plan.steps, plan.grid.read_px)
    return max(
        activation_bytes(models[step.task], plan.spec.bands, math.prod(window))
        for step, window in zip(plan.steps, made, strict=True)
    )


def _tile(scene_id: str, spec: CubeSpec, tile_px: int, *, scale: int, step_px: int) -> int:
    """Edge of the tiles in target pixels: whole chunks and whole source pixels.

    A scene smaller than the tile is one tile; the lattice of a larger one depends on model and cube only.
    """
    if tile_px % step_px:
        near = max(step_px, tile_px // step_px * step_px)
        raise Refused(
            f"scene {scene_id}: a tile of {tile_px} pixels is no multiple of {step_px}, which the scale {scale} needs; "
            f"{near} and {near + step_px} are"
        )
    return min(tile_px, -(-max(spec.height, spec.width) // step_px) * step_px)


def pending(plan: Plan, done: Collection[Index]) -> Iterator[Index]:
    """The tiles without a mark, in order; lazy, for a scene may have a million."""
    return (index for index in plan.grid.indices() if index not in done)
