"""Degradations: the level asked for, one seed one result."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from hypermend.models.signal import degrade


def test_gaussian_follows_the_protocols_generator() -> None:
    cube = np.full((3, 50, 60), 0.5, np.float32)
    noise = np.random.default_rng([0, 30]).normal(0, 30 / 255, cube.shape)
    out = degrade.gaussian(cube, 30 / 255, np.random.default_rng([0, 30]))
    np.testing.assert_allclose(out, cube + noise, atol=1e-6)
    np.testing.assert_array_equal(degrade.gaussian(cube, 0.0, np.random.default_rng(1)), cube)


def test_each_band_its_own_noise() -> None:
    std = np.array([0.1, 0.2, 0.3, 0.4])
    out = degrade.gaussian(np.zeros((4, 200, 200), np.float32), std, np.random.default_rng(0))
    np.testing.assert_allclose(out.std(axis=(1, 2)), std, rtol=0.02)


def test_stripes_are_constant_along_columns() -> None:
    cube = np.random.default_rng(3).random((5, 30, 40)).astype(np.float32)
    d = degrade.stripes(cube, 0.1, np.random.default_rng(0), bands=1.0, columns=0.5) - cube
    np.testing.assert_allclose(d, np.broadcast_to(d[:, :1], d.shape), atol=1e-6)
    assert 0.3 < (np.abs(d[:, 0]) > 1e-5).mean() < 0.7
    np.testing.assert_array_equal(degrade.stripes(cube, 0.0, np.random.default_rng(0)), cube)


def plain_loop(z: np.ndarray, k: np.ndarray, s: int) -> np.ndarray:
    """The convention, word by word."""
    n, (b, rows, cols) = k.shape[0], z.shape
    out = np.zeros((b, rows // s, cols // s))
    for i in range(rows // s):
        for j in range(cols // s):
            for u in range(n):
                for v in range(n):
                    y, x = np.clip(s * i + u - n // 2, 0, rows - 1), np.clip(s * j + v - n // 2, 0, cols - 1)
                    out[:, i, j] += k[u, v] * z[:, y, x]
    return out


@pytest.mark.parametrize(("n", "s"), [(5, 3), (6, 3), (4, 8), (9, 4), (10, 4), (1, 2), (7, 1)])
def test_blur_down_is_the_plain_loop(n: int, s: int) -> None:
    rng = np.random.default_rng(n)
    z, k = rng.random((2, 4 * s, 3 * s)), rng.random((n, n))
    out = degrade.blur_down(torch.from_numpy(z)[None], torch.from_numpy(k), s)[0].numpy()
    np.testing.assert_allclose(out, plain_loop(z, k, s), rtol=1e-12)


@pytest.mark.parametrize("n", [7, 8])
def test_odd_and_even_kernels_have_one_phase(n: int) -> None:
    z = torch.rand(1, 2, 24, 32, generator=torch.Generator().manual_seed(0))
    k = torch.zeros(n, n)
    k[n // 2, n // 2] = 1
    torch.testing.assert_close(degrade.blur_down(z, k, 8), z[:, :, ::8, ::8])
    assert degrade.centroid(k.numpy()) == (0.0, 0.0)


def test_blur_down_refuses_what_does_not_divide() -> None:
    with pytest.raises(ValueError, match="10x12 pixels are no multiple of the scale 4"):
        degrade.blur_down(torch.zeros(1, 1, 10, 12), torch.ones(1, 1), 4)
    with pytest.raises(ValueError, match=r"\(2, 3\)"):
        degrade.blur_down(torch.zeros(1, 1, 12, 12), torch.ones(2, 3), 4)


def test_noise_of_a_signal_to_noise_ratio() -> None:
    cube = np.random.default_rng(1).random((4, 80, 80)).astype(np.float32)
    noisy = degrade.gaussian(cube, degrade.snr_std(cube, 30), np.random.default_rng([0, 30]))
    power = np.square(cube).mean() / np.square(noisy - cube).mean()
    assert 10 * np.log10(power) == pytest.approx(30, abs=0.1)


def test_respond_mixes_bands() -> None:
    z = torch.rand(1, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    p = torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]])
    torch.testing.assert_close(degrade.respond(z, p), torch.stack([(z[:, 0] + z[:, 1]) / 2, z[:, 2]], dim=1))


def upsample_halo(scale: int, shift_px: float) -> int:
    """LR pixels that `upsample` may reach, for centroids of at most `shift_px` HR pixels in either direction."""
    return degrade.UPSAMPLE_TAPS + math.ceil(abs(shift_px) / scale)


@pytest.mark.parametrize(
    ("s", "c"), [(8, (0.0, 0.0)), (8, (3.5, 3.5)), (3, (1.0, -1.3)), (32, (15.5, 20.0)), (1, (0.0, 0.4))]
)
def test_upsampling_puts_samples_where_the_kernel_has_its_mass(s: int, c: tuple[float, float]) -> None:
    def ramp(y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return 2 * y[:, None] - 0.7 * x[None, :] + 0.01 * y[:, None] * x[None, :] + 0.02 * x[None, :] ** 2

    lr = torch.arange(12, dtype=torch.float64)
    samples = ramp(lr * s + c[0], lr * s + c[1])
    hr = torch.arange(12 * s, dtype=torch.float64)
    up = degrade.upsample(samples[None, None], s, c)[0, 0]
    m = upsample_halo(s, max(map(abs, c))) * s
    torch.testing.assert_close(up[m:-m, m:-m], ramp(hr, hr)[m:-m, m:-m])


def test_upsampling_reaches_no_farther_than_its_halo() -> None:
    s, c = 4, (1.5, -2.0)
    y = torch.zeros(1, 1, 15, 15)
    y[0, 0, 7, 7] = 1
    rows, cols = torch.nonzero(degrade.upsample(y, s, c)[0, 0], as_tuple=True)
    reach = upsample_halo(s, 2.0)
    for at in (rows // s, cols // s):
        assert 7 - reach <= at.min() and at.max() <= 7 + reach
