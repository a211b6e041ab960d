"""The mixed-noise protocol of QRNN3D (Wei, Fu & Huang, TNNLS 2020, utility/dataset.py), cases 1 to 5, on cubes of 0..1.

1  Gaussian noise of 10, 30, 50 or 70 of 255, drawn for each band
2  1, and column offsets in a third of the bands: of 5 to 15 % of the columns, uniform in -0.25..0.25
3  1, and 5 to 15 % of the columns of a third of the bands are 0
4  1, and 10, 30, 50 or 70 % of the numbers of a third of the bands are 0 or 1
5  1, and each of the three in a third of the bands of its own

And a realistic set, on Gaussian noise of 5 of 255 in every band:

6  impulses at no exact value: uniform in 0..1, 5 % of a third of the bands
7  columns that measure a constant with noise of their own: 3 % of the columns of a third of the bands
8  an offset of each column and band, of standard deviation 0.01
9  a gain of each column and band, of standard deviation 0.03, that drifts along the track by as much
10  8, slanted by 0.25 columns a row, as in an orthorectified scene
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hypermend.models.arrays import F32, Mask

CASES = (1, 2, 3, 4, 5)
REALISTIC = (6, 7, 8, 9, 10)
SIGMAS = (10, 30, 50, 70)
AMOUNTS = (0.1, 0.3, 0.5, 0.7)
COLUMNS = (0.05, 0.15)
"""Least and largest share of columns."""


@dataclass(frozen=True, kw_only=True)
class Spoilt:
    """A cube with noise, and where it is spoilt."""

    image: F32
    """(b, h, w)"""
    missing: Mask
    """(b, h, w) dead columns and impulses"""
    stripes: F32
    """(b, h, w) what stripes added"""


def spoil(truth: F32, case: int, seed: int) -> Spoilt:
    """Add the noise of one case to a cube (b, h, w)."""
    if case in REALISTIC:
        return _realistic(truth, case, seed)
    rng = np.random.default_rng([seed, case])
    b, h, w = truth.shape
    sigma = np.array(SIGMAS)[rng.integers(0, len(SIGMAS), b)] / 255
    image = (truth + rng.standard_normal(truth.shape) * sigma[:, None, None]).astype(np.float32)
    missing, offsets = np.zeros(truth.shape, bool), np.zeros((b, w))
    order, third = rng.permutation(b), b // 3
    kinds = {2: ("stripes",), 3: ("dead",), 4: ("impulses",), 5: ("stripes", "dead", "impulses")}.get(case, ())
    for i, kind in enumerate(kinds):
        for band in order[i * third : (i + 1) * third]:
            if kind == "impulses":
                struck = rng.random((h, w)) < AMOUNTS[rng.integers(0, len(AMOUNTS))]
                image[band] = np.where(struck, rng.random((h, w)) < 0.5, image[band])
                missing[band] |= struck
                continue
            columns = rng.permutation(w)[: rng.integers(int(np.ceil(COLUMNS[0] * w)), int(np.ceil(COLUMNS[1] * w)))]
            if kind == "dead":
                image[band][:, columns] = 0
                missing[band][:, columns] = True
            else:
                offsets[band, columns] = 0.25 - 0.5 * rng.random(len(columns))
    stripes = np.repeat(offsets[:, None].astype(np.float32), h, axis=1)
    return Spoilt(image=image + stripes, missing=missing, stripes=stripes)


def _realistic(truth: F32, case: int, seed: int) -> Spoilt:
    rng = np.random.default_rng([seed, case])
    b, h, w = truth.shape
    image = truth + 5 / 255 * rng.standard_normal(truth.shape)
    missing, stripes = np.zeros(truth.shape, bool), np.zeros(truth.shape)
    some = rng.permutation(b)[: b // 3]
    if case == 6:
        missing[some] = rng.random((len(some), h, w)) < 0.05
        image = np.where(missing, rng.random(truth.shape), image)
    elif case == 7:
        for band in some:
            columns = rng.permutation(w)[: max(1, round(0.03 * w))]
            missing[band][:, columns] = True
            image[band][:, columns] = rng.random(len(columns)) + 0.01 * rng.standard_normal((h, len(columns)))
    elif case == 9:
        gain = rng.normal(0, 0.03, (2, b, 1, w))
        stripes = truth * (gain[0] + gain[1] * np.sin(np.linspace(0, 2 * np.pi, h))[:, None])
    else:
        offsets = rng.normal(0, 0.01, (b, w + h))
        first = (0.25 * np.arange(h) * (case == 10)).astype(int)
        stripes = offsets[:, first[:, None] + np.arange(w)]
    return Spoilt(image=(image + stripes).astype(np.float32), missing=missing, stripes=stripes.astype(np.float32))
