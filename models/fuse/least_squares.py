"""Fusion without training: each spectrum of Y as a linear map of the guide, by least squares in closed form.

The card's `local` chooses between two maps:

    false   global regression: z = A x + a + upsample(y - A H x - a); (A, a) is the least-squares fit of Y to the
            blurred and decimated guide H x, and `upsample` is aligned by the kernel's centroid
    true    local regression in the signal subspace of Y, the start of the network: see `local_regression.py`

Both use the kernel, noise and gains of `blur.py` and have a finite halo, so tiled equals whole. Pad a pair by
replicating the edges of Y and X alike (NumPy's "edge"): the degradation does the same, so the residual at the border is
unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NotRequired, TypedDict, cast

import numpy as np
import torch

from hypermend.models.arrays import F64
from hypermend.models.budget import AdaptationBudget
from hypermend.models.card import BadCard, ModelCard
from hypermend.models.fuse import blur, local_regression
from hypermend.models.fuse.blur import Blur, BlurStatistics
from hypermend.models.fuse.local_regression import LocalRegressionStatistics
from hypermend.models.fuse.moments import pair_moments
from hypermend.models.fuse.protocol import Adapted, Pair, PairGeometry, State
from hypermend.models.restorer import ArrayJson, SceneStatistics, array_from_json, array_to_json
from hypermend.models.signal.degrade import blur_down, centroid, upsample

OUTSIDE = 0.02
"""A band whose largest weight in the response is below this share of that row's largest lies outside the guide."""
RIDGE = 1e-9
"""Keeps guide bands that say the same from dividing by zero; far below any noise."""


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
    """The training-free fusion: no weights, never adapts."""

    adapts = False

    def __init__(self, card: ModelCard, state: Mapping[str, torch.Tensor]) -> None:
        """Check the card.

        Raises:
            BadCard: unknown setting, or weights that it has no use for.
        """
        if state or set(card.config) != {"local"} or not isinstance(card.config["local"], bool):
            raise BadCard(f"model {card.name!r}: least squares take config {{'local': true or false}} and no weights")
        self.card = card
        self.local: bool = card.config["local"]

    def halo(self, scale: int) -> int:
        """LR pixels."""
        return self.card.halo_at(scale)

    def estimate(self, pairs: Callable[[], Iterable[Pair]], setup: PairGeometry) -> PairStatistics:
        """Estimate kernel, noise, gains and the maps.

        Raises:
            BadPair: as `blur.estimate`.
        """
        known = blur.estimate(pairs, setup)
        second = pair_moments(pairs, known.kernel, setup.scale)
        weights, explained = regression(second, len(setup.response))
        top = setup.response.max(axis=1, keepdims=True)
        statistics: PairStatistics = {
            "scale": setup.scale,
            "blur": known.to_json(),
            "floor": {"weights": array_to_json(weights)},
            "explained": [round(float(e), 4) for e in explained],
            "outside": np.flatnonzero((setup.response < OUTSIDE * top).all(axis=0)).tolist(),
        }
        if self.local:
            from scipy import signal  # a second that no other model's workers need spend

            match = blur.match(pairs, setup)
            if match.size > 1:
                second = pair_moments(pairs, signal.convolve2d(match, known.kernel), setup.scale)
            statistics["start"] = local_regression.estimate(pairs, known, setup.scale, second, match).to_json()
        return statistics

    def bind(self, statistics: SceneStatistics, state: State | None = None) -> LeastSquaresRestorer:
        """The restorer of a scene; there is nothing a block could have learned."""
        scene = cast(PairStatistics, statistics)
        return LeastSquaresRestorer(scene, halo=self.halo(int(scene["scale"])), local=self.local)

    def adapt(
        self, statistics: SceneStatistics, pair: Pair, core: tuple[slice, slice], budget: AdaptationBudget
    ) -> Adapted:
        """Nothing to adapt."""
        return Adapted(state={}, figures={"adapted": False, "steps": 0, "reason": "the model does not adapt"})


def regression(second: F64, m: int) -> tuple[F64, F64]:
    """Plain least squares of Y on (H X, 1).

    Args:
        second: (m + 1 + b, m + 1 + b) of `pair_moments`.
        m: guide bands.

    Returns:
        (b, m + 1) weights, and (b,) share of the variance of Y that they explain.
    """
    f, cross, power = second[: m + 1, : m + 1], second[: m + 1, m + 1 :], np.diag(second)[m + 1 :]
    ridge = RIDGE * np.diag(np.diag(f))
    weights = np.linalg.solve(f + ridge, cross).T
    left = power - 2 * (weights * cross.T).sum(axis=1) + ((weights @ f) * weights).sum(axis=1)
    variance = np.maximum(power - cross[m] ** 2, np.finfo(np.float64).tiny)
    return np.asarray(weights, np.float64), np.clip(1 - left / variance, 0.0, 1.0)


class GlobalRegression:
    """z = A x + a + upsample(y - A H x - a) for one kernel H and one map (A, a)."""

    def __init__(self, scale: int, kernel: F64, weights: F64) -> None:
        """Kernel (n, n) of sum 1; weights (b, m + 1) of (X, 1)."""
        self.scale, self.centroid_px = scale, centroid(kernel)
        self.kernel = torch.from_numpy(kernel.astype(np.float32))
        self.weights = torch.from_numpy(weights.astype(np.float32))

    @torch.no_grad()
    def __call__(self, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """(B, b, h, w), (B, m, s*h, s*w) -> (B, b, s*h, s*w)."""
        kernel, weights = self.kernel.to(y.device), self.weights.to(y.device)

        def mapped(x: torch.Tensor) -> torch.Tensor:
            return torch.einsum("bm,nmhw->nbhw", weights[:, :-1], x) + weights[:, -1, None, None]

        return mapped(x) + self.without_guide(y - mapped(blur_down(x, kernel, self.scale)))

    @torch.no_grad()
    def without_guide(self, y: torch.Tensor) -> torch.Tensor:
        """(B, b, h, w) -> (B, b, s*h, s*w), interpolated."""
        return upsample(y, self.scale, self.centroid_px)


class LeastSquaresRestorer:
    """(y, x) -> z by the floor or by the local map, bound to a scene."""

    def __init__(self, statistics: PairStatistics, *, halo: int, local: bool) -> None:
        self.halo, self.scale = halo, int(statistics["scale"])
        kernel, weights = Blur.from_json(statistics["blur"]).kernel, array_from_json(statistics["floor"]["weights"])
        self.floor = GlobalRegression(self.scale, kernel, weights.astype(np.float64))
        self.starter = (
            local_regression.LocalRegressionModel(local_regression.LocalRegression.from_json(statistics["start"]))
            if local
            else None
        )

    @torch.no_grad()
    def __call__(self, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """(B, b, h, w), (B, m, s*h, s*w) -> (B, b, s*h, s*w)."""
        if self.starter is None:
            return self.floor(y, x)
        start = self.starter(y, x)
        return self.starter.bands(start.coefficients, start, y)

    def without_guide(self, y: torch.Tensor) -> torch.Tensor:
        """(B, b, h, w) -> (B, b, s*h, s*w), interpolated."""
        return self.floor.without_guide(y)
