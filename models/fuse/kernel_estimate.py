"""Blur kernel of a pair in closed form, and checks that the two images belong together.

Spectral response P and blur commute. With X = P Z and Y = (Z * k) decimated + noise, each guide band a and LR pixel i
give

    (P Y)_a[i] = gain_a sum_u k_u X_a[s i + u] + offset_a + noise          (convention of `signal/degrade.py`)

which is linear in k. All valid LR pixels of a scene, from any number of windows, enter one set of normal equations
H k = b (H of this file and of `kernel_equations.py` is their matrix), weighted by the inverse of what each guide band
leaves unexplained. `kernel_equations.py` solves them for k >= 0 with a smoothness term:

    min_k>=0  k^T H k - 2 b^T k + (noise / tau)^2 (|grad k|^2 + RIDGE |k|^2)

The smoothness fills in what the pixels do not determine. tau, the expected difference between neighbouring kernel
pixels, and the support are those that predict held-out LR pixels best. Where there are fewer equations than kernel
pixels, the kernel is a sum of tents `spacing` pixels apart. k is normalised to sum 1; its sum goes into the gains.
docs/decisions/0006 measures this closed form (the UAL paper learns k by Adam, from a Gaussian).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch

from hypermend.models.arrays import F64
from hypermend.models.fuse.interface import BadPair, Pair, PairGeometry
from hypermend.models.fuse.kernel_equations import TAUS, Gains, KernelFit, Pairs, Rows, Support, fit
from hypermend.models.fuse.moments import MOST_INVALID_SHARE
from hypermend.models.restorer import ArrayJson, array_from_json, array_to_json
from hypermend.models.signal.degrade import blur_down, centroid, gaussian_kernel
from hypermend.models.signal.subspace import moments, subspace

REACHES = (10, 16, 32)
"""HR pixels that a kernel may reach from the expected centroid; the first of at least 2 s is the largest tried."""
WIDER_SUPPORT_ERROR_RATIO = 0.98
"""Largest held-out error of a wider support, as a share of the narrower one's, for which it is taken."""
MOST_ROUNDS, SAME_GAIN = 3, 0.003
"""The gains need the kernel and the kernel the gains. Both are estimated in turn, until the ratios between the gains
change by less than `SAME_GAIN`, at most `MOST_ROUNDS` times."""
NOISE_BLOCK_PX, LEAST_NOISE_BLOCKS, CALM_SHARE = 8, 12, 0.02
"""The guide's noise is measured in blocks of this edge: the calmest 2 %, at least 12."""
OUTER_SHARE = 0.01
"""Share of a kernel in the outer two pixels of its support above which a wider support is tried."""
MATCH_REACH_PX, MATCH_ERROR_RATIO = 4, 0.8
"""HR pixels that the guide's own blur may reach, and the largest share of the unexplained variance that it may leave
for it to be used."""
MOST_BORDER_SHARE = 0.15
"""Largest share of a kernel in the outer two pixels of the largest support."""
MOST_UNEXPLAINED = 0.5
"""Largest share of variance that the median guide band may leave unexplained; above it the response or the images are
wrong. Two real sensors leave 0.01 to 0.1."""
ADVICE = (
    "check that the response has the bands of these two cubes in their order, and that both images show the same place "
    "at the same time"
)
SWAPPED_ERROR_RATIO = 4.0
"""Bands are mixed up where another guide band leaves this many times less of a simulated band unexplained."""


BlurStatistics = dict[str, Any]
"""`Blur` as JSON types, by the names of its fields."""


@dataclass(frozen=True, kw_only=True)
class Blur:
    """Blur, gains and noise of a pair. Arrays are over guide bands m or image bands b."""

    kernel: F64
    """(n, n), n odd, >= 0, sum 1."""
    centroid_px: tuple[float, float]
    """(y, x) HR pixels from HR pixel (s i, s j)."""
    shift_px: tuple[float, float]
    """(y, x) HR pixels from the expected centroid: misregistration of the guide. The kernel corrects for it."""
    condition: float
    """Largest over smallest eigenvalue of the regularised equations."""
    determined: float
    """Kernel pixels (of `unknowns`) that the data determine, not the smoothness: trace of the hat matrix."""
    unknowns: int
    tau: float
    """Expected difference between neighbouring kernel pixels. A given kernel has tau, unknowns and determined 0, and
    condition 1."""
    residual: float
    """Share of the variance of P Y that the kernel leaves unexplained."""
    held_out: float
    """`residual` on LR pixels that the kernel was not fitted to."""
    pixels: int
    """LR pixels with a valid footprint."""
    needed: int
    """Fewest such pixels for which a pair is accepted."""
    gain: F64
    """(m,) P Y = gain * (X * k) + offset."""
    offset: F64
    """(m,) physical units of Y."""
    unexplained: F64
    """(m,) share of the variance of (P Y)_a that gain, offset and kernel leave unexplained."""
    noise_y: F64
    """(b,) standard deviation of Y's white noise, physical units; 0 where it cannot be separated from texture."""
    noise_x: F64
    """(m,) standard deviation of X's white noise, physical units."""
    input_scale: float
    """A bright value of Y, physical units."""

    def to_json(self) -> BlurStatistics:
        """Return the fields as JSON types."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {
            k: array_to_json(v) if isinstance(v, np.ndarray) else list(v) if isinstance(v, tuple) else v
            for k, v in values.items()
        }

    @classmethod
    def from_json(cls, statistics: BlurStatistics) -> Blur:
        """Parse JSON types; the inverse of `to_json`, to float32 precision."""
        values: dict[str, Any] = {f.name: statistics[f.name] for f in fields(cls)}
        for k, v in values.items():
            if isinstance(v, dict):
                values[k] = array_from_json(cast(ArrayJson, v)).astype(np.float64)
            elif isinstance(v, list):
                values[k] = tuple(v)
        return cls(**values)


def reach(scale: int) -> int:
    """Return the HR pixels that the largest kernel of a scale reaches from its expected centroid."""
    return next((r for r in REACHES if r >= 2 * scale), REACHES[-1])


def most_shift(setup: PairGeometry) -> float:
    """Return the largest accepted misregistration of the guide, in HR pixels.

    On a grid, half an LR pixel. In a laboratory pair, one LR pixel: a shift is equivalent to a kernel that is not
    centred, which is estimated and used.
    """
    return setup.scale / 2 if setup.expected_centroid_px else float(setup.scale)


def estimate(pairs: Pairs, setup: PairGeometry) -> Blur:
    """Estimate kernel, gains and noise of a scene. Deterministic.

    Args:
        pairs: windows of the scene; read three times.
        setup: geometry of the pair.

    Raises:
        BadPair: too few valid LR pixels, a wrong response, a guide off by more than `most_shift`, or a kernel that does
            not fit its support.
    """
    middle, largest = math.floor(setup.expected_centroid_px), reach(setup.scale)
    rows = Rows.read(pairs, setup, middle, largest)
    fitted = _fit_kernel(rows, setup, largest) if setup.kernel is None else None
    kernel = fitted.kernel() if fitted else _odd(np.asarray(setup.kernel))
    gains, at = rows.gains(kernel), centroid(kernel)
    shift = (at[0] - setup.expected_centroid_px, at[1] - setup.expected_centroid_px)
    _check_gains(gains)
    _check_response(gains)
    _check_kernel(kernel, shift, setup, Support(middle, largest))
    noise_y, noise_x, bright = _noise(pairs)
    condition, determined = fitted.certainty() if fitted else (1.0, 0.0)
    return Blur(
        kernel=kernel,
        centroid_px=at,
        shift_px=shift,
        condition=condition,
        determined=determined,
        unknowns=len(fitted.weights) if fitted else 0,
        tau=fitted.tau if fitted else 0.0,
        residual=float(gains.unexplained.mean()),
        held_out=fitted.held_out if fitted else float(gains.unexplained.mean()),
        pixels=rows.pixels,
        needed=rows.needed,
        gain=gains.gain,
        offset=gains.offset,
        unexplained=gains.unexplained,
        noise_y=noise_y,
        noise_x=noise_x,
        input_scale=bright,
    )


def _fit_kernel(rows: Rows, setup: PairGeometry, largest: int) -> KernelFit:
    """Estimate kernel and gains in turn on the smallest support, then on wider ones while the kernel does not fit."""
    # In a laboratory pair a kernel may be smaller than an LR pixel.
    least = setup.scale / 2 if setup.expected_centroid_px else 0.0
    start = gaussian_kernel(2 * largest + 1, max(setup.scale / 2, 0.7))
    gains = rows.gains(Support(rows.middle, largest).kernel(start.ravel()))
    _check_gains(gains)
    supports = [rows.support(r) for r in REACHES if least <= r <= largest]
    for _ in range(MOST_ROUNDS):
        best = fit(rows, gains, supports[0], TAUS)
        before, gains = gains.gain, rows.gains(best.kernel())
        if np.abs(gains.gain / gains.gain.mean() * before.mean() / before - 1).max() < SAME_GAIN:
            break
    for wider in supports[1:]:
        if best.support.outer(best.kernel()) < OUTER_SHARE:
            break
        other = fit(rows, gains, wider, [t for t in TAUS if best.tau / 4 < t < best.tau * 4])
        if other.held_out < WIDER_SUPPORT_ERROR_RATIO * best.held_out:
            best = other
    return best


def match(pairs: Pairs, setup: PairGeometry) -> F64:
    """Estimate blur and shift of the guide against the image, g (n, n): P Y = ((X * g) * k) decimated, with k given.

    An estimated k contains g already. If k is given, two sensors still differ by their optics and by a fraction of a
    pixel, so the guide needs the sharpness and the position of the image.

    Returns:
        (9, 9) of sum 1, or [[1]] where that explains the image as well.
    """
    if setup.kernel is None:
        return np.ones((1, 1))
    k = torch.from_numpy(_odd(setup.kernel).astype(np.float32))

    def blurred() -> Iterator[Pair]:
        for pair in pairs():
            x = np.concatenate((pair.x, ~pair.x_valid[None]), dtype=np.float32)
            x = blur_down(torch.from_numpy(x)[None], k, 1)[0].numpy()
            yield replace(pair, x=x[:-1], x_valid=x[-1] < MOST_INVALID_SHARE)

    rows = Rows.read(blurred, setup, 0, MATCH_REACH_PX)
    identity = np.ones((1, 1))
    before = rows.gains(identity)
    fitted = fit(rows, before, Support(0, MATCH_REACH_PX), TAUS)
    left = rows.gains(fitted.kernel()).unexplained.mean()
    return fitted.kernel() if left < MATCH_ERROR_RATIO * before.unexplained.mean() else identity


def _odd(kernel: npt.NDArray[Any]) -> F64:
    """Pad a given kernel so that its centre is the middle of an odd square."""
    return np.pad(np.asarray(kernel, np.float64), (0, 1 - len(kernel) % 2))


def _check_gains(gains: Gains) -> None:
    """Raise BadPair where a guide band decreases as its simulated band increases: no kernel corrects that."""
    if (gains.gain <= 0).any():
        raise BadPair(f"gains of the guide bands are {np.round(gains.gain, 3).tolist()}, must be > 0: {ADVICE}")


def _check_response(gains: Gains) -> None:
    """Raise BadPair where the guide contradicts the response."""
    if np.median(gains.unexplained) > MOST_UNEXPLAINED:
        raise BadPair(
            f"the guide leaves {np.round(gains.unexplained, 2).tolist()} of the variance of its simulated bands "
            f"unexplained (most allowed in the median {MOST_UNEXPLAINED}): {ADVICE}"
        )
    other = gains.crossed + np.diag(np.full(len(gains.gain), np.inf))
    mixed = np.flatnonzero(
        (gains.unexplained > 0.05) & (gains.unexplained > SWAPPED_ERROR_RATIO * np.maximum(other.min(axis=1), 0))
    )
    if 2 * len(mixed) > len(gains.gain):
        raise BadPair(
            f"guide bands {mixed.tolist()} are seen better by guide bands {other[mixed].argmin(axis=1).tolist()} "
            f"(unexplained {np.round(gains.unexplained[mixed], 3).tolist()} against "
            f"{np.round(other[mixed].min(axis=1), 3).tolist()}): the bands of the guide or of the response are mixed up"
        )


def _check_kernel(kernel: F64, shift: tuple[float, float], setup: PairGeometry, support: Support) -> None:
    """Raise BadPair where the guide is misregistered by too much, or the kernel exceeds its support."""
    outer = support.outer(kernel)
    if outer > MOST_BORDER_SHARE:
        raise BadPair(
            f"{outer:.0%} of the blur kernel lies at the border of its support of {2 * support.reach + 1} pixels (most "
            f"allowed {MOST_BORDER_SHARE:.0%}): the image is blurred more than scale {setup.scale} says, or the pair "
            "is not registered"
        )
    if max(map(abs, shift)) > most_shift(setup):
        raise BadPair(
            f"the guide is off by dx {shift[1]:.1f}, dy {shift[0]:.1f} guide pixels (most allowed "
            f"{most_shift(setup):g}, LR pixels have {setup.scale}): register the pair first"
        )


def _noise(pairs: Pairs) -> tuple[F64, F64, float]:
    """Estimate the noise of each band of Y and X, and a bright value of Y."""
    sums = moments((pair.y, pair.y_valid) for pair in pairs())
    assert sums is not None  # `Rows.read` has found enough valid pixels
    space = subspace(sums)
    return space.noise_std if space else np.zeros(len(sums.second)), _guide_noise(pairs), sums.bright


def _guide_noise(pairs: Pairs) -> F64:
    """Estimate the guide's noise (m,) from diagonal 2x2 differences of the calmest 8x8 blocks.

    The regression of each band on the others is subtracted. A guide has too few bands for the factor analysis of
    `signal/subspace.py`. On textured scenes the median of all blocks was 2 to 8 times too large; this estimate is 0.9
    to 1.2 times the noise. Too small is better than too large: texture that counts as noise is lost.
    """
    parts = []
    for pair in pairs():
        x, ok = pair.x.astype(np.float64), pair.x_valid
        h, w = (n // NOISE_BLOCK_PX * NOISE_BLOCK_PX for n in ok.shape)
        x, ok, n = x[:, :h, :w], ok[:h, :w], NOISE_BLOCK_PX // 2
        d = (x[:, ::2, ::2] - x[:, ::2, 1::2] - x[:, 1::2, ::2] + x[:, 1::2, 1::2]) / 2
        blocks = d.reshape(len(x), d.shape[1] // n, n, d.shape[2] // n, n).transpose(0, 1, 3, 2, 4)
        whole = ok.reshape(h // NOISE_BLOCK_PX, NOISE_BLOCK_PX, w // NOISE_BLOCK_PX, NOISE_BLOCK_PX).all(axis=(1, 3))
        parts.append(blocks[:, whole].reshape(len(x), -1, n * n))  # (m, blocks, 16)
    blocks = np.concatenate(parts, axis=1)
    power = np.square(blocks).mean(axis=2)
    varies = (power > 0).all(axis=0)  # clipped values carry no noise
    if not varies.any():
        return np.zeros(len(power))
    blocks, rank = blocks[:, varies], np.log(power[:, varies]).sum(axis=0)
    calm = np.argsort(rank, kind="stable")[: max(LEAST_NOISE_BLOCKS, round(CALM_SHARE * rank.size))]
    d = blocks[:, calm].reshape(len(blocks), -1)
    high = d @ d.T / d.shape[1]
    own = 1 / np.diag(np.linalg.inv(high + 1e-9 * np.diag(np.diag(high))))
    # The calmest blocks of white noise have less power than it, by 2.42 standard deviations of their mean square.
    share = 1 - 2.42 * math.sqrt(2 / power.shape[0] / blocks.shape[2]) if calm.size < rank.size else 1.0
    return np.sqrt(own / share)
