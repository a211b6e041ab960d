"""Train the fusion network: `python -m hypermend.pipeline.train.fuse --data DIR --out DIR [--minutes N]`.

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

from hypermend.catalog.cube.layout import read_spec
from hypermend.catalog.sensors import srf
from hypermend.catalog.storage.archive_store import ArchiveStore
from hypermend.models import checkpoint
from hypermend.models.arrays import F32
from hypermend.models.card import ModelCard
from hypermend.models.fit import Batch, FitSettings, State, fit
from hypermend.models.fuse import samples as pairs
from hypermend.models.fuse.correction_net import GUIDE_CONTRAST_RADIUS_PX, CorrectionNet
from hypermend.models.fuse.local_regression import GUIDE_HALO, HALO
from hypermend.models.fuse.model import UalModel
from hypermend.models.fuse.protocol import Pair, PairGeometry
from hypermend.models.fuse.samples import FusionSampleSettings, batches, kernel, loss
from hypermend.models.sampling import SampleStream
from hypermend.models.signal import metrics
from hypermend.models.signal.degrade import blur_down, gaussian, snr_std
from hypermend.pipeline.train import fuse
from hypermend.pipeline.train.dataset import PatchDataset, scene_level
from hypermend.pipeline.train.denoise import STRONGEST
from hypermend.pipeline.train.plan import TrainPlan
from hypermend.pipeline.train.recipe import VALIDATION, read
from hypermend.pipeline.train.task import Scores, Task, task_card

NAME = "ual-fusion"
CONFIG: dict[str, Any] = {"channels": 10, "width": 8, "depth": 3, "stages": 1}
GUIDES = ("nikon-d700",)
"""Sensors whose response is half of those trained on; the others are random."""
SCALE, SNR_DB, CROP_PX = 8, 40, 256
"""Of the validation."""


def validate(
    model: UalModel, scenes: Mapping[str, F32], response: F32, *, scale: int = SCALE
) -> dict[str, dict[str, float]]:
    """PSNR (dB) and SAM (degrees) of the global map, the start and the network, each scene under one random kernel."""
    out: dict[str, dict[str, float]] = {}
    for i, (name, z) in enumerate(sorted(scenes.items())):
        rng = np.random.default_rng([0, SNR_DB, i])
        k = torch.from_numpy(kernel(scale, rng).astype(np.float32))
        y = blur_down(torch.from_numpy(z)[None], k, scale)[0].numpy()
        x = np.tensordot(response, z, 1).astype(np.float32)
        y, x = (gaussian(a, snr_std(a, SNR_DB), rng) for a in (y, x))
        pair = Pair(y=y, y_valid=np.ones(y.shape[1:], dtype=bool), x=x, x_valid=np.ones(x.shape[1:], dtype=bool))
        setup = PairGeometry(scale=scale, response=response, expected_centroid_px=0.0)
        facts = model.estimate(partial(list, (pair,)), setup)
        y_in, x_in = torch.from_numpy(y)[None], torch.from_numpy(x)[None]
        restorer = model.bind(facts)
        start = restorer.starter(y_in, x_in)
        plain, begun = (restorer.starter.bands(c, start, y_in) for c in (start.plain, start.coefficients))
        scores: dict[str, float] = {}
        for method, answer in (("global", plain), ("start", begun), ("fusion", restorer(y_in, x_in))):
            cube = np.clip(answer[0].numpy(), 0, 1)
            scores[f"{method}_psnr_db"] = round(metrics.psnr(z, cube), 3)
            scores[f"{method}_sam_deg"] = round(metrics.sam(z, cube).degrees, 3)
        out[name] = scores
    return out


def card(net_halo: int, trained_on: tuple[str, ...], recipe: dict[str, Any], scores: dict[str, Any]) -> ModelCard:
    """The card of the weights as they are now."""
    return ModelCard(
        name=NAME,
        architecture="ual",
        config=CONFIG,
        halo=HALO,
        guide_halo=GUIDE_HALO + GUIDE_CONTRAST_RADIUS_PX + net_halo,
        input_scaling="coefficients of the image's signal subspace in units of its noise, axes of the guide in its own",
        trained_on=trained_on,
        metrics={
            "scenes": scores,
            "protocol": f"CAVE, centre {CROP_PX} px, scale {SCALE}, {SNR_DB} dB, a random kernel for each scene, "
            "estimated from the pair; no adaptation; output clipped to 0..1",
        },
        code_version=importlib.metadata.version("hypermend"),
        recipe=recipe,
    )


def train(
    data: Path,
    out: Path,
    settings: FitSettings,
    *,
    seed: int,
    held_out: tuple[str, ...],
    begin: Path | None = None,
    check_every_s: float = 300.0,
) -> None:
    """Train, and write the model to `out` at every check. Scenes of `held_out` are only scored, at the end.

    `begin`: a model of the same config whose weights are gone on from; its recipe is kept in the new one's.
    """
    cave = dict(read(data / "cave", "cave"))
    names = tuple(k for k in cave if k not in held_out)
    responses = [srf("cave", guide).astype(np.float32) for guide in GUIDES]
    torch.manual_seed(seed)
    net = CorrectionNet(**{k: v for k, v in CONFIG.items() if k != "channels"})
    before: dict[str, Any] = {}
    if begin:
        earlier = checkpoint.load_fusion(begin)
        assert isinstance(earlier, UalModel)
        net.load_state_dict(earlier.net.state_dict())
        before = {"after": earlier.card.recipe}
    net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    samples = batches([cave[k] for k in names], responses, FusionSampleSettings(channels=CONFIG["channels"]), seed=seed)
    next_check = check_every_s
    for p in fit(net, samples, loss, settings):
        print(json.dumps({"step": p.step, "seconds": round(p.seconds), "loss": round(p.loss, 4)}), flush=True)
        if p.seconds < next_check and p.fraction < 1:
            continue
        next_check = p.seconds + check_every_s
        state = p.ema.state_dict()
        recipe = {"command": "python -m hypermend.pipeline.train.fuse", "seconds": round(p.seconds), "steps": p.step}
        draft = card(net.halo, names, {**recipe, "seed": seed, **before}, {})
        scores: dict[str, Any] = {}
        if p.fraction >= 1:
            c = slice((512 - CROP_PX) // 2, (512 + CROP_PX) // 2)
            scores = validate(UalModel(draft, state), {k: cave[k][:, c, c] for k in held_out}, responses[0])
            print(json.dumps(scores), flush=True)
        checkpoint.save(out, card(net.halo, names, draft.recipe, scores), state)


def main() -> None:
    """Entry point."""
    ap = argparse.ArgumentParser(
        prog="python -m hypermend.pipeline.train.fuse", description="Train the fusion network."
    )
    ap.add_argument("--data", type=Path, required=True, help="folder with cave/")
    ap.add_argument("--out", type=Path, required=True, help="folder for card.json and weights.safetensors")
    ap.add_argument("--minutes", type=float, default=30.0)
    ap.add_argument("--steps", type=int, help="end after so many steps, if that comes first")
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--begin", type=Path, help="folder of weights to go on from")
    ap.add_argument("--learning-rate", type=float, default=3e-3)
    ap.add_argument("--held-out", nargs="*", default=list(VALIDATION), help="scenes to score, not to train on")
    a = ap.parse_args()
    settings = FitSettings(
        minutes=a.minutes, steps=a.steps, learning_rate=a.learning_rate, warmup_steps=20, ema_decay=0.99
    )
    train(a.data, a.out, settings, seed=a.seed, held_out=tuple(a.held_out), begin=a.begin)


if __name__ == "__main__":
    main()


def fuse_edges(patch_px: int) -> list[int]:
    """Edges of areas, the best first."""
    return [e for e in (256, 192, 128) if e > patch_px + 32] + [patch_px + 32]


def fuse_task(root: ArchiveStore, plan: TrainPlan) -> Task:
    s = plan.settings
    net = CorrectionNet(**{k: v for k, v in plan.config.items() if k != "channels"})
    areas = PatchDataset(root, plan.train, partial(scene_level, strongest=STRONGEST))
    responses = {key: _responses(root, key, plan.guides) for key in plan.scenes}
    stream = SampleStream(
        partial(_realise_pair, areas, plan, responses),
        partial(_of_pair, size=s.patch_px),
        seed=s.seed,
        batch=s.batch,
        every=150,
        keep=6,
    )
    card = task_card(
        plan,
        architecture="ual",
        halo=HALO,
        guide_halo=GUIDE_HALO + GUIDE_CONTRAST_RADIUS_PX + net.halo,
        input_scaling="coefficients of the image's signal subspace in units of its noise, axes of the guide in its own",
        metrics={
            "protocol": f"{fuse.SNR_DB} dB, one random kernel, estimated from the pair; no adaptation; output "
            "clipped to 0..1; the baseline is the start without the network"
        },
    )
    last_channels = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Task(net=last_channels, loss=pairs.loss, stream=stream, draw=areas.draw, card=card, score=_score_fuse)


LEAST_SCORED_PX = 192
"""Of a scene scored at the protocol's scale; a smaller one has too few coarse pixels to tell the kernel from."""


def _responses(root: ArchiveStore, key: str, guides: Iterable[str]) -> list[F32]:
    """What each guide's sensor sees of the good bands of a cube: (m, b)."""
    spec = read_spec(root, key)
    good = np.array(spec.wavelength_nm)[np.array(spec.good)]
    return [srf(good, guide).astype(np.float32) for guide in guides]


def _realise_pair(
    areas: PatchDataset[tuple[float, float]], plan: TrainPlan, known: Mapping[str, list[F32]], rng: np.random.Generator
) -> pairs.Sample:
    area = areas.draw(rng)
    cube = areas.read(area) / np.float32(areas.known(area.cube)[0])
    s = pairs.FusionSampleSettings(channels=int(plan.config["channels"]), scene_px=min(224, area.edge_px))
    return pairs.simulate(cube, known[area.cube], s, rng)


def _of_pair(r: pairs.Sample, rng: np.random.Generator, *, size: int) -> Batch:
    return pairs.patch(r, size, rng)


def _score_fuse(card: ModelCard, state: State, truth: F32) -> Scores:
    response = pairs.response(len(truth), np.random.default_rng(0))
    scale = fuse.SCALE if truth.shape[1] >= LEAST_SCORED_PX else fuse.SCALE // 2
    found = fuse.validate(UalModel(card, state), {"": truth}, response, scale=scale)[""]
    return {"psnr_db": found["fusion_psnr_db"], "baseline_db": found["start_psnr_db"], **found}
