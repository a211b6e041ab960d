"""The task sharpen: areas of source cubes are made coarser, and an SSRNet learns to make them finer again."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from hypermend.catalog.storage.archive_store import ArchiveStore
from hypermend.models.arrays import F32
from hypermend.models.restorer import SceneStatistics, array_from_json, array_to_json
from hypermend.models.sampling import SampleStream
from hypermend.models.sharpen import model as sharpen_model
from hypermend.models.sharpen import samples as sharpen_samples
from hypermend.models.sharpen.model import SsrnetModel
from hypermend.models.sharpen.ssrnet import SSRNet
from hypermend.pipeline.config import TrainJob
from hypermend.pipeline.protocols.images import bicubic_image, coarse_image, psnr_db, restored_in_one_call
from hypermend.pipeline.train.dataset import PatchDataset
from hypermend.pipeline.train.plan import TrainingSources, TrainPlan
from hypermend.pipeline.train.task import Config, LabScene, Recipe, Samples, Scores, Task

BATCH = 4
MOST_BANDS = 32
"""Bands of a sample at most: a window of a cube with more, so that scenes of any bands share a batch."""
RECIPE_PX = 512
"""Edge of the validation crops of the recipe."""


def config(root: ArchiveStore, job: TrainJob, sources: TrainingSources) -> dict[str, Any]:
    """Take the job's network, by default a small one."""
    return {
        "scale": job.scale or 2,
        "filters": job.filters or 16,
        "modules": job.modules or 1,
        "separable": True,
        "residual": True,
    }


def edges_px(config: Config, patch_px: int) -> list[int]:
    """Edges of training areas: from the largest, patches are cut at all three sizes."""
    return [n * int(config["scale"]) * patch_px for n in (3, 2, 1)]


def card(config: Config, net: SSRNet) -> dict[str, Any]:
    """Fields of the model card."""
    return {
        "architecture": "ssrnet",
        "scale": net.scale,
        "halo": net.halo,
        "input_scaling": "less the scene's mean of each band, divided by the scene's 99.9th percentile",
    }


def samples(root: ArchiveStore, plan: TrainPlan) -> Samples:
    """Windows of the bands of areas, with their reductions."""
    s = plan.settings
    areas = PatchDataset(root, plan.train, _measure)
    patch = sharpen_samples.PatchSettings(scale=int(plan.config["scale"]), patch_px=s.patch_px)
    make = partial(_pairs_of_area, areas, patch, min(plan.spectrum.bands[0], MOST_BANDS))
    stream = sharpen_samples.sample_stream(make, patch, seed=s.seed, batch=s.batch, every=16, keep=2)
    return Samples(stream=stream, draw=areas.draw, loss=sharpen_samples.loss)


def _measure(values: Iterable[F32]) -> SceneStatistics:
    return sharpen_model.measure((v, np.ones(v.shape[1:], dtype=bool)) for v in values)


def _pairs_of_area(
    areas: PatchDataset[SceneStatistics], s: sharpen_samples.PatchSettings, bands: int, rng: np.random.Generator
) -> list[sharpen_samples.Pair]:
    area = areas.draw(rng)
    statistics, cube = areas.known(area.cube), areas.read(area)
    first = int(rng.integers(len(cube) - bands + 1))
    window = slice(first, first + bands)
    mean = array_to_json(array_from_json(statistics["mean"])[window])
    return sharpen_samples.pairs(np.ascontiguousarray(cube[window]), s, {**statistics, "mean": mean})


def score(model: SsrnetModel, truth: F32) -> Scores:
    """Score a model on one image; the baseline is bicubic."""
    coarse = coarse_image(truth, model.scale)
    return {
        "psnr_db": round(psnr_db(truth, restored_in_one_call(model, coarse)), 3),
        "baseline_db": round(psnr_db(truth, bicubic_image(coarse, model.scale)), 3),
    }


def _recipe_config(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "scale": options.scale,
        "filters": options.filters,
        "modules": options.modules,
        "separable": True,
        "residual": not options.plain,
    }


def _recipe_stream(scenes: Sequence[LabScene], config: Config, seed: int) -> SampleStream[Any]:
    s = sharpen_samples.PatchSettings(scale=config["scale"])
    draw = sharpen_samples.any_of([sharpen_samples.pairs(scene.cube, s) for scene in scenes])
    return sharpen_samples.sample_stream(draw, s, seed=seed, batch=BATCH)


def _recipe_crop(cube: F32, config: Config) -> F32:
    px = RECIPE_PX // int(config["scale"]) * int(config["scale"])
    return cube[:, :px, :px]


def _recipe_validate(model: SsrnetModel, scenes: Mapping[str, F32], end: bool) -> dict[str, Any]:
    psnr: dict[str, float] = {}
    for name, truth in scenes.items():
        scores = score(model, truth)
        psnr |= {name: scores["psnr_db"], f"{name}, bicubic": scores["baseline_db"]}
    return {"psnr_db": psnr}


TASK = Task(
    name="sharpen",
    batch=BATCH,
    patch_px=32,
    learning_rate=2e-3,
    ema_decay=0.98,
    config=config,
    edges_px=edges_px,
    crop_multiple=lambda config: int(config["scale"]),
    bf16_safe=lambda config, device: True,
    network=sharpen_model.network,
    samples=samples,
    card=card,
    protocol="bicubic reduction, output clipped to 0..1; the baseline is bicubic",
    model=SsrnetModel,
    score=score,
    recipe=Recipe(
        minutes=20,
        others={},
        peak=65535,
        config=_recipe_config,
        stream=_recipe_stream,
        loss=sharpen_samples.loss,
        crop=_recipe_crop,
        validate=_recipe_validate,
        protocol="CAVE / 65535, top-left 512 px, bicubic reduction, output clipped to 0..1",
    ),
)
