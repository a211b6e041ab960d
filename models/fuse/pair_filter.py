"""A linear filter of candidates, learned in closed form for one pair of sensors.

    z = z_0 + sum_n W_n B d_n        z_0 the local regression, d_n the steps of `candidates.py`, B d_n in bands
    z = z + C P^T (P C P^T)^-1 q (x - P z)

W (b, N b) mixes candidates and bands: what a camera's optics do to each of its bands is the same in every scene, and no
LR pixel shows it. So W belongs to the pair of sensors whose response, band centres and scale stand in the card's
config; on another pair the result is z_0, and the statistics say why.

The second line makes the result agree with the guide where they differ by more than the guide's noise and the error of
the response explain: q = max(0, 1 - 1 / local power of that difference, in units of both), as in `shrink`. C (b, b) is
what the filter missed in training (`filter_training.py`). With a clean guide and an exact response q is 1 and P z = x.

A block adapts in closed form. Its result plays the truth: blurred, decimated and with the noise of the pair it becomes
a pair again, and what the filter misses there is fitted by the steps there, weighted as in training, with a ridge of
`ADAPTATION_RIDGE`. That change of W B is the state of the block. One in four squares is held out: a fit to the others
must explain `LEAST_GAIN` of what is missed there, or the block is not adapted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TypedDict, cast

import numpy as np
import torch
from torch.nn import functional

from hypermend.models.arrays import F32, F64
from hypermend.models.budget import AdaptationBudget
from hypermend.models.card import BadCard, ModelCard
from hypermend.models.fuse import candidates
from hypermend.models.fuse.adaptation import cut, split, too_few
from hypermend.models.fuse.candidates import NAMES, Candidates
from hypermend.models.fuse.interface import AdaptationFigures, Adapted, Pair, PairGeometry, State
from hypermend.models.fuse.kernel_estimate import Blur
from hypermend.models.fuse.least_squares import LeastSquaresModel, PairStatistics
from hypermend.models.fuse.local_regression import LocalRegression, LocalRegressionModel
from hypermend.models.fuse.moments import pair_moments
from hypermend.models.fuse.sensor_pair import SensorPair
from hypermend.models.restorer import ArrayJson, SceneStatistics, array_from_json, array_to_json
from hypermend.models.signal.degrade import gaussian

AGREEMENT_RADIUS_HR_PX = 3
"""Radius of the squares in which the difference from the guide is compared with its noise."""
ADAPTATION_RIDGE, LEAST_GAIN = 0.03, 0.02
"""Ridge of a block's change, as a share of the second moments of each step, and the least share of the squared error on
held-out squares that the change must explain."""
MARGIN_LR_PX = 4
"""LR pixels around the block that are fused, too; nothing is learned from them."""
STRIDE_PX = 2
"""Distance of the pixels that a block learns from."""
LEAST_UNCERTAIN = 1e-4
"""Smallest uncertainty of the guide, as a share of its mean: none has more digits."""
HALO, GUIDE_HALO = candidates.HALO, candidates.GUIDE_HALO + AGREEMENT_RADIUS_HR_PX


class FilterStatistics(TypedDict):
    """What the filter needs of a scene, JSON types."""

    used: bool
    reason: str
    """Why the filter is not used; empty if it is."""
    response: ArrayJson
    """(m, b) P, in the order of the guide's bands."""
    gain: ArrayJson
    """(m,) P Z = gain X + offset."""
    offset: ArrayJson
    uncertain: ArrayJson
    """(m,) standard deviation of gain X + offset - P Z that the guide's noise and the response explain."""


class PairFilterStatistics(PairStatistics):
    """Scene statistics of a pair, with those of the filter."""

    filter: FilterStatistics


class PairFilterModel:
    """Architecture `pair-filter`."""

    adapts = True

    def __init__(self, card: ModelCard, state: State) -> None:
        """Check card and weights.

        Raises:
            BadCard: an invalid config, or weights or a halo that do not fit it.
        """
        try:
            self.sensors = SensorPair.from_config(card.config)
        except (ValueError, TypeError) as e:
            raise BadCard(f"model {card.name!r}: {e}") from e
        b = len(self.sensors.wavelength_nm)
        needed = {"filter": (b, len(NAMES) * b), "missed": (b, b)}
        there = {k: tuple(v.shape) for k, v in state.items()}
        if there != needed:
            raise BadCard(f"model {card.name!r}: weights {there} do not fit the config, which needs {needed}")
        if (card.halo, card.guide_halo) != (HALO, GUIDE_HALO):
            raise BadCard(
                f"model {card.name!r}: card says halo {card.halo} and {card.guide_halo}, it reaches "
                f"{(HALO, GUIDE_HALO)}"
            )
        self.card = card
        self.weights = state["filter"].float().reshape(b, len(NAMES), b)
        self.missed = state["missed"].double().numpy()
        self.start = LeastSquaresModel(
            ModelCard(name=card.name, architecture="least-squares", config={"local": True}), {}
        )

    def halo(self, scale: int) -> int:
        """Return the halo in LR pixels."""
        return self.card.halo_at(scale)

    def estimate(self, pairs: Callable[[], Iterable[Pair]], setup: PairGeometry) -> PairFilterStatistics:
        """Estimate the statistics of the local regression and of the filter.

        Raises:
            BadPair: as `kernel_estimate.estimate`.
        """
        statistics = self.start.estimate(pairs, setup)
        blur = Blur.from_json(statistics["blur"])
        second = pair_moments(pairs, blur.kernel, setup.scale)
        uncertain = uncertainty(second, blur, setup.response, LocalRegression.from_json(statistics["start"]).project)
        reason = difference(self.sensors, setup)
        return {
            **statistics,
            "filter": {
                "used": not reason,
                "reason": f"this pair has {reason}" if reason else "",
                "response": array_to_json(setup.response),
                "gain": array_to_json(blur.gain),
                "offset": array_to_json(blur.offset),
                "uncertain": array_to_json(uncertain),
            },
        }

    def bind(self, statistics: SceneStatistics, state: State | None = None) -> PairFilterRestorer:
        """Return the restorer of the scene, with the learned state of a block if it has one."""
        return PairFilterRestorer(self, cast(PairFilterStatistics, statistics), state or {})

    def adapt(
        self, statistics: SceneStatistics, pair: Pair, core: tuple[slice, slice], budget: AdaptationBudget
    ) -> Adapted:
        """Adapt to one block, in closed form: the limits of the budget have no use."""
        begin, scene = time.monotonic(), cast(PairFilterStatistics, statistics)
        window, inside = cut(pair, core, int(scene["scale"]), MARGIN_LR_PX)
        learn, held_out = split(inside)
        reason = scene["filter"]["reason"] or too_few(learn, held_out)
        if reason:
            back = "fusion" if scene["filter"]["used"] else "start"
            return Adapted(state={}, figures={"adapted": False, "steps": 0, "reason": reason, "fell_back_to": back})
        missed, steps = self._missed_again(scene, window)
        change = fitted(missed, steps, learn)
        before, after = (
            float((missed - c @ steps)[:, held_out[::STRIDE_PX, ::STRIDE_PX].flatten()].square().mean())
            for c in (torch.zeros_like(change), change)
        )
        adapted = after < (1 - LEAST_GAIN) * before
        figures: AdaptationFigures = {
            "adapted": adapted,
            "steps": 1,
            "held_out_first": 1.0,
            "held_out_last": round(after / max(before, 1e-30), 6) if adapted else 1.0,
            "reason": "" if adapted else "held-out squares are best with the fusion",
            "fell_back_to": "" if adapted else "fusion",
            "seconds": round(time.monotonic() - begin, 2),
        }
        return Adapted(state={"change": fitted(missed, steps, inside)} if adapted else {}, figures=figures)

    @torch.no_grad()
    def _missed_again(self, scene: PairFilterStatistics, window: Pair) -> tuple[torch.Tensor, torch.Tensor]:
        """Fuse the window, make a pair of the result, and fuse that.

        Returns:
            What the filter misses of the result (b, P), and the steps of the candidates (N k, P), on every
            `STRIDE_PX`-th pixel along both axes.
        """
        restorer = PairFilterRestorer(self, scene, {})
        result = restorer(torch.from_numpy(window.y)[None], torch.from_numpy(window.x)[None])
        blur, rng = Blur.from_json(scene["blur"]), np.random.default_rng(0)
        y = gaussian(restorer.local_regression.down(result)[0].numpy(), blur.noise_y, rng)
        seen = torch.einsum("mb,nbhw->nmhw", restorer.t["response"], result)
        sharp = ((seen - restorer.t["offset"]) / restorer.t["gain"])[0].numpy()
        x = gaussian(sharp, blur.noise_x, rng)
        as_sharp = replace(LocalRegression.from_json(scene["start"]), match=np.ones((1, 1)))  # as sharp as the result
        regression = LocalRegressionModel(as_sharp)
        s = regression(torch.from_numpy(y)[None], torch.from_numpy(x)[None])
        at = (..., slice(None, None, STRIDE_PX), slice(None, None, STRIDE_PX))
        missed = (result - regression.bands(s.coefficients, s, torch.from_numpy(y)[None]))[at][0].flatten(1)
        steps = torch.cat([step[at][0].flatten(1) for step in Candidates(regression).steps(s)])
        return missed - restorer.weights.movedim(0, 1).flatten(1) @ steps, steps


def fitted(missed: torch.Tensor, steps: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """Fit what is missed (b, P) by the steps (N k, P) on the pixels `where` (H, W): (b, N k)."""
    at = where[::STRIDE_PX, ::STRIDE_PX].flatten()
    missed, steps = missed[:, at].double(), steps[:, at].double()
    error = missed.square().sum(0)
    weight = (error / error.mean().clamp_min(1e-30)).clamp_min(1).rsqrt()
    gram, cross = (steps * weight) @ steps.mT, (missed * weight) @ steps.mT
    size = gram.diag()
    normal = gram + torch.diag(ADAPTATION_RIDGE * size + 1e-9 * size.mean() + 1e-30)
    change: torch.Tensor = torch.linalg.solve(normal, cross.mT).mT.float()
    return change


def difference(sensors: SensorPair, setup: PairGeometry) -> str:
    """Say in what a pair differs from the sensors that weights are bound to; empty if it is theirs."""
    if setup.wavelength_nm is None:
        return "band centres that are not known"
    return sensors.difference(SensorPair(scale=setup.scale, wavelength_nm=setup.wavelength_nm, response=setup.response))


def uncertainty(second: F64, blur: Blur, response: F32, project: F64) -> F64:
    """Estimate how far gain X + offset may lie from P Z: (m,) standard deviations, physical units of Y.

    The guide's noise, and that part of gain H X + offset - P Y that is a linear function of the spectrum of Y: an error
    of the response. An error of the kernel is none, and noise of Y is subtracted.

    Args:
        second: `pair_moments` with the kernel.
        blur: gains and noise of the pair.
        response: (m, b) P.
        project: (k, b) axes of Y.
    """
    m, b = response.shape
    # difference = of_guide (H X, 1) - P Y
    of_all = np.concatenate((np.diag(blur.gain), blur.offset[:, None], -response.astype(np.float64)), axis=1)
    axes = np.zeros((len(project) + 1, m + 1 + b))
    axes[0, m], axes[1:, m + 1 :] = 1.0, project
    noise = np.square(blur.noise_y)
    cross = axes @ second @ of_all.T
    cross[1:] += project @ (noise[:, None] * response.T)
    left = of_all @ second @ of_all.T
    normal = axes @ second @ axes.T
    normal += 1e-9 * np.diag(np.diag(normal))
    explained = (cross * np.linalg.solve(normal, cross)).sum(axis=0)
    by_chance = np.diag(left) * len(axes) / max(blur.pixels, len(axes))
    least = LEAST_UNCERTAIN * blur.gain * np.abs(second[m, :m])
    variance = np.square(blur.gain * blur.noise_x) + np.maximum(explained - by_chance, 0.0) + np.square(least)
    return np.asarray(np.sqrt(variance))


class PairFilterRestorer:
    """The filter bound to a scene."""

    def __init__(self, model: PairFilterModel, statistics: PairFilterStatistics, state: State) -> None:
        self.scale = int(statistics["scale"])
        self.halo = model.halo(self.scale)
        self.local_regression = LocalRegressionModel(LocalRegression.from_json(statistics["start"]))
        of_scene = statistics["filter"]
        self.used = of_scene["used"]
        if not self.used:
            return
        back = self.local_regression.t["back"]
        self.candidates = Candidates(self.local_regression)
        self.weights = torch.einsum("bnc,ck->nbk", model.weights, back)
        if state:
            self.weights = self.weights + state["change"].reshape(len(back), len(NAMES), -1).movedim(1, 0)
        p = array_from_json(of_scene["response"]).astype(np.float64)
        spread = model.missed @ p.T
        gain, offset, uncertain = (array_from_json(of_scene[k]) for k in ("gain", "offset", "uncertain"))
        as_tensors = {
            "response": p,
            "correct": spread @ np.linalg.inv(p @ spread),
            "gain": gain[:, None, None],
            "offset": offset[:, None, None],
            "uncertain": uncertain[:, None, None],
        }
        self.t = {k: torch.from_numpy(v.astype(np.float32)) for k, v in as_tensors.items()}

    @torch.no_grad()
    def __call__(self, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Fuse (B, b, h, w) and (B, m, s*h, s*w) -> (B, b, s*h, s*w)."""
        s = self.local_regression(y, x)
        z = self.local_regression.bands(s.coefficients, s, y)
        if not self.used:
            return z
        self._to(y.device)
        for weights, step in zip(self.weights, self.candidates.steps(s), strict=True):
            z += torch.einsum("bk,nkhw->nbhw", weights, step)
        return self._agreeing(z, x)

    @torch.no_grad()
    def without_guide(self, y: torch.Tensor) -> torch.Tensor:
        """Interpolate (B, b, h, w) -> (B, b, s*h, s*w)."""
        return self.local_regression.up(y)

    def _agreeing(self, z: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Make z agree with the guide as far as the guide is certain."""
        seen = torch.einsum("mb,nbhw->nmhw", self.t["response"], z)
        differs = self.t["gain"] * self.local_regression.matched(x) + self.t["offset"] - seen
        size = (differs / self.t["uncertain"]).square().mean(1, keepdim=True)
        n = AGREEMENT_RADIUS_HR_PX
        power = functional.avg_pool2d(functional.pad(size, (n,) * 4, mode="replicate"), 2 * n + 1, stride=1)
        certain = 1 - 1 / power.clamp_min(1.0)
        return z + torch.einsum("bm,nmhw->nbhw", self.t["correct"], certain * differs)

    def _to(self, device: torch.device) -> None:
        if self.weights.device != device:
            self.weights = self.weights.to(device)
            self.t = {k: v.to(device) for k, v in self.t.items()}
