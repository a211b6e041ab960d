"""The plan of one training, as a value: network, areas to learn from, areas to be scored on, settings. No Ray.

Areas are squares of source cubes, usable in every pixel; whole scenes are held out for validation. The id hashes
everything that decides the weights (not the workers, threads or the model's name), so the same command finds its own
checkpoints again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from hypermend.catalog.cube.spec import CubeSpec
from hypermend.catalog.errors import Refused
from hypermend.catalog.storage.archive_store import ArchiveStore, to_json
from hypermend.pipeline.train.areas import Area, interleave_by_cube, usable

TRAIN_VERSION = 1
"""Raised by hand when the same plan would give other weights."""
FOLDER = "training"
LEAST_AREAS = 4
"""To learn from."""
MOST_AREAS = 4096
HELD_EDGES_PX = (256, 192, 128, 96, 64)
"""Edges of the square of a validation scene that is scored; the first that the scene has room for."""
TaskName = Literal["denoise", "sharpen", "fuse"]


@dataclass(frozen=True, kw_only=True)
class SpectralRange:
    """Range of the training scenes' good bands together, which the model's card accepts."""

    low_nm: float
    high_nm: float
    spacing_nm: tuple[float, float]
    """Smallest and largest of the scenes' median spacings."""
    bands: tuple[int, int]
    """Number of bands of the scene with the fewest and of the one with the most."""
    quantity: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class TrainingSources:
    """What is known of the training scenes before their pixels are read."""

    spectrum: SpectralRange
    specs: tuple[CubeSpec, ...]
    guides: tuple[str, ...]
    """Sensors of the guide collection."""


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """How long and how."""

    steps: int | None
    minutes: float | None
    batch: int
    """Samples over all workers."""
    patch_px: int
    """Edge that the network sees; of the coarse image where there are two."""
    learning_rate: float
    seed: int
    check_every: int
    """Steps between validations."""
    report_every: int
    patience: int | None
    """Validations without gain after which training ends; None for never."""
    bf16: bool | None
    """None: where the worker's hardware has it."""
    freeze_norm: bool


@dataclass(frozen=True, kw_only=True)
class TrainPlan:
    """One training."""

    task: TaskName
    config: Mapping[str, Any]
    """Configuration of the network, as in a model card."""
    sensors: tuple[str, ...]
    spectrum: SpectralRange
    guides: tuple[str, ...]
    """Fuse: sensors whose response half of the pairs have."""
    scenes: Mapping[str, str]
    """Key of each training cube -> id of its scene."""
    train: tuple[Area, ...]
    held: Mapping[str, Area]
    """Id of each validation scene -> the square that is scored."""
    cubes: Mapping[str, str]
    """Key of each cube -> its ingest id."""
    settings: TrainSettings

    def __post_init__(self) -> None:
        """Check that what is scored is not what is learnt from.

        Raises:
            Refused: a scene of both.
        """
        if both := sorted(set(self.scenes.values()) & set(self.held)):
            raise Refused(
                f"scene(s) {', '.join(both)} are among the training and the validation scenes; validation must be "
                "unseen: take them out of --scene or of --validation-scene"
            )

    @property
    def id(self) -> str:
        """Task and a hash of everything that decides the weights."""
        decides = {**self.to_dict(), "version": TRAIN_VERSION}
        return f"{self.task}-{hashlib.sha256(to_json(decides)).hexdigest()[:12]}"

    @property
    def folder(self) -> str:
        return f"{FOLDER}/{self.id}"

    def to_dict(self) -> dict[str, Any]:
        """JSON types; `from_dict` is the inverse."""
        return {
            **asdict(self),
            "train": [asdict(a) for a in self.train],
            "held": {scene: asdict(a) for scene, a in self.held.items()},
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TrainPlan:
        """Parse JSON types."""
        spectrum: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in data["spectrum"].items()}
        return cls(
            **{
                **data,
                "sensors": tuple(data["sensors"]),
                "guides": tuple(data["guides"]),
                "spectrum": SpectralRange(**spectrum),
                "train": tuple(Area(**a) for a in data["train"]),
                "held": {scene: Area(**a) for scene, a in data["held"].items()},
                "settings": TrainSettings(**data["settings"]),
            }
        )


def spectral_range(specs: Mapping[str, CubeSpec]) -> SpectralRange:
    """The good bands of the training cubes.

    Raises:
        Refused: a cube without any.
    """
    counts, spacings, low, high = [], [], [], []
    for key, spec in specs.items():
        good = [nm for nm, ok in zip(spec.wavelength_nm, spec.good, strict=True) if ok]
        if not good:
            raise Refused(f"cube {key} has no good band to learn from; leave its scene out")
        counts.append(len(good))
        low.append(good[0])
        high.append(good[-1])
        spacings.append(float(np.median(np.diff(good))) if len(good) > 1 else 0.0)
    return SpectralRange(
        low_nm=float(np.floor(min(low))),
        high_nm=float(np.ceil(max(high))),
        spacing_nm=(round(0.9 * min(spacings), 2), round(1.1 * max(spacings), 2)),
        bands=(min(counts), max(counts)),
        quantity=tuple(sorted({spec.quantity for spec in specs.values()})),
    )


def training_areas(root: ArchiveStore, cubes: Sequence[str], edges_px: Sequence[int]) -> tuple[Area, ...]:
    """Squares to learn from: of each cube at the largest of the edges that it has room for its share of squares at.

    Raises:
        Refused: too few.
    """
    share = -(-LEAST_AREAS // len(cubes))
    found: list[list[Area]] = []
    for key in cubes:
        areas: list[Area] = []
        for edge in edges_px:
            areas = max(areas, list(usable(root, key, edge)), key=len)
            if len(areas) >= share:
                break
        found.append(areas)
    there = sum(map(len, found))
    if there < LEAST_AREAS:
        raise Refused(
            f"too few valid patches: {LEAST_AREAS} squares of {edges_px[-1]} x {edges_px[-1]} usable pixels are "
            f"needed, {there} are in {len(cubes)} training scene(s); ingest more scenes or take a smaller --patch-px"
        )
    return tuple(interleave_by_cube(found, MOST_AREAS))


def validation_crop(root: ArchiveStore, key: str, scene: str, *, least_px: int, multiple: int) -> Area:
    """The square of a validation scene that is scored, near its middle.

    Raises:
        Refused: it has none.
    """
    for edge in (e // multiple * multiple for e in HELD_EDGES_PX):
        if edge >= least_px and (areas := list(usable(root, key, edge))):
            return areas[len(areas) // 2]
    raise Refused(f"validation scene {scene} has no square of {least_px} x {least_px} usable pixels; take another")
