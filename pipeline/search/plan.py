"""The plan of one search, as a value: sensor, areas to learn from, areas to choose by, trials. No pixels, no Ray.

The areas lie on a lattice of each source cube, whole and usable in every pixel, and do not overlap; some of them are
for validation, the others for training. The id of a search hashes everything that decides its result, so the same
command finds its own trials again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from hypermend.catalog.cube.layout import read_spec
from hypermend.catalog.cube.spec import CubeSpec
from hypermend.catalog.errors import Refused
from hypermend.catalog.storage.archive_store import ArchiveStore, to_json
from hypermend.models.denoise.samples import MARGIN_PX
from hypermend.models.denoise.stas import SPACE
from hypermend.models.denoise.stas_search import Strategy
from hypermend.pipeline.registry.spectrum import Spectrum
from hypermend.pipeline.train.areas import Area, interleave_by_cube, usable

SEARCH_VERSION = 3
"""Raised by hand when the same plan would find something else."""
VALIDATION_SHARE = 0.1
"""Share of the areas. The paper's 2 % of its patches would be less than one of our areas in most archives."""
LEAST_AREAS = 4
"""Three to learn from and one to choose by."""
SMALLER_PATCHES_PX = (32, 24, 16)
"""Tried in turn where the scenes are too small for the budget's patches."""
MOST_BANDS = 64
"""Most bands of a search on bands: its cost grows with their square."""
Domain = Literal["subspace", "bands"]


@dataclass(frozen=True, kw_only=True)
class SearchBudget:
    """How much work a search is."""

    trials: int
    seeds: int
    """The first trials differ in their seed alone; those beyond have sampled settings."""
    epochs: int
    steps: int
    """Steps of an epoch."""
    width: int
    channels: int
    """Coefficients of the signal subspace; on bands their number counts instead."""
    patch_px: int
    patches: int
    """Patches in a batch."""
    areas: int
    """At most."""

    @property
    def area_px(self) -> int:
        """Edge of an area: a patch and the margin that the DCT estimate needs."""
        return self.patch_px + 2 * MARGIN_PX


BUDGETS: Mapping[str, SearchBudget] = {
    "smoke": SearchBudget(trials=2, seeds=2, epochs=2, steps=10, width=2, channels=8, patch_px=32, patches=4, areas=12),
    "small": SearchBudget(
        trials=4, seeds=4, epochs=8, steps=150, width=6, channels=12, patch_px=40, patches=4, areas=64
    ),
    "full": SearchBudget(
        trials=8, seeds=4, epochs=100, steps=100, width=12, channels=12, patch_px=40, patches=8, areas=512
    ),
}
"""smoke shows that it works and says nothing of architectures; small is an hour or two of two cores for each sensor."""


@dataclass(frozen=True, kw_only=True)
class SearchPlan:
    """One sensor's search."""

    sensor: str
    spectrum: Spectrum
    strategy: Strategy
    domain: Domain
    budget_name: str
    budget: SearchBudget
    trials: int
    train: tuple[Area, ...]
    validation: tuple[Area, ...]
    cubes: Mapping[str, str]
    """Key of each cube -> its ingest id."""

    def __post_init__(self) -> None:
        """Check that what is chosen by is not what is learnt from.

        Raises:
            Refused: an area of both.
        """
        for area in self.validation:
            for other in self.train:
                if area.overlaps(other):
                    raise Refused(
                        f"search for {self.sensor}: the validation area at y {area.y0}, x {area.x0} of {area.cube} "
                        f"overlaps the training area at y {other.y0}, x {other.x0}; validation must be unseen"
                    )

    @property
    def id(self) -> str:
        """Sensor and a hash of everything that decides the result."""
        decides = {**self.to_dict(), "space": SPACE, "version": SEARCH_VERSION}
        return f"{self.sensor}-{hashlib.sha256(to_json(decides)).hexdigest()[:12]}"

    @property
    def key(self) -> str:
        return f"searches/{self.id}/plan.json"

    @property
    def channels(self) -> int:
        """Channels of the network, in and out."""
        return self.spectrum.bands if self.domain == "bands" else self.budget.channels

    def to_dict(self) -> dict[str, Any]:
        """JSON types; `from_dict` is the inverse."""
        return {
            **asdict(self),
            "train": [asdict(a) for a in self.train],
            "validation": [asdict(a) for a in self.validation],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SearchPlan:
        """Parse JSON types."""
        return cls(
            **{
                **data,
                "spectrum": Spectrum(**data["spectrum"]),
                "budget": SearchBudget(**data["budget"]),
                "train": tuple(Area(**a) for a in data["train"]),
                "validation": tuple(Area(**a) for a in data["validation"]),
            }
        )


def cube_spectrum(spec: CubeSpec) -> Spectrum:
    """The good bands of a cube.

    Raises:
        Refused: it has none.
    """
    good = [nm for nm, ok in zip(spec.wavelength_nm, spec.good, strict=True) if ok]
    if not good:
        raise Refused(f"a cube of {spec.sensor} without a good band cannot be searched on")
    return Spectrum(bands=len(good), low_nm=float(min(good)), high_nm=float(max(good)))


def make_plan(
    root: ArchiveStore,
    cubes: Mapping[str, str],
    *,
    sensor: str,
    strategy: Strategy,
    domain: Domain,
    budget_name: str,
    budget: SearchBudget,
    trials: int | None,
) -> SearchPlan:
    """Plan the search of one sensor; reads the flags of the cubes, no other pixels.

    Args:
        root: the archive.
        cubes: key -> ingest id of the sensor's source cubes.
        sensor: its name.
        strategy: darts or spos.
        domain: coefficients of the signal subspace, or bands.
        budget_name: how the budget is called.
        budget: how much work; its patches become smaller where the scenes are.
        trials: None for the budget's.

    Raises:
        Refused: too few usable areas, or a search on bands whose cubes have too many or different ones.
    """
    specs = {key: read_spec(root, key) for key in cubes}
    spectra = {key: cube_spectrum(spec) for key, spec in specs.items()}
    spectrum = next(iter(spectra.values()))
    if domain == "bands":
        if spectrum.bands > MOST_BANDS:
            raise Refused(
                f"{sensor} has {spectrum.bands} good bands; a search on bands takes at most {MOST_BANDS}: "
                "leave --domain out to search in the signal subspace"
            )
        if counts := sorted({s.bands for s in spectra.values()} - {spectrum.bands}):
            raise Refused(
                f"source cubes of {sensor} have {spectrum.bands} and {counts} good bands; "
                "name scenes of one kind by --scene"
            )
    areas: list[Area] = []
    for patch_px in (budget.patch_px, *(p for p in SMALLER_PATCHES_PX if p < budget.patch_px)):
        budget = replace(budget, patch_px=patch_px)
        found = [list(usable(root, key, budget.area_px)) for key in specs]
        areas = interleave_by_cube(found, budget.areas)
        if len(areas) >= LEAST_AREAS:
            break
    if len(areas) < LEAST_AREAS:
        raise Refused(
            f"search for {sensor}: too few clean patches: {LEAST_AREAS} areas of {budget.area_px} x {budget.area_px} "
            f"usable pixels are needed, {len(areas)} are in {len(cubes)} source cube(s); ingest more scenes"
        )
    every = round(1 / VALIDATION_SHARE)
    validation = areas[::every]
    return SearchPlan(
        sensor=sensor,
        spectrum=spectrum,
        strategy=strategy,
        domain=domain,
        budget_name=budget_name,
        budget=budget,
        trials=budget.trials if trials is None else trials,
        train=tuple(a for a in areas if a not in validation),
        validation=tuple(validation),
        cubes=dict(cubes),
    )
