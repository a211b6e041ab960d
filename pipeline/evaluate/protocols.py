"""The protocols of evaluation: how a source cube is degraded, restored and scored for each task."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from hypermend.catalog.cube.cube import Cube
from hypermend.catalog.cube.spec import CubeSpec
from hypermend.catalog.errors import Refused
from hypermend.catalog.keys import cube_key
from hypermend.catalog.scene import Scene
from hypermend.catalog.sensor_tables import archive_tables
from hypermend.catalog.storage.archive_store import ArchiveStore
from hypermend.models.arrays import F32, Mask
from hypermend.models.card import ModelCard
from hypermend.models.restorer import Model
from hypermend.pipeline.config import EvaluateJob
from hypermend.pipeline.evaluate.scores import restored, scores, truncated_svd
from hypermend.pipeline.protocols.images import bicubic_image, coarse_image, noisy_image
from hypermend.pipeline.protocols.pairs import bicubic_pair, degraded, unadapted, wald_setup
from hypermend.pipeline.registry.compatibility import incompatibility
from hypermend.pipeline.registry.models import load_model, load_pair_model
from hypermend.pipeline.tiling.pixels import data_mask, fill_holes, physical
from hypermend.pipeline.tiling.spectral_windows import SpectralWindow, spectral_windows
from hypermend.pipeline.tiling.tiles import Window

FULL_SCALE = {"cave": 65535.0}
"""Sensors whose counts have a full scale that sharpeners are scored by."""
FIGURES = ("psnr", "ssim", "sam_deg", "ergas", "rmse")
Method = Callable[[], F32]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One method on one scene at one level."""

    scene: str
    level: str
    method: str
    figures: Mapping[str, float | None]
    seconds: float
    trained_on: bool = False

    def to_dict(self) -> dict[str, Any]:
        flat = {"scene": self.scene, "level": self.level, "method": self.method, **self.figures}
        return {**flat, "seconds": round(self.seconds, 3), "trained_on": self.trained_on}


Trial = Callable[[Scene], Iterator[Row]]


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How the models of one task are scored."""

    crop_px: int
    """Edge of the part of a scene that is scored."""
    text: str
    """The protocol in words, with {crop}."""
    trial: Callable[[EvaluateJob, ArchiveStore, int], Trial]
    """Job, archive and crop -> what makes a row for each level and method of a scene."""


class _Denoise:
    def __init__(self, job: EvaluateJob, root: ArchiveStore, crop: int) -> None:
        self.root, self.crop, self.sigma = root, crop, job.sigma
        self.model = load_model(root, job.model)

    def __call__(self, scene: Scene) -> Iterator[Row]:
        spec, truth, known = _image(self.root, scene, self.model.card, crop=self.crop, centre=True)
        windows = _windows(spec, self.model)
        for sigma in self.sigma:
            noisy = noisy_image(truth, sigma)
            methods: dict[str, Method] = {
                "noisy": partial(np.asarray, noisy),
                "svd": partial(truncated_svd, noisy, truth),
                self.model.card.name: partial(restored, self.model, noisy, known, windows=windows),
            }
            yield from _rows(scene, f"sigma {sigma}", truth, known, methods)


class _Sharpen:
    def __init__(self, job: EvaluateJob, root: ArchiveStore, crop: int) -> None:
        self.root, self.crop, self.model = root, crop, load_model(root, job.model)

    def __call__(self, scene: Scene) -> Iterator[Row]:
        s = self.model.scale
        peak = FULL_SCALE.get(scene.sensor)
        spec, truth, known = _image(self.root, scene, self.model.card, crop=self.crop, centre=False, peak=peak)
        h, w = (n // s * s for n in truth.shape[1:])
        if not h or not w:
            raise Refused(f"scene {scene.id}: {truth.shape[1]} x {truth.shape[2]} pixels are too few for scale {s}")
        truth, known = np.ascontiguousarray(truth[:, :h, :w]), known[:h, :w]
        coarse = coarse_image(truth, s)
        # A coarse pixel is known where every pixel under it is.
        there: Mask = known.reshape(h // s, s, w // s, s).all(axis=(1, 3))  # type: ignore[assignment]
        methods: dict[str, Method] = {
            "bicubic": partial(bicubic_image, coarse, s),
            self.model.card.name: partial(restored, self.model, coarse, there, windows=_windows(spec, self.model)),
        }
        yield from _rows(scene, f"x{s}", truth, known, methods, ratio=s)


class _Fuse:
    def __init__(self, job: EvaluateJob, root: ArchiveStore, crop: int) -> None:
        self.root, self.crop, self.scale = root, crop, job.scale or 8
        self.guide = None if job.guide_sensor is None else archive_tables(root).sensor(job.guide_sensor)
        self.model = load_pair_model(root, job.model)
        self.start = load_pair_model(root, "least-squares")

    def __call__(self, scene: Scene) -> Iterator[Row]:
        spec, truth, known = _image(self.root, scene, self.model.card, crop=self.crop, centre=True)
        if not known.all():
            raise Refused(
                f"scene {scene.id}: pixels without data among the {self.crop} of its centre; a pair needs all"
            )
        s = self.scale
        h, w = (n // s * s for n in truth.shape[1:])
        truth = np.ascontiguousarray(truth[:, :h, :w])
        for name, pair, setup in degraded(truth, wald_setup(spec, self.guide, s)):
            methods: dict[str, Method] = {"bicubic": partial(bicubic_pair, pair, setup)}
            methods |= {m.card.name: partial(unadapted, m, pair, setup) for m in (self.start, self.model)}
            yield from _rows(scene, f"x{s} {name}", truth, known[:h, :w], methods, ratio=s)


PROTOCOLS: Mapping[str, Protocol] = {
    "denoise": Protocol(
        crop_px=300,
        text="scene / its maximum, centre {crop} px, white noise sigma / 255, clipped to 0..1; PSNR over the cube",
        trial=_Denoise,
    ),
    "sharpen": Protocol(
        crop_px=512,
        text="CAVE / 65535, others / maximum, top-left {crop} px, bicubic reduction, clipped to 0..1",
        trial=_Sharpen,
    ),
    "fuse": Protocol(
        crop_px=512,
        text="scene / its maximum, centre {crop} px, blurred, decimated, 40 dB; not adapted; clipped to 0..1",
        trial=_Fuse,
    ),
}


def _rows(
    scene: Scene, level: str, truth: F32, known: Mask, methods: Mapping[str, Method], *, ratio: float = 1.0
) -> Iterator[Row]:
    for name, method in methods.items():
        begin = time.perf_counter()
        estimate = method()
        seconds = time.perf_counter() - begin
        found = scores(truth, estimate, None if known.all() else known, ratio=ratio)
        figures = {figure: found[figure] for figure in FIGURES}
        yield Row(scene=scene.id, level=level, method=name, figures=figures, seconds=seconds)


def _windows(spec: CubeSpec, model: Model) -> tuple[SpectralWindow, ...] | None:
    """The spectral windows of the good bands, where the model takes some at a time."""
    if model.card.window_bands is None:
        return None
    good = [i for i, use in enumerate(spec.good) if use]
    nm, detector = [spec.wavelength_nm[i] for i in good], [spec.detector[i] for i in good]
    return spectral_windows(nm, detector, (True,) * len(good), model.card.window_bands)


def _image(
    root: ArchiveStore, scene: Scene, card: ModelCard, *, crop: int, centre: bool, peak: float | None = None
) -> tuple[CubeSpec, F32, Mask]:
    """(spec, (good bands, h, w) in 0..1 without holes, where there was data) of the pixels that are scored.

    `peak` is what they are divided by; None: the largest value of the whole scene.

    Raises:
        Refused: the model does not accept the cube, or no pixel of the crop holds data.
    """
    cube = Cube(root, cube_key(scene))
    spec = cube.spec
    good = np.flatnonzero(spec.good)
    if not len(good):
        raise Refused(f"scene {scene.id}: all {spec.bands} bands are marked bad")
    if (reason := incompatibility(spec, card)) is not None:
        raise Refused(f"scene {scene.id} {reason}")
    top, left = (max(0, (n - crop) // 2) if centre else 0 for n in (spec.height, spec.width))
    window = Window(y0=top, y1=min(top + crop, spec.height), x0=left, x1=min(left + crop, spec.width))
    stored, flags = cube.read(window.y, window.x)
    values = physical(stored[good], spec)
    known = data_mask(values, flags)
    if not known.any():
        raise Refused(f"scene {scene.id}: no pixel of the {crop} x {crop} that are scored holds data")
    fill_holes(values, known, values[:, known].mean(axis=1))
    return spec, (values / np.float32(peak or _largest(cube, good))).astype(np.float32), known


def _largest(cube: Cube, good: np.ndarray[Any, Any]) -> float:
    """Largest value of the whole scene's good bands, read in pieces."""
    most = 0.0
    for iy in range(cube.spec.tiles[0]):
        for ix in range(cube.spec.tiles[1]):
            stored, flags = cube.read(*cube.spec.window(iy, ix))
            values = physical(stored[good], cube.spec)
            known = data_mask(values, flags)
            if known.any():
                most = max(most, float(values[:, known].max()))
    if most <= 0:
        raise Refused("its largest value is not above zero; there is nothing to divide by")
    return most
