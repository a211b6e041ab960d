"""Standard deviation of a denoised number, from a parametric bootstrap of its own scene.

The restored scene plays the truth: noise of the scene's own level is added to some windows of it, they are estimated
anew, axes and all, and restored. What differs from the first result is error that is known. (Efron & Tibshirani, "An
Introduction to the Bootstrap", 1993, chapter 6.5.)

    v(a, t)  mean square error of a coefficient, in units of the noise, by its own detail a nearby and by the detail t
             of all coefficients: errors live where there is detail
    f_b      for each band, its square error relative to what v makes of it
    var_b = G d_b^2 f_b (sum_k U_bk^2 v(a_k, t) + OUTSIDE (1 - sum_k U_bk^2))

The restored scene has less texture than the scene: the true square error is larger. On training scenes of several
sensors the ratio lies between 1.5 and 2.6 at any noise; G (`MORE`) is its middle.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypedDict

import numpy as np
import torch
from torch.nn import functional

from hypermend.models.arrays import F32, F64
from hypermend.models.restorer import ArrayJson, Restorer, array_from_json, array_to_json

MORE = 1.7
"""True square error over that of the bootstrap, on training scenes (`ratio` of `benchmarks.uncertainty`)."""
OUTSIDE = 2e-3
"""Error outside of the axes, in units of the noise's variance."""
LEAST, DECADES = 1e-5, 9
"""Detail is told apart by its decimal logarithm, from -5 in steps of 1."""
PRIOR = 200.0
"""Numbers that a cell of the table is averaged with: the mean of its row."""
FACTORS = (0.25, 4.0)
"""Least and most of f_b."""
REACH_PX = 3
"""Pixels on each side of a coefficient's own reach."""


class ErrorJson(TypedDict):
    """`ErrorTable` as JSON types."""

    table: ArrayJson
    bands: ArrayJson


def detail(z: torch.Tensor) -> torch.Tensor:
    """Mean square of 3x3 pixels of what 5x5 means lack, (B, K, H, W) -> the same."""
    mean = functional.avg_pool2d(z, 5, stride=1, padding=2, count_include_pad=False)
    return functional.avg_pool2d((z - mean).square(), 3, stride=1, padding=1, count_include_pad=False)


class ErrorTable:
    """v and f_b of one scene."""

    def __init__(self, table: F32, bands: F32) -> None:
        """Take v (9, 9) at the decades of a and t, and G f_b (b,)."""
        self.table, self.bands = torch.from_numpy(table), torch.from_numpy(bands)

    def variance(self, z: torch.Tensor, axes: torch.Tensor) -> torch.Tensor:
        """Variance of the error of each band, in units of the variance of its noise.

        Args:
            z: (B, K, H, W) estimated coefficients.
            axes: (b, K) squares of the axes' elements.

        Returns:
            (B, b, H, W).
        """
        table, bands = self.table.to(z.device), self.bands.to(z.device)
        var = torch.einsum("bk,nkhw->nbhw", axes, _looked_up(table, *_places(z)))
        var += OUTSIDE * (1 - axes.sum(dim=1)).clamp_min(0)[:, None, None]
        return var.mul_(bands[:, None, None])

    def to_json(self) -> ErrorJson:
        """Return the fields as JSON types."""
        return {"table": array_to_json(self.table.numpy()), "bands": array_to_json(self.bands.numpy())}

    @classmethod
    def from_json(cls, stored: ErrorJson) -> ErrorTable:
        """Parse JSON types; the inverse of `to_json`."""
        return cls(array_from_json(stored["table"]), array_from_json(stored["bands"]))


class ErrorSums:
    """Sums over the windows of a bootstrap, from which a table is made."""

    def __init__(self, axes: torch.Tensor) -> None:
        """Take the squares of the axes' elements (b, K)."""
        self._axes = axes
        self._sums: F64 = np.zeros((2, DECADES, DECADES))
        """Square errors of coefficients, and their number, by decade of a and t."""
        self._estimates: list[torch.Tensor] = []
        self._errors: list[torch.Tensor] = []

    def add(self, z: torch.Tensor, error: torch.Tensor, band_error: torch.Tensor) -> None:
        """Add a window.

        Args:
            z: (1, K, h, w) estimated coefficients.
            error: (1, K, h, w) their error.
            band_error: (1, b, h, w) error of each band in units of its noise.
        """
        square = error.square().double().flatten()
        for row, column, share in _corners(*_places(z)):
            at, weight = (row * DECADES + column).flatten().numpy(), share.double().flatten()
            for sums, values in zip(self._sums, (square * weight, weight), strict=True):
                sums += np.bincount(at, values.numpy(), DECADES**2).reshape(DECADES, DECADES)
        self._estimates.append(z)
        self._errors.append(band_error)

    def table(self) -> ErrorTable:
        """Make the table."""
        square, number = self._sums
        rows, count = square.sum(axis=1), number.sum(axis=1)
        seen, decades = count > 0, np.arange(DECADES)
        row = np.interp(decades, decades[seen], rows[seen] / count[seen])  # as in the nearest decade that was seen
        table = ((square + PRIOR * row[:, None]) / (number + PRIOR)).astype(np.float32)
        plain = ErrorTable(table, np.ones(len(self._axes), np.float32))
        told = np.mean([plain.variance(z, self._axes).mean(dim=(0, 2, 3)).numpy() for z in self._estimates], axis=0)
        factors = np.clip(mean_square(self._errors) / np.maximum(told, 1e-12), *FACTORS)
        return ErrorTable(table, (MORE * factors).astype(np.float32))


def mean_square(errors: Iterable[torch.Tensor]) -> F32:
    """Mean square of the errors (1, b, h, w) of windows, (b,)."""
    return np.asarray(np.mean([e.square().double().mean(dim=(0, 2, 3)).numpy() for e in errors], axis=0), np.float32)


def bootstrap(windows: Iterable[F32], restorer: Restorer, noise_std: F64, margin: int) -> tuple[list[F32], list[F32]]:
    """Restore windows, and add noise to the results.

    Args:
        windows: (b, m + h + m, m + w + m) each, m the margin.
        restorer: of their scene.
        noise_std: (b,) its noise.
        margin: pixels.

    Returns:
        The results, and the same with noise, (b, h, w) each.
    """
    rng, inner = np.random.default_rng(0), (..., *(slice(margin, -margin or None),) * 2)
    clean = [restorer(torch.from_numpy(w)[None])[0].numpy()[inner] for w in windows]
    std = noise_std.astype(np.float32)[:, None, None]
    return clean, [c + std * rng.standard_normal(c.shape, dtype=np.float32) for c in clean]


def redone(
    restorer: Restorer, clean: Iterable[F32], noisy: Iterable[F32], noise_std: F64, margin: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Each noisy window (1, b, H, W) with its margin, and its error once restored, in units of the noise (1, b, h, w).

    A band without noise has no error.
    """
    inner = (..., *(slice(margin, -margin or None),) * 2)
    white = np.divide(1.0, noise_std, where=noise_std > 0, out=np.zeros_like(noise_std)).astype(np.float32)
    for truth, window in zip(clean, noisy, strict=True):
        x = functional.pad(torch.from_numpy(window)[None], (margin,) * 4, mode="replicate")
        error = restorer(x)[0][inner] - torch.from_numpy(truth)
        yield x, (error * torch.from_numpy(white)[:, None, None])[None]


def _places(z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Decades of the detail of each coefficient and of all, (B, K, H, W) each, 0 to DECADES - 1."""
    own = detail(z)
    of_all = own.sum(dim=1, keepdim=True).expand_as(own)
    return _decade(own), _decade(of_all)


def _decade(x: torch.Tensor) -> torch.Tensor:
    return ((x + LEAST) / LEAST).log10().clamp(0, DECADES - 1.001)


def _corners(own: torch.Tensor, of_all: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Row, column and share of the four cells of the table around each place."""
    (i, j), found = (own.long(), of_all.long()), []
    for row, down in ((i, 1 - (own - i)), (i + 1, own - i)):
        found += [(row, j, down * (1 - (of_all - j))), (row, j + 1, down * (of_all - j))]
    return found


def _looked_up(table: torch.Tensor, own: torch.Tensor, of_all: torch.Tensor) -> torch.Tensor:
    """The table between its cells (bilinear)."""
    out = torch.zeros_like(own)
    for row, column, share in _corners(own, of_all):
        out += table[row, column] * share
    return out
