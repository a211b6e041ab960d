"""Measures: known answers, and the same numbers as torchmetrics."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torchmetrics.functional.image import (
    error_relative_global_dimensionless_synthesis,
    peak_signal_noise_ratio,
    spectral_angle_mapper,
    structural_similarity_index_measure,
)

from hypermend.models.signal import metrics


@pytest.fixture(scope="module")
def pair() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    truth = np.cumsum(rng.random((7, 40, 33)), axis=2)
    truth /= truth.max()
    return truth, truth + rng.normal(0, 0.05, truth.shape)


def as_torch(*cubes: np.ndarray) -> list[torch.Tensor]:
    return [torch.from_numpy(c)[None] for c in cubes]


def test_same_as_torchmetrics(pair: tuple[np.ndarray, np.ndarray]) -> None:
    truth, estimate = pair
    t, e = as_torch(truth, estimate)
    assert metrics.psnr(truth, estimate) == pytest.approx(
        float(peak_signal_noise_ratio(e, t, data_range=1.0)), abs=1e-5
    )
    assert metrics.ssim(truth, estimate) == pytest.approx(
        float(structural_similarity_index_measure(e, t, data_range=1.0)), abs=1e-5
    )
    assert math.radians(metrics.sam(truth, estimate).degrees) == pytest.approx(
        float(spectral_angle_mapper(e, t)), abs=1e-5
    )
    for ratio in (2.0, 4.0):
        assert metrics.ergas(truth, estimate, ratio=ratio) == pytest.approx(
            float(error_relative_global_dimensionless_synthesis(e, t, ratio=ratio)), rel=1e-5
        )


def test_known_answers() -> None:
    truth = np.full((3, 12, 12), 0.5)
    assert metrics.psnr(truth, truth + 0.1) == pytest.approx(20.0)
    assert metrics.rmse(truth, truth + 0.1) == pytest.approx(0.1)
    uneven = truth + np.array([0.1, 0.01, 0.01])[:, None, None]
    assert metrics.psnr_bands(truth, uneven) == pytest.approx((20 + 40 + 40) / 3)
    assert metrics.psnr(truth, truth) == math.inf
    assert metrics.ssim(truth, truth) == pytest.approx(1.0)


def test_sam_ignores_brightness_and_counts_dark_pixels(pair: tuple[np.ndarray, np.ndarray]) -> None:
    truth, _ = pair
    truth = truth.copy()
    truth[:, 0, :4] = 0
    assert metrics.sam(truth, truth * 3).degrees == pytest.approx(0, abs=1e-5)
    angle = metrics.sam(truth, truth)
    assert (angle.degrees, angle.left_out, angle.counted) == (0.0, 4, 40 * 33 - 4)
    assert metrics.sam(truth, np.zeros_like(truth)).degrees == pytest.approx(90)


def test_nodata_changes_nothing(pair: tuple[np.ndarray, np.ndarray]) -> None:
    truth, estimate = pair
    valid = np.ones(truth.shape[1:], bool)
    valid[:, 25:] = False
    broken = np.where(valid, estimate, np.nan)
    for score in (metrics.psnr, metrics.psnr_bands, metrics.rmse, metrics.ergas):
        assert score(truth, broken, valid) == pytest.approx(score(truth[..., :25], estimate[..., :25]))
    assert metrics.ssim(truth, broken, valid) == metrics.ssim(truth, np.where(valid, estimate, 7.0), valid)
    assert metrics.sam(truth, broken, valid) == metrics.sam(truth[..., :25], estimate[..., :25])


def test_refusals(pair: tuple[np.ndarray, np.ndarray]) -> None:
    truth, estimate = pair
    with pytest.raises(ValueError, match="must be the same"):
        metrics.psnr(truth, estimate[:3])
    with pytest.raises(ValueError, match="no valid pixel"):
        metrics.psnr(truth, estimate, np.zeros(truth.shape[1:], bool))
    with pytest.raises(ValueError, match="at least 11x11"):
        metrics.ssim(truth[:, :5], estimate[:, :5])
