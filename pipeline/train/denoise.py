"""Train the denoiser: `python -m hypermend.pipeline.train.denoise --data DIR --out DIR [--minutes N]`.

DIR holds `cave/<scene>_ms/*.png` and, where they are at hand, `aviris/*.mat` and `muufl/*.mat`. Writes card.json and
weights.safetensors to --out at every check and at the end, so a run that is stopped leaves its best so far.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from hypermend.catalog.storage.archive_store import ArchiveStore
from hypermend.models import checkpoint
from hypermend.models.arrays import F32
from hypermend.models.card import ModelCard
from hypermend.models.denoise import low_noise
from hypermend.models.denoise import model as denoise_model
from hypermend.models.denoise import samples as denoise_samples
from hypermend.models.denoise.model import CONTEXT_PX, StasModel, network
from hypermend.models.denoise.samples import SampleSettings, TrainingScene, batches, loss
from hypermend.models.denoise.stas import Genotype
from hypermend.models.fit import Batch, FitSettings, Loss, State, fit
from hypermend.models.sampling import SampleStream
from hypermend.models.signal import metrics
from hypermend.models.signal.degrade import gaussian
from hypermend.pipeline.train import denoise
from hypermend.pipeline.train.dataset import PatchDataset, scene_level
from hypermend.pipeline.train.plan import TrainPlan
from hypermend.pipeline.train.recipe import OTHERS, VALIDATION, read
from hypermend.pipeline.train.task import Scores, Task, task_card

NAME = "stas-subspace"
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


def validate(model: StasModel, scenes: Mapping[str, F32], sigmas: tuple[int, ...]) -> dict[str, float]:
    """PSNR of each scene and sigma, by the protocol of benchmarks/denoise.py."""
    out: dict[str, float] = {}
    halo = model.halo
    inner = (slice(None), slice(halo, -halo), slice(halo, -halo))
    for sigma in sigmas:
        for name, clean in scenes.items():
            noisy = gaussian(clean, sigma / 255, np.random.default_rng([0, sigma]))
            facts = model.estimate([(noisy, np.ones(noisy.shape[1:], dtype=bool))])
            padded = np.pad(noisy, ((0, 0), (halo, halo), (halo, halo)), mode="reflect")
            restored = model.bind(facts)(torch.from_numpy(padded)[None])[0].numpy()[inner]
            out[f"{name}@{sigma}"] = round(metrics.psnr(clean, np.clip(restored, 0, 1)), 3)
    return out


def card(net_halo: int, trained_on: tuple[str, ...], recipe: dict[str, Any], psnr: dict[str, float]) -> ModelCard:
    """The card of the weights as they are now."""
    return ModelCard(
        name=NAME,
        architecture="stas",
        config=CONFIG,
        halo=net_halo + CONTEXT_PX,
        input_scaling="whitened coefficients of the scene's signal subspace; noise and axes estimated from the scene",
        trained_on=trained_on,
        metrics={"psnr_db": psnr, "protocol": "CAVE, centre 300 px, sigma of 255, output clipped to 0..1"},
        code_version=importlib.metadata.version("hypermend"),
        recipe=recipe,
    )


def train(data: Path, out: Path, settings: FitSettings, *, seed: int, check_every_s: float = 300.0) -> None:
    """Train, and write the model to `out` at every check."""
    cave = dict(read(data / "cave", "cave"))
    held_out = {k: v[:, 106:406, 106:406] for k, v in cave.items() if k in VALIDATION}
    names = [k for k in cave if k not in VALIDATION]
    scenes = [TrainingScene(cube=cave[k], least_noise=1 / 255) for k in names]
    for folder, sensor in OTHERS.items():
        for name, cube in read(data / folder, sensor) if (data / folder).is_dir() else ():
            names.append(name)
            scenes.append(TrainingScene(cube=cube, least_noise=4 / 255, weight=0.5))
    torch.manual_seed(seed)
    net = network(CONFIG)
    torch.nn.init.zeros_(net.conv3.weight)  # the first answer is the pilot's
    torch.nn.init.zeros_(net.conv3.bias)  # type: ignore[arg-type]
    net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    samples = batches(scenes, SampleSettings(channels=CONFIG["channels"]), seed=seed)
    next_check = check_every_s
    for p in fit(net, samples, loss, settings):
        print(json.dumps({"step": p.step, "seconds": round(p.seconds), "loss": round(p.loss, 4)}), flush=True)
        if p.seconds < next_check and p.fraction < 1:
            continue
        next_check = p.seconds + check_every_s
        state = p.ema.state_dict()
        made = {"command": "python -m hypermend.pipeline.train.denoise", "seconds": round(p.seconds)}
        recipe = {**made, "steps": p.step, "seed": seed}
        draft = card(net.halo, tuple(names), recipe, {})
        sigmas = (5, 30, 50, 70) if p.fraction >= 1 else (5, 50)
        psnr = validate(StasModel(draft, state), held_out, sigmas)
        print(json.dumps(psnr), flush=True)
        checkpoint.save(out, card(net.halo, tuple(names), recipe, psnr), state)


def main() -> None:
    """Entry point."""
    ap = argparse.ArgumentParser(prog="python -m hypermend.pipeline.train.denoise", description="Train the denoiser.")
    ap.add_argument("--data", type=Path, required=True, help="folder with cave/ and, if at hand, aviris/ and muufl/")
    ap.add_argument("--out", type=Path, required=True, help="folder for card.json and weights.safetensors")
    ap.add_argument("--minutes", type=float, default=60.0)
    ap.add_argument("--steps", type=int, help="end after so many steps, if that comes first")
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--bf16", action="store_true", help="for a CPU that has bfloat16 in hardware: twice as fast")
    a = ap.parse_args()
    settings = FitSettings(
        minutes=a.minutes, steps=a.steps, bf16=a.bf16, learning_rate=1.5e-3, warmup_steps=20, ema_decay=0.98
    )
    train(a.data, a.out, settings, seed=a.seed)


if __name__ == "__main__":
    main()
STRONGEST = 80 / 255
SIGMAS = (10, 50)
"""Of 255: noise that a denoiser is scored at."""


def denoise_edges(patch_px: int) -> list[int]:
    """Edges of areas, the best first."""
    least = patch_px + 2 * denoise_samples.MARGIN
    return [e for e in (256, 192, 128) if e > least] + [least]


def denoise_task(root: ArchiveStore, plan: TrainPlan) -> Task:
    s, net = plan.settings, denoise_model.network(plan.config)
    nn.init.zeros_(net.conv3.weight)  # the first answer is the input's, or the pilot's
    nn.init.zeros_(net.conv3.bias)  # type: ignore[arg-type]
    areas = PatchDataset(root, plan.train, partial(scene_level, strongest=STRONGEST))
    on_bands = plan.config["domain"] == "bands"
    shape = {"seed": s.seed, "batch": s.batch}
    if on_bands:
        stream: SampleStream[Any] = SampleStream(
            partial(_clean, areas), partial(_noisy, size=s.patch_px), every=16, keep=2, **shape
        )
    else:
        cut = partial(_whitened, size=s.patch_px)
        stream = SampleStream(partial(_realise_noise, areas, plan), cut, every=12 * s.batch, keep=4, **shape)
    card = task_card(
        plan,
        architecture="stas",
        halo=net.halo if on_bands else max(net.halo + CONTEXT_PX, low_noise.HALO),
        window_bands=net.channels if on_bands else None,
        input_scaling="divided by the scene's bright value"
        if on_bands
        else "whitened coefficients of the scene's signal subspace; noise and axes estimated from the scene",
        metrics={"protocol": f"noise of {SIGMAS} of 255, output clipped to 0..1; the baseline changes nothing"},
    )
    loss: Loss = nn.functional.mse_loss if on_bands else denoise_samples.loss
    last_channels = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Task(net=last_channels, loss=loss, stream=stream, draw=areas.draw, card=card, score=_score_denoise)


def _clean(areas: PatchDataset[tuple[float, float]], rng: np.random.Generator) -> F32:
    area = areas.draw(rng)
    return np.asarray(areas.read(area) / np.float32(areas.known(area.cube)[0]))


def _noisy(cube: F32, rng: np.random.Generator, *, size: int) -> Batch:
    clean = denoise_samples.band_patch(cube, size, rng)
    std = np.float32(rng.choice(np.asarray(denoise_samples.SIGMAS)))
    noisy = clean + std * rng.standard_normal(clean.shape, dtype=np.float32)
    return torch.from_numpy(noisy), torch.from_numpy(clean)


def _realise_noise(
    areas: PatchDataset[tuple[float, float]], plan: TrainPlan, rng: np.random.Generator
) -> denoise_samples.NoisyScene | None:
    area = areas.draw(rng)
    bright, least = areas.known(area.cube)
    size = plan.settings.patch_px
    s = denoise_samples.SampleSettings(
        channels=int(plan.config["channels"]),
        patch_px=size,
        scene_px=max(size + 2 * denoise_samples.MARGIN, min(160, area.edge_px)),
        strongest_noise=STRONGEST,
    )
    scene = denoise_samples.TrainingScene(cube=areas.read(area) / np.float32(bright), least_noise=least)
    made = denoise_samples.simulate(scene, s, rng)
    return made if made is not None and min(made.noisy.shape[1:]) >= size + 2 * denoise_samples.MARGIN else None


def _whitened(r: denoise_samples.NoisyScene, rng: np.random.Generator, *, size: int) -> Batch:
    x, target = denoise_samples.network_batch([denoise_samples.patch(r, size, rng)])
    return x[0], target[0]


def _score_denoise(card: ModelCard, state: State, clean: F32) -> Scores:
    ours = denoise.validate(StasModel(card, state), {"": clean}, SIGMAS)
    noisy = [gaussian(clean, s / 255, np.random.default_rng([0, s])) for s in SIGMAS]
    return {
        "psnr_db": float(np.mean(list(ours.values()))),
        "baseline_db": float(np.mean([metrics.psnr(clean, np.clip(n, 0, 1)) for n in noisy])),
    }
