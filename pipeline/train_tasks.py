"""The three trainings: for each its network, its samples from areas of cubes, and its score on a held-out square.

The samples are the recipes' of the shipped weights (`models/samples.py`, `sharpen_samples.py`, `fusion_samples.py`),
drawn by `models/streams.py`; the scores are their `validate`.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from catalog.cube_layout import read_spec
from catalog.root import Root
from catalog.sensors import srf
from models import careful, denoiser, metrics, samples, samples_bands, sharpen_samples, sharpener
from models import fusion_samples as pairs
from models.card import ModelCard
from models.degrade import gaussian
from models.denoiser import CONTEXT, StasModel
from models.fit import Batch, Loss, State
from models.fuser import UalModel
from models.local_map import GUIDE_HALO, HALO
from models.restorer import Facts, pack, unpack
from models.sharpener import SsrnetModel, measure
from models.spread import NEAR, Spread
from models.streams import Stream
from pipeline import train_denoise, train_fusion, train_sharpen
from pipeline.areas import Area
from pipeline.train_plan import TrainPlan
from pipeline.train_scenes import Areas, scene_level

F32 = npt.NDArray[np.float32]
Scores = dict[str, float]
"""psnr_db of the model and baseline_db of doing without it, and what else the task scores."""

STRONGEST = 80 / 255
SIGMAS = (10, 50)
"""Of 255: noise that a denoiser is scored at."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a training needs of its task."""

    net: nn.Module
    loss: Loss
    stream: Stream[Any]
    draw: Callable[[np.random.Generator], Area]
    """Of a generator of `stream.sources`: the area that its sample is of."""
    card: ModelCard
    """Without name, scenes and scores."""
    score: Callable[[ModelCard, State, F32], Scores]
    """Of the weights on a square of a scene, divided by its bright value."""


_SEEDED = Lock()
"""Torch's generator is that of the whole process."""


def build(root: Root, plan: TrainPlan) -> Task:
    """The task of a plan, with new weights drawn from the seed."""
    with _SEEDED, torch.random.fork_rng(devices=[]):
        torch.manual_seed(plan.settings.seed)
        return {"denoise": _denoise, "sharpen": _sharpen, "fuse": _fuse}[plan.task](root, plan)


def _card(plan: TrainPlan, **fields: Any) -> ModelCard:
    s = plan.spectrum
    return ModelCard(
        name=plan.id,
        config=dict(plan.config),
        accepts_range_nm=(s.low_nm, s.high_nm),
        accepts_spacing_nm=s.spacing_nm,
        quantity=s.quantity,
        code_version=importlib.metadata.version("hypermend"),
        **fields,
    )


# -------------------------------------------------------------------------------------------------------- denoise


def denoise_edges(patch_px: int) -> list[int]:
    """Edges of areas, the best first."""
    least = patch_px + 2 * samples.MARGIN
    return [e for e in (256, 192, 128) if e > least] + [least]


def _denoise(root: Root, plan: TrainPlan) -> Task:
    s, net = plan.settings, denoiser.network(plan.config)
    nn.init.zeros_(net.conv3.weight)  # the first answer is the input's, or the pilot's
    nn.init.zeros_(net.conv3.bias)  # type: ignore[arg-type]
    areas = Areas(root, plan.train, partial(scene_level, strongest=STRONGEST))
    on_bands = plan.config["domain"] == "bands"
    shape = {"seed": s.seed, "batch": s.batch}
    if on_bands:
        stream: Stream[Any] = Stream(
            partial(_clean, areas), partial(_noisy, size=s.patch_px), every=16, keep=2, **shape
        )
    else:
        cut = partial(_whitened, size=s.patch_px)
        stream = Stream(partial(_realise_noise, areas, plan), cut, every=12 * s.batch, keep=4, **shape)
    card = _card(
        plan,
        architecture="stas",
        halo=net.halo if on_bands else max(net.halo + CONTEXT, careful.HALO),
        window_bands=net.channels if on_bands else None,
        input_scaling="divided by the scene's bright value"
        if on_bands
        else "whitened coefficients of the scene's signal subspace; noise and axes estimated from the scene",
        metrics={"protocol": f"noise of {SIGMAS} of 255, output clipped to 0..1; the baseline changes nothing"},
    )
    loss: Loss = nn.functional.mse_loss if on_bands else samples.loss
    last_channels = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Task(net=last_channels, loss=loss, stream=stream, draw=areas.draw, card=card, score=_score_denoise)


def _clean(areas: Areas[tuple[float, float]], rng: np.random.Generator) -> F32:
    area = areas.draw(rng)
    return np.asarray(areas.read(area) / np.float32(areas.known(area.cube)[0]))


def _noisy(cube: F32, rng: np.random.Generator, *, size: int) -> Batch:
    clean = samples_bands.patch(cube, size, rng)
    std = np.float32(rng.choice(np.asarray(samples_bands.SIGMAS)))
    noisy = clean + std * rng.standard_normal(clean.shape, dtype=np.float32)
    return torch.from_numpy(noisy), torch.from_numpy(clean)


def _realise_noise(
    areas: Areas[tuple[float, float]], plan: TrainPlan, rng: np.random.Generator
) -> samples.Realisation | None:
    area = areas.draw(rng)
    bright, least = areas.known(area.cube)
    size = plan.settings.patch_px
    s = samples.SampleSettings(
        channels=int(plan.config["channels"]),
        patch_px=size,
        scene_px=max(size + 2 * samples.MARGIN, min(160, area.edge_px)),
        strongest_noise=STRONGEST,
    )
    scene = samples.TrainingScene(cube=areas.read(area) / np.float32(bright), least_noise=least)
    made = samples.realise(scene, s, rng)
    return made if made is not None and min(made.noisy.shape[1:]) >= size + 2 * samples.MARGIN else None


def _whitened(r: samples.Realisation, rng: np.random.Generator, *, size: int) -> Batch:
    x, target = samples.learnt([samples.patch(r, size, rng)])
    return x[0], target[0]


def _score_denoise(card: ModelCard, state: State, clean: F32) -> Scores:
    ours = train_denoise.validate(StasModel(card, state), {"": clean}, SIGMAS)
    noisy = [gaussian(clean, s / 255, np.random.default_rng([0, s])) for s in SIGMAS]
    return {
        "psnr_db": float(np.mean(list(ours.values()))),
        "baseline_db": float(np.mean([metrics.psnr(clean, np.clip(n, 0, 1)) for n in noisy])),
    }


# -------------------------------------------------------------------------------------------------------- sharpen


def sharpen_edges(patch_px: int, scale: int) -> list[int]:
    """Edges of areas, the best first: at the largest, patches are cut from all three sizes."""
    return [3 * scale * patch_px, 2 * scale * patch_px, scale * patch_px]


def _sharpen(root: Root, plan: TrainPlan) -> Task:
    net = sharpener.network(plan.config)
    s = plan.settings
    areas = Areas(root, plan.train, _measured)
    patch = sharpen_samples.PatchSettings(scale=net.scale, patch_px=s.patch_px)
    make = partial(_two_sizes, areas, patch, min(plan.spectrum.bands[0], SHARPEN_BANDS))
    cut = partial(_of_pairs, s=patch)
    stream = Stream(make, cut, seed=s.seed, batch=s.batch, every=16, keep=2)
    card = _card(
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


def _measured(values: Iterable[F32]) -> Facts:
    return measure((v, np.ones(v.shape[1:], dtype=bool)) for v in values)


def _two_sizes(
    areas: Areas[Facts], s: sharpen_samples.PatchSettings, bands: int, rng: np.random.Generator
) -> list[sharpen_samples.Pair]:
    area = areas.draw(rng)
    facts, cube = areas.known(area.cube), areas.read(area)
    first = int(rng.integers(len(cube) - bands + 1))
    window = slice(first, first + bands)
    own = {**facts, "mean": pack(unpack(facts["mean"])[window])}
    return sharpen_samples.pairs(np.ascontiguousarray(cube[window]), s, own)


def _of_pairs(
    sizes: list[sharpen_samples.Pair], rng: np.random.Generator, *, s: sharpen_samples.PatchSettings
) -> Batch:
    return sharpen_samples.patch(sizes, s, rng)


def _score_sharpen(card: ModelCard, state: State, truth: F32) -> Scores:
    found = train_sharpen.validate(SsrnetModel(card, state), {"": truth})
    return {"psnr_db": found[""], "baseline_db": found[", bicubic"]}


# ----------------------------------------------------------------------------------------------------------- fuse


def fuse_edges(patch_px: int) -> list[int]:
    """Edges of areas, the best first."""
    return [e for e in (256, 192, 128) if e > patch_px + 32] + [patch_px + 32]


def _fuse(root: Root, plan: TrainPlan) -> Task:
    s = plan.settings
    net = Spread(**{k: v for k, v in plan.config.items() if k != "channels"})
    areas = Areas(root, plan.train, partial(scene_level, strongest=STRONGEST))
    responses = {key: _responses(root, key, plan.guides) for key in plan.scenes}
    stream = Stream(
        partial(_realise_pair, areas, plan, responses),
        partial(_of_pair, size=s.patch_px),
        seed=s.seed,
        batch=s.batch,
        every=150,
        keep=6,
    )
    card = _card(
        plan,
        architecture="ual",
        halo=HALO,
        guide_halo=GUIDE_HALO + NEAR + net.halo,
        input_scaling="coefficients of the image's signal subspace in units of its noise, axes of the guide in its own",
        metrics={
            "protocol": f"{train_fusion.SNR_DB} dB, one random kernel, estimated from the pair; no adaptation; output "
            "clipped to 0..1; the baseline is the start without the network"
        },
    )
    last_channels = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Task(net=last_channels, loss=pairs.loss, stream=stream, draw=areas.draw, card=card, score=_score_fuse)


LEAST_SCORED_PX = 192
"""Of a scene scored at the protocol's scale; a smaller one has too few coarse pixels to tell the kernel from."""


def _responses(root: Root, key: str, guides: Iterable[str]) -> list[F32]:
    """What each guide's sensor sees of the good bands of a cube: (m, b)."""
    spec = read_spec(root, key)
    good = np.array(spec.wavelength_nm)[np.array(spec.good)]
    return [srf(good, guide).astype(np.float32) for guide in guides]


def _realise_pair(
    areas: Areas[tuple[float, float]], plan: TrainPlan, known: Mapping[str, list[F32]], rng: np.random.Generator
) -> pairs.Sample:
    area = areas.draw(rng)
    cube = areas.read(area) / np.float32(areas.known(area.cube)[0])
    s = pairs.FusionSampleSettings(channels=int(plan.config["channels"]), scene_px=min(224, area.edge_px))
    return pairs.realise(cube, known[area.cube], s, rng)


def _of_pair(r: pairs.Sample, rng: np.random.Generator, *, size: int) -> Batch:
    return pairs.patch(r, size, rng)


def _score_fuse(card: ModelCard, state: State, truth: F32) -> Scores:
    response = pairs.response(len(truth), np.random.default_rng(0))
    scale = train_fusion.SCALE if truth.shape[1] >= LEAST_SCORED_PX else train_fusion.SCALE // 2
    found = train_fusion.validate(UalModel(card, state), {"": truth}, response, scale=scale)[""]
    return {"psnr_db": found["fusion_psnr_db"], "baseline_db": found["start_psnr_db"], **found}
