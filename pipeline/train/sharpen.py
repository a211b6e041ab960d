"""Train a sharpener: `python -m hypermend.pipeline.train.sharpen --data DIR --out DIR [--scale 2] [--minutes N]`.

DIR holds `cave/<scene>_ms/*.png`. Writes card.json and weights.safetensors to --out at every check and at the end, so a
run that is stopped leaves its best so far.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hypermend.catalog.scene import Scene
from hypermend.catalog.storage.archive_store import ArchiveStore
from hypermend.models import checkpoint
from hypermend.models.arrays import F32
from hypermend.models.card import ModelCard
from hypermend.models.fit import Batch, FitSettings, State, fit
from hypermend.models.restorer import Restorer, SceneStatistics, array_from_json, array_to_json
from hypermend.models.sampling import SampleStream
from hypermend.models.sharpen import model as sharpen_model
from hypermend.models.sharpen import samples as sharpen_samples
from hypermend.models.sharpen.model import SsrnetModel, measure, network
from hypermend.models.sharpen.samples import PatchSettings, batches, loss, pairs
from hypermend.models.signal import metrics
from hypermend.models.signal.bicubic import enlarge, reduce
from hypermend.pipeline.train import sharpen
from hypermend.pipeline.train.dataset import PatchDataset
from hypermend.pipeline.train.plan import TrainPlan
from hypermend.pipeline.train.recipe import VALIDATION
from hypermend.pipeline.train.task import Scores, Task, task_card

FULL_SCALE = 65535
"""Of the camera: what the protocol divides by."""


def cubes(folder: Path) -> dict[str, F32]:
    """(bands, h, w) of each CAVE scene, 0 to 1 of the full scale."""
    # With every reader of files; a worker of `hypermend train` reads cubes.
    from hypermend.catalog.readers.scene_reader import open_scene
    from hypermend.catalog.stac.discover import from_folder

    out: dict[str, F32] = {}
    for scene in from_folder(folder, sensor="cave", collection="training"):
        if not isinstance(scene, Scene):
            raise SystemExit(f"{scene.id}: {scene.reason}")
        source = open_scene(scene)
        _, h, w = source.spec.shape
        values, _ = source.read(slice(0, h), slice(0, w))
        out[scene.id] = (values / FULL_SCALE).astype(np.float32)
        source.close()
    return out


def score(truth: F32, restorer: Restorer, coarse: torch.Tensor) -> float:
    """PSNR by the protocol of benchmarks/sharpen.py."""
    padded = np.pad(coarse.numpy(), ((0, 0), *2 * ((restorer.halo, restorer.halo),)), mode="reflect")
    inner = slice(restorer.halo * restorer.scale, -restorer.halo * restorer.scale)
    fine = restorer(torch.from_numpy(padded)[None])[0, :, inner, inner].numpy()
    return metrics.psnr(truth, np.clip(fine, 0, 1))


def validate(model: SsrnetModel, scenes: Mapping[str, F32]) -> dict[str, float]:
    """PSNR of each scene, and of its bicubic enlargement."""
    out: dict[str, float] = {}
    for name, truth in scenes.items():
        coarse = reduce(torch.from_numpy(truth), model.scale)
        facts = model.estimate([(coarse.numpy(), np.ones(coarse.shape[1:], dtype=bool))])
        out[name] = round(score(truth, model.bind(facts), coarse), 3)
        bicubic = np.clip(enlarge(coarse, model.scale).numpy(), 0, 1)
        out[f"{name}, bicubic"] = round(metrics.psnr(truth, bicubic), 3)
    return out


def train(data: Path, out: Path, config: dict[str, Any], settings: FitSettings, *, seed: int, recipe: str) -> None:
    """Train, and write the model to `out` at every check."""
    scenes = cubes(data / "cave")
    px = 512 // config["scale"] * config["scale"]
    held_out = {k: scenes.pop(k)[:, :px, :px] for k in VALIDATION}
    torch.manual_seed(seed)
    net = network(config)
    s = PatchSettings(scale=config["scale"])
    samples = batches([pairs(cube, s) for cube in scenes.values()], s, seed=seed)
    card = ModelCard(
        name=out.name,
        architecture="ssrnet",
        config=config,
        scale=net.scale,
        halo=net.halo,
        input_scaling="less the scene's mean of each band, divided by the scene's 99.9th percentile",
        trained_on=tuple(scenes),
        code_version=importlib.metadata.version("hypermend"),
    )
    check_every_s, next_check = 300.0, 300.0
    for p in fit(net, samples, loss, settings):
        print(json.dumps({"step": p.step, "seconds": round(p.seconds), "loss": round(p.loss, 5)}), flush=True)
        if p.seconds < next_check and p.fraction < 1:
            continue
        next_check = p.seconds + check_every_s
        state = p.ema.state_dict()
        psnr = validate(SsrnetModel(card, state), held_out)
        print(json.dumps(psnr), flush=True)
        found = {
            "psnr_db": psnr,
            "protocol": "CAVE / 65535, top-left 512 px, bicubic reduction, output clipped to 0..1",
        }
        made = {"command": recipe, "seconds": round(p.seconds), "steps": p.step, "seed": seed}
        checkpoint.save(out, ModelCard.from_dict({**card.to_dict(), "metrics": found, "recipe": made}), state)


def main() -> None:
    """Entry point."""
    ap = argparse.ArgumentParser(prog="python -m hypermend.pipeline.train.sharpen", description="Train a sharpener.")
    ap.add_argument("--data", type=Path, required=True, help="folder with cave/")
    ap.add_argument("--out", type=Path, required=True, help="folder for card.json and weights.safetensors; its name")
    ap.add_argument("--scale", type=int, default=2)
    ap.add_argument("--filters", type=int, default=16)
    ap.add_argument("--modules", type=int, default=1)
    ap.add_argument("--plain", action="store_true", help="the paper's: nothing is added to the network's output")
    ap.add_argument("--minutes", type=float, default=20.0)
    ap.add_argument("--steps", type=int, help="end after so many steps, if that comes first")
    ap.add_argument("--learning-rate", type=float, default=2e-3)
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--bf16", action="store_true", help="for a CPU that has bfloat16 in hardware: twice as fast")
    a = ap.parse_args()
    config = {
        "scale": a.scale,
        "filters": a.filters,
        "modules": a.modules,
        "separable": True,
        "residual": not a.plain,
    }
    settings = FitSettings(
        minutes=a.minutes, steps=a.steps, bf16=a.bf16, learning_rate=a.learning_rate, warmup_steps=20, ema_decay=0.98
    )
    recipe = (
        f"python -m hypermend.pipeline.train.sharpen --data ../shared/data --out DIR --scale {a.scale} "
        f"--filters {a.filters} --modules {a.modules} --minutes {a.minutes:g}{f' --steps {a.steps}' if a.steps else ''}"
        f"{' --plain' * a.plain}{' --bf16' * a.bf16}"
    )
    train(a.data, a.out, config, settings, seed=a.seed, recipe=recipe)


if __name__ == "__main__":
    main()


def sharpen_edges(patch_px: int, scale: int) -> list[int]:
    """Edges of areas, the best first: at the largest, patches are cut from all three sizes."""
    return [3 * scale * patch_px, 2 * scale * patch_px, scale * patch_px]


def sharpen_task(root: ArchiveStore, plan: TrainPlan) -> Task:
    net = sharpen_model.network(plan.config)
    s = plan.settings
    areas = PatchDataset(root, plan.train, _measured)
    patch = sharpen_samples.PatchSettings(scale=net.scale, patch_px=s.patch_px)
    make = partial(_two_sizes, areas, patch, min(plan.spectrum.bands[0], SHARPEN_BANDS))
    cut = partial(_of_pairs, s=patch)
    stream = SampleStream(make, cut, seed=s.seed, batch=s.batch, every=16, keep=2)
    card = task_card(
        plan,
        architecture="ssrnet",
        scale=net.scale,
        halo=net.halo,
        input_scaling="less the scene's mean of each band, divided by the scene's 99.9th percentile",
        metrics={"protocol": "bicubic reduction, output clipped to 0..1; the baseline is bicubic"},
    )
    return Task(net=net, loss=sharpen_samples.loss, stream=stream, draw=areas.draw, card=card, score=_score_sharpen)


SHARPEN_BANDS = 32
"""Most bands of a sample: a window of a cube with more, so that scenes of any bands share a batch."""


def _measured(values: Iterable[F32]) -> SceneStatistics:
    return measure((v, np.ones(v.shape[1:], dtype=bool)) for v in values)


def _two_sizes(
    areas: PatchDataset[SceneStatistics], s: sharpen_samples.PatchSettings, bands: int, rng: np.random.Generator
) -> list[sharpen_samples.Pair]:
    area = areas.draw(rng)
    facts, cube = areas.known(area.cube), areas.read(area)
    first = int(rng.integers(len(cube) - bands + 1))
    window = slice(first, first + bands)
    own = {**facts, "mean": array_to_json(array_from_json(facts["mean"])[window])}
    return sharpen_samples.pairs(np.ascontiguousarray(cube[window]), s, own)


def _of_pairs(
    sizes: list[sharpen_samples.Pair], rng: np.random.Generator, *, s: sharpen_samples.PatchSettings
) -> Batch:
    return sharpen_samples.patch(sizes, s, rng)


def _score_sharpen(card: ModelCard, state: State, truth: F32) -> Scores:
    found = sharpen.validate(SsrnetModel(card, state), {"": truth})
    return {"psnr_db": found[""], "baseline_db": found[", bicubic"]}
