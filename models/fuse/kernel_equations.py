"""Linear algebra of `kernel_estimate.py`: normal equations of a blur kernel and their smooth,
non-negative solution.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import linalg, ndimage

from hypermend.models.arrays import F32, F64, I64
from hypermend.models.fuse.interface import BadPair, Pair, PairGeometry

Pairs = Callable[[], Iterable[Pair]]
MOST_FOOTPRINT_VALUES = 30_000_000
"""Most guide values in all footprints together (120 MB); the LR pixels of larger scenes are thinned evenly."""
FOLD_LR_PX = 4
"""LR pixels are split into two folds in squares of this edge, like a chess board."""
LEAST_EQUATIONS = 128
"""Fewest equations that determine a kernel."""
LEAST_UNEXPLAINED = 1e-3
"""Lower bound of a guide band's unexplained share in its weight: early kernels leave more than the final one."""
UNKNOWNS_PER_EQUATION = 2.0
"""Most kernel pixels for each equation; above that the kernel is made of wider tents."""
TAUS = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
"""Candidates for tau, the expected difference between neighbouring kernel pixels."""
ADMM_ITERATIONS = 120
RIDGE = 0.01
"""Weight of |k|^2 relative to |grad k|^2."""


@dataclass(frozen=True)
class Support:
    """Support of a kernel: tents `spacing` HR pixels apart about `middle`, all within `reach` HR pixels of it."""

    middle: int
    reach: int
    spacing: int = 1

    @property
    def side(self) -> int:
        """Number of tents along one axis, odd."""
        return 2 * ((self.reach - self.spacing + 1) // self.spacing) + 1

    def kernel(self, weights: F64) -> F64:
        """Sum the weighted tents, (side^2,) -> (n, n) about HR pixel 0, n = 2 (|middle| + reach) + 1."""
        half, q = abs(self.middle) + self.reach, self.spacing
        grid = np.zeros((2 * half + 1, 2 * half + 1))
        first = half + self.middle - q * (self.side // 2)
        at = slice(first, first + q * (self.side - 1) + 1, q)
        grid[at, at] = weights.reshape(self.side, self.side)
        return _tents(_tents(grid, 0, q), 1, q)

    def outer(self, kernel: F64) -> float:
        """Return the share of a kernel (about HR pixel 0) in the support's outer two pixels and beyond."""
        half = kernel.shape[0] // 2
        at = np.abs(np.arange(-half, half + 1) - self.middle)
        return float(kernel[np.maximum(at[:, None], at[None, :]) >= self.reach - 1].sum())

    def features(self, patches: F32) -> F64:
        """Weight footprints about `middle` with each tent, (N, n, n) -> (N, side^2)."""
        first = patches.shape[1] // 2 - self.spacing * (self.side // 2)
        at = slice(first, first + self.spacing * (self.side - 1) + 1, self.spacing)
        blurred = _tents(_tents(patches, 1, self.spacing)[:, at], 2, self.spacing)[:, :, at]
        return blurred.reshape(len(patches), -1).astype(np.float64)


def _tents(values: npt.NDArray[Any], axis: int, spacing: int) -> npt.NDArray[Any]:
    """Convolve with a tent of sum 1 along one axis."""
    if spacing == 1:
        return values
    tent = (1 - np.abs(np.arange(1 - spacing, spacing)) / spacing) / spacing
    return np.asarray(ndimage.convolve1d(values, tent, axis=axis, mode="constant"))


@dataclass(frozen=True)
class Gains:
    """Regression of each simulated guide band (P Y)_a on the blurred guide; arrays are (m,) over guide bands."""

    gain: F64
    offset: F64
    unexplained: F64
    crossed: F64
    """(m, m) share of the variance of (P Y)_row that band `column` of the blurred guide leaves unexplained."""


@dataclass(frozen=True)
class Rows:
    """LR pixels that the kernel is estimated from, each with its footprint in the guide."""

    patches: F32
    """(m, N, n, n) footprints, about the support's middle."""
    view: F64
    """(m, N) simulated guide bands, P Y."""
    fold: I64
    """(N,) fold of each LR pixel, 0 or 1."""
    middle: int
    pixels: int
    """Number of LR pixels before thinning."""
    needed: int
    """Fewest LR pixels for which a pair is accepted."""

    @classmethod
    def read(cls, pairs: Pairs, setup: PairGeometry, middle: int, reach_px: int) -> Rows:
        """Read the footprints of all usable LR pixels.

        Raises:
            BadPair: too few of them.
        """
        m, n, first = setup.response.shape[0], 2 * reach_px + 1, middle - reach_px
        usable = [_usable(pair, setup.scale, middle, reach_px) for pair in pairs()]
        total, needed = sum(len(i) for i, _ in usable), -(-LEAST_EQUATIONS // m)
        if total < needed:
            raise BadPair(
                f"{total} LR pixels have a valid footprint of {n} x {n} guide pixels; the blur kernel needs {needed} "
                f"({LEAST_EQUATIONS} equations from {m} guide bands): take a larger scene, or one with fewer gaps"
            )
        step = max(1, math.ceil(total * m * n * n / MOST_FOOTPRINT_VALUES))
        patches, view, fold = [], [], []
        for pair, (i, j) in zip(pairs(), usable, strict=True):
            if len(i) == 0:
                continue
            i, j = i[::step], j[::step]
            around = np.lib.stride_tricks.sliding_window_view(pair.x, (n, n), axis=(1, 2))  # (m, H-n+1, W-n+1, n, n)
            patches.append(around[:, setup.scale * i + first, setup.scale * j + first])
            view.append(setup.response.astype(np.float64) @ pair.y[:, i, j])
            fold.append((i // FOLD_LR_PX + j // FOLD_LR_PX) % 2)
        return cls(np.concatenate(patches, 1), np.concatenate(view, 1), np.concatenate(fold), middle, total, needed)

    def support(self, reach_px: int) -> Support:
        """Return the support whose tents are as narrow as the number of equations allows."""
        spacing = math.ceil((2 * reach_px + 1) / math.sqrt(UNKNOWNS_PER_EQUATION * self.equations))
        return Support(self.middle, reach_px, spacing)

    @property
    def equations(self) -> int:
        """Number of equations: LR pixels times guide bands."""
        return int(self.view.size)

    def gains(self, kernel: F64) -> Gains:
        """Regress each band of P Y on the guide blurred by a kernel (about HR pixel 0)."""
        n = self.patches.shape[2]
        wide = np.pad(kernel, n)
        first = wide.shape[0] // 2 + self.middle - n // 2
        k = wide[first : first + n, first : first + n]
        blurred = np.einsum("mnuv,uv->mn", self.patches, k.astype(np.float32)).astype(np.float64)
        covariance = np.cov(np.concatenate((self.view, blurred)), bias=True)
        m, tiny = len(blurred), np.finfo(np.float64).tiny
        own, cross, other = np.diag(covariance)[:m], covariance[:m, m:], np.diag(covariance)[m:]
        gain = np.diag(cross) / np.maximum(other, tiny)
        crossed = 1 - np.square(cross) / np.maximum(own[:, None] * other[None, :], tiny)
        offset = self.view.mean(axis=1) - gain * blurred.mean(axis=1)
        return Gains(gain, offset, np.clip(np.diag(crossed), 0.0, 1.0), crossed)


def _usable(pair: Pair, scale: int, middle: int, reach_px: int) -> tuple[I64, I64]:
    """Return rows and columns of the valid LR pixels with a valid footprint inside the window."""
    if pair.scale != scale:
        raise BadPair(f"a window of scale {pair.scale} in a pair of scale {scale}")
    gap = ndimage.maximum_filter(~pair.x_valid, size=2 * reach_px + 1, mode="constant", cval=True)
    h, w = pair.y_valid.shape
    at_i, at_j = scale * np.arange(h) + middle, scale * np.arange(w) + middle
    inside_i, inside_j = at_i < gap.shape[0], at_j < gap.shape[1]
    inside = np.zeros((h, w), dtype=bool)
    inside[np.ix_(inside_i, inside_j)] = ~gap[np.ix_(at_i[inside_i], at_j[inside_j])]
    i, j = np.nonzero(inside & pair.y_valid)
    return i, j


@dataclass(frozen=True)
class KernelFit:
    """Solution on one support."""

    support: Support
    weights: F64
    """(side^2,) weights of the tents."""
    tau: float
    held_out: float
    """Share of the variance of P Y left unexplained on the fold that was not fitted."""
    data: F64
    """(side^2, side^2) normal matrix of the data."""
    smooth: F64
    """(side^2, side^2) normal matrix of the smoothness."""

    def kernel(self) -> F64:
        """Return the kernel (n, n), sum 1."""
        k = self.support.kernel(self.weights)
        return np.asarray(k / k.sum())

    def certainty(self) -> tuple[float, float]:
        """Return the condition of the regularised equations, and how many kernel pixels the data determine."""
        system = self.data + self.smooth
        value = linalg.eigvalsh(system)
        determined = float(np.trace(linalg.solve(system, self.data, assume_a="pos")))
        return float(value[-1] / max(value[0], np.finfo(np.float64).tiny)), determined


@dataclass(frozen=True)
class Equations:
    """Weighted normal equations h k = b; `power` is the weighted sum of the squared right-hand sides."""

    h: F64
    b: F64
    power: float

    def __add__(self, other: Equations) -> Equations:
        return Equations(self.h + other.h, self.b + other.b, self.power + other.power)

    def loss(self, weights: F64) -> float:
        """Return the weighted squared error of a solution."""
        return float(self.power - 2 * self.b @ weights + weights @ self.h @ weights)


def fit(rows: Rows, gains: Gains, support: Support, taus: Sequence[float]) -> KernelFit:
    """Fit the kernel on one support, with the tau that predicts held-out LR pixels best."""
    halves = _equations(rows, gains, support)
    whole = halves[0] + halves[1]
    smooth = _smoothness(support.side)
    weak = _solve(whole.h + 1e-5 * np.trace(whole.h) / len(whole.b) * smooth, whole.b)
    noise = max(whole.loss(weak), 1e-12 * whole.power) / rows.equations
    prior = {t: noise / (t * support.spacing**2) ** 2 * smooth for t in taus}
    scores = {
        t: sum(test.loss(_solve(train.h + prior[t] / 2, train.b)) for train, test in (halves, halves[::-1]))
        for t in taus
    }
    tau = min(scores, key=lambda t: scores[t])
    weights = _solve(whole.h + prior[tau], whole.b)
    return KernelFit(support, weights, tau, scores[tau] / whole.power, whole.h, prior[tau])


def _equations(rows: Rows, gains: Gains, support: Support) -> tuple[Equations, Equations]:
    """Return the normal equations of both folds. A guide band weighs by its explained over its unexplained variance."""
    parts: list[Equations] = []
    for fold in (0, 1):
        h, b, power = np.zeros((support.side**2,) * 2), np.zeros(support.side**2), 0.0
        for a in range(len(rows.view)):
            features = support.features(rows.patches[a])
            features -= features.mean(axis=0)
            target = (rows.view[a] - rows.view[a].mean()) / gains.gain[a]
            variance = max(float(target.var()), np.finfo(np.float64).tiny)
            weight = 1 / (variance * max(gains.unexplained[a], LEAST_UNEXPLAINED))
            features, target = features[rows.fold == fold], target[rows.fold == fold]
            h += weight * (features.T @ features)
            b += weight * (target @ features)
            power += weight * float(target @ target)
        parts.append(Equations(h, b, power))
    return parts[0], parts[1]


def _smoothness(side: int) -> F64:
    """Return the matrix of |grad k|^2 + RIDGE |k|^2, with k zero outside its support."""
    step = 2 * np.eye(side) - np.eye(side, k=1) - np.eye(side, k=-1)
    identity = np.eye(side)
    return np.asarray(np.kron(step, identity) + np.kron(identity, step) + RIDGE * np.eye(side * side))


def _solve(h: F64, b: F64) -> F64:
    """Minimise k^T h k - 2 b^T k over k >= 0 by ADMM (Boyd et al., 2011, section 5.2) with over-relaxation 1.7."""
    rho = 1e-3 * np.trace(h) / len(b)
    inverse = linalg.inv(h + rho * np.eye(len(b)), overwrite_a=True, check_finite=False)
    k = np.maximum(inverse @ b, 0.0)
    dual = np.zeros_like(k)
    for _ in range(ADMM_ITERATIONS):
        free = 1.7 * (inverse @ (b + rho * (k - dual))) - 0.7 * k
        k = np.maximum(free + dual, 0.0)
        dual += free - k
    return k
