"""Adaptation of the network to one block, without ground truth.

The network cannot know how the materials of a place mix below an LR pixel. The guide can tell: each of its bands is a
sharp image whose blurred version is known as well. So each guide band in turn takes the role of the unknown image,

    y_a = H x_a + noise        with the other guide bands as its guide and x_a as the ground truth on HR pixels

with noise for which the local regression leaves as much unexplained, relative to the noise, as it does in the real
coefficients. A block learns seven numbers (state: gain, share; see `correction_net.correction`): a gain for the free
correction and for each candidate step, and an additional share of each step. The loss is

    L1(u N - missed) over the guide bands + CONSISTENCY_WEIGHT * L1(H (u N) - residual of Y) over the coefficients

One in four squares of the block is held out. The block keeps, of the fusion (the trained network), the start (the local
regression alone) and every tenth step, the one with the least error there, if it is better by `LEAST_GAIN` over all
guide bands, worse in none, not worse by angle (of the vector of guide bands) and not less consistent with Y. It applies
the share `APPLIED_SHARE` of the learned change. Otherwise the block is not adapted, and its figures say why. All images
are computed once, so steps cost milliseconds.

The same guide bands decide whether a scene uses the network at all (`trial`): where the local regression predicts them
as well, as between sensors unlike those of the training, it is used alone.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import islice
from typing import NotRequired, TypedDict

import numpy as np
import torch
from torch.nn import functional

from hypermend.models.arrays import F32, F64
from hypermend.models.budget import AdaptationBudget
from hypermend.models.fuse.correction_net import (
    STEPS,
    CorrectionNet,
    coefficient_features,
    correction,
    guide_features,
    residual_scale,
)
from hypermend.models.fuse.interface import AdaptationFigures, Adapted, Pair
from hypermend.models.fuse.least_squares import PairStatistics
from hypermend.models.fuse.local_regression import (
    LocalRegression,
    LocalRegressionModel,
    LocalRegressionStages,
    guide_axes,
)
from hypermend.models.restorer import array_from_json

MARGIN_LR_PX = 8
"""LR pixels around the block that the local regression reads; nothing is learned from them."""
HELD_OUT_SQUARE_HR_PX = 16
"""Edge of the held-out squares, in HR pixels."""
LEARNING_RATE = 0.02
CONSISTENCY_WEIGHT = 0.1
"""Weight in the loss of the difference from Y after blur and decimation."""
STEPS_PER_CHECK = 10
"""Optimiser steps between two scores on the held-out squares."""
APPLIED_SHARE = 0.5
"""Share of the learned change that is applied: guide bands are similar to the unknown spectra, not equal."""
LEAST_GAIN = 0.01
"""Smallest gain on the held-out squares, as a share of the squared error, for which a block is adapted."""
CONSISTENT_COEFFICIENTS = 4
"""Number of the strongest coefficients of Y that must stay consistent."""
LEAST_HR_PX = 2048
"""Fewest valid HR pixels of a block that adapts."""
TRIAL_WINDOWS, TRIAL_WINDOW_HR_PX = 3, 256
"""Number of windows on which a scene's network is compared with the local regression, and their edge in HR pixels."""
Learned = dict[str, torch.Tensor]
"""gain (1 + STEPS,) and share (STEPS,)."""


class NetworkTrial(TypedDict):
    """Whether the network is used on a scene, JSON types."""

    used: bool
    reason: str
    """Why not; empty if it is used."""
    missed_start: NotRequired[float | None]
    """Squared error of the start on the guide bands, relative to the square of its mean error; None if not measured."""
    missed_network: NotRequired[float | None]
    """The same of the network."""


class UalStatistics(PairStatistics):
    """Scene statistics of a pair, and whether the network is used on it."""

    network: NetworkTrial


@dataclass(frozen=True)
class Channel:
    """One coefficient, or one guide band as the unknown image, with everything that its correction needs."""

    prediction: torch.Tensor
    """(1, 1 + STEPS, H, W), by the network."""
    coefficient_features: torch.Tensor
    """(1, COEFFICIENT_FEATURES, H, W)."""
    residual_scale: torch.Tensor
    """(1, 1, H, W)."""
    missed: torch.Tensor
    """(1, 1, H, W) truth minus start for a guide band; (1, 1, h, w) residual of the start on Y for a coefficient."""
    size: float
    """Mean of |missed|, plus 0.3; the loss divides by it."""
    std: float = 1.0
    """Physical value of one unit of `missed`."""
    truth: torch.Tensor | None = None
    """(1, 1, H, W) the guide band itself, physical units."""


@dataclass(frozen=True)
class HeldOutScore:
    """Score on the held-out squares."""

    errors: tuple[float, ...]
    """Mean squared error of each guide band, relative to the square of its `size`."""
    angle_deg: float

    @property
    def error(self) -> float:
        """Mean of `errors`."""
        return sum(self.errors) / len(self.errors)

    def beats(self, other: HeldOutScore) -> bool:
        """Whether the error is smaller by `LEAST_GAIN`, and no band and not the angle is worse."""
        each = all(a <= b for a, b in zip(self.errors, other.errors, strict=True))
        return self.error < (1 - LEAST_GAIN) * other.error and each and self.angle_deg <= other.angle_deg


def adapt(
    net: CorrectionNet,
    channels: int,
    statistics: UalStatistics,
    pair: Pair,
    core: tuple[slice, slice],
    budget: AdaptationBudget,
) -> Adapted:
    """Adapt the network to one block, as this file's docstring describes.

    Args:
        net: the network.
        channels: number of coefficients that the network corrects.
        statistics: statistics of the scene.
        pair: the block with its margin.
        core: LR rows and columns of the block itself.
        budget: limits of the adaptation.
    """
    begin = time.monotonic()
    window, inside = cut(pair, core, int(statistics["scale"]))
    learn, held_out = split(inside)
    unadapted = "fusion" if statistics["network"]["used"] else "start"
    reason = reason_to_skip(window, learn, held_out, budget)
    if reason:
        return Adapted(state={}, figures={"adapted": False, "steps": 0, "reason": reason, "fell_back_to": unadapted})
    guide_bands, coefficients, regression = _channels(net, channels, statistics, window)
    weight = _dark_pixel_weight(window.x)[learn]
    candidates = {"fusion": unlearned(), "start": silent()}
    learned = {k: v.clone().requires_grad_(True) for k, v in candidates[unadapted].items()}
    scores = {k: _score(v, guide_bands, held_out) for k, v in candidates.items()}
    losses: list[float] = []
    optimiser = torch.optim.Adam(learned.values(), lr=LEARNING_RATE)
    while len(losses) < budget.steps and (budget.seconds is None or time.monotonic() - begin < budget.seconds):
        loss = _loss(learned, guide_bands, coefficients, regression, learn, weight)
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        optimiser.step()
        losses.append(float(loss.detach()))
        if len(losses) % STEPS_PER_CHECK == 0 or len(losses) == budget.steps:
            damped = {
                k: (1 - APPLIED_SHARE) * candidates[unadapted][k] + APPLIED_SHARE * v.detach()
                for k, v in learned.items()
            }
            score = _score(damped, guide_bands, held_out)
            if "adapted" not in scores or score.error < scores["adapted"].error:
                scores["adapted"], candidates["adapted"] = score, damped
            elif score.error > 1.02 * scores["adapted"].error:
                break  # overfits: the held-out error rises
    with torch.no_grad():
        inconsistency = {k: float(_inconsistency(v, coefficients, regression)) for k, v in candidates.items()}
    better = [
        k for k, s in scores.items() if s.beats(scores[unadapted]) and inconsistency[k] <= inconsistency[unadapted]
    ]
    chosen = min(better, key=lambda k: scores[k].error, default=unadapted)
    figures = _figures(losses, scores, inconsistency, unadapted, chosen)
    figures["seconds"] = round(time.monotonic() - begin, 2)
    return Adapted(state={} if chosen == unadapted else candidates[chosen], figures=figures)


def _figures(
    losses: list[float], scores: dict[str, HeldOutScore], inconsistency: dict[str, float], unadapted: str, chosen: str
) -> AdaptationFigures:
    """Return the figures of a block; `unadapted` and `chosen` are keys of `scores`."""
    return {
        "adapted": chosen == "adapted",
        "steps": len(losses),
        "loss_first": round(losses[0], 6) if losses else None,
        "loss_last": round(losses[-1], 6) if losses else None,
        "held_out_first": round(scores[unadapted].error, 6),
        "held_out_last": round(scores[chosen].error, 6),
        "held_out_start": round(scores["start"].error, 6),
        "held_out_fusion": round(scores["fusion"].error, 6),
        "inconsistent_first": round(inconsistency[unadapted], 6),
        "inconsistent_last": round(inconsistency[chosen], 6),
        "held_out_angle_first_deg": round(scores[unadapted].angle_deg, 5),
        "held_out_angle_last_deg": round(scores[chosen].angle_deg, 5),
        "reason": "" if chosen == "adapted" else f"held-out squares are best with the {chosen}",
        "fell_back_to": "" if chosen == "adapted" else chosen,
    }


def trial(net: CorrectionNet, channels: int, statistics: PairStatistics, pairs: Iterable[Pair]) -> NetworkTrial:
    """Compare network and local regression on the guide bands of a scene, in the middle of its first windows.

    A guide of one band has no other band to compare on, so the network is not used.
    """
    scores: list[tuple[HeldOutScore, HeldOutScore]] = []
    edge = max(1, TRIAL_WINDOW_HR_PX // int(statistics["scale"]))
    for pair in islice(pairs, TRIAL_WINDOWS):
        if len(pair.x) < 2:
            return {"used": False, "reason": "a guide of one band has no other band to prove the network on"}
        starts = [max(0, (n - edge) // 2) for n in pair.y_valid.shape]
        window, inside = cut(
            pair, (slice(starts[0], starts[0] + edge), slice(starts[1], starts[1] + edge)), statistics["scale"]
        )
        if int(inside.sum()) >= LEAST_HR_PX:
            guide_bands, _, _ = _channels(net, channels, statistics, window)
            scores.append((_score(silent(), guide_bands, inside), _score(unlearned(), guide_bands, inside)))
    start, network = (float(np.mean([s[i].error for s in scores])) if scores else math.nan for i in (0, 1))
    used = network < start
    return {
        "used": used,
        "reason": "" if used else "the start foretells the guide's own bands as well as the network",
        "missed_start": round(start, 6) if scores else None,
        "missed_network": round(network, 6) if scores else None,
    }


def unlearned() -> Learned:
    """Return the state that leaves the network as it was trained."""
    return {"gain": torch.zeros(1 + STEPS), "share": torch.zeros(STEPS)}


def silent() -> Learned:
    """Return the state with which the network adds nothing to the local regression."""
    return {"gain": -torch.ones(1 + STEPS), "share": torch.zeros(STEPS)}


def cut(pair: Pair, core: tuple[slice, slice], scale: int, margin_px: int = MARGIN_LR_PX) -> tuple[Pair, torch.Tensor]:
    """Return the block with its margin of LR pixels, and which HR pixels (H, W) belong to the block and are valid."""
    h, w = pair.y_valid.shape
    near = [(max(0, c.start - margin_px), min(n, c.stop + margin_px)) for c, n in zip(core, (h, w), strict=True)]
    low = tuple(slice(a, b) for a, b in near)
    high = tuple(slice(scale * a, scale * b) for a, b in near)
    window = Pair(y=pair.y[:, *low], y_valid=pair.y_valid[low], x=pair.x[:, *high], x_valid=pair.x_valid[high])
    inside = np.zeros(window.x_valid.shape, dtype=bool)
    at = tuple(slice(scale * (c.start - a), scale * (c.stop - a)) for c, (a, _) in zip(core, near, strict=True))
    inside[at] = True
    trusted = window.y_valid.repeat(scale, axis=0).repeat(scale, axis=1)
    return window, torch.from_numpy(inside & window.x_valid & trusted)


def reason_to_skip(window: Pair, learn: torch.Tensor, held_out: torch.Tensor, budget: AdaptationBudget) -> str | None:
    """Return why a block cannot be adapted; None if it can."""
    if budget.steps == 0:
        return "no steps in the budget"
    if len(window.x) < 2:
        return "a guide of one band has no other band to learn from"
    return too_few(learn, held_out)


def too_few(learn: torch.Tensor, held_out: torch.Tensor) -> str | None:
    """Return why a block has too few pixels to adapt to; None if it has enough."""
    judged = int(held_out.sum())
    valid = int(learn.sum()) + judged
    if valid < LEAST_HR_PX or 8 * judged < valid:
        return f"{valid} valid guide pixels in the block, {judged} of them to judge by; {LEAST_HR_PX} are needed"
    return None


@torch.no_grad()
def _channels(
    net: CorrectionNet, channels: int, statistics: PairStatistics, window: Pair
) -> tuple[list[Channel], list[Channel], LocalRegressionModel]:
    """Return the guide bands as unknown images, the strongest coefficients of Y, and the scene's local regression."""
    scene = LocalRegression.from_json(statistics["start"])
    noise_x = array_from_json(statistics["blur"]["noise_x"]).astype(np.float64)
    regression = LocalRegressionModel(scene)
    y, x = torch.from_numpy(window.y)[None], torch.from_numpy(window.x)[None]
    start = regression(y, x)
    k = min(channels, CONSISTENT_COEFFICIENTS, start.coefficients.shape[1])
    level = float(start.rest.square().mean((0, 2, 3)).sub(1).clamp_min(0.25).log().mean().div(2).exp())
    left = start.y - regression.down(start.coefficients)
    coefficients = [_channel(net, regression, start, i, left[:, i : i + 1]) for i in range(k)]
    sharp = replace(window, x=regression.matched(x)[0].numpy())
    scene = replace(scene, match=np.ones((1, 1)))
    guide_bands = [_guide_channel(net, scene, sharp, noise_x, a, level) for a in range(len(window.x))]
    return guide_bands, coefficients, regression


def _channel(
    net: CorrectionNet, regression: LocalRegressionModel, start: LocalRegressionStages, k: int, missed: torch.Tensor
) -> Channel:
    """Return coefficient `k` of a local regression with the network's prediction for it."""
    u = residual_scale(regression, start)
    e = coefficient_features(regression, start, u)[:, k]
    prediction = net.predict(torch.cat((e, guide_features(start)), dim=1))
    return Channel(prediction, e, u[:, k : k + 1], missed, float(missed.abs().mean()) + 0.3)


def _guide_channel(
    net: CorrectionNet, scene: LocalRegression, window: Pair, noise_x: F64, a: int, level: float
) -> Channel:
    """Return guide band `a` as the unknown image, with the other bands as its guide."""
    others = np.arange(len(window.x)) != a
    sharp = replace(window, x=window.x[others])
    axes, power = guide_axes(lambda: [sharp], noise_x[others])
    regression = LocalRegressionModel(replace(scene, guide=axes, guide_power=power))
    x = torch.from_numpy(window.x[a])[None, None]
    low = regression.down(x)[0, 0].numpy().astype(np.float64)
    g = torch.einsum("gm,mhw->ghw", regression.t["guide"], torch.from_numpy(sharp.x))
    blurred = regression.down(g[None])[0].numpy().astype(np.float64)
    f = np.concatenate((blurred.reshape(len(blurred), -1), np.ones((1, low.size))))
    normal = f @ f.T
    weights = np.linalg.solve(normal + 1e-6 * np.diag(np.diag(normal)), f @ low.ravel())
    rest = float(np.sqrt(np.mean((low.ravel() - weights @ f) ** 2)))
    std = max(rest / level, 0.3 * float(noise_x[a]), 1e-12)
    noise = np.random.default_rng([0, a]).standard_normal(low.shape)
    ready = replace(
        scene,
        project=np.ones((1, 1)),
        back=np.ones((1, 1)),
        guide=axes,
        guide_power=power,
        weights=np.asarray(weights[None] / std),
        level=np.diag(normal) / low.size,
    )
    regression = LocalRegressionModel(ready)
    y = torch.from_numpy((low / std + noise).astype(np.float32))[None, None]
    start = regression(y, torch.from_numpy(sharp.x)[None])
    return replace(_channel(net, regression, start, 0, x / std - start.coefficients), std=std, truth=x)


def split(inside: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the pixels to learn from and, one square in four, the held-out pixels: (H, W) each."""
    h, w = inside.shape
    even = [(torch.arange(n) // HELD_OUT_SQUARE_HR_PX % 2 == 0) for n in (h, w)]
    held_out = even[0][:, None] & even[1][None, :]
    return inside & ~held_out, inside & held_out


def _correction(learned: Learned, c: Channel) -> torch.Tensor:
    """Return the correction of a channel, (1, 1, H, W), in the unit of `missed`."""
    return c.residual_scale * correction(c.prediction, c.coefficient_features, learned["gain"], learned["share"])


def _dark_pixel_weight(x: F32) -> torch.Tensor:
    """Return weights (H, W) as in training: dark pixels weigh more, since angles are relative."""
    level = torch.from_numpy(x).square().sum(0).sqrt()
    return 1 + 0.5 * (level.mean() / level.clamp_min(1e-12)).clamp_max(4.0)


def _loss(
    learned: Learned,
    guide_bands: list[Channel],
    coefficients: list[Channel],
    regression: LocalRegressionModel,
    learn: torch.Tensor,
    weight: torch.Tensor,
) -> torch.Tensor:
    errors = [(weight * (_correction(learned, c) - c.missed)[0, 0][learn].abs()).mean() / c.size for c in guide_bands]
    return torch.stack(errors).mean() + CONSISTENCY_WEIGHT * _inconsistency(learned, coefficients, regression)


def _inconsistency(learned: Learned, coefficients: list[Channel], regression: LocalRegressionModel) -> torch.Tensor:
    """Return the L1 residual on Y, in its strongest coefficients, relative to that of the local regression."""
    added = regression.down(torch.cat([_correction(learned, c) for c in coefficients], dim=1))
    left = torch.cat([c.missed for c in coefficients], dim=1)
    return (added - left).abs().mean() / (left.abs().mean() + 0.3)


@torch.no_grad()
def _score(learned: Learned, guide_bands: list[Channel], held_out: torch.Tensor) -> HeldOutScore:
    """Score a state on the held-out pixels of the guide bands."""
    errors, truth, estimate = [], [], []
    for c in guide_bands:
        assert c.truth is not None
        error = (_correction(learned, c) - c.missed)[0, 0][held_out]
        errors.append(float(error.square().mean()) / c.size**2)
        truth.append(c.truth[0, 0][held_out])
        estimate.append(truth[-1] + c.std * error)
    cosine = functional.cosine_similarity(torch.stack(truth).double(), torch.stack(estimate).double(), dim=0)
    return HeldOutScore(tuple(errors), math.degrees(float(cosine.clamp(-1, 1).acos().mean())))
