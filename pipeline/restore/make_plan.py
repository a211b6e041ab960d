"""Make the plan of a request from the specs of its cubes and the cards of its models. No pixels, no Ray, no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from hypermend.catalog.cube.layout import read_spec
from hypermend.catalog.cube.spec import CubeSpec
from hypermend.catalog.errors import Refused
from hypermend.catalog.keys import restored_cube_key
from hypermend.catalog.pairs.pairing import finer_spec
from hypermend.catalog.storage.archive_store import ArchiveStore, digest
from hypermend.models.card import ModelCard
from hypermend.models.memory import activation_bytes
from hypermend.pipeline.registry.compatibility import advisory, good_nm, incompatibility
from hypermend.pipeline.restore.plan import Plan
from hypermend.pipeline.restore.request import PlanDraft, SceneRequest
from hypermend.pipeline.restore.steps import Step, chain_tile_px, scale_of, windows_px

RESULT_VERSION = 4
"""Bumped by hand whenever the same plan would give other pixels (a golden-bytes test fails until it is)."""


def plan_request(root: ArchiveStore, request: SceneRequest, cards: Mapping[str, ModelCard]) -> Plan:
    """Read the specs of the request's cubes and make its plan; raises as ``make_plan``."""
    return make_plan(request, [read_spec(root, key) for key in request.cubes], cards)


def make_plan(request: SceneRequest, specs: Sequence[CubeSpec], cards: Mapping[str, ModelCard]) -> Plan:
    """Plan the restoration of one scene.

    Args:
        specs: of the request's cubes, the scene's first.
        cards: the card for each task, first done first.

    Raises:
        Refused: a model does not accept the cube's quantity, wavelengths or band spacing, the guide does not fit, or
            the tile is no multiple of the scale.
    """
    scene, spec = request.scene, specs[0]
    advice = [_advice(scene.id, spec, card) for card in cards.values()]
    draft = request.draft(specs, cards)
    scale = scale_of(draft.steps)
    if scale > 1:
        spec = finer_spec(spec, scale)
    tile_px = _tile_px(request, spec, draft)
    dtype = "float32" if spec.dtype == "uint8" else spec.dtype  # 8 bits cannot hold what a network resolves
    chunk, shard = CubeSpec.layout(spec.shape, dtype, tile_px)
    plan_id = digest(_identity(request, draft, cards, tile_px))
    task = "-".join(cards)
    attrs = {"hypermend:plan": plan_id, "hypermend:model": ",".join(step.model for step in draft.steps)}
    attrs |= {"hypermend:task": task, **draft.attrs}
    plan = Plan(
        id=plan_id,
        scene_id=scene.id,
        collection=request.collection,
        task=task,
        source=request.cubes[0],
        target=restored_cube_key(scene.id, plan_id),
        steps=draft.steps,
        tile_px=tile_px,
        guide=draft.guide,
        budget=draft.budget,
        destripe=draft.destripe,
        fill_bands=draft.fill_bands,
        uncertainty=draft.uncertainty,
        spec=replace(
            spec,
            stage="restored",
            dtype=dtype,
            chunk=chunk,
            shard=shard,
            attrs={**spec.attrs, **attrs},
            defects=False,  # the source cube's say what the instrument recorded; `with_facts` says what is repaired
            uncertainty=draft.uncertainty == "on",  # that of the source says nothing of restored numbers
        ).with_overviews(request.overviews),
        warnings=(*(line for line in advice if line is not None), *draft.warnings),
    )
    return replace(plan, network_bytes=_network_bytes(plan, cards))


def check_memory(plan: Plan, granted_bytes: int | None) -> None:
    """
    Args:
        granted_bytes: memory of a worker; None for any. It decides whether a plan runs, and nothing in the plan.

    Raises:
        Refused: one tile takes more than a worker is granted.
    """
    if granted_bytes is not None and plan.tile_bytes > granted_bytes:
        raise Refused(
            f"scene {plan.scene_id}: a tile of {plan.tile_px} pixels takes {plan.tile_bytes / 2**30:.2f} GiB with "
            f"model {plan.model}, and a worker is granted {granted_bytes / 2**30:.2f} GiB; make tiles smaller "
            "(--tile-px), workers fewer (--workers), or grant more (--memory-gib)"
        )


def _advice(scene_id: str, spec: CubeSpec, card: ModelCard) -> str | None:
    """Warning about the model on this cube, or None.

    Raises:
        Refused: no band is good, or the model does not accept the cube.
    """
    if not good_nm(spec):
        raise Refused(f"scene {scene_id}: all {spec.bands} bands are marked bad; nothing to restore")
    if (reason := incompatibility(spec, card)) is not None:
        raise Refused(f"scene {scene_id} {reason}; choose another with --model")
    return advisory(spec, card)


def _tile_px(request: SceneRequest, spec: CubeSpec, draft: PlanDraft) -> int:
    """Edge of the tiles in target pixels: whole chunks and whole source pixels.

    A scene smaller than the tile is one tile; the lattice of a larger one depends on model and cube only.
    """
    scale = scale_of(draft.steps)
    step_px = math.lcm(16, draft.lattice_px * scale)
    tile_px = request.tile_px
    if tile_px is None:
        tile_px = chain_tile_px(spec.bands, draft.steps, step_px=step_px, bounded=draft.bounded)
    if tile_px % step_px:
        near = max(step_px, tile_px // step_px * step_px)
        raise Refused(
            f"scene {request.scene.id}: a tile of {tile_px} pixels is no multiple of {step_px}, which the scale "
            f"{scale} needs; {near} and {near + step_px} are"
        )
    return min(tile_px, -(-max(spec.height, spec.width) // step_px) * step_px)


def _identity(request: SceneRequest, draft: PlanDraft, cards: Mapping[str, ModelCard], tile_px: int) -> dict[str, Any]:
    """Everything that decides the pixels; its hash is the plan's id, so no key may ever be renamed."""
    first, *then = (_step_identity(step, cards[step.task]) for step in draft.steps)
    identity = {
        "ingest": str(request.scene.properties["hypermend:ingest"]),
        "task": "-".join(cards),
        **first,
        "tile_px": tile_px,
        "result_version": RESULT_VERSION,
        **draft.identity,
    }
    if then:
        identity["then"] = then
    if draft.budget is not None:
        identity["budget"] = asdict(draft.budget)
    return identity


def _step_identity(step: Step, card: ModelCard) -> dict[str, Any]:
    """The part of one step; the scale of a sharpener is in its config."""
    return {
        "architecture": card.architecture,
        "config": card.config,
        "weights": card.weights_sha256,
        "window_bands": card.window_bands,
        "halo": step.halo,
    }


def _network_bytes(plan: Plan, cards: Mapping[str, ModelCard]) -> int:
    """Largest memory that the network of any step holds."""
    _, *made = windows_px(plan.steps, plan.grid.read_px)
    return max(
        activation_bytes(cards[step.task], plan.spec.bands, math.prod(window))
        for step, window in zip(plan.steps, made, strict=True)
    )
