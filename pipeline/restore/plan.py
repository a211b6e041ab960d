"""Plans: everything that decides the pixels of one restored cube, as one frozen value. No pixels, no Ray, no torch.

The id of a plan is a hash of what changes pixels and of nothing else, so a rerun finds its own work and a changed
setting can never resume into an old cube. Workers, threads, memory, paths and package versions are never in it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from hypermend.catalog.cube.spec import CubeSpec
from hypermend.catalog.documents import validated
from hypermend.catalog.errors import BadCube, Refused
from hypermend.catalog.storage.archive_store import ArchiveStore, NotJson
from hypermend.models.budget import AdaptationBudget
from hypermend.pipeline.restore.steps import Step, margins, scale_of, windows_px
from hypermend.pipeline.tiling.blocks import BlockGrid
from hypermend.pipeline.tiling.spectral_windows import SpectralWindow, spectral_windows
from hypermend.pipeline.tiling.tiles import Index, TileGrid


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
    days_apart: float | None = 0.0
    others: int = 0
    """How many more there were to choose from."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One scene, one chain of models, one restored cube."""

    id: str
    scene_id: str
    collection: str
    task: str
    """Tasks of the steps, joined: denoise, denoise-sharpen."""
    source: str
    """Key of the source cube in the archive."""
    target: str
    """Key of the restored cube in the archive."""
    steps: tuple[Step, ...]
    tile_px: int
    """Target pixels, a multiple of ``scale``."""
    guide: Guide | None = None
    destripe: str = "off"
    """Whether stripes are subtracted before the first model: off or on."""
    fill_bands: str = "off"
    """Whether isolated bad bands are predicted from their neighbours: off or on."""
    uncertainty: str = "off"
    """Whether the cube gets the standard deviation of its numbers: off or on."""
    budget: AdaptationBudget | None = None
    """Limit of each block's adaptation; None where the model does not adapt."""
    network_bytes: int = 0
    """Peak memory of the networks for one tile, on top of its pixels."""
    spec: CubeSpec
    """Layout of the restored cube."""
    scene_facts: Mapping[str, Any] | None = None
    """Facts estimated once from the whole scene; None before."""
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
        floats = 4 if self.uncertainty == "off" else 6  # the standard deviation, and what it is made of
        return pixels * self.spec.bands * (2 * np.dtype(self.spec.dtype).itemsize + 4 * floats) + self.network_bytes

    @property
    def read_bytes(self) -> int:
        """Uncompressed bytes of one tile as it is read, halo included."""
        rows, columns = (px // self.scale + 2 * self.halo for px in self.grid.read_px)
        return rows * columns * self.spec.bands * np.dtype(self.spec.dtype).itemsize

    @property
    def samples(self) -> int:
        """Bands times pixels of the restored cube."""
        return math.prod(self.spec.shape)

    @property
    def guides(self) -> tuple[Guide, ...]:
        """The guide of a fusion; nothing for other tasks."""
        return () if self.guide is None else (self.guide,)

    @property
    def cubes(self) -> tuple[str, ...]:
        """Keys of the source cubes that the plan reads."""
        return self.source, *(guide.source for guide in self.guides)

    def with_facts(self, facts: Mapping[str, Any]) -> Plan:
        """The plan with what was estimated; a scene with defects gets a cube that says what was repaired."""
        return replace(self, scene_facts=facts, spec=replace(self.spec, defects="repair" in facts))

    def to_dict(self) -> dict[str, Any]:
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return values | {
            "spec": self.spec.to_dict(),
            "steps": [asdict(step) for step in self.steps],
            "warnings": list(self.warnings),
            "guide": next((asdict(guide) for guide in self.guides), None),
            "budget": None if self.budget is None else asdict(self.budget),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Plan:
        values = _of_one_model(values)
        parsed = {
            "spec": CubeSpec.from_dict(values["spec"]),
            "steps": tuple(validated(Step, step) for step in values["steps"]),
            "guide": validated(Guide, g) if (g := values.get("guide")) else None,
            "budget": validated(AdaptationBudget, b) if (b := values.get("budget")) else None,
        }
        return validated(cls, {**values, **parsed})


def _of_one_model(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """A plan as it was written before there were chains, in today's keys: its cube must still be found complete."""
    if "steps" in values:
        return values
    rest = dict(values)
    step = {key: rest.pop(key) for key in ("model", "weights_sha256", "window_bands", "halo", "scale")}
    rest.pop("activation_bytes_per_px", None)
    facts = rest.get("scene_facts")
    if facts is not None and isinstance(facts["model"], list):  # one for each spectral window; a pair has one in all
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
        return root.get_document(key, Plan.from_dict)
    except (NotJson, BadCube) as error:
        raise Refused(
            f"the plan {root.href(key)} is damaged; `hypermend verify --repair` sets it aside, and the same command "
            "makes it again"
        ) from error


def pending(plan: Plan, done: Collection[Index]) -> Iterator[Index]:
    """The tiles without a mark, in order; lazy, for a scene may have a million."""
    return (index for index in plan.grid.indices() if index not in done)
