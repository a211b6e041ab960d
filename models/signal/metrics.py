"""Quality measures of an estimate. Cubes are (bands, h, w); pixels outside `valid` (h, w) do not count.

All sums in float64. They agree with torchmetrics to 1e-5 where it has the same measure (tested).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from hypermend.models.arrays import F64, Floats, Mask

WINDOW, SSIM_SIGMA = 11, 1.5
"""SSIM's gaussian window, pixels."""


@dataclass(frozen=True, kw_only=True)
class Angle:
    """Spectral angle: mean in degrees over `counted` pixels; `left_out` valid ones have an all-zero true spectrum."""

    degrees: float
    counted: int
    left_out: int


def _spectra(truth: Floats, estimate: Floats, valid: Mask | None) -> tuple[F64, F64]:
    """Both as (bands, n) float64 of the valid pixels.

    Raises:
        ValueError: shapes differ, or nothing is valid.
    """
    if truth.shape != estimate.shape or truth.ndim != 3:
        raise ValueError(f"truth {truth.shape} and estimate {estimate.shape}: must be the same (bands, h, w)")
    if valid is None:
        valid = np.ones(truth.shape[1:], dtype=bool)
    if valid.shape != truth.shape[1:]:
        raise ValueError(f"valid {valid.shape}: must be (h, w) = {truth.shape[1:]}")
    if not valid.any():
        raise ValueError("no valid pixel to score")
    return truth[:, valid].astype(np.float64), estimate[:, valid].astype(np.float64)


def _decibels(mse: F64, peak: float) -> F64:
    with np.errstate(divide="ignore"):
        return np.asarray(20 * np.log10(peak) - 10 * np.log10(mse), dtype=np.float64)


def rmse(truth: Floats, estimate: Floats, valid: Mask | None = None) -> float:
    """Root of one mean square over the cube."""
    t, e = _spectra(truth, estimate, valid)
    return float(np.sqrt(np.square(t - e).mean()))


def psnr(truth: Floats, estimate: Floats, valid: Mask | None = None, *, peak: float = 1.0) -> float:
    """Peak signal to noise, dB, from ONE mean square error over the whole cube; inf where they are equal."""
    t, e = _spectra(truth, estimate, valid)
    return float(_decibels(np.square(t - e).mean(), peak))


def psnr_bands(truth: Floats, estimate: Floats, valid: Mask | None = None, *, peak: float = 1.0) -> float:
    """Mean over the bands of each band's own PSNR, dB (what some papers print; higher than `psnr`)."""
    t, e = _spectra(truth, estimate, valid)
    return float(_decibels(np.square(t - e).mean(axis=1), peak).mean())


def sam(truth: Floats, estimate: Floats, valid: Mask | None = None) -> Angle:
    """Spectral angle mapper: angle between true and estimated spectrum, mean over pixels.

    An estimate that is all zero where the truth is not counts as 90 degrees.
    """
    t, e = _spectra(truth, estimate, valid)
    length = np.linalg.norm(t, axis=0)
    has = length > 0
    if not has.any():
        raise ValueError("all true spectra are zero: no angle to measure")
    t, e = t[:, has], e[:, has]
    norm = np.linalg.norm(e, axis=0)
    cosine = (t * e).sum(axis=0) / (length[has] * np.where(norm > 0, norm, 1.0))
    angle = np.degrees(np.arccos(np.clip(cosine, -1, 1)))
    # arccos loses the small angles (its slope is infinite at 1): equal spectra must give 0.
    angle[(t == e).all(axis=0)] = 0.0
    return Angle(degrees=float(angle.mean()), counted=int(has.sum()), left_out=int((~has).sum()))


def ergas(truth: Floats, estimate: Floats, valid: Mask | None = None, *, ratio: float = 4.0) -> float:
    """Relative global error: 100 / ratio * sqrt(mean over bands of (RMSE_b / mean_b)^2). Wald, 2000.

    Args:
        truth: (bands, h, w); every band's mean must not be zero.
        estimate: the same.
        valid: (h, w).
        ratio: pixel size of the coarse image over that of the fine one.
    """
    t, e = _spectra(truth, estimate, valid)
    mean = t.mean(axis=1)
    if (mean == 0).any():
        raise ValueError(f"ERGAS divides by each band's mean: band {int(np.argmax(mean == 0))} has mean 0")
    error = np.square(t - e).mean(axis=1) / np.square(mean)
    return float(100 / ratio * np.sqrt(error.mean()))


def ssim(truth: Floats, estimate: Floats, valid: Mask | None = None, *, peak: float = 1.0) -> float:
    """Structural similarity of each band, 11x11 gaussian window (1.5 px), K = 0.01, 0.03; mean over bands and windows.

    A window around every pixel, the image reflected at its edges (as torchmetrics does it); windows that hold an
    invalid pixel do not count. Wang et al., 2004.
    """
    _spectra(truth, estimate, valid)
    t = torch.from_numpy(np.where(np.isfinite(truth), truth, 0).astype(np.float64))[:, None]  # (b, 1, h, w)
    e = torch.from_numpy(np.where(np.isfinite(estimate), estimate, 0).astype(np.float64))[:, None]
    if min(t.shape[2:]) < WINDOW:
        raise ValueError(f"SSIM needs at least {WINDOW}x{WINDOW} pixels, the cube has {tuple(t.shape[2:])}")
    at = torch.arange(WINDOW, dtype=torch.float64) - WINDOW // 2
    g = torch.exp(-at.square() / (2 * SSIM_SIGMA**2))
    g = g / g.sum()

    reach = WINDOW // 2

    def blur(x: torch.Tensor) -> torch.Tensor:
        x = functional.pad(x, (reach, reach, reach, reach), mode="reflect")
        x = functional.conv2d(x, g[None, None, :, None])
        return functional.conv2d(x, g[None, None, None, :])

    mt, me = blur(t), blur(e)  # (b, 1, h, w)
    vt, ve, cov = blur(t * t) - mt * mt, blur(e * e) - me * me, blur(t * e) - mt * me
    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    value = (2 * mt * me + c1) * (2 * cov + c2) / ((mt * mt + me * me + c1) * (vt + ve + c2))
    if valid is not None:
        bad = torch.from_numpy(~valid).double()[None, None]
        whole = functional.max_pool2d(bad, WINDOW, stride=1, padding=reach)[0, 0] == 0  # (h, w)
        if not whole.any():
            raise ValueError(f"no {WINDOW}x{WINDOW} window without an invalid pixel")
        value = value[:, :, whole]
    return float(value.mean())
