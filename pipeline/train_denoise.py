"""Train the denoiser: `python -m pipeline.train_denoise --data DIR --out DIR [--minutes N]`.

DIR holds `cave/<scene>_ms/*.png` and, where they are at hand, `aviris/*.mat` and `muufl/*.mat`. Writes card.json and
weights.safetensors to --out at every check and at the end, so a run that is stopped leaves its best so far.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from catalog.scene import Scene
from models import checkpoint, metrics
from models.card import ModelCard
from models.degrade import gaussian
from models.denoiser import CONTEXT, StasModel, network
from models.fit import FitSettings, fit
from models.samples import SampleSettings, TrainingScene, batches, loss
from models.stas import Genotype

F32 = npt.NDArray[np.float32]

NAME = "stas-subspace"
VALIDATION = ("fake_and_real_peppers_ms", "paints_ms", "thread_spools_ms")
OTHERS = {"aviris": "aviris", "muufl": "muufl"}
"""Folder of --data -> sensor: airborne cubes, with noise of their own, so only strong noise is learnt from them."""

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


def read(folder: Path, sensor: str) -> Iterator[tuple[str, F32]]:
    """(id, cube divided by its brightest value) of each scene that can be read; the others are named."""
    # With every reader of files; a worker of `hypermend train` reads cubes.
    from catalog.discover import from_folder
    from catalog.readers import open_scene

    for scene in from_folder(folder, sensor=sensor, collection="training"):
        if not isinstance(scene, Scene):
            print(f"skipped {scene.id}: {scene.reason}", file=sys.stderr)
            continue
        source = open_scene(scene)
        _, h, w = source.spec.shape
        values, _ = source.read(slice(0, h), slice(0, w))
        cube = values[np.array(source.spec.good)].astype(np.float32)
        source.close()
        yield scene.id, cube / cube.max()


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
        halo=net_halo + CONTEXT,
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
        state = p.average.state_dict()
        made = {"command": "python -m pipeline.train_denoise", "seconds": round(p.seconds)}
        recipe = {**made, "steps": p.step, "seed": seed}
        draft = card(net.halo, tuple(names), recipe, {})
        sigmas = (5, 30, 50, 70) if p.fraction >= 1 else (5, 50)
        psnr = validate(StasModel(draft, state), held_out, sigmas)
        print(json.dumps(psnr), flush=True)
        checkpoint.save(out, card(net.halo, tuple(names), recipe, psnr), state)


def main() -> None:
    """Entry point."""
    ap = argparse.ArgumentParser(prog="python -m pipeline.train_denoise", description="Train the denoiser.")
    ap.add_argument("--data", type=Path, required=True, help="folder with cave/ and, if at hand, aviris/ and muufl/")
    ap.add_argument("--out", type=Path, required=True, help="folder for card.json and weights.safetensors")
    ap.add_argument("--minutes", type=float, default=60.0)
    ap.add_argument("--steps", type=int, help="end after so many steps, if that comes first")
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--bf16", action="store_true", help="for a CPU that has bfloat16 in hardware: twice as fast")
    a = ap.parse_args()
    settings = FitSettings(
        minutes=a.minutes, steps=a.steps, bf16=a.bf16, learning_rate=1.5e-3, warmup_steps=20, average=0.98
    )
    train(a.data, a.out, settings, seed=a.seed)


if __name__ == "__main__":
    main()
