"""Plans: everything that decides the pixels of one restored cube, as one frozen value. No pixels, no Ray, no torch.

The id of a plan is a hash of what changes pixels and of nothing else, so a rerun finds its own work and a changed
setting can never resume into an old cube. Workers, threads, memory, paths and package versions are never in it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from catalog.errors import ArchiveError
from catalog.pairing import Sight, refined, scale_between, sight
from catalog.root import safe_name
from catalog.spec import CubeSpec
from models.card import ModelCard
from models.memory import activation_bytes_per_px
from pipeline.blocks import BlockGrid
from pipeline.pixels import FILL_REACH_PX
from pipeline.tiles import Index, SpectralWindow, Tile, TileGrid, default_tile_px, spectral_windows

RESULT_VERSION = 2
"""Bumped by hand whenever the same plan would give other pixels (a golden-bytes test fails until it is)."""

LEAST_TILE_PX = 256
MOST_WINDOW_BYTES = 256 * 2**20
"""Of one float32 window of a fused cube, halo included, where nobody asks for a tile size: a worker holds several."""
FULL_OVERLAP = 0.995
"""Less, and it is said that the guide does not cover the scene: outlines in two systems are never quite the same."""


class Refused(Exception):
    """The plan cannot be carried out, and no pixel was touched: says which scene, why and what to do."""


def digest(value: Any) -> str:
    """16 hex digits of the canonical JSON of ``value``."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


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
class Budget:
    """How long each block of a scene may adapt; the end is whichever comes first."""

    steps: int
    seconds: float | None = None
    """None: as long as the steps take. Seconds make the pixels depend on the machine."""


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
    """Target pixels, a multiple of ``scale``."""
    scale: int = 1
    """Target pixels along the edge of a source pixel."""
    guide: Guide | None = None
    budget: Budget | None = None
    """Of each block's adaptation; None where the model does not adapt."""
    activation_bytes_per_px: int = 0
    """What the network holds at its peak, for each target pixel of a tile and its halo."""
    spec: CubeSpec
    """Of the restored cube."""
    scene_facts: Mapping[str, Any] | None = None
    """What was estimated once from the whole scene; None until it was."""
    warnings: tuple[str, ...] = ()

    @property
    def grid(self) -> TileGrid:
        return TileGrid(height=self.spec.height, width=self.spec.width, tile_px=self.tile_px)

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

    @property
    def windows(self) -> tuple[SpectralWindow, ...] | None:
        """The spectral windows, or None where the model takes every band at once."""
        if self.window_bands is None:
            return None
        return spectral_windows(self.spec.wavelength_nm, self.spec.detector, self.spec.good, self.window_bands)

    @property
    def tile_bytes(self) -> int:
        """Memory that one tile takes in a worker, halo included: its pixels, and what the network makes of them.

        Pixels are stored numbers in and out, and float32 in, filled, out and their difference.
        """
        pixels = math.prod(px + 2 * self.scale * (self.halo + FILL_REACH_PX) for px in self.grid.read_px)
        of_bands = self.spec.bands * (2 * np.dtype(self.spec.dtype).itemsize + 4 * 4)
        return pixels * (of_bands + self.activation_bytes_per_px)

    def with_facts(self, facts: Mapping[str, Any]) -> Plan:
        return replace(self, scene_facts=facts)

    def to_dict(self) -> dict[str, Any]:
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return values | {
            "spec": self.spec.to_dict(),
            "warnings": list(self.warnings),
            "guide": None if self.guide is None else asdict(self.guide),
            "budget": None if self.budget is None else asdict(self.budget),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Plan:
        parsed = {
            "spec": CubeSpec.from_dict(values["spec"]),
            "warnings": tuple(values["warnings"]),
            "guide": Guide(**g) if (g := values.get("guide")) else None,
            "budget": Budget(**b) if (b := values.get("budget")) else None,
        }
        return cls(**{**values, **parsed})


def plan_key(target: str) -> str:
    """Where the plan of a restored cube lies in the archive."""
    return target.removesuffix(".zarr") + ".plan.json"


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
    guide: tuple[Guide, CubeSpec] | None = None,
    budget: Budget | None = None,
    granted_bytes: int | None = None,
) -> Plan:
    """Plan the restoration of the source cube ``spec`` by the model of ``card``.

    Args:
        guide: what it is fused with, and the spec of that source cube.
        budget: of the adaptation of each block; None where the model does not adapt.
        granted_bytes: memory that a worker has; None for any. It decides whether there is a plan, and nothing in it.

    Raises:
        Refused: the model does not accept the cube's quantity, wavelengths or band spacing, the guide does not fit,
            the tile is no multiple of the scale, or it takes more memory than is granted.
    """
    warnings = _accepted(scene_id, spec, card)
    scale, halo = 1, card.halo
    of_guide: dict[str, Any] = {}
    if guide is not None:
        scale, seen, of_guide = _beside(scene_id, spec, *guide)
        halo = card.halo_at(scale)
        warnings += _said_of(guide[0], seen)
        spec = refined(spec, scale)
    if tile_px is None:
        tile_px = default_tile_px(halo) if guide is None else _default_tile_px(spec.bands, halo=halo, scale=scale)
    tile_px = _tile(scene_id, spec, tile_px, scale=scale)
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
            "halo": halo,
            "tile_px": tile_px,
            "result_version": RESULT_VERSION,
            **of_guide,
            **({} if budget is None else {"budget": asdict(budget)}),
        }
    )
    attrs = {**spec.attrs, "hypermend:plan": plan_id, "hypermend:model": card.name, "hypermend:task": task}
    if guide is not None:
        attrs["hypermend:guide"] = f"{guide[0].collection}/{guide[0].scene_id}"
    plan = Plan(
        id=plan_id,
        scene_id=scene_id,
        collection=collection,
        task=task,
        source=source,
        target=f"restored/{safe_name(scene_id)}/{plan_id}.zarr",
        model=card.name,
        weights_sha256=card.weights_sha256,
        window_bands=card.window_bands,
        halo=halo,
        tile_px=tile_px,
        scale=scale,
        guide=None if guide is None else guide[0],
        budget=budget,
        activation_bytes_per_px=activation_bytes_per_px(card, spec.bands),
        spec=replace(spec, stage="restored", dtype=dtype, chunk=chunk, shard=shard, attrs=attrs),
        warnings=warnings,
    )
    if granted_bytes is not None and plan.tile_bytes > granted_bytes:
        raise Refused(
            f"scene {scene_id}: a tile of {tile_px} pixels takes {plan.tile_bytes / 2**30:.2f} GiB with model "
            f"{card.name}, and a worker is granted {granted_bytes / 2**30:.2f} GiB; make tiles smaller (--tile-px), "
            "workers fewer (--workers), or grant more (--memory-gib)"
        )
    return plan


def _beside(scene_id: str, spec: CubeSpec, guide: Guide, guide_spec: CubeSpec) -> tuple[int, Sight, dict[str, Any]]:
    """Scale and sight of a pair, and what of them decides pixels."""
    try:
        scale, seen = scale_between(spec, guide_spec), sight(spec, guide_spec)
    except ArchiveError as error:
        raise Refused(f"scene {scene_id} with guide {guide.scene_id}: {error}") from error
    # Rounded: another machine's last digit must not give the work of this one another name.
    response = [[round(float(value), 6) for value in row] for row in seen.response]
    return scale, seen, {"guide": guide.ingest_id, "bands": list(seen.bands), "scale": scale, "response": response}


def _said_of(guide: Guide, seen: Sight) -> tuple[str, ...]:
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


def _default_tile_px(bands: int, *, halo: int, scale: int) -> int:
    """Default tile of a fusion: as large as the halo wants it, unless a window of the finer cube would be too large."""
    step = math.lcm(16, scale)
    most = math.isqrt(MOST_WINDOW_BYTES // (4 * bands)) - 2 * scale * (halo + FILL_REACH_PX)
    wanted = min(default_tile_px(halo * scale), max(LEAST_TILE_PX, most // step * step))
    return -(-wanted // step) * step


def _tile(scene_id: str, spec: CubeSpec, tile_px: int, *, scale: int) -> int:
    """Edge of the tiles in target pixels: whole chunks and whole source pixels.

    A scene smaller than the tile is one tile; the lattice of a larger one depends on model and cube only.
    """
    step = math.lcm(16, scale)
    if tile_px % step:
        near = max(step, tile_px // step * step)
        raise Refused(
            f"scene {scene_id}: a tile of {tile_px} pixels is no multiple of {step}, which the scale {scale} needs; "
            f"{near} and {near + step} are"
        )
    return min(tile_px, -(-max(spec.height, spec.width) // step) * step)


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
