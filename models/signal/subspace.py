"""The signal subspace of a scene: noise of each band, whitening, eigenvectors. Estimated once, linear per pixel after.

Model of a pixel: y = s + n, n independent between bands with standard deviation d_b, s near a space of few dimensions.

1. Noise. Differences of 2x2 pixels, (a - b - c + d) / 2, leave white noise at its level and remove what is smooth (and
   stripes). What texture they keep is shared by bands, noise is not: factor analysis of their covariance,
   H = L L^T + D, gives d = sqrt(diag D); a factor counts only if it is stronger than pure noise makes one. The plain
   residual of a regression of each band on all others, 1 / diag(H^-1) (Bioucas-Dias & Nascimento, "Hyperspectral
   subspace identification", TGRS 2008), is its start.
2. Whitening W = diag(1/d); second moment M = W E[y y^T] W = U diag(power) U^T; coefficients z = U^T W y have unit white
   noise, so power_j - 1 is the signal in coefficient j. No mean is taken off: the first axis is near it.
3. Back: y = W^-1 U z.
4. Axes of the signal (`signal_axes`): pixels hold most of the noise, so their eigenvectors spread weak signal over
   random directions. Means over k x k pixels have 1/k^2 of it. For k = 1, 2, 4, 8 the detail D_k = M_k - M_2k of the
   second moments of means (the last: M_8 itself) is noise of variance v_k = 1/k^2 - 1/(2k)^2 and signal; what stands
   out of the noise, sum_i (lambda_i - v_k) e_i e_i^T over eigenvalues above `STANDS_OUT` times the edge of Marchenko &
   Pastur, is summed over k, and its eigenvectors are the axes.

All in float64 and in a fixed order: same windows, same statistics.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from hypermend.models.arrays import F32, F64, Mask
from hypermend.models.restorer import ArrayJson, Window, array_from_json, array_to_json

FACTORS = 12
"""Most factors in the noise estimate. Measured on 15 CAVE scenes: fewer count texture of clean scenes as noise."""
STORED = 24
"""Coefficients with an axis and a Wiener weight of their own; the rest of the space shares one weight."""
EDGE = 1.02
"""A factor of the noise estimate counts above this multiple of (1 + sqrt(b / n))^2, the largest eigenvalue of the
covariance of pure noise in b bands and n samples (Marchenko & Pastur, 1967): any other takes noise for texture."""
BLOCK, CALM = 8, 0.7
"""Noise is measured in the calmer 0.7 of the 8x8 pixel blocks of each window."""
EMPTY = 1.08
"""Measured power of coefficients without signal: 1 in theory, more because powers are estimated and sorted."""
CELLS_PX = (2, 4, 8)
"""Edges of the cells over which pixels are averaged."""
SIGNAL_AXES = 12
"""Most axes of the signal."""
STANDS_OUT = 1.2
"""A direction of the detail is signal above this multiple of the largest eigenvalue that pure noise has. Chosen on
training scenes; it covers the spread of the noise estimate between bands, 2 %, and noise that neighbours share."""
FEW_ITERATIONS = 6
"""Iterations that settle the noise to 2 %, in an eighth of the time of all."""
MIN_BANDS = 6
"""Fewest bands with which texture and noise can be separated."""


class SubspaceStatistics(TypedDict):
    """`Subspace` as JSON types."""

    input_scale: float
    rms: ArrayJson
    noise_std: ArrayJson
    basis: ArrayJson
    power: ArrayJson
    rest_power: float


@dataclass(frozen=True, kw_only=True)
class Subspace:
    """Noise, axes and powers of one scene; arrays are over bands b or stored axes j."""

    input_scale: float
    """A bright value of the scene, physical units: see `Moments.bright`."""
    rms: F64
    """(b,) root mean square of each band, physical units."""
    noise_std: F64
    """(b,) physical units."""
    basis: F64
    """(b, j) orthonormal, of whitened bands, strongest first; the sum of each column is >= 0."""
    power: F64
    """(j,) second moment of each coefficient, noise (1) included."""
    rest_power: float
    """Mean second moment of the coefficients that are not stored."""

    @property
    def project(self) -> F32:
        """(j, b) from bands to coefficients; 0 for bands that do not vary."""
        white = np.divide(1.0, self.noise_std, where=self.noise_std > 0, out=np.zeros_like(self.noise_std))
        return np.asarray((self.basis * white[:, None]).T, dtype=np.float32)

    @property
    def noise_share(self) -> tuple[F32, float]:
        """Wiener: the share of each stored coefficient (j,), and of what is not stored, that is noise."""
        return (EMPTY / np.maximum(self.power, EMPTY)).astype(np.float32), EMPTY / max(EMPTY, self.rest_power)

    def to_json(self) -> SubspaceStatistics:
        """Return the fields as JSON types."""
        return {
            "input_scale": self.input_scale,
            "rms": array_to_json(self.rms),
            "noise_std": array_to_json(self.noise_std),
            "basis": array_to_json(self.basis),
            "power": array_to_json(self.power),
            "rest_power": self.rest_power,
        }

    @classmethod
    def from_json(cls, statistics: SubspaceStatistics) -> Subspace:
        """Parse JSON types; the inverse of `to_json`, to float32 precision."""
        return cls(
            input_scale=float(statistics["input_scale"]),
            rms=array_from_json(statistics["rms"]).astype(np.float64),
            noise_std=array_from_json(statistics["noise_std"]).astype(np.float64),
            basis=array_from_json(statistics["basis"]).astype(np.float64),
            power=array_from_json(statistics["power"]).astype(np.float64),
            rest_power=float(statistics["rest_power"]),
        )


@dataclass
class Moments:
    """Sums over the windows of a scene, from which `subspace` computes; their size does not depend on the scene's."""

    pixels: int
    second: F64
    """(b, b) sum of y y^T over valid pixels."""
    differences: int
    high: F64
    """(b, b) the same of the 2x2 differences whose four pixels are valid."""
    bright: float
    """99.9th percentile of the valid values: the largest of the windows' own."""
    cells: tuple[int, ...]
    """Cells of `CELLS_PX` pixels whose pixels are all valid."""
    means: F64
    """(len(CELLS_PX), b, b) sums of the second moment of their means."""


def moments(windows: Iterable[Window]) -> Moments | None:
    """Sum up windows; return None if no pixel is valid."""
    out: Moments | None = None
    bright: list[float] = []
    for values, valid in windows:
        y = values.astype(np.float64)  # (b, h, w)
        b = y.shape[0]
        if out is None:
            out = Moments(
                0, np.zeros((b, b)), 0, np.zeros((b, b)), 0.0, (0,) * len(CELLS_PX), np.zeros((len(CELLS_PX), b, b))
            )
        if not valid.any():
            continue
        flat = y[:, valid]  # (b, n)
        out.pixels += flat.shape[1]
        out.second += flat @ flat.T
        bright.append(float(np.quantile(flat, 0.999)))
        d = _calm_differences(y, valid)  # (b, m)
        out.differences += d.shape[1]
        out.high += d @ d.T
        cells, ok = y, valid
        for i in range(len(CELLS_PX)):
            cells, ok = _halved(cells, ok)
            flat = cells[:, ok]
            out.cells = (*out.cells[:i], out.cells[i] + flat.shape[1], *out.cells[i + 1 :])
            out.means[i] += flat @ flat.T
    if out is None or out.pixels == 0:
        return None
    out.bright = max(bright)
    return out


def _halved(y: F64, valid: Mask) -> tuple[F64, Mask]:
    """Means of 2x2 pixels (b, h / 2, w / 2), and where all four are valid (h / 2, w / 2); an odd line is left out."""
    h, w = (n // 2 * 2 for n in valid.shape)
    y, valid = y[:, :h, :w], valid[:h, :w]
    mean = (y[:, ::2, ::2] + y[:, ::2, 1::2] + y[:, 1::2, ::2] + y[:, 1::2, 1::2]) / 4
    return mean, valid[::2, ::2] & valid[::2, 1::2] & valid[1::2, ::2] & valid[1::2, 1::2]


def _calm_differences(y: NDArray[Any], valid: Mask) -> NDArray[Any]:
    """(bands, m) diagonal differences of 2x2 pixels, from the less textured blocks of a window.

    Blocks are ranked by their horizontal and vertical differences. White noise makes those independent of the diagonal
    ones, so the choice does not bias the noise, while it leaves out edges that no other band shares.
    """
    b, h, w = y.shape[0], y.shape[1] // BLOCK * BLOCK, y.shape[2] // BLOCK * BLOCK
    if h == 0 or w == 0:  # too small to choose from
        h, w = y.shape[1] // 2 * 2, y.shape[2] // 2 * 2
    q = y[:, :h, :w].reshape(b, h // 2, 2, w // 2, 2)
    p00, p01, p10, p11 = q[:, :, 0, :, 0], q[:, :, 0, :, 1], q[:, :, 1, :, 0], q[:, :, 1, :, 1]  # (b, h/2, w/2)
    ok = valid[:h, :w].reshape(h // 2, 2, w // 2, 2).all(axis=(1, 3))
    diagonal: NDArray[Any] = (p00 - p01 - p10 + p11) / 2
    if h % BLOCK or w % BLOCK or not ok.any():
        return np.asarray(diagonal[:, ok])
    scale = np.sqrt(np.square(diagonal[:, ok]).mean(axis=1))[:, None, None] + np.finfo(y.dtype).tiny
    texture = (np.square((p00 - p01 + p10 - p11) / scale) + np.square((p00 + p01 - p10 - p11) / scale)).sum(axis=0)
    n = BLOCK // 2
    in_blocks = (h // BLOCK, n, w // BLOCK, n)
    count = ok.reshape(in_blocks).sum(axis=(1, 3))
    mean = np.where(ok, texture, 0.0).reshape(in_blocks).sum(axis=(1, 3)) / np.maximum(count, 1)  # (h/8, w/8)
    calm = mean <= np.quantile(mean[count > 0], CALM)
    return np.asarray(diagonal[:, ok & np.kron(calm, np.ones((n, n), dtype=bool))])


def noise_std(high: F64, samples: int, *, factors: int = FACTORS, iterations: int = 50) -> F64:
    """Noise of each band from the covariance of the 2x2 differences, by factor analysis.

    Args:
        high: (b, b) covariance; every band must vary.
        samples: number of differences that it is the mean of.
        factors: most factors; at most a third of the bands, so that the noise stays identifiable.
        iterations: of the maximum-likelihood update D = diag(H - L L^T).

    Returns:
        (b,) standard deviations.
    """
    b = high.shape[0]
    factors = min(factors, b // 3)
    edge = EDGE * (1 + np.sqrt(b / samples)) ** 2
    ridge = 1e-9 * np.diag(np.diag(high))
    start = 1 / np.diag(np.linalg.inv(high + ridge))
    d = start.copy()
    for _ in range(iterations):
        s = np.sqrt(d)
        value, vector = np.linalg.eigh(high / s[:, None] / s[None, :])
        value, vector = value[-factors:], vector[:, -factors:]
        load = s[:, None] * vector * np.sqrt(np.where(value > edge, value - 1, 0))  # (b, factors)
        d = np.maximum(np.diag(high) - np.square(load).sum(axis=1), 1e-3 * start)
    return np.sqrt(d)


def noise_removed(windows: Iterable[tuple[F32, F32, Mask]]) -> tuple[F64, F64] | None:
    """Noise of each band in a few windows of a scene, and how much like it was removed; physical units, (b,) each.

    The second is the standard deviation of the same 2x2 differences of the change. Where the error that is left does
    not correlate with what was removed, as after a projection or an optimal shrinkage, variances add up: the noise that
    is left is sqrt(noise^2 - removed^2). More removed than there was noise is signal. (An estimate from the result
    itself finds no noise in a result of low rank, whatever is left in it.)

    Args:
        windows: values before and after (b, h, w), and which pixels are valid (h, w).

    Returns:
        None where noise cannot be told from texture: too few bands, or fewer 2x2 differences than twice the bands.
    """
    parts = []
    for before, after, valid in windows:
        if valid.any():
            parts.append(_calm_differences(np.concatenate((before, before - after)), valid))
    d, change = np.split(np.concatenate(parts, axis=1).astype(np.float64), 2) if parts else np.zeros((2, 0, 0))
    b, samples = d.shape
    if b < MIN_BANDS or samples < 2 * b:
        return None
    high = d @ d.T / samples
    varies = np.diag(high) > 0
    if not np.isfinite(high).all() or varies.sum() < MIN_BANDS:
        return None
    noise = np.zeros(b)
    noise[varies] = noise_std(high[np.ix_(varies, varies)], samples, iterations=FEW_ITERATIONS)
    return noise, np.sqrt(np.square(change).mean(axis=1))


def subspace(m: Moments, missing: F64 | None = None) -> Subspace | None:
    """Noise, axes and powers from the sums; None where noise and texture cannot be separated.

    Args:
        m: sums over windows.
        missing: (b,) share of each band, below 1, that was missing and filled with a prediction and noise of its own
            (`masked_fit.py`). The noise of such a band is given as sigma / sqrt(1 - missing): what it amounts to in a
            coefficient.

    That is: fewer than `MIN_BANDS` bands that vary, or fewer 2x2 differences than twice the bands.
    Bands that do not vary get no noise and no part in any axis.
    """
    b = m.second.shape[0]
    second = m.second / m.pixels
    if m.differences < 2 * b:
        return None
    high = m.high / m.differences
    varies = np.diag(high) > 1e-12 * np.maximum(np.diag(second), np.finfo(np.float64).tiny)
    if varies.sum() < MIN_BANDS:
        return None
    some = np.flatnonzero(varies)
    std = noise_std(high[np.ix_(some, some)], m.differences)
    # Rounding of stored numbers bounds what is worth dividing by.
    std = np.maximum(std, 1e-6 * np.sqrt(np.diag(second)[some]))
    second_some = second[np.ix_(some, some)]
    if missing is not None:
        told = std / np.sqrt(1 - missing[some])
        second_some = second_some + np.diag(np.square(told) - np.square(std))
        std = told
    value, vector = np.linalg.eigh(second_some / std[:, None] / std[None, :])
    value, vector = value[::-1], vector[:, ::-1]
    vector = vector * np.where(vector.sum(axis=0) < 0, -1.0, 1.0)
    stored = min(STORED, len(some))
    all_std, basis = np.zeros(b), np.zeros((b, stored))
    all_std[some] = std
    basis[some] = vector[:, :stored]
    rest = value[stored:]
    return Subspace(
        input_scale=m.bright,
        rms=np.sqrt(np.diag(second)),
        noise_std=all_std,
        basis=basis,
        power=np.maximum(value[:stored], 0.0),
        rest_power=float(rest.mean()) if rest.size else 0.0,
    )


def signal_axes(m: Moments, s: Subspace, missing: F64 | None = None) -> Subspace:
    """The same scene on the axes of its signal, at most `SIGNAL_AXES`: step 4 of this module.

    `power` is 1 and the signal's own second moment in each coefficient; what lies outside of the axes is noise but for
    rare spectra.

    Args:
        m: sums over windows.
        s: what `subspace` made of them.
        missing: as there.
    """
    live = np.flatnonzero(s.noise_std > 0)
    some, b = np.ix_(live, live), len(live)
    white = 1 / s.noise_std[live]
    lacks = np.zeros(b) if missing is None else missing[live]  # filled with 1 - missing of the noise that is told
    counts = np.array([m.pixels, *m.cells, 0])
    at = [m.second[some], *(part[some] for part in m.means)]
    signal = np.zeros((b, b))
    finer = [k for k in range(len(at)) if counts[k] > 0]
    for k in finer:
        coarser = k + 1 if k + 1 in finer else None
        detail = at[k] / counts[k] - (0 if coarser is None else at[coarser] / counts[coarser])
        variance = 4.0**-k - (0 if coarser is None else 4.0**-coarser)
        detail = white[:, None] * detail * white + variance * np.diag(lacks)
        samples = counts[k] - (0 if coarser is None else counts[coarser])
        value, vector = np.linalg.eigh(detail)
        stands_out = value > STANDS_OUT * variance * (1 + np.sqrt(b / max(samples, 1))) ** 2
        signal += (vector[:, stands_out] * (value[stands_out] - variance)) @ vector[:, stands_out].T
    value, vector = np.linalg.eigh(signal)
    value, vector = value[::-1], vector[:, ::-1]
    axes = max(1, min(SIGNAL_AXES, int((value > 1e-9 * max(value[0], 1e-9)).sum())))
    if value[0] <= 0:  # noise alone: the axis next to the mean
        value, vector = np.zeros(1), s.basis[live][:, :1]
    vector = vector[:, :axes] * np.where(vector[:, :axes].sum(axis=0) < 0, -1.0, 1.0)
    basis = np.zeros((len(s.noise_std), vector.shape[1]))
    basis[live] = vector
    return replace(s, basis=basis, power=1 + np.maximum(value[: vector.shape[1]], 0), rest_power=1.0)
