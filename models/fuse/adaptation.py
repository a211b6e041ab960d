"""Adaptation of the fusion network to one block, without any truth but what the pair itself holds.

What the network cannot know is how this place's materials mix below an LR pixel. The guide knows it: each of its bands
is a sharp image whose blurred view is known too. So every guide band in turn plays the unknown spectrum,

    y_a = H x_a + noise        the other guide bands as the guide, x_a the truth on sharp pixels

with its noise set so that the start leaves as much unexplained, in noise, as it does of the real coefficients. What a
block learns is how far to go: for the network's free correction and each of its candidate steps a gain, and for each
step a share of its own, seven numbers (`state`: gain, share; step 0 is what the scene does without), from

    L1(u N - missed) over the guide bands + CONSISTENT * L1(H (u N) - what the start leaves of Y) over the coefficients

One in four squares of the block is held out. Kept is, of the fusion, the start and every tenth step, what is best
there: better by `LEAST_GAIN` over all guide bands, worse in none, no worse by angle (of the vector of guide bands) and
no less consistent with Y; and of that the share `CAREFUL`. Otherwise the block stays as it was and says so. All images
are computed once, so steps cost milliseconds.

By the same guide bands the network has to prove itself on a scene at all (`trial`): where the start foretells them as
well, as between sensors unlike those trained on, the start it is.
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
    corrected,
    guide_features,
    residual_scale,
)
from hypermend.models.fuse.least_squares import PairStatistics
from hypermend.models.fuse.local_regression import (
    LocalRegression,
    LocalRegressionModel,
    LocalRegressionStages,
    guide_axes,
)
from hypermend.models.fuse.protocol import Adapted, Pair
from hypermend.models.restorer import array_from_json

MARGIN = 8
"""LR pixels around the block that the start sees; nothing there is learned from."""
SQUARE = 16
"""HR pixels of the edge of the squares that are held out."""
RATE = 0.02
CONSISTENT = 0.1
EVERY = 10
CAREFUL = 0.5
"""Share of what was learned that is applied: guide bands are like the unknown spectra, not the same."""
LEAST_GAIN = 0.01
"""Least gain on the held-out squares, as a share of the squared error, for which a block departs from the fusion."""
COEFFICIENTS = 4
"""Strongest coefficients of Y that must stay consistent."""
LEAST_PIXELS = 2048
"""Valid HR pixels below which nothing is learned."""
WINDOWS, WINDOW_PX = 3, 256
"""Windows of a scene, and HR pixels of their edge, on which the network has to prove itself."""
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
    """One channel, ready to be corrected."""

    answer: torch.Tensor
    """(1, 1 + STEPS, H, W) the network's."""
    coefficient_features: torch.Tensor
    """(1, EVIDENCE, H, W)."""
    residual_scale: torch.Tensor
    """(1, 1, H, W)."""
    missed: torch.Tensor
    """(1, 1, H, W) truth less start for a guide band, (1, 1, h, w) what the start leaves of Y for a coefficient."""
    size: float
    """Mean of |missed|, by which the loss divides."""
    std: float = 1.0
    """Physical units of one of `missed`."""
    truth: torch.Tensor | None = None
    """(1, 1, H, W) the guide band itself, physical units."""


@dataclass(frozen=True)
class HeldOutScore:
    """On the held-out squares."""

    errors: tuple[float, ...]
    """Mean square of what is still missed of each guide band, in its `size`."""
    angle_deg: float

    @property
    def error(self) -> float:
        """Mean over bands."""
        return sum(self.errors) / len(self.errors)

    def beats(self, other: HeldOutScore) -> bool:
        """Better by `LEAST_GAIN`, worse in no band and no worse by angle."""
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
    """See the head of this file.

    Args:
        net: the network, which corrects the first `channels` coefficients.
        channels: see there.
        statistics: those of the scene (`LeastSquaresModel.estimate`).
        pair: the block with its margin.
        core: LR rows and columns that are the block itself.
        budget: when to stop at the latest.
    """
    begun = time.monotonic()
    window, inside = _cut(pair, core, int(statistics["scale"]))
    learn, held = _split(inside)
    own = "fusion" if statistics["network"]["used"] else "start"  # what the scene does without adaptation
    reason = _unfit(window, learn, held, budget)
    if reason:
        return Adapted(state={}, figures={"adapted": False, "steps": 0, "reason": reason, "fell_back_to": own})
    tasks, real, starter = _tasks(net, channels, statistics, window)
    weight = _dark(window.x)[learn]
    kept = {"fusion": unlearned(), "start": silent()}
    learned = {k: v.clone().requires_grad_(True) for k, v in kept[own].items()}
    scores = {k: _score(v, tasks, held) for k, v in kept.items()}
    losses: list[float] = []
    optimiser = torch.optim.Adam(learned.values(), lr=RATE)
    while len(losses) < budget.steps and (budget.seconds is None or time.monotonic() - begun < budget.seconds):
        loss = _loss(learned, tasks, real, starter, learn, weight)
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        optimiser.step()
        losses.append(float(loss.detach()))
        if len(losses) % EVERY == 0 or len(losses) == budget.steps:
            careful = {k: (1 - CAREFUL) * kept[own][k] + CAREFUL * v.detach() for k, v in learned.items()}
            score = _score(careful, tasks, held)
            if "adapted" not in scores or score.error < scores["adapted"].error:
                scores["adapted"], kept["adapted"] = score, careful
            elif score.error > 1.02 * scores["adapted"].error:
                break  # the held-out squares have begun to suffer
    with torch.no_grad():
        left = {k: float(_inconsistent(v, real, starter)) for k, v in kept.items()}
    good = [k for k, s in scores.items() if s.beats(scores[own]) and left[k] <= left[own]]
    chosen = min(good, key=lambda k: scores[k].error, default=own)
    return Adapted(
        state={} if chosen == own else kept[chosen],
        figures={
            "adapted": chosen == "adapted",
            "steps": len(losses),
            "loss_first": round(losses[0], 6) if losses else None,
            "loss_last": round(losses[-1], 6) if losses else None,
            "held_out_first": round(scores[own].error, 6),
            "held_out_last": round(scores[chosen].error, 6),
            "held_out_start": round(scores["start"].error, 6),
            "held_out_fusion": round(scores["fusion"].error, 6),
            "inconsistent_first": round(left[own], 6),
            "inconsistent_last": round(left[chosen], 6),
            "held_out_angle_first_deg": round(scores[own].angle_deg, 5),
            "held_out_angle_last_deg": round(scores[chosen].angle_deg, 5),
            "seconds": round(time.monotonic() - begun, 2),
            "reason": "" if chosen == "adapted" else f"held-out squares are best with the {chosen}",
            "fell_back_to": "" if chosen == "adapted" else chosen,
        },
    )


def trial(net: CorrectionNet, channels: int, statistics: PairStatistics, pairs: Iterable[Pair]) -> NetworkTrial:
    """Whether the network helps on a scene: "used", "reason", and what start and network miss of the guide bands.

    The middle of the first `WINDOWS` windows counts. A guide of one band proves nothing, so the network is not used.
    """
    scores: list[tuple[HeldOutScore, HeldOutScore]] = []
    edge = max(1, WINDOW_PX // int(statistics["scale"]))
    for pair in islice(pairs, WINDOWS):
        if len(pair.x) < 2:
            return {"used": False, "reason": "a guide of one band has no other band to prove the network on"}
        starts = [max(0, (n - edge) // 2) for n in pair.y_valid.shape]
        window, inside = _cut(
            pair, (slice(starts[0], starts[0] + edge), slice(starts[1], starts[1] + edge)), statistics["scale"]
        )
        if int(inside.sum()) >= LEAST_PIXELS:
            tasks, _, _ = _tasks(net, channels, statistics, window)
            scores.append((_score(silent(), tasks, inside), _score(unlearned(), tasks, inside)))
    start, network = (float(np.mean([s[i].error for s in scores])) if scores else math.nan for i in (0, 1))
    used = network < start
    return {
        "used": used,
        "reason": "" if used else "the start foretells the guide's own bands as well as the network",
        "missed_start": round(start, 6) if scores else None,
        "missed_network": round(network, 6) if scores else None,
    }


def unlearned() -> Learned:
    """What leaves the network as it is: the fusion."""
    return {"gain": torch.zeros(1 + STEPS), "share": torch.zeros(STEPS)}


def silent() -> Learned:
    """What makes the network add nothing: the start."""
    return {"gain": -torch.ones(1 + STEPS), "share": torch.zeros(STEPS)}


def _cut(pair: Pair, core: tuple[slice, slice], scale: int) -> tuple[Pair, torch.Tensor]:
    """The block with `MARGIN` LR pixels, and which of its HR pixels are the block's and valid: (H, W)."""
    h, w = pair.y_valid.shape
    near = [(max(0, c.start - MARGIN), min(n, c.stop + MARGIN)) for c, n in zip(core, (h, w), strict=True)]
    low = tuple(slice(a, b) for a, b in near)
    high = tuple(slice(scale * a, scale * b) for a, b in near)
    window = Pair(y=pair.y[:, *low], y_valid=pair.y_valid[low], x=pair.x[:, *high], x_valid=pair.x_valid[high])
    inside = np.zeros(window.x_valid.shape, dtype=bool)
    at = tuple(slice(scale * (c.start - a), scale * (c.stop - a)) for c, (a, _) in zip(core, near, strict=True))
    inside[at] = True
    trusted = window.y_valid.repeat(scale, axis=0).repeat(scale, axis=1)
    return window, torch.from_numpy(inside & window.x_valid & trusted)


def _unfit(window: Pair, learn: torch.Tensor, held: torch.Tensor, budget: AdaptationBudget) -> str:
    if budget.steps == 0:
        return "no steps in the budget"
    if len(window.x) < 2:
        return "a guide of one band has no other band to learn from"
    valid = int(learn.sum()) + int(held.sum())
    if valid < LEAST_PIXELS or 8 * int(held.sum()) < valid:
        return (
            f"{valid} valid guide pixels in the block, {int(held.sum())} of them to judge by; {LEAST_PIXELS} are needed"
        )
    return ""


@torch.no_grad()
def _tasks(
    net: CorrectionNet, channels: int, statistics: PairStatistics, window: Pair
) -> tuple[list[Channel], list[Channel], LocalRegressionModel]:
    """Guide bands as tasks, the strongest real coefficients, and the starter of the scene."""
    scene = LocalRegression.from_json(statistics["start"])
    noise_x = array_from_json(statistics["blur"]["noise_x"]).astype(np.float64)
    starter = LocalRegressionModel(scene)
    y, x = torch.from_numpy(window.y)[None], torch.from_numpy(window.x)[None]
    start = starter(y, x)
    k = min(channels, COEFFICIENTS, start.coefficients.shape[1])
    level = float(start.rest.square().mean((0, 2, 3)).sub(1).clamp_min(0.25).log().mean().div(2).exp())
    left = start.y - starter.down(start.coefficients)
    real = [_task(net, starter, start, i, left[:, i : i + 1]) for i in range(k)]
    sharp = replace(window, x=starter.matched(x)[0].numpy())
    scene = replace(scene, match=np.ones((1, 1)))
    tasks = [_guide_task(net, scene, sharp, noise_x, a, level) for a in range(len(window.x))]
    return tasks, real, starter


def _task(
    net: CorrectionNet, starter: LocalRegressionModel, start: LocalRegressionStages, k: int, missed: torch.Tensor
) -> Channel:
    u = residual_scale(starter, start)
    e = coefficient_features(starter, start, u)[:, k]
    answer = net.answer(torch.cat((e, guide_features(start)), dim=1))
    return Channel(answer, e, u[:, k : k + 1], missed, float(missed.abs().mean()) + 0.3)


def _guide_task(
    net: CorrectionNet, scene: LocalRegression, window: Pair, noise_x: F64, a: int, level: float
) -> Channel:
    """Guide band `a` as the unknown, the others as its guide."""
    others = np.arange(len(window.x)) != a
    one = replace(window, x=window.x[others])
    axes, power = guide_axes(lambda: [one], noise_x[others])
    starter = LocalRegressionModel(replace(scene, guide=axes, guide_power=power))
    x = torch.from_numpy(window.x[a])[None, None]
    low = starter.down(x)[0, 0].numpy().astype(np.float64)
    g = torch.einsum("gm,mhw->ghw", starter.t["guide"], torch.from_numpy(one.x))
    seen = starter.down(g[None])[0].numpy().astype(np.float64)
    f = np.concatenate((seen.reshape(len(seen), -1), np.ones((1, low.size))))
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
    starter = LocalRegressionModel(ready)
    y = torch.from_numpy((low / std + noise).astype(np.float32))[None, None]
    start = starter(y, torch.from_numpy(one.x)[None])
    return replace(_task(net, starter, start, 0, x / std - start.coefficients), std=std, truth=x)


def _split(inside: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixels to learn from and, one square of four, to judge by: (H, W) each."""
    h, w = inside.shape
    even = [(torch.arange(n) // SQUARE % 2 == 0) for n in (h, w)]
    held = even[0][:, None] & even[1][None, :]
    return inside & ~held, inside & held


def _step(learned: Learned, task: Channel) -> torch.Tensor:
    """(1, 1, H, W) what is added to the start."""
    return task.residual_scale * corrected(task.answer, task.coefficient_features, learned["gain"], learned["share"])


def _dark(x: F32) -> torch.Tensor:
    """(H, W) weights: dark pixels count more, since angles are relative. As in training."""
    level = torch.from_numpy(x).square().sum(0).sqrt()
    return 1 + 0.5 * (level.mean() / level.clamp_min(1e-12)).clamp_max(4.0)


def _loss(
    learned: Learned,
    tasks: list[Channel],
    real: list[Channel],
    starter: LocalRegressionModel,
    learn: torch.Tensor,
    weight: torch.Tensor,
) -> torch.Tensor:
    by_guide = [(weight * (_step(learned, t) - t.missed)[0, 0][learn].abs()).mean() / t.size for t in tasks]
    return torch.stack(by_guide).mean() + CONSISTENT * _inconsistent(learned, real, starter)


def _inconsistent(learned: Learned, real: list[Channel], starter: LocalRegressionModel) -> torch.Tensor:
    """L1 of what is left of Y in its strongest coefficients, in what the start leaves."""
    added = starter.down(torch.cat([_step(learned, t) for t in real], dim=1))
    left = torch.cat([t.missed for t in real], dim=1)
    return (added - left).abs().mean() / (left.abs().mean() + 0.3)


@torch.no_grad()
def _score(learned: Learned, tasks: list[Channel], held: torch.Tensor) -> HeldOutScore:
    errors, truth, answer = [], [], []
    for t in tasks:
        assert t.truth is not None
        miss = (_step(learned, t) - t.missed)[0, 0][held]
        errors.append(float(miss.square().mean()) / t.size**2)
        truth.append(t.truth[0, 0][held])
        answer.append(truth[-1] + t.std * miss)
    cosine = functional.cosine_similarity(torch.stack(truth).double(), torch.stack(answer).double(), dim=0)
    return HeldOutScore(tuple(errors), math.degrees(float(cosine.clamp(-1, 1).acos().mean())))
