"""The task denoise: noise is added to areas of source cubes, and a STAS network learns to take it away."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from hypermend.catalog.errors import NotFound, Refused
from hypermend.catalog.storage.archive_store import ArchiveStore
from hypermend.models.arrays import F32
from hypermend.models.denoise import model as denoise_model
from hypermend.models.denoise import samples as denoise_samples
from hypermend.models.denoise.model import LEAST_HALO, StasModel
from hypermend.models.denoise.stas import OPS, Genotype, Stas
from hypermend.models.denoise.subspace_denoiser import CONTEXT_PX
from hypermend.models.fit import Loss
from hypermend.models.sampling import SampleStream
from hypermend.pipeline.config import TrainJob
from hypermend.pipeline.protocols.images import noisy_image, psnr_db, restored_in_one_call
from hypermend.pipeline.registry import genotypes
from hypermend.pipeline.train.dataset import STRONGEST_NOISE, PatchDataset, scene_level
from hypermend.pipeline.train.plan import TrainingSources, TrainPlan
from hypermend.pipeline.train.task import Config, LabScene, Recipe, Samples, Scores, Task

# Ours to choose (the authors' are pictures). No dilation: oneDNN's bfloat16 weight gradient of a dilated channels_last
# convolution is NaN (torch 2.13.0, AVX512-BF16), and half the training time is bfloat16's.
GENOTYPE = Genotype(
    (
        "conv5",  # 0 -> 1
        "conv1",  # 0 -> 2
        "conv3",  # 1 -> 2
        "conv1",  # 0 -> 3
        "conv1",  # 1 -> 3
        "conv3",  # 2 -> 3
        "conv1",  # 0 -> 4
        "conv3",  # 1 -> 4
        "conv1",  # 2 -> 4
        "conv3",  # 3 -> 4
    )
)
CONFIG: dict[str, Any] = {
    "domain": "subspace",
    "genotype": GENOTYPE.to_dict(),
    "channels": 12,
    "width": 8,
    "activate": True,
    "gate": {"of_scene": 2 / 255, "of_noisiest": 1.6 / 255, "of_band": 1 / 20},
}
BATCH, SCENE_PX = 8, 160
SIGMAS = (10, 50)
"""Noise of validation, of 255."""


def config(root: ArchiveStore, job: TrainJob, sources: TrainingSources) -> dict[str, Any]:
    """Take the shipped denoiser's architecture, or the genotype that the job names.

    Raises:
        Refused: an unknown genotype, or one on bands for scenes of different band counts.
    """
    if job.genotype is None:
        return dict(CONFIG)
    try:
        stored = genotypes.read(root, job.genotype)
    except NotFound:
        there = ", ".join(g.id for g in genotypes.stored_genotypes(root) if isinstance(g, genotypes.StoredGenotype))
        raise Refused(
            f"no genotype {job.genotype!r} in {root.url}; there are: {there or 'none, `hypermend search` finds them'}"
        ) from None
    config = {**CONFIG, "genotype": stored.genotype.to_dict()}
    if stored.figures["domain"] == "subspace":
        return config
    fewest, most = sources.spectrum.bands
    if fewest != most:
        raise Refused(
            f"genotype {stored.id} works on bands, and the training scenes have from {fewest} to {most}; name scenes "
            "of one kind by --scene, or take a genotype of the subspace"
        )
    return {**config, "domain": "bands", "channels": most}


def edges_px(config: Config, patch_px: int) -> list[int]:
    """Edges of training areas: a patch needs `MARGIN` pixels around it."""
    least = patch_px + 2 * denoise_samples.MARGIN_PX
    return [e for e in (256, 192, 128) if e > least] + [least]


def bf16_safe(config: Config, device: str) -> bool:
    """Not on a CPU for dilated operations: see `GENOTYPE`."""
    return device != "cpu" or not any(OPS[op][1] > 1 for op in config["genotype"]["ops"])


def network(config: Config) -> nn.Module:
    """Build the network; before any training it answers with its input (on bands) or the DCT estimate."""
    net = denoise_model.network(config)
    nn.init.zeros_(net.conv3.weight)
    nn.init.zeros_(net.conv3.bias)  # type: ignore[arg-type]
    last_channels: nn.Module = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return last_channels


def card(config: Config, net: Stas) -> dict[str, Any]:
    """Fields of the model card."""
    if config["domain"] == "bands":
        scaling = "divided by the scene's bright value"
        return {"architecture": "stas", "halo": net.halo, "window_bands": net.channels, "input_scaling": scaling}
    return {
        "architecture": "stas",
        "halo": max(net.halo + CONTEXT_PX, LEAST_HALO),
        "input_scaling": "whitened coefficients of the scene's signal subspace; noise and axes estimated from the "
        "scene",
    }


def samples(root: ArchiveStore, plan: TrainPlan) -> Samples:
    """Noisy areas: of their bands, or as coefficients of the signal subspace."""
    s = plan.settings
    areas = PatchDataset(root, plan.train, scene_level)
    if plan.config["domain"] == "bands":
        stream: SampleStream[Any] = denoise_samples.band_stream(
            partial(_clean, areas), patch_px=s.patch_px, seed=s.seed, batch=s.batch, every=16, keep=2
        )
        loss: Loss = nn.functional.mse_loss
    else:
        settings = denoise_samples.SampleSettings(
            channels=int(plan.config["channels"]),
            patch_px=s.patch_px,
            scene_px=max(SCENE_PX, s.patch_px + 2 * denoise_samples.MARGIN_PX),
            strongest_noise=STRONGEST_NOISE,
        )
        stream = denoise_samples.sample_stream(partial(_scene, areas), settings, seed=s.seed, batch=s.batch)
        loss = denoise_samples.loss
    return Samples(stream=stream, draw=areas.draw, loss=loss)


def _clean(areas: PatchDataset[tuple[float, float]], rng: np.random.Generator) -> F32:
    area = areas.draw(rng)
    return np.asarray(areas.read(area) / np.float32(areas.known(area.cube)[0]))


def _scene(areas: PatchDataset[tuple[float, float]], rng: np.random.Generator) -> denoise_samples.TrainingScene:
    area = areas.draw(rng)
    bright, least = areas.known(area.cube)
    return denoise_samples.TrainingScene(cube=areas.read(area) / np.float32(bright), least_noise=least)


def psnr_by_sigma(model: StasModel, truth: F32, sigmas: Sequence[int]) -> dict[int, float]:
    """Score a model on one image at each level of noise."""
    return {sigma: round(psnr_db(truth, restored_in_one_call(model, noisy_image(truth, sigma))), 3) for sigma in sigmas}


def score(model: StasModel, truth: F32) -> Scores:
    """Mean over `SIGMAS`; the baseline changes nothing."""
    return {
        "psnr_db": float(np.mean(list(psnr_by_sigma(model, truth, SIGMAS).values()))),
        "baseline_db": float(np.mean([psnr_db(truth, noisy_image(truth, sigma)) for sigma in SIGMAS])),
    }


def _recipe_config(options: argparse.Namespace) -> dict[str, Any]:
    return dict(CONFIG)


def _recipe_stream(scenes: Sequence[LabScene], config: Config, seed: int) -> SampleStream[Any]:
    """Airborne cubes have noise of their own: they count half, and teach strong noise only."""
    training = [
        denoise_samples.TrainingScene(cube=s.cube, least_noise=1 / 255)
        if s.sensor == "cave"
        else denoise_samples.TrainingScene(cube=s.cube, least_noise=4 / 255, weight=0.5)
        for s in scenes
    ]
    s = denoise_samples.SampleSettings(channels=config["channels"])
    return denoise_samples.sample_stream(denoise_samples.weighted(training, s), s, seed=seed, batch=BATCH)


def _recipe_crop(cube: F32, config: Config) -> F32:
    return cube[:, 106:406, 106:406]


def _recipe_validate(model: StasModel, scenes: Mapping[str, F32], end: bool) -> dict[str, Any]:
    sigmas = (5, 30, 50, 70) if end else (5, 50)
    by_scene = {name: psnr_by_sigma(model, truth, sigmas) for name, truth in scenes.items()}
    return {"psnr_db": {f"{name}@{sigma}": by_scene[name][sigma] for sigma in sigmas for name in scenes}}


TASK = Task(
    name="denoise",
    batch=BATCH,
    patch_px=64,
    learning_rate=1.5e-3,
    ema_decay=0.98,
    config=config,
    edges_px=edges_px,
    crop_multiple=lambda config: 8,
    bf16_safe=bf16_safe,
    network=network,
    samples=samples,
    card=card,
    protocol=f"noise of {SIGMAS} of 255, output clipped to 0..1; the baseline changes nothing",
    model=StasModel,
    score=score,
    recipe=Recipe(
        name="stas-subspace",
        minutes=60,
        others={"aviris": "aviris", "muufl": "muufl"},
        config=_recipe_config,
        stream=_recipe_stream,
        loss=denoise_samples.loss,
        crop=_recipe_crop,
        validate=_recipe_validate,
        protocol="CAVE, centre 300 px, sigma of 255, output clipped to 0..1",
    ),
)
