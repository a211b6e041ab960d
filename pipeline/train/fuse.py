"""The task fuse: areas of source cubes become pairs of a coarse image and a guide.

TASK    a CorrectionNet for any pair of sensors learns from them
FILTER  the filter of one pair of sensors follows from them in closed form
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from hypermend.catalog.cube.layout import read_spec
from hypermend.catalog.errors import Refused
from hypermend.catalog.sensor_tables import archive_tables
from hypermend.catalog.sensors import srf
from hypermend.catalog.storage.archive_store import ArchiveStore
from hypermend.models.arrays import F32
from hypermend.models.fuse import filter_training, pair_filter
from hypermend.models.fuse import samples as fusion_samples
from hypermend.models.fuse.correction_net import GUIDE_CONTRAST_RADIUS_PX, CorrectionNet
from hypermend.models.fuse.filter_training import FilterSums, fit_filter
from hypermend.models.fuse.interface import PairGeometry
from hypermend.models.fuse.local_regression import GUIDE_HALO, HALO
from hypermend.models.fuse.model import UalModel
from hypermend.models.fuse.pair_filter import PairFilterModel
from hypermend.models.fuse.sensor_pair import SensorPair
from hypermend.models.sampling import SampleStream
from hypermend.models.signal import metrics
from hypermend.pipeline.config import TrainJob
from hypermend.pipeline.protocols.images import psnr_db
from hypermend.pipeline.protocols.pairs import degraded_pair, tensors, wald_setup
from hypermend.pipeline.train.dataset import PatchDataset, scene_level
from hypermend.pipeline.train.plan import TrainingSources, TrainPlan
from hypermend.pipeline.train.task import Config, LabScene, Recipe, Samples, Scores, Task

BATCH = 12
CONFIG: dict[str, Any] = {"channels": 10, "width": 8, "depth": 3, "stages": 1}
SCALE, SNR_DB = 8, 40
"""Validation: coarse pixel over fine pixel, and noise of both images in dB."""
SCALE_8_LEAST_PX = 192
"""Edge of a truth that is scored at `SCALE`; a smaller one has too few coarse pixels to estimate the kernel from."""
RECIPE_GUIDE, RECIPE_PX = "nikon-d700", 256
"""Recipe: sensor whose response half of the samples have (the others' are random), and edge of its crops."""


def edges_px(config: Config, patch_px: int) -> list[int]:
    """Edges of training areas."""
    return [e for e in (256, 192, 128) if e > patch_px + 32] + [patch_px + 32]


def network(config: Config) -> nn.Module:
    """Build the network."""
    net = CorrectionNet(**{k: v for k, v in config.items() if k != "channels"})
    last_channels: nn.Module = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return last_channels


def card(config: Config, net: CorrectionNet) -> dict[str, Any]:
    """Fields of the model card."""
    return {
        "architecture": "ual",
        "halo": HALO,
        "guide_halo": GUIDE_HALO + GUIDE_CONTRAST_RADIUS_PX + net.halo,
        "input_scaling": "coefficients of the image's signal subspace in units of its noise, axes of the guide in its "
        "own",
    }


def samples(root: ArchiveStore, plan: TrainPlan) -> Samples:
    """Pairs with random blurs; half have the response of the plan's guides."""
    s = plan.settings
    areas = PatchDataset(root, plan.train, scene_level)
    responses = {key: _responses(root, key, plan.guides) for key in plan.scenes}
    settings = fusion_samples.FusionSampleSettings(channels=int(plan.config["channels"]), patch_px=s.patch_px)
    stream = fusion_samples.sample_stream(partial(_cube, areas, responses), settings, seed=s.seed, batch=s.batch)
    return Samples(stream=stream, draw=areas.draw, loss=fusion_samples.loss)


def _responses(root: ArchiveStore, key: str, guides: Iterable[str]) -> list[F32]:
    """Responses (m, b) of each guide's sensor to the good bands of a cube."""
    spec = read_spec(root, key)
    good = np.array(spec.wavelength_nm)[np.array(spec.good)]
    tables = archive_tables(root)
    return [srf(good, tables.sensor(guide)).astype(np.float32) for guide in guides]


def _cube(
    areas: PatchDataset[tuple[float, float]], responses: Mapping[str, list[F32]], rng: np.random.Generator
) -> tuple[F32, list[F32]]:
    area = areas.draw(rng)
    return areas.read(area) / np.float32(areas.known(area.cube)[0]), responses[area.cube]


def score_pair(model: UalModel, truth: F32, response: F32, *, scale: int = SCALE, index: int = 0) -> dict[str, float]:
    """Score the global map, the training-free start and the network under one random kernel.

    Args:
        model: not adapted.
        truth: (b, s*h, s*w).
        response: (m, b) of the guide.
        scale: coarse pixel over fine pixel.
        index: seeds kernel and noise.

    Returns:
        PSNR (dB) and SAM (degrees) of each.
    """
    rng = np.random.default_rng([0, SNR_DB, index])
    kernel = fusion_samples.kernel(scale, rng)
    geometry = PairGeometry(scale=scale, response=response, expected_centroid_px=0.0)
    pair = degraded_pair(truth, kernel, geometry, SNR_DB, SNR_DB, rng=rng)
    y, x = tensors(pair)
    restorer = model.bind(model.estimate(partial(list, (pair,)), geometry))
    start = restorer.local_regression(y, x)
    estimates = {
        "global": restorer.local_regression.bands(start.plain, start, y),
        "start": restorer.local_regression.bands(start.coefficients, start, y),
        "fusion": restorer(y, x),
    }
    scores: dict[str, float] = {}
    for method, estimate in estimates.items():
        image = estimate[0].numpy()
        scores[f"{method}_psnr_db"] = round(psnr_db(truth, image), 3)
        scores[f"{method}_sam_deg"] = round(metrics.sam(truth, np.clip(image, 0, 1)).degrees, 3)
    return scores


def score(model: UalModel, truth: F32) -> Scores:
    """Score a model on one image with a random response; the baseline is the start without the network."""
    response = fusion_samples.response(len(truth), np.random.default_rng(0))
    scale = SCALE if truth.shape[1] >= SCALE_8_LEAST_PX else SCALE // 2
    scores = score_pair(model, truth, response, scale=scale)
    return {"psnr_db": scores["fusion_psnr_db"], "baseline_db": scores["start_psnr_db"], **scores}


def _recipe_config(options: argparse.Namespace) -> dict[str, Any]:
    return dict(CONFIG)


def _recipe_response() -> F32:
    return srf("cave", RECIPE_GUIDE).astype(np.float32)


def _recipe_stream(scenes: Sequence[LabScene], config: Config, seed: int) -> SampleStream[Any]:
    s, responses = fusion_samples.FusionSampleSettings(channels=config["channels"]), [_recipe_response()]
    cubes = [scene.cube for scene in scenes]
    return fusion_samples.sample_stream(
        lambda rng: (cubes[int(rng.integers(len(cubes)))], responses), s, seed=seed, batch=BATCH
    )


def _recipe_crop(cube: F32, config: Config) -> F32:
    middle = slice((512 - RECIPE_PX) // 2, (512 + RECIPE_PX) // 2)
    return cube[:, middle, middle]


def _recipe_validate(model: UalModel, scenes: Mapping[str, F32], end: bool) -> dict[str, Any]:
    """Only at the end: a pair takes long."""
    if not end:
        return {"scenes": {}}
    response = _recipe_response()
    return {
        "scenes": {
            name: score_pair(model, truth, response, index=i) for i, (name, truth) in enumerate(sorted(scenes.items()))
        }
    }


TASK = Task(
    name="fuse",
    batch=BATCH,
    patch_px=44,
    learning_rate=3e-3,
    ema_decay=0.99,
    config=lambda root, job, sources: dict(CONFIG),
    edges_px=edges_px,
    crop_multiple=lambda config: SCALE,
    bf16_safe=lambda config, device: False,  # features are in units of small errors
    network=network,
    samples=samples,
    card=card,
    protocol=f"{SNR_DB} dB, one random kernel, estimated from the pair; no adaptation; output clipped to 0..1; the "
    "baseline is the start without the network",
    model=UalModel,
    score=score,
    recipe=Recipe(
        name="ual-fusion",
        minutes=30,
        others={},
        config=_recipe_config,
        stream=_recipe_stream,
        loss=fusion_samples.loss,
        crop=_recipe_crop,
        validate=_recipe_validate,
        protocol=f"CAVE, centre {RECIPE_PX} px, scale {SCALE}, {SNR_DB} dB, a random kernel for each scene, estimated "
        "from the pair; no adaptation; output clipped to 0..1",
    ),
)


def is_filter(config: Config) -> bool:
    """Whether a config is that of a filter, not of a network."""
    return "response" in config


def _filter_config(root: ArchiveStore, job: TrainJob, sources: TrainingSources) -> dict[str, Any]:
    """The pair of sensors.

    Raises:
        Refused: no or more than one guide's sensor, or scenes of several sensors.
    """
    assert job.pair_scale is not None
    guides = sources.guides
    if len(guides) != 1:
        raise Refused(
            f"--pair-scale learns one pair of sensors; --guide-collection names guides of {', '.join(guides) or 'none'}"
        )
    table = archive_tables(root).sensor(guides[0])
    first, *others = (
        SensorPair(scale=g.scale, wavelength_nm=g.wavelength_nm or (), response=g.response)
        for g in (wald_setup(spec, table, job.pair_scale) for spec in sources.specs)
    )
    if unlike := next((d for other in others if (d := first.difference(other))), ""):
        raise Refused(
            f"--pair-scale learns one pair of sensors, and of the scenes one has {unlike}; name scenes of one by "
            "--sensor or --scene"
        )
    return first.to_config()


def _filter_samples(root: ArchiveStore, plan: TrainPlan) -> Samples:
    areas = PatchDataset(root, plan.train, scene_level)
    sensors = SensorPair.from_config(plan.config)

    def draw(rng: np.random.Generator) -> F32:
        area = areas.draw(rng)
        return areas.read(area) / np.float32(areas.known(area.cube)[0])

    s = plan.settings
    stream = filter_training.sample_stream(draw, sensors, s.patch_px, seed=s.seed, batch=s.batch)
    return Samples(stream=stream, draw=areas.draw, loss=fusion_samples.loss)


def score_filter(model: PairFilterModel, truth: F32) -> Scores:
    """Score a filter on one image with its own response; the baseline is the start without the filter."""
    sensors = model.sensors
    rng = np.random.default_rng([0, SNR_DB])
    kernel = fusion_samples.kernel(sensors.scale, rng)
    geometry = PairGeometry(
        scale=sensors.scale,
        response=sensors.response,
        expected_centroid_px=0.0,
        wavelength_nm=sensors.wavelength_nm,
        kernel=kernel,  # a small square has too few pixels to estimate it from
    )
    pair = degraded_pair(truth, kernel, geometry, SNR_DB, rng=rng)
    statistics = model.estimate(partial(list, (pair,)), geometry)
    scores: dict[str, float] = {}
    for key, restorer in (("", model.bind(statistics)), ("baseline_", model.start.bind(statistics))):
        image = restorer(*tensors(pair))[0].numpy()
        scores[f"{key}db" if key else "psnr_db"] = round(psnr_db(truth, image), 3)
        scores[f"{key}sam_deg"] = round(metrics.sam(truth, np.clip(image, 0, 1)).degrees, 3)
    return scores


FILTER = Task(
    name="fuse",
    batch=4,
    patch_px=256,
    learning_rate=TASK.learning_rate,
    ema_decay=TASK.ema_decay,
    config=_filter_config,
    edges_px=lambda config, patch_px: [*(e for e in (512, 384, 256, 192, 128) if e > patch_px), patch_px],
    crop_multiple=lambda config: int(config["scale"]),
    bf16_safe=lambda config, device: False,
    fit=fit_filter,
    network=lambda config: FilterSums(len(config["wavelength_nm"])),
    samples=_filter_samples,
    card=lambda config, net: {
        "architecture": "pair-filter",
        "halo": pair_filter.HALO,
        "guide_halo": pair_filter.GUIDE_HALO,
        "input_scaling": "steps between estimates, in physical values",
        # On other scenes the filter is not used, which the plan says; none is refused.
        "accepts_range_nm": None,
        "accepts_spacing_nm": None,
        "quantity": None,
    },
    protocol=f"{SNR_DB} dB, a guide without noise, one random kernel, which is given; output clipped to 0..1; "
    "the baseline is the start without the filter",
    model=PairFilterModel,
    score=score_filter,
)
