"""The blur kernel of a pair in closed form, and whether the two images belong together at all.

P and the blur commute: with X = P Z and Y = (Z * k) decimated + noise, each guide band a gives for each LR pixel

    (P Y)_a[i] = gain_a sum_u k_u X_a[s i + u] + offset_a + noise          (convention of `degrade.py`)

which is linear in k. All valid LR pixels of a scene, from any number of windows, enter one set of normal equations
H k = b, weighted by what each guide band leaves unexplained. Solved for k >= 0 with a smoothness term

    min_k>=0  k^T H k - 2 b^T k + (noise / tau)^2 (|grad k|^2 + RIDGE |k|^2)

that fills in what the pixels do not determine; tau, the expected step between kernel pixels, and the support are those
that predict held-out LR pixels best. Where there are fewer equations than kernel pixels, the kernel is a sum of tents
`spacing` pixels apart. k is normalised to sum 1; the sum goes into the gains. The closed form and its accuracy are
measured in docs/decisions/0006 (the paper that this replaces learns k by Adam, from a Gaussian).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import linalg, ndimage

from models.degrade import centroid, gaussian_kernel
from models.fusion import BadPair, Pair, Setup
from models.restorer import Facts, pack, unpack
from models.subspace import moments, subspace

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
Pairs = Callable[[], Iterable[Pair]]

REACHES = (10, 16, 32)
"""HR pixels that a kernel may reach from the expected centroid; the largest tried is the first of at least 2 s."""
MOST_NUMBERS = 30_000_000
"""Guide pixels in all footprints together (120 MB); scenes with more LR pixels are thinned evenly."""
FOLD_PX = 4
"""LR pixels are held out in squares of this edge, like the fields of a chess board."""
LEAST_EQUATIONS = 128
"""Fewer cannot tell one kernel from another."""
LEAST_UNEXPLAINED = 1e-3
"""A guide band counts as if it left at least this: the first guess of the kernel leaves more than the last."""
BETTER = 0.98
"""A wider support must predict held-out pixels by this much better."""
UNKNOWNS = 2.0
"""Kernel pixels for each equation that smoothness may fill in; above that the kernel is made of wider tents."""
TAUS = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
ITERATIONS = 120
ROUNDS, SAME_GAIN = 3, 0.003
"""Gains of the guide bands need the kernel and the kernel the gains: at most so often, until the gains' ratios stay."""
RIDGE = 0.01
NOISE_BLOCK, NOISE_BLOCKS, CALM = 8, 12, 0.02
"""Pixels of a block's edge, least number of blocks and share of them that the guide's noise is measured in."""
FITS = 0.01
"""A wider support is tried where more than this share of the kernel lies in the outer two pixels."""
BORDER_SHARE = 0.15
"""Share of a kernel that may lie in the outer two pixels of the largest support."""
MOST_UNEXPLAINED = 0.6
"""Above this in the median guide band, response or images are plainly wrong. A real pair of two sensors has 0.1-0.3."""
ADVICE = (
    "check that the response has the bands of these two cubes in their order, and that both images show the same place "
    "at the same time"
)
SWAPPED = 4.0
"""A guide band that explains another band's view this many times better than that band itself: bands are mixed up."""


@dataclass(frozen=True, kw_only=True)
class Blur:
    """What is known of a pair. Arrays are over guide bands m or image bands b; positions as in `degrade.py`."""

    kernel: F64
    """(n, n), n odd, >= 0, sum 1."""
    centroid_px: tuple[float, float]
    """(y, x) HR pixels from HR pixel (s i, s j)."""
    shift_px: tuple[float, float]
    """(y, x) centroid against what was expected: how far the guide is off. The kernel corrects for it."""
    condition: float
    """Largest over smallest eigenvalue of the equations as solved."""
    determined: float
    """Kernel pixels (of `unknowns`) that the data determine, the rest being smoothness: trace of the hat matrix."""
    unknowns: int
    tau: float
    """Chosen step between kernel pixels."""
    residual: float
    """Share of the variance of P Y that the kernel leaves unexplained."""
    held_out: float
    """The same on LR pixels that the kernel was not fitted to."""
    pixels: int
    """LR pixels whose whole footprint is valid."""
    needed: int
    """LR pixels below which the pair would have been refused."""
    gain: F64
    """(m,) P Y = gain * (X * k) + offset."""
    offset: F64
    """(m,) physical units of Y."""
    unexplained: F64
    """(m,) share of the variance of (P Y)_a that gain, offset and kernel leave."""
    noise_y: F64
    """(b,) standard deviation of Y's white noise, physical units; 0 where it cannot be told from texture."""
    noise_x: F64
    """(m,) the same of X."""
    input_scale: float
    """A bright value of Y, physical units."""

    def to_facts(self) -> Facts:
        """JSON types."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {
            k: pack(v) if isinstance(v, np.ndarray) else list(v) if isinstance(v, tuple) else v
            for k, v in values.items()
        }

    @classmethod
    def from_facts(cls, facts: Facts) -> Blur:
        """Inverse of `to_facts`, to float32 precision."""
        values: dict[str, Any] = {f.name: facts[f.name] for f in fields(cls)}
        for k, v in values.items():
            if isinstance(v, dict):
                values[k] = unpack(v).astype(np.float64)
            elif isinstance(v, list):
                values[k] = tuple(v)
        return cls(**values)


@dataclass(frozen=True)
class Support:
    """Where the kernel may be: tents `spacing` HR pixels apart about `middle`, all within `reach` of it."""

    middle: int
    reach: int
    spacing: int = 1

    @property
    def side(self) -> int:
        """Tents along one axis, odd."""
        return 2 * ((self.reach - self.spacing + 1) // self.spacing) + 1

    def kernel(self, weights: F64) -> F64:
        """(side^2,) -> (n, n) about HR pixel 0, n = 2 (|middle| + reach) + 1."""
        half, q = abs(self.middle) + self.reach, self.spacing
        grid = np.zeros((2 * half + 1, 2 * half + 1))
        first = half + self.middle - q * (self.side // 2)
        at = slice(first, first + q * (self.side - 1) + 1, q)
        grid[at, at] = weights.reshape(self.side, self.side)
        return _tents(_tents(grid, 0, q), 1, q)

    def outer(self, kernel: F64) -> float:
        """Share of a kernel (about HR pixel 0) in the support's outer two pixels and beyond."""
        half = kernel.shape[0] // 2
        at = np.abs(np.arange(-half, half + 1) - self.middle)
        return float(kernel[np.maximum(at[:, None], at[None, :]) >= self.reach - 1].sum())

    def features(self, patches: F32) -> F64:
        """(N, n, n) footprints about `middle` -> (N, side^2): what each tent sees."""
        first = patches.shape[1] // 2 - self.spacing * (self.side // 2)
        at = slice(first, first + self.spacing * (self.side - 1) + 1, self.spacing)
        seen = _tents(_tents(patches, 1, self.spacing)[:, at], 2, self.spacing)[:, :, at]
        return seen.reshape(len(patches), -1).astype(np.float64)


def _tents(values: npt.NDArray[Any], axis: int, spacing: int) -> npt.NDArray[Any]:
    if spacing == 1:
        return values
    tent = (1 - np.abs(np.arange(1 - spacing, spacing)) / spacing) / spacing
    return np.asarray(ndimage.convolve1d(values, tent, axis=axis, mode="constant"))


def reach(scale: int) -> int:
    """HR pixels that the largest kernel of a scale reaches from its expected centroid."""
    return next((r for r in REACHES if r >= 2 * scale), REACHES[-1])


def most_shift(setup: Setup) -> float:
    """HR pixels that the guide may be off.

    Half an LR pixel on a grid. In a laboratory a shift is as good as a kernel off its centre, which is found and used,
    so one LR pixel.
    """
    return setup.scale / 2 if setup.expected_centroid_px else float(setup.scale)


def estimate(pairs: Pairs, setup: Setup) -> Blur:
    """Kernel, gains and noise of a scene. Deterministic.

    Args:
        pairs: windows of the scene; passed over three times.
        setup: what the pair is.

    Raises:
        BadPair: too few valid LR pixels, a response that is plainly wrong, a guide off by more than `most_shift`, or a
            kernel that does not fit its support.
    """
    s, middle, largest = setup.scale, math.floor(setup.expected_centroid_px), reach(setup.scale)
    least = s / 2 if setup.expected_centroid_px else 0.0  # in a laboratory a kernel may be smaller than an LR pixel
    rows = _Rows.of(pairs, setup, middle, largest)
    kernel = Support(middle, largest).kernel(gaussian_kernel(2 * largest + 1, max(s / 2, 0.7)).ravel())
    gains = rows.gains(kernel)
    _check_gains(gains)
    supports = [rows.support(r) for r in REACHES if least <= r <= largest]
    for _ in range(ROUNDS):
        best = _fit(rows, gains, supports[0], TAUS)
        kernel = best.kernel()
        before, gains = gains.gain, rows.gains(kernel)
        if np.abs(gains.gain / gains.gain.mean() * before.mean() / before - 1).max() < SAME_GAIN:
            break
    for wider in supports[1:]:
        if best.support.outer(kernel) < FITS:
            break
        fit = _fit(rows, gains, wider, [t for t in TAUS if best.tau / 4 < t < best.tau * 4])
        if fit.held_out < BETTER * best.held_out:
            best, kernel = fit, fit.kernel()
    gains = rows.gains(kernel)
    condition, determined = best.certainty()
    at = centroid(kernel)
    shift = (at[0] - setup.expected_centroid_px, at[1] - setup.expected_centroid_px)
    _check_gains(gains)
    _check_response(gains)
    _check_kernel(kernel, shift, setup, Support(middle, largest))
    noise_y, noise_x, bright = _noise(pairs)
    return Blur(
        kernel=kernel,
        centroid_px=at,
        shift_px=shift,
        condition=condition,
        determined=determined,
        unknowns=len(best.weights),
        tau=best.tau,
        residual=float(gains.unexplained.mean()),
        held_out=best.held_out,
        pixels=rows.pixels,
        needed=rows.needed,
        gain=gains.gain,
        offset=gains.offset,
        unexplained=gains.unexplained,
        noise_y=noise_y,
        noise_x=noise_x,
        input_scale=bright,
    )


@dataclass(frozen=True)
class _Gains:
    gain: F64
    offset: F64
    unexplained: F64
    crossed: F64
    """(m, m) share of P Y's band (row) that band (column) of the blurred guide leaves unexplained."""


@dataclass(frozen=True)
class _Rows:
    """All the LR pixels that the kernel is estimated from, each with its footprint in the guide."""

    patches: F32
    """(m, N, n, n) about the support's middle."""
    view: F64
    """(m, N) P Y."""
    fold: npt.NDArray[np.int64]
    """(N,) 0 or 1."""
    middle: int
    pixels: int
    """N before thinning."""
    needed: int

    @classmethod
    def of(cls, pairs: Pairs, setup: Setup, middle: int, reach_px: int) -> _Rows:
        m, n, first = setup.response.shape[0], 2 * reach_px + 1, middle - reach_px
        found = [_usable(pair, setup.scale, middle, reach_px) for pair in pairs()]
        total, needed = sum(len(i) for i, _ in found), -(-LEAST_EQUATIONS // m)
        if total < needed:
            raise BadPair(
                f"{total} LR pixels have a valid footprint of {n} x {n} guide pixels; the blur kernel needs {needed} "
                f"({LEAST_EQUATIONS} equations from {m} guide bands): take a larger scene, or one with fewer gaps"
            )
        step = max(1, math.ceil(total * m * n * n / MOST_NUMBERS))
        patches, view, fold = [], [], []
        for pair, (i, j) in zip(pairs(), found, strict=True):
            if len(i) == 0:
                continue
            i, j = i[::step], j[::step]
            around = np.lib.stride_tricks.sliding_window_view(pair.x, (n, n), axis=(1, 2))  # (m, H-n+1, W-n+1, n, n)
            patches.append(around[:, setup.scale * i + first, setup.scale * j + first])
            view.append(setup.response.astype(np.float64) @ pair.y[:, i, j])
            fold.append((i // FOLD_PX + j // FOLD_PX) % 2)
        return cls(np.concatenate(patches, 1), np.concatenate(view, 1), np.concatenate(fold), middle, total, needed)

    def support(self, reach_px: int) -> Support:
        """Tents as narrow as the number of equations allows."""
        spacing = math.ceil((2 * reach_px + 1) / math.sqrt(UNKNOWNS * self.equations))
        return Support(self.middle, reach_px, spacing)

    @property
    def equations(self) -> int:
        """LR pixels times guide bands."""
        return int(self.view.size)

    def gains(self, kernel: F64) -> _Gains:
        """Regression of each band of P Y on the guide blurred by a kernel (about HR pixel 0)."""
        n = self.patches.shape[2]
        wide = np.pad(kernel, n)
        first = wide.shape[0] // 2 + self.middle - n // 2
        k = wide[first : first + n, first : first + n]
        seen = np.einsum("mnuv,uv->mn", self.patches, k.astype(np.float32)).astype(np.float64)
        covariance = np.cov(np.concatenate((self.view, seen)), bias=True)
        m, tiny = len(seen), np.finfo(np.float64).tiny
        own, cross, other = np.diag(covariance)[:m], covariance[:m, m:], np.diag(covariance)[m:]
        gain = np.diag(cross) / np.maximum(other, tiny)
        crossed = 1 - np.square(cross) / np.maximum(own[:, None] * other[None, :], tiny)
        offset = self.view.mean(axis=1) - gain * seen.mean(axis=1)
        return _Gains(gain, offset, np.clip(np.diag(crossed), 0.0, 1.0), crossed)


def _usable(pair: Pair, scale: int, middle: int, reach_px: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Rows and columns of the valid LR pixels whose footprint lies in the window and is valid."""
    if pair.scale != scale:
        raise BadPair(f"a window of scale {pair.scale} in a pair of scale {scale}")
    gap = ndimage.maximum_filter(~pair.x_valid, size=2 * reach_px + 1, mode="constant", cval=True)
    h, w = pair.y_valid.shape
    at_i, at_j = scale * np.arange(h) + middle, scale * np.arange(w) + middle
    inside_i, inside_j = at_i < gap.shape[0], at_j < gap.shape[1]
    usable = np.zeros((h, w), dtype=bool)
    usable[np.ix_(inside_i, inside_j)] = ~gap[np.ix_(at_i[inside_i], at_j[inside_j])]
    i, j = np.nonzero(usable & pair.y_valid)
    return i, j


@dataclass(frozen=True)
class _Fit:
    support: Support
    weights: F64
    tau: float
    held_out: float
    data: F64
    """H without the smoothness."""
    smooth: F64

    def kernel(self) -> F64:
        """(n, n), sum 1."""
        k = self.support.kernel(self.weights)
        return np.asarray(k / k.sum())

    def certainty(self) -> tuple[float, float]:
        """Condition of the equations as solved, and how many kernel pixels the data determine."""
        system = self.data + self.smooth
        value = linalg.eigvalsh(system)
        determined = float(np.trace(linalg.solve(system, self.data, assume_a="pos")))
        return float(value[-1] / max(value[0], np.finfo(np.float64).tiny)), determined


@dataclass(frozen=True)
class _Equations:
    """Weighted sums over LR pixels: H k = b; `power` is the sum of squares of the right-hand sides."""

    h: F64
    b: F64
    power: float

    def __add__(self, other: _Equations) -> _Equations:
        return _Equations(self.h + other.h, self.b + other.b, self.power + other.power)

    def loss(self, weights: F64) -> float:
        return float(self.power - 2 * self.b @ weights + weights @ self.h @ weights)


def _fit(rows: _Rows, gains: _Gains, support: Support, taus: Sequence[float]) -> _Fit:
    """The kernel on one support, with the smoothness that predicts held-out LR pixels best."""
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
    return _Fit(support, weights, tau, scores[tau] / whole.power, whole.h, prior[tau])


def _equations(rows: _Rows, gains: _Gains, support: Support) -> tuple[_Equations, _Equations]:
    """Normal equations of either fold. Guide bands count by the variance they explain over what they leave."""
    parts: list[_Equations] = []
    for fold in (0, 1):
        h, b, power = np.zeros((support.side**2,) * 2), np.zeros(support.side**2), 0.0
        for a in range(len(rows.view)):
            seen = support.features(rows.patches[a])
            seen -= seen.mean(axis=0)
            target = (rows.view[a] - rows.view[a].mean()) / gains.gain[a]
            variance = max(float(target.var()), np.finfo(np.float64).tiny)
            weight = 1 / (variance * max(gains.unexplained[a], LEAST_UNEXPLAINED))
            seen, target = seen[rows.fold == fold], target[rows.fold == fold]
            h += weight * (seen.T @ seen)
            b += weight * (target @ seen)
            power += weight * float(target @ target)
        parts.append(_Equations(h, b, power))
    return parts[0], parts[1]


def _smoothness(side: int) -> F64:
    """Matrix of |grad k|^2 + RIDGE |k|^2, k zero outside."""
    step = 2 * np.eye(side) - np.eye(side, k=1) - np.eye(side, k=-1)
    one = np.eye(side)
    return np.asarray(np.kron(step, one) + np.kron(one, step) + RIDGE * np.eye(side * side))


def _solve(h: F64, b: F64) -> F64:
    """argmin k^T h k - 2 b^T k over k >= 0, by ADMM (Boyd et al., 2011, section 5.2) with over-relaxation 1.7."""
    rho = 1e-3 * np.trace(h) / len(b)
    inverse = linalg.inv(h + rho * np.eye(len(b)), overwrite_a=True, check_finite=False)
    k = np.maximum(inverse @ b, 0.0)
    dual = np.zeros_like(k)
    for _ in range(ITERATIONS):
        free = 1.7 * (inverse @ (b + rho * (k - dual))) - 0.7 * k
        k = np.maximum(free + dual, 0.0)
        dual += free - k
    return k


def _check_gains(gains: _Gains) -> None:
    """Raises BadPair where a guide band falls when what it should see rises: no kernel mends that."""
    if (gains.gain <= 0).any():
        raise BadPair(f"gains of the guide bands are {np.round(gains.gain, 3).tolist()}, must be > 0: {ADVICE}")


def _check_response(gains: _Gains) -> None:
    """Raises BadPair where the guide does not see what the response says."""
    if np.median(gains.unexplained) > MOST_UNEXPLAINED:
        raise BadPair(
            f"the guide leaves {np.round(gains.unexplained, 2).tolist()} of the variance of its simulated bands "
            f"unexplained (most allowed in the median {MOST_UNEXPLAINED}): {ADVICE}"
        )
    other = gains.crossed + np.diag(np.full(len(gains.gain), np.inf))
    mixed = np.flatnonzero(
        (gains.unexplained > 0.05) & (gains.unexplained > SWAPPED * np.maximum(other.min(axis=1), 0))
    )
    if 2 * len(mixed) > len(gains.gain):
        raise BadPair(
            f"guide bands {mixed.tolist()} are seen better by guide bands {other[mixed].argmin(axis=1).tolist()} "
            f"(unexplained {np.round(gains.unexplained[mixed], 3).tolist()} against "
            f"{np.round(other[mixed].min(axis=1), 3).tolist()}): the bands of the guide or of the response are mixed up"
        )


def _check_kernel(kernel: F64, shift: tuple[float, float], setup: Setup, support: Support) -> None:
    """Raises BadPair where the guide is off by too much, or the kernel runs out of its support."""
    outer = support.outer(kernel)
    if outer > BORDER_SHARE:
        raise BadPair(
            f"{outer:.0%} of the blur kernel lies at the border of its support of {2 * support.reach + 1} pixels (most "
            f"allowed {BORDER_SHARE:.0%}): the image is blurred more than scale {setup.scale} says, or the pair is not "
            "registered"
        )
    if max(map(abs, shift)) > most_shift(setup):
        raise BadPair(
            f"the guide is off by dx {shift[1]:.1f}, dy {shift[0]:.1f} guide pixels (most allowed "
            f"{most_shift(setup):g}, LR pixels have {setup.scale}): register the pair first"
        )


def _noise(pairs: Pairs) -> tuple[F64, F64, float]:
    """Noise of each band of Y and X, and a bright value of Y."""
    sums = moments((pair.y, pair.y_valid) for pair in pairs())
    assert sums is not None  # enough valid pixels were found before
    found = subspace(sums)
    return found.noise_std if found else np.zeros(len(sums.second)), _guide_noise(pairs), sums.bright


def _guide_noise(pairs: Pairs) -> F64:
    """(m,) from the diagonal 2x2 differences of the calmest 8x8 blocks, less what other bands say of them.

    A guide has too few bands for the factor analysis of `subspace.py`, and the median of all blocks was 2 to 8 times
    too large on textured scenes, this is 0.9 to 1.2. Better too small than too large: what is taken for noise is gone.
    """
    found = []
    for pair in pairs():
        x, ok = pair.x.astype(np.float64), pair.x_valid
        h, w = (n // NOISE_BLOCK * NOISE_BLOCK for n in ok.shape)
        x, ok, n = x[:, :h, :w], ok[:h, :w], NOISE_BLOCK // 2
        d = (x[:, ::2, ::2] - x[:, ::2, 1::2] - x[:, 1::2, ::2] + x[:, 1::2, 1::2]) / 2
        blocks = d.reshape(len(x), d.shape[1] // n, n, d.shape[2] // n, n).transpose(0, 1, 3, 2, 4)
        whole = ok.reshape(h // NOISE_BLOCK, NOISE_BLOCK, w // NOISE_BLOCK, NOISE_BLOCK).all(axis=(1, 3))
        found.append(blocks[:, whole].reshape(len(x), -1, n * n))  # (m, blocks, 16)
    blocks = np.concatenate(found, axis=1)
    power = np.square(blocks).mean(axis=2)
    varies = (power > 0).all(axis=0)  # clipped values say nothing
    if not varies.any():
        return np.zeros(len(power))
    blocks, rank = blocks[:, varies], np.log(power[:, varies]).sum(axis=0)
    calm = np.argsort(rank, kind="stable")[: max(NOISE_BLOCKS, round(CALM * rank.size))]
    d = blocks[:, calm].reshape(len(blocks), -1)
    high = d @ d.T / d.shape[1]
    own = 1 / np.diag(np.linalg.inv(high + 1e-9 * np.diag(np.diag(high))))
    # The calmest of blocks of white noise are calmer than it: by 2.42 standard deviations of their mean square.
    share = 1 - 2.42 * math.sqrt(2 / power.shape[0] / blocks.shape[2]) if calm.size < rank.size else 1.0
    return np.sqrt(own / share)
