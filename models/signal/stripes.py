"""Stripes: offsets of single columns in single bands that hold along the whole track, found in the pixels alone.

Along the track is y, as in `defects.py`. In units of each band's noise, the mean of a column over the track is

    mean_bx = sum_j u_bj a_jx + o_bx + noise

with u the axes of the scene (blind to stripes: from columns without their means), a its coefficients and o the stripes.
Without what is wider than `WIDE` columns (running medians of the coefficients and of the residual), a is near 0 but for
edges along the track, and o is 0 but for stripes. So o has a prior of heavy tails (Cauchy), and iterated least squares
from a = 0 find the nearest a that is most probable (Gelman et al., "Bayesian Data Analysis", 3rd ed., section 17.2).
From the residual alone, two striped bands of low noise in one column would pull the others with them. What is left of a
column, more than `CUT` standard errors, is its stripe.

Memory depends on the width of the scene alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TypedDict

import numpy as np
from scipy.ndimage import median_filter

from hypermend.models.arrays import F32, F64, I64, Mask
from hypermend.models.restorer import ArrayJson, array_from_json, array_to_json
from hypermend.models.signal.defects import Columns
from hypermend.models.signal.masked_estimate import MaskedWindow, estimate_masked
from hypermend.models.signal.masked_fit import MOST_MISSING, MaskedFit

BLOCK_ROWS = 16
"""Rows of the blocks whose scatter tells how far the mean of a column can be trusted: noise, and texture."""
WIDE = 15
"""Columns; what is wider is no stripe."""
LEAST_ROWS = 0.1
"""Least share of its numbers, of those of the fullest column, that a column needs."""
CUT = 3.5
"""A stripe is so many standard errors."""
MOST_BANDS = 0.2
"""A column that differs in a larger share of the bands is an edge of the scene, not a fault of the detector."""
PASSES = 2
"""The second with axes of the scene without the stripes of the first: these know edges along the track, too."""
STEPS, TAIL = 12, 3.0
"""Steps of the regression; standard errors from which a number counts little."""
LEAST_RIDGE = 1e-3


PlacedWindow = tuple[F32, Mask, Mask, I64]
"""A `MaskedWindow` and its columns in the scene (w,)."""


class StripesJson(TypedDict):
    """`Stripes` as JSON types."""

    bands: int
    striped: list[int]
    """positions of the bands that have stripes"""
    offsets: ArrayJson
    """(striped, W)"""


@dataclass(frozen=True, kw_only=True)
class Stripes:
    """Stripes of one scene."""

    offsets: F32
    """(b, W) physical units; 0 where there is none"""

    def __bool__(self) -> bool:
        return bool(self.offsets.any())

    def remove(self, values: F32, x: I64) -> F32:
        """Subtract the offsets from a window (b, h, w); x (w,) are its columns in the scene."""
        return values - self.offsets[:, None, x] if self else values

    def to_json(self) -> StripesJson:
        striped = np.flatnonzero(self.offsets.any(axis=1))
        return {
            "bands": len(self.offsets),
            "striped": [int(b) for b in striped],
            "offsets": array_to_json(self.offsets[striped]),
        }

    @classmethod
    def from_json(cls, facts: StripesJson) -> Stripes:
        """Parse JSON types; the inverse of `to_json`."""
        some = array_from_json(facts["offsets"])
        offsets = np.zeros((int(facts["bands"]), some.shape[1]), np.float32)
        offsets[facts["striped"]] = some
        return cls(offsets=offsets)


def find_stripes(windows: Callable[[], Iterable[PlacedWindow]], columns: Columns) -> Stripes | None:
    """Find the stripes of a scene; None where noise and texture cannot be separated.

    Args:
        windows: gives a sample of the scene, the same in each call.
        columns: gives the scene, or a sample of its rows over the whole width.
    """
    found: Stripes | None = None
    for _ in range(PASSES):
        estimate = estimate_masked(partial(_blind, windows, found), defective=True)
        if estimate is None or estimate.fit is None:
            return found
        found = Stripes(offsets=_offsets(columns, estimate.fit))
    return found


def _blind(windows: Callable[[], Iterable[PlacedWindow]], found: Stripes | None) -> Iterator[MaskedWindow]:
    """Windows without the stripes that were found; before, without the means of their columns."""
    if found is None:
        yield from _without_columns((values, valid, missing) for values, valid, missing, _ in windows())
        return
    for values, valid, missing, x in windows():
        yield np.where(valid, found.remove(values, x), np.float32(0)), valid, missing


def _without_columns(windows: Iterable[MaskedWindow]) -> Iterator[MaskedWindow]:
    """Windows whose columns have the mean of their band: blind to stripes."""
    for values, valid, missing in windows:
        there = valid & ~missing
        n, sums = there.sum(axis=1), np.where(there, values, 0).sum(axis=1, dtype=np.float64)
        band = sums.sum(axis=1) / np.maximum(n.sum(axis=1), 1)
        shift = np.where(n > 0, sums / np.maximum(n, 1) - band[:, None], 0).astype(np.float32)
        yield np.where(valid, values - shift[:, None], np.float32(0)), valid, missing


def _offsets(columns: Columns, fit: MaskedFit) -> F32:
    """(b, W) offsets, physical units."""
    p = _Profiles(columns, fit)
    u = np.linalg.qr(fit.space.basis[:, : fit.axes] * np.where(fit.live, 1 / np.sqrt(1 - fit.missing), 0)[:, None])[0]
    usable = (p.count > LEAST_ROWS * p.count.max(initial=0)) & fit.live[:, None]
    coefficients = u.T @ p.predicted
    narrow = _narrow(p.residual, usable) + u @ _narrow(coefficients, np.ones(coefficients.shape, bool))
    offset = _narrow(_outside(narrow, p.error, usable, u), usable)
    found = usable & (np.abs(offset) > CUT * p.error)
    found[:, found.mean(axis=0) > MOST_BANDS] = False
    return np.asarray(np.where(found, offset * fit.noise[:, None], 0), dtype=np.float32)


class _Profiles:
    """Means of the columns along the track, in units of each band's noise; (b, W) each."""

    def __init__(self, columns: Columns, fit: MaskedFit) -> None:
        groups = [_group(strips, fit) for strips in columns()]
        rest, self.count, self.predicted, blocks, squares, n = (
            np.concatenate(a, axis=1) for a in zip(*groups, strict=True)
        )
        self.residual = rest / np.maximum(self.count, 1)
        """what the axes do not explain"""
        n = np.maximum(n, 1)
        scatter = np.sqrt(np.maximum(squares / n - np.square(blocks / n), 0) / np.maximum(n - 1, 1))
        usual = median_filter(scatter, (1, WIDE), mode="reflect")
        self.error = np.maximum.reduce([1 / np.sqrt(np.maximum(self.count, 1)), usual, scatter])
        """standard error of `residual`"""


def _group(strips: Iterable[MaskedWindow], fit: MaskedFit) -> tuple[F64, ...]:
    """Sums over a group of columns, (b, w) each: of residuals, their number, the mean prediction; then of the means of
    blocks, their squares and their number.
    """
    sums: list[F64] = [np.zeros(())] * 5
    predicted, pixels = np.zeros(()), np.zeros(())
    noise = np.maximum(fit.noise, np.finfo(np.float64).tiny)[:, None, None]
    for values, valid, missing in strips:
        gap = missing | ~valid
        gap = gap | fit.spikes(values, gap)
        there = ~gap & (gap[fit.live].mean(axis=0) <= MOST_MISSING)
        prediction = fit.predict(values, ~gap)
        rest = np.where(there, (values - prediction) / noise, 0)
        predicted = predicted + np.where(valid & fit.live[:, None, None], prediction / noise, 0).sum(axis=1)
        pixels = pixels + valid.sum(axis=0)
        for top in range(0, values.shape[1], BLOCK_ROWS):
            n = there[:, top : top + BLOCK_ROWS].sum(axis=1)
            total = rest[:, top : top + BLOCK_ROWS].sum(axis=1)
            whole = n >= BLOCK_ROWS // 2
            mean = np.where(whole, total / np.maximum(n, 1), 0)
            sums = [a + b for a, b in zip(sums, (total, n, mean, np.square(mean), whole), strict=True)]
    rest_sum, count, *blocks = sums
    return rest_sum, count, predicted / np.maximum(pixels, 1), *blocks


def _outside(profile: F64, error: F64, usable: Mask, u: F64) -> F64:
    """The part of a profile (b, W) that the axes (b, r) do not explain."""
    weight = usable / np.square(error)
    ridge = LEAST_RIDGE * float(np.median(weight[usable])) if usable.any() else 1.0
    products = u[:, :, None] * u[:, None]
    a = np.zeros((u.shape[1], profile.shape[1]))
    for _ in range(STEPS):
        w = weight / (1 + np.square((profile - u @ a) / error / TAIL))
        gram = np.einsum("bx,bij->xij", w, products) + ridge * np.eye(u.shape[1])
        a = np.linalg.solve(gram, np.einsum("bx,bi,bx->xi", w, u, profile)[..., None])[..., 0].T
    return np.where(usable, profile - u @ a, 0)


def _narrow(profile: F64, usable: Mask) -> F64:
    """A profile (b, W) without what is wider than `WIDE`: its running median; 0 where it is not usable."""
    padded = np.pad(np.where(usable, profile, np.nan), ((0, 0), (WIDE // 2, WIDE // 2)), mode="reflect")
    around = np.lib.stride_tricks.sliding_window_view(padded, WIDE, axis=1)
    known = np.isfinite(around).any(axis=2)
    median = np.nanmedian(np.where(known[..., None], around, 0.0), axis=2)
    return np.where(usable, profile - median, 0)
