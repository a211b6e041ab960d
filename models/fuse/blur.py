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
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch

from hypermend.models.arrays import F64
from hypermend.models.fuse.kernel_fit import TAUS, Gains, KernelFit, Pairs, Rows, Support, fit
from hypermend.models.fuse.moments import GAP
from hypermend.models.fuse.protocol import BadPair, Pair, PairGeometry
from hypermend.models.restorer import ArrayJson, array_from_json, array_to_json
from hypermend.models.signal.degrade import blur_down, centroid, gaussian_kernel
from hypermend.models.signal.subspace import moments, subspace

REACHES = (10, 16, 32)
"""HR pixels that a kernel may reach from the expected centroid; the largest tried is the first of at least 2 s."""
BETTER = 0.98
"""A wider support must predict held-out pixels by this much better."""
ROUNDS, SAME_GAIN = 3, 0.003
"""Gains of the guide bands need the kernel and the kernel the gains: at most so often, until the gains' ratios stay."""
NOISE_BLOCK, NOISE_BLOCKS, CALM = 8, 12, 0.02
"""Pixels of a block's edge, least number of blocks and share of them that the guide's noise is measured in."""
FITS = 0.01
"""A wider support is tried where more than this share of the kernel lies in the outer two pixels."""
MATCH, MATCHED = 4, 0.8
"""HR pixels that the guide's own blur may reach, and the share of the unexplained that it must leave at most."""
BORDER_SHARE = 0.15
"""Share of a kernel that may lie in the outer two pixels of the largest support."""
MOST_UNEXPLAINED = 0.5
"""Above this in the median guide band, response or images are plainly wrong. Two real sensors leave 0.01 to 0.1."""
ADVICE = (
    "check that the response has the bands of these two cubes in their order, and that both images show the same place "
    "at the same time"
)
SWAPPED = 4.0
"""A guide band that explains another band's view this many times better than that band itself: bands are mixed up."""


BlurStatistics = dict[str, Any]
"""`Blur` as JSON types, by the names of its fields."""


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
    """Chosen step between kernel pixels. A known kernel has tau, unknowns and determined 0, and condition 1."""
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

    def to_json(self) -> BlurStatistics:
        """JSON types."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {
            k: array_to_json(v) if isinstance(v, np.ndarray) else list(v) if isinstance(v, tuple) else v
            for k, v in values.items()
        }

    @classmethod
    def from_json(cls, statistics: BlurStatistics) -> Blur:
        """Inverse of `to_json`, to float32 precision."""
        values: dict[str, Any] = {f.name: statistics[f.name] for f in fields(cls)}
        for k, v in values.items():
            if isinstance(v, dict):
                values[k] = array_from_json(cast(ArrayJson, v)).astype(np.float64)
            elif isinstance(v, list):
                values[k] = tuple(v)
        return cls(**values)


def reach(scale: int) -> int:
    """HR pixels that the largest kernel of a scale reaches from its expected centroid."""
    return next((r for r in REACHES if r >= 2 * scale), REACHES[-1])


def most_shift(setup: PairGeometry) -> float:
    """HR pixels that the guide may be off.

    Half an LR pixel on a grid. In a laboratory a shift is as good as a kernel off its centre, which is found and used,
    so one LR pixel.
    """
    return setup.scale / 2 if setup.expected_centroid_px else float(setup.scale)


def estimate(pairs: Pairs, setup: PairGeometry) -> Blur:
    """Kernel, gains and noise of a scene. Deterministic.

    Args:
        pairs: windows of the scene; passed over three times.
        setup: what the pair is.

    Raises:
        BadPair: too few valid LR pixels, a response that is plainly wrong, a guide off by more than `most_shift`, or a
            kernel that does not fit its support.
    """
    middle, largest = math.floor(setup.expected_centroid_px), reach(setup.scale)
    rows = Rows.of(pairs, setup, middle, largest)
    found: KernelFit | None = None
    if setup.kernel is None:
        found = _find(rows, setup, largest)
    kernel = found.kernel() if found else _odd(np.asarray(setup.kernel))
    gains, at = rows.gains(kernel), centroid(kernel)
    shift = (at[0] - setup.expected_centroid_px, at[1] - setup.expected_centroid_px)
    _check_gains(gains)
    _check_response(gains)
    _check_kernel(kernel, shift, setup, Support(middle, largest))
    noise_y, noise_x, bright = _noise(pairs)
    condition, determined = found.certainty() if found else (1.0, 0.0)
    return Blur(
        kernel=kernel,
        centroid_px=at,
        shift_px=shift,
        condition=condition,
        determined=determined,
        unknowns=len(found.weights) if found else 0,
        tau=found.tau if found else 0.0,
        residual=float(gains.unexplained.mean()),
        held_out=found.held_out if found else float(gains.unexplained.mean()),
        pixels=rows.pixels,
        needed=rows.needed,
        gain=gains.gain,
        offset=gains.offset,
        unexplained=gains.unexplained,
        noise_y=noise_y,
        noise_x=noise_x,
        input_scale=bright,
    )


def _find(rows: Rows, setup: PairGeometry, largest: int) -> KernelFit:
    """Kernel and gains in turns on the smallest support, then a wider one if the kernel does not fit into it."""
    # In a laboratory a kernel may be smaller than an LR pixel.
    least = setup.scale / 2 if setup.expected_centroid_px else 0.0
    start = gaussian_kernel(2 * largest + 1, max(setup.scale / 2, 0.7))
    gains = rows.gains(Support(rows.middle, largest).kernel(start.ravel()))
    _check_gains(gains)
    supports = [rows.support(r) for r in REACHES if least <= r <= largest]
    for _ in range(ROUNDS):
        best = fit(rows, gains, supports[0], TAUS)
        before, gains = gains.gain, rows.gains(best.kernel())
        if np.abs(gains.gain / gains.gain.mean() * before.mean() / before - 1).max() < SAME_GAIN:
            break
    for wider in supports[1:]:
        if best.support.outer(best.kernel()) < FITS:
            break
        other = fit(rows, gains, wider, [t for t in TAUS if best.tau / 4 < t < best.tau * 4])
        if other.held_out < BETTER * best.held_out:
            best = other
    return best


def match(pairs: Pairs, setup: PairGeometry) -> F64:
    """The guide's own blur and shift against the image, g (n, n): P Y = ((X * g) * k) decimated, with k known.

    Where k is estimated it holds g already. Where k is known, two sensors still differ by their optics and by a
    fraction of a pixel, and the guide must be made as sharp, and put, as what it is to guide.

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
            yield replace(pair, x=x[:-1], x_valid=x[-1] < GAP)

    rows = Rows.of(blurred, setup, 0, MATCH)
    one = np.ones((1, 1))
    before = rows.gains(one)
    found = fit(rows, before, Support(0, MATCH), TAUS)
    left = rows.gains(found.kernel()).unexplained.mean()
    return found.kernel() if left < MATCHED * before.unexplained.mean() else one


def _odd(kernel: npt.NDArray[Any]) -> F64:
    """A known kernel with its centre in the middle of an odd square."""
    return np.pad(np.asarray(kernel, np.float64), (0, 1 - len(kernel) % 2))


def _check_gains(gains: Gains) -> None:
    """Raises BadPair where a guide band falls when what it should see rises: no kernel mends that."""
    if (gains.gain <= 0).any():
        raise BadPair(f"gains of the guide bands are {np.round(gains.gain, 3).tolist()}, must be > 0: {ADVICE}")


def _check_response(gains: Gains) -> None:
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


def _check_kernel(kernel: F64, shift: tuple[float, float], setup: PairGeometry, support: Support) -> None:
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
