"""Plans: everything that decides the pixels of one restored cube, as one frozen value. No pixels, no Ray, no torch.

The id of a plan is a hash of what changes pixels and of nothing else, so a rerun finds its own work and a changed
setting can never resume into an old cube. Workers, threads, memory, paths and package versions are never in it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from catalog.root import safe_name
from catalog.spec import CubeSpec
from models.card import ModelCard
from pipeline.pixels import FILL_REACH_PX
from pipeline.tiles import Index, SpectralWindow, Tile, TileGrid, default_tile_px, spectral_windows

RESULT_VERSION = 1
"""Bumped by hand whenever the same plan would give other pixels (a golden-bytes test fails until it is)."""


class Refused(Exception):
    """The plan cannot be carried out, and no pixel was touched: says which scene, why and what to do."""


def digest(value: Any) -> str:
    """16 hex digits of the canonical JSON of ``value``."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One scene, one model, one restored cube."""

    id: str
    scene_id: str
    collection: str
    task: str
    source: str
    """Key of the source cube in the archive."""
    target: str
    """Key of the restored cube in the archive."""
    model: str
    """Name of the model, in the archive or built in."""
    weights_sha256: str
    window_bands: int | None
    halo: int
    """Source pixels around a tile that its pixels may depend on."""
    tile_px: int
    spec: CubeSpec
    """Of the restored cube."""
    scene_facts: Mapping[str, Any] | None = None
    """What was estimated once from the whole scene; None until it was."""
    warnings: tuple[str, ...] = ()

    @property
    def grid(self) -> TileGrid:
        return TileGrid(height=self.spec.height, width=self.spec.width, tile_px=self.tile_px)

    @property
    def key(self) -> str:
        """Where the plan itself lies in the archive: beside its cube."""
        return self.target.removesuffix(".zarr") + ".plan.json"

    @property
    def windows(self) -> tuple[SpectralWindow, ...] | None:
        """The spectral windows, or None where the model takes every band at once."""
        if self.window_bands is None:
            return None
        return spectral_windows(self.spec.wavelength_nm, self.spec.detector, self.spec.good, self.window_bands)

    @property
    def pixel_bytes(self) -> int:
        """Memory that one tile's pixels take in a worker, the network's own activations apart.

        Stored numbers in and out, and float32 in, filled, out and their difference, halo included.
        """
        edge = [px + 2 * (self.halo + FILL_REACH_PX) for px in self.grid.read_px]
        return edge[0] * edge[1] * self.spec.bands * (2 * np.dtype(self.spec.dtype).itemsize + 4 * 4)

    def with_facts(self, facts: Mapping[str, Any]) -> Plan:
        return replace(self, scene_facts=facts)

    def to_dict(self) -> dict[str, Any]:
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return values | {"spec": self.spec.to_dict(), "warnings": list(self.warnings)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Plan:
        parsed = {"spec": CubeSpec.from_dict(values["spec"]), "warnings": tuple(values["warnings"])}
        return cls(**{**values, **parsed})


def make_plan(
    *,
    scene_id: str,
    collection: str,
    source: str,
    ingest_id: str,
    spec: CubeSpec,
    card: ModelCard,
    task: str,
    tile_px: int | None = None,
) -> Plan:
    """Plan the restoration of the source cube ``spec`` by the model of ``card``.

    Raises:
        Refused: the model does not accept the cube's quantity, wavelengths or band spacing.
    """
    warnings = _accepted(scene_id, spec, card)
    wanted = tile_px or default_tile_px(card.halo)
    # A scene smaller than the tile is one tile; the lattice of a larger one depends on model and cube only.
    tile_px = min(wanted, -(-max(spec.height, spec.width) // 16) * 16)
    dtype = "float32" if spec.dtype == "uint8" else spec.dtype  # 8 bits cannot hold what a denoiser resolves
    chunk, shard = CubeSpec.layout(spec.shape, dtype, tile_px)
    plan_id = digest(
        {
            "ingest": ingest_id,
            "task": task,
            "architecture": card.architecture,
            "config": card.config,
            "weights": card.weights_sha256,
            "window_bands": card.window_bands,
            "halo": card.halo,
            "tile_px": tile_px,
            "result_version": RESULT_VERSION,
        }
    )
    attrs = {**spec.attrs, "hypermend:plan": plan_id, "hypermend:model": card.name, "hypermend:task": task}
    return Plan(
        id=plan_id,
        scene_id=scene_id,
        collection=collection,
        task=task,
        source=source,
        target=f"restored/{safe_name(scene_id)}/{plan_id}.zarr",
        model=card.name,
        weights_sha256=card.weights_sha256,
        window_bands=card.window_bands,
        halo=card.halo,
        tile_px=tile_px,
        spec=replace(spec, stage="restored", dtype=dtype, chunk=chunk, shard=shard, attrs=attrs),
        warnings=warnings,
    )


def pending(plan: Plan, done: Collection[Index]) -> Iterator[Tile]:
    """The tiles without a mark, in order; lazy, for a scene may have a million."""
    return (tile for tile in plan.grid if tile.index not in done)


def _accepted(scene_id: str, spec: CubeSpec, card: ModelCard) -> tuple[str, ...]:
    """Warnings about what the card was not trained on; Refused about what it does not accept."""
    nm = [w for w, good in zip(spec.wavelength_nm, spec.good, strict=True) if good]
    if not nm:
        raise Refused(f"scene {scene_id}: all {spec.bands} bands are marked bad; nothing to restore")
    if card.quantity is not None and spec.quantity not in card.quantity:
        raise Refused(
            f"scene {scene_id} holds {spec.quantity}, model {card.name} accepts {', '.join(card.quantity)}; "
            "choose another with --model"
        )
    if card.accepts_range_nm is not None:
        low, high = card.accepts_range_nm
        if nm[0] < low or nm[-1] > high:
            raise Refused(
                f"scene {scene_id} spans {nm[0]:.0f}-{nm[-1]:.0f} nm, model {card.name} accepts "
                f"{low:.0f}-{high:.0f} nm; choose another with --model"
            )
    steps = sorted(b - a for a, b in pairwise(nm) if b > a)
    if card.accepts_spacing_nm is not None and steps:
        low, high = card.accepts_spacing_nm
        spacing = steps[len(steps) // 2]
        if not low <= spacing <= high:
            raise Refused(
                f"scene {scene_id} has a band every {spacing:.1f} nm, model {card.name} accepts "
                f"{low:.1f}-{high:.1f} nm; choose another with --model"
            )
    if card.window_bands is not None and len(nm) < card.window_bands:
        return (f"{len(nm)} good bands are fewer than the {card.window_bands} of model {card.name}; reflected",)
    return ()
