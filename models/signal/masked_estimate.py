"""The signal subspace of a scene in which numbers are missing or hit by spikes: estimated in passes over its windows.

    pass 0   missing numbers get the mean of their neighbours         -> moments -> subspace
    pass 1.. missing numbers and spikes get their prediction (`masked_fit.py`), smoothed -> moments -> subspace

A filled number gets white noise of the band's own level: without it, factor analysis would find too little noise. The
prediction is smoothed, because its noise is shared by all bands, and what bands share counts as texture.

Where nothing is missing and no band has spikes, this costs a prediction of a quarter of the windows; the subspace is
that of `subspace.py`, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
from scipy.ndimage import convolve1d

from hypermend.models.arrays import F32, F64, Mask
from hypermend.models.restorer import Window
from hypermend.models.signal.masked_fit import AXES, LEAST, MaskedFit
from hypermend.models.signal.subspace import Moments, Subspace, moments, signal_axes, subspace

MaskedWindow = tuple[F32, Mask, Mask]
"""Values (b, h, w), which pixels are valid (h, w), and which of their numbers are missing (b, h, w)."""
MOST_TURNS = 6
SPIKY, DENSE = 5e-3, 2e-2
"""Share of a band's numbers that must be spikes, so that it has them; from which it is full of them."""
FAR, FEW = 4.0, SPIKY / 2
"""Spikes are looked for in windows with a band in which more than `FEW` of the numbers are `FAR` noise away."""
CHECKED = 4
"""Of a scene in which nothing is missing, every so many windows are looked at for spikes."""
UNEVEN = 3.0
"""Largest ratio of the shares of spikes in the bright and the dark half of a band: glints and shadows are uneven."""
MOST_SHARE = 0.9
"""Largest missing share of a band that is reckoned with."""
FILL_TAPS = np.array([1, 2, 3, 2, 1]) / 9


@dataclass
class _Counts:
    """Sums over the windows of one pass; arrays are over bands."""

    valid: Any = 0.0
    missing: Any = 0.0
    found: Any = 0.0
    bright: Any = 0.0
    """Spikes where the band is brighter than the median of its window."""
    noise: list[F64] = field(default_factory=list)

    def share(self, counted: Any) -> F64:
        return np.asarray(counted / np.maximum(self.valid, 1), dtype=np.float64)

    @property
    def spiky(self) -> Mask:
        dark = self.found - self.bright
        even = np.maximum(self.bright, dark) <= UNEVEN * np.minimum(self.bright, dark)
        there = np.maximum(self.valid - self.missing, 1)
        return np.asarray((self.found / there > SPIKY) & even)

    @property
    def dense(self) -> Mask:
        return np.asarray(self.found / np.maximum(self.valid - self.missing, 1) > DENSE)


@dataclass(frozen=True, kw_only=True)
class MaskedEstimate:
    """What the windows of a scene tell."""

    space: Subspace | None
    """None as in `subspace`."""
    signal: Subspace | None
    """The same on the axes of the signal."""
    fit: MaskedFit | None
    """None where nothing is missing in the scene and no band has spikes."""


NO_SPACE = MaskedEstimate(space=None, signal=None, fit=None)


def estimate_masked(windows: Callable[[], Iterable[MaskedWindow]], *, defective: bool) -> MaskedEstimate | None:
    """Estimate the subspace of a scene, and the fit that predicts what is missing.

    Args:
        windows: gives the same windows in each call.
        defective: whether numbers may be missing elsewhere in the scene.

    Returns:
        The subspace, and the fit that predicts numbers; None where no pixel is valid.
    """
    counts = _Counts()
    first = moments(_filled(windows(), counts))
    if first is None:
        return None
    share = np.minimum(counts.share(counts.missing), MOST_SHARE)
    some = share if share.any() else None
    s = subspace(first, some)
    if s is None:
        return NO_SPACE
    noise = np.median(counts.noise, axis=0)
    fit = _fit(s, first, share, noise)
    if not share.any() and not _has_spikes(windows(), fit):
        nothing = _fit(s, first, share, noise, np.zeros(len(share), bool)) if defective else None
        return MaskedEstimate(space=s, signal=signal_axes(first, s, some), fit=nothing)
    again, now = first, share
    for turn in range(MOST_TURNS):
        counts = _Counts()
        sums = moments(_predicted(windows(), fit, counts))
        assert sums is not None
        again = sums
        spiky, dense = counts.spiky, counts.dense
        missing = counts.missing + np.where(spiky, counts.found, 0)
        now = np.minimum(counts.share(missing), MOST_SHARE)
        s = subspace(again, now)
        if s is None:
            return NO_SPACE
        settled = turn > 0 and np.array_equal(spiky, fit.spiky) and np.abs(now - fit.missing).max() < 1e-3
        fit = _fit(s, again, now, noise, spiky, dense)
        if settled:
            break
    return MaskedEstimate(space=s, signal=signal_axes(again, s, now), fit=fit)


def _has_spikes(windows: Iterable[MaskedWindow], fit: MaskedFit) -> bool:
    """Whether any band has spikes, in every `CHECKED`th window."""
    counts = _Counts()
    for _ in _predicted(islice(windows, 0, None, CHECKED), fit, counts):
        pass
    return bool(counts.spiky.any())


def _fit(
    s: Subspace, m: Moments, share: F64, noise: F64, spiky: Mask | None = None, dense: Mask | None = None
) -> MaskedFit:
    b = len(share)
    above = s.power > 1 + 3 * np.sqrt(2 * b / m.pixels) + 0.02
    return MaskedFit(
        space=s,
        missing=share,
        axes=int(np.clip(above.sum(), min(2, b), max(2, min(AXES, b // 2)))),
        spiky=np.ones(b, bool) if spiky is None else spiky,
        dense=np.zeros(b, bool) if dense is None else dense & (np.zeros(b, bool) if spiky is None else spiky),
        most_noise=1.3 * noise,
    )


def _filled(windows: Iterable[MaskedWindow], counts: _Counts) -> Iterator[Window]:
    """Windows with their missing numbers filled from their neighbours."""
    for i, (values, valid, missing) in enumerate(windows):
        gap = missing | ~valid
        noise = pair_noise(values, ~gap)
        counts.noise.append(noise)
        counts.valid = counts.valid + valid.sum()
        counts.missing = counts.missing + (missing & valid).sum(axis=(1, 2))
        fill = missing & valid
        yield _noisy(values, local_fill(values, gap) if fill.any() else values, fill, noise, i), valid


def _predicted(windows: Iterable[MaskedWindow], fit: MaskedFit, counts: _Counts) -> Iterator[Window]:
    """Windows with their missing numbers, and the spikes in them, filled from their prediction."""
    for i, (values, valid, missing) in enumerate(windows):
        gap = missing | ~valid
        spikes = _window_spikes(values, gap, fit)
        counts.valid = counts.valid + valid.sum()
        counts.missing = counts.missing + (missing & valid).sum(axis=(1, 2))
        fill = spikes | (missing & valid)
        if not fill.any():
            counts.found = counts.found + np.zeros(len(values))
            counts.bright = counts.bright + np.zeros(len(values))
            yield values, valid
            continue
        prediction = fit.predict(values, ~(gap | spikes))
        middle = np.median(prediction[:, valid], axis=1)[:, None, None]
        counts.found = counts.found + spikes.sum(axis=(1, 2))
        counts.bright = counts.bright + (spikes & (prediction > middle)).sum(axis=(1, 2))
        soft = prediction
        for axis in (1, 2):
            soft = convolve1d(soft, np.array([0.25, 0.5, 0.25]), axis=axis, mode="nearest")
        yield _noisy(values, soft, fill, fit.noise, i), valid


def _window_spikes(values: F32, gap: Mask, fit: MaskedFit) -> Mask:
    """Spikes of a window; none where no band has numbers far from their prediction."""
    noise = np.maximum(np.minimum(fit.noise, fit.most_noise), 1e-12)[:, None, None]
    far = np.abs(values - fit.predict(values, ~gap)) > np.maximum(FAR * noise, LEAST * fit.space.input_scale)
    share = (far & ~gap).sum(axis=(1, 2)) / np.maximum((~gap).sum(axis=(1, 2)), 1)
    if not (share[fit.live & fit.spiky] > FEW).any():
        return np.zeros(gap.shape, bool)
    return fit.spikes(values, gap)


def _noisy(values: F32, fill: F32, where: Mask, noise: F64, seed: int) -> F32:
    """The values with a fill, plus white noise of each band's level, in some numbers."""
    if not where.any():
        return values
    bands = np.nonzero(where)[0]
    own = np.random.default_rng(seed).standard_normal(len(bands)) * noise[bands]
    out = values.copy()
    out[where] = fill[where] + own
    return out


def pair_noise(values: F32, there: Mask) -> F64:
    """Noise of each band, robust against spikes: from the median difference of horizontal neighbours.

    (b, h, w) twice -> (b,). Texture counts as noise: an upper limit.
    """
    out = np.zeros(len(values))
    for b, (band, ok) in enumerate(zip(values, there, strict=True)):
        pairs = np.abs(np.diff(band, axis=1)[ok[:, 1:] & ok[:, :-1]])
        if pairs.size:
            out[b] = 1.4826 * np.median(pairs) / np.sqrt(2)
    return out


def local_fill(values: F32, missing: Mask) -> F32:
    """Fill missing numbers with means of their neighbours in the band, nearer ones first: normalised convolution."""
    out = values.copy()
    for b in np.flatnonzero(missing.any(axis=(1, 2))):
        todo = missing[b].copy()
        sums, weight = np.where(todo, 0, values[b]).astype(np.float64), (~todo).astype(np.float64)
        for _ in range(6):
            for axis in (0, 1):
                sums, weight = (convolve1d(a, FILL_TAPS, axis=axis, mode="nearest") for a in (sums, weight))
            near = todo & (weight > 1e-2)
            out[b][near] = sums[near] / weight[near]
            todo &= ~near
            if not todo.any():
                break
    return out
