"""Fusion without training: each spectrum of Y as a linear map of the guide, by least squares in closed form.

The card's `local` chooses between two maps:

    false   global regression: z = A x + a + upsample(y - A H x - a); (A, a) is the least-squares fit of Y to the
            blurred and decimated guide H x, and `upsample` is aligned by the kernel's centroid
    true    local regression in the signal subspace of Y, the start of the network: see `local_regression.py`

Both use the kernel, noise and gains of `kernel_estimate.py` and have a finite halo, so tiled equals whole. Pad a pair
by replicating the edges of Y and X alike (NumPy's "edge"): the degradation does the same, so the residual at the border
is unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NotRequired, TypedDict, cast

import numpy as np
import torch

from hypermend.models.arrays import F64
from hypermend.models.budget import AdaptationBudget
from hypermend.models.card import BadCard, ModelCard
from hypermend.models.fuse import kernel_estimate, local_regression
from hypermend.models.fuse.interface import Adapted, Pair, PairGeometry, State
from hypermend.models.fuse.kernel_estimate import Blur, BlurStatistics
from hypermend.models.fuse.local_regression import LocalRegressionStatistics
from hypermend.models.fuse.moments import pair_moments
from hypermend.models.restorer import ArrayJson, SceneStatistics, array_from_json, array_to_json
from hypermend.models.signal.degrade import blur_down, centroid, upsample

OUTSIDE_WEIGHT = 0.02
"""A band is outside the guide if, in each row of the response, its weight is below this share of the row's largest."""
RIDGE = 1e-9
"""Relative ridge that keeps equal guide bands from a division by zero; far below any noise."""


class RegressionWeights(TypedDict):
    """The global map from guide to image."""

    weights: ArrayJson
    """(b, m + 1), of the bands of (X, 1)."""


class PairStatistics(TypedDict):
    """Scene statistics of a pair."""

    scale: int
    blur: BlurStatistics
    floor: RegressionWeights
    explained: list[float]
    """(b,) share of the variance of each band that the guide explains, on LR pixels."""
    outside: list[int]
    """Bands outside the guide's range: their detail is inferred from the other bands and as certain as `explained`."""
    start: NotRequired[LocalRegressionStatistics]
    """Where the card asks for local regression."""


class LeastSquaresModel:
    """Architecture `least-squares`: no weights, no adaptation."""

    adapts = False

    def __init__(self, card: ModelCard, state: Mapping[str, torch.Tensor]) -> None:
        """Check the card.

        Raises:
            BadCard: an unknown setting, or weights, which the model does not have.
        """
        if state or set(card.config) != {"local"} or not isinstance(card.config["local"], bool):
            raise BadCard(f"model {card.name!r}: least squares take config {{'local': true or false}} and no weights")
        self.card = card
        self.local: bool = card.config["local"]

    def halo(self, scale: int) -> int:
        """Return the halo in LR pixels."""
        return self.card.halo_at(scale)

    def estimate(self, pairs: Callable[[], Iterable[Pair]], setup: PairGeometry) -> PairStatistics:
        """Estimate kernel, noise, gains and the maps.

        Raises:
            BadPair: as `blur.estimate`.
        """
        pair_blur = kernel_estimate.estimate(pairs, setup)
        second = pair_moments(pairs, pair_blur.kernel, setup.scale)
        weights, explained = regression(second, len(setup.response))
        top = setup.response.max(axis=1, keepdims=True)
        statistics: PairStatistics = {
            "scale": setup.scale,
            "blur": pair_blur.to_json(),
            "floor": {"weights": array_to_json(weights)},
            "explained": [round(float(e), 4) for e in explained],
            "outside": np.flatnonzero((setup.response < OUTSIDE_WEIGHT * top).all(axis=0)).tolist(),
        }
        if self.local:
            from scipy import signal  # its import takes a second, which only workers of this model need

            match = kernel_estimate.match(pairs, setup)
            if match.size > 1:
                second = pair_moments(pairs, signal.convolve2d(match, pair_blur.kernel), setup.scale)
            statistics["start"] = local_regression.estimate(pairs, pair_blur, setup.scale, second, match).to_json()
        return statistics

    def bind(self, statistics: SceneStatistics, state: State | None = None) -> LeastSquaresRestorer:
        """Return the restorer of the scene. `state` is ignored: the model does not adapt."""
        scene = cast(PairStatistics, statistics)
        return LeastSquaresRestorer(scene, halo=self.halo(int(scene["scale"])), local=self.local)

    def adapt(
        self, statistics: SceneStatistics, pair: Pair, core: tuple[slice, slice], budget: AdaptationBudget
    ) -> Adapted:
        """Return an empty state: the model does not adapt."""
        return Adapted(state={}, figures={"adapted": False, "steps": 0, "reason": "the model does not adapt"})


def regression(second: F64, m: int) -> tuple[F64, F64]:
    """Fit Y on (H X, 1) by ordinary least squares.

    Args:
        second: (m + 1 + b, m + 1 + b), see `pair_moments`.
        m: number of guide bands.

    Returns:
        Weights (b, m + 1), and the share (b,) of the variance of Y that they explain.
    """
    f, cross, power = second[: m + 1, : m + 1], second[: m + 1, m + 1 :], np.diag(second)[m + 1 :]
    ridge = RIDGE * np.diag(np.diag(f))
    weights = np.linalg.solve(f + ridge, cross).T
    left = power - 2 * (weights * cross.T).sum(axis=1) + ((weights @ f) * weights).sum(axis=1)
    variance = np.maximum(power - cross[m] ** 2, np.finfo(np.float64).tiny)
    return np.asarray(weights, np.float64), np.clip(1 - left / variance, 0.0, 1.0)


class GlobalRegression:
    """z = A x + a + upsample(y - A H x - a), with one kernel and one map (A, a) for the scene."""

    def __init__(self, scale: int, kernel: F64, weights: F64) -> None:
        """Take a kernel (n, n) of sum 1 and weights (b, m + 1) of (X, 1)."""
        self.scale, self.centroid_px = scale, centroid(kernel)
        self.kernel = torch.from_numpy(kernel.astype(np.float32))
        self.weights = torch.from_numpy(weights.astype(np.float32))

    @torch.no_grad()
    def __call__(self, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Fuse (B, b, h, w) and (B, m, s*h, s*w) -> (B, b, s*h, s*w)."""
        kernel, weights = self.kernel.to(y.device), self.weights.to(y.device)

        def mapped(x: torch.Tensor) -> torch.Tensor:
            return torch.einsum("bm,nmhw->nbhw", weights[:, :-1], x) + weights[:, -1, None, None]

        return mapped(x) + self.without_guide(y - mapped(blur_down(x, kernel, self.scale)))

    @torch.no_grad()
    def without_guide(self, y: torch.Tensor) -> torch.Tensor:
        """Interpolate (B, b, h, w) -> (B, b, s*h, s*w)."""
        return upsample(y, self.scale, self.centroid_px)


class LeastSquaresRestorer:
    """Global or local regression, bound to a scene."""

    def __init__(self, statistics: PairStatistics, *, halo: int, local: bool) -> None:
        self.halo, self.scale = halo, int(statistics["scale"])
        kernel, weights = Blur.from_json(statistics["blur"]).kernel, array_from_json(statistics["floor"]["weights"])
        self.global_regression = GlobalRegression(self.scale, kernel, weights.astype(np.float64))
        self.local_regression = (
            local_regression.LocalRegressionModel(local_regression.LocalRegression.from_json(statistics["start"]))
            if local
            else None
        )

    @torch.no_grad()
    def __call__(self, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Fuse (B, b, h, w) and (B, m, s*h, s*w) -> (B, b, s*h, s*w)."""
        if self.local_regression is None:
            return self.global_regression(y, x)
        start = self.local_regression(y, x)
        return self.local_regression.bands(start.coefficients, start, y)

    def without_guide(self, y: torch.Tensor) -> torch.Tensor:
        """Interpolate (B, b, h, w) -> (B, b, s*h, s*w)."""
        return self.global_regression.without_guide(y)
