"""Prediction of missing numbers from the other bands of their pixel, and spikes, in the signal subspace.

A number (band, y, x) is missing where a detector failed. Of the model y = s + n of `subspace.py`, with axes u_b of the
whitened bands, the coefficients of a pixel are the ridge regression on the bands that it has:

    z = (sum_b m_b u_b u_b^T / (1 - p_b) + diag(1 / (power - 1)))^-1 sum_b m_b u_b y_b / ((1 - p_b) d_b)
    prediction_b = d_b u_b z

with m_b 1 where the number is there, p_b the share of the band that is missing, and d_b = sigma_b / sqrt(1 - p_b): what
the noise sigma_b amounts to in a coefficient, if the band is there for a share 1 - p_b of the pixels.

A spike is a number far from its prediction that neither its neighbours nor the next bands share (`spikes`).

In float64: whether a number is a spike must not depend on the tile in which it is looked at.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import median_filter

from hypermend.models.arrays import F32, F64, Mask
from hypermend.models.signal.subspace import Subspace

AXES = 12
"""Most axes of a prediction."""
MOST_MISSING = 0.5
"""A pixel that lacks more of its bands is not predicted."""
LEAST_RIDGE = 0.05
"""Least signal, in units of the noise, that an axis is taken to have."""
CUT, LEAST, SHARED = 5.0, 0.02, 0.5
"""A spike is `CUT` noise away from its prediction and `LEAST` of the bright value, and neither its next bands nor the
median of its neighbours have `SHARED` of that."""
DENSE_CUT = 3.5
"""The same in a band that is full of spikes, where neighbours tell nothing."""
DOWNWEIGHT = 2.5
"""Numbers farther from the first prediction, in noise, count less in the second."""
REACH_PX = 2
"""Pixels around a number on which it depends whether it is a spike."""
AT_ONCE = 8192
"""Pixels in one system of equations."""


@dataclass(frozen=True, kw_only=True)
class MaskedFit:
    """Prediction in the subspace of one scene."""

    space: Subspace
    """Its `noise_std` is d."""
    missing: F64
    """(b,) p, below 1."""
    axes: int
    spiky: Mask
    """(b,) bands that have spikes"""
    dense: Mask
    """(b,) bands that are full of them"""
    most_noise: F64
    """(b,) most noise of a band, in physical units, from the differences of neighbours: spikes do not raise it."""

    @property
    def live(self) -> Mask:
        """(b,) bands that can be predicted: a band that does not vary cannot."""
        return self.space.noise_std > 0

    @property
    def noise(self) -> F64:
        """(b,) sigma, physical units."""
        return np.asarray(self.space.noise_std * np.sqrt(1 - self.missing))

    def predict(self, values: F32, weight: F32 | Mask, where: Mask | None = None) -> F32:
        """Predict every number from the bands of its pixel.

        Args:
            values: (b, h, w).
            weight: (b, h, w) of each number, 0 where it is missing.
            where: (h, w) pixels to predict; None for all. Others stay as they are.

        Returns:
            (b, h, w); bands that do not vary stay as they are.
        """
        out = values.copy()
        pixels = np.flatnonzero(np.ones(values.shape[1:], bool) if where is None else where)
        flat, weights, result = (a.reshape(len(a), -1) for a in (values, weight, out))
        live = np.flatnonzero(self.live)
        complete = np.all(weights == 1, axis=0)  # one matrix serves all of these
        for group, whole in ((pixels[complete[pixels]], True), (pixels[~complete[pixels]], False)):
            for part in _parts(group):
                w = None if whole else weights[np.ix_(live, part)].astype(np.float64)
                result[np.ix_(live, part)] = self._solve(flat[np.ix_(live, part)].astype(np.float64), w)
        return out

    def _solve(self, y: F64, weight: F64 | None) -> F64:
        """(b, n) of the bands that vary, and weights (None: all 1) -> prediction (b, n)."""
        d = self.space.noise_std[self.live][:, None]  # (b, 1)
        u = self.space.basis[self.live, : self.axes]  # (b, r)
        there = 1 / (1 - self.missing[self.live])[:, None]
        ridge = np.diag(1 / np.maximum(self.space.power[: self.axes] - 1, LEAST_RIDGE))
        if weight is None:
            z = np.linalg.solve((u * there).T @ u + ridge, (u * there).T @ (y / d))  # (r, n)
            return np.asarray(d * (u @ z))
        w = weight * there  # (b, n)
        products = (u[:, :, None] * u[:, None]).reshape(len(u), -1)  # (b, r r)
        gram = (w.T @ products).reshape(-1, self.axes, self.axes) + ridge  # (n, r, r)
        right = (w * y / d).T @ u  # (n, r)
        return np.asarray(d * (u @ np.linalg.solve(gram, right[..., None])[..., 0].T))

    def predictable(self, missing: Mask) -> Mask:
        """Missing numbers (b, h, w) that the other bands of their pixel can predict."""
        lacking = missing[self.live].sum(axis=0) / max(1, int(self.live.sum()))
        return np.asarray(missing & self.live[:, None, None] & (lacking <= MOST_MISSING))

    def spikes(self, values: F32, missing: Mask) -> Mask:
        """Find spikes (b, h, w) among the numbers that are not missing, in bands that have them."""
        if not self.spiky.any():
            return np.zeros(missing.shape, bool)
        noise = np.maximum(np.minimum(self.noise, self.most_noise), 1e-12)[:, None, None].astype(np.float32)
        away = np.abs(values - self.predict(values, ~missing)) / noise
        weight = np.where(missing, 0, np.minimum(1, (DOWNWEIGHT / np.maximum(away, 1e-6)) ** 2)).astype(np.float32)
        away = np.where(missing, 0, np.abs(values - self.predict(values, weight)) / noise)
        found = self._isolated(away, noise)
        found[self.dense] = away[self.dense] > DENSE_CUT
        return found & self.spiky[:, None, None] & self.live[:, None, None]

    def _isolated(self, away: F32, noise: F32) -> Mask:
        """Numbers `away` (b, h, w) from their predictions that neither neighbours nor next bands share."""
        found = (away > CUT) & (away > LEAST * self.space.input_scale / noise) & self.spiky[:, None, None]
        for b in np.flatnonzero(found.any(axis=(1, 2))):
            limit = SHARED * away[b]
            for near in (b - 1, b + 1):
                if 0 <= near < len(away):
                    found[b] &= away[near] < limit
            for size in ((3, 3), (2 * REACH_PX + 1, 1), (1, 2 * REACH_PX + 1)):  # a line is no spike
                found[b] &= median_filter(away[b], size, mode="nearest") < limit
        return found


def _parts(pixels: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(pixels), AT_ONCE):
        yield pixels[start : start + AT_ONCE]
