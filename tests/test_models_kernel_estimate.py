"""The kernel of a pair: found from images with texture, odd or even, in one window or several; or refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage

from hypermend.models.fuse import kernel_estimate
from hypermend.models.fuse.interface import BadPair, Pair, PairGeometry
from hypermend.models.fuse.kernel_estimate import Blur
from hypermend.models.signal import degrade

P = np.array([[0.6, 0.4, 0, 0, 0, 0], [0, 0.2, 0.5, 0.3, 0, 0], [0, 0, 0, 0.1, 0.5, 0.4]], np.float32)


def scene(side: int, seed: int = 0) -> np.ndarray:
    """(6, side, side) in 0..1 with detail at every size, four spectra."""
    rng = np.random.default_rng(seed)
    maps = [sum(ndimage.gaussian_filter(rng.normal(size=(side, side)), s) * s for s in (0.7, 2, 6)) for _ in range(4)]
    z = np.tensordot(rng.random((6, 4)), np.exp(maps), 1)
    return (z / z.max()).astype(np.float32)


def pair(z: np.ndarray, kernel: np.ndarray, s: int, *, snr_db: float = 40) -> Pair:
    t = torch.from_numpy(z)[None]
    y = degrade.blur_down(t, torch.from_numpy(kernel).float(), s)[0].numpy()
    y = degrade.gaussian(y, degrade.snr_std(y, snr_db), np.random.default_rng(1))
    x = degrade.respond(t, torch.from_numpy(P))[0].numpy()
    return Pair(y=y, y_valid=np.ones(y.shape[1:], dtype=bool), x=x, x_valid=np.ones(x.shape[1:], dtype=bool))


def bent(n: int) -> np.ndarray:
    """An uneven kernel that no Gaussian resembles, off its centre."""
    k = np.zeros((n, n))
    for i in range(n - 2):
        k[i + 1, n // 2 + round(2 * np.sin(i / 3)) - 1] += 1 + i
    k = ndimage.gaussian_filter(k, 0.6)
    return np.asarray(k / k.sum())


def error(found: np.ndarray, kernel: np.ndarray) -> float:
    n = max(len(found), len(kernel)) + 1
    wide = [np.zeros((n, n)), np.zeros((n, n))]
    for w, k in zip(wide, (found, kernel), strict=True):
        o = n // 2 - len(k) // 2
        w[o : o + len(k), o : o + len(k)] = k
    return float(np.linalg.norm(wide[0] - wide[1]) / np.linalg.norm(wide[1]))


def setup(s: int, centroid_px: float = 0.0) -> PairGeometry:
    return PairGeometry(scale=s, response=P, expected_centroid_px=centroid_px)


@pytest.mark.parametrize(("s", "n"), [(4, 11), (4, 10), (3, 7), (1, 5)])
def test_the_kernel_is_found(s: int, n: int) -> None:
    k = bent(n)
    p = pair(scene(48 * s), k, s)
    b = kernel_estimate.estimate(lambda: [p], setup(s))
    assert b.kernel.min() >= 0 and b.kernel.sum() == pytest.approx(1)
    assert error(b.kernel, k) < 0.15
    np.testing.assert_allclose(b.centroid_px, degrade.centroid(k), atol=0.1)
    assert b.shift_px == b.centroid_px
    np.testing.assert_allclose(b.gain, 1, atol=0.08)
    np.testing.assert_allclose(b.offset, 0, atol=0.02)
    assert b.unexplained.max() < 0.01
    assert b.condition > 1 and 0 < b.determined <= b.unknowns and b.pixels >= b.needed


def test_windows_add_up_and_facts_come_back() -> None:
    k, z = bent(9), scene(320)
    whole = pair(z, k, 4)
    halves = [
        replace(whole, y=whole.y[:, i], y_valid=whole.y_valid[i], x=whole.x[:, j], x_valid=whole.x_valid[j])
        for i, j in ((slice(0, 40), slice(0, 160)), (slice(40, 80), slice(160, 320)))
    ]
    b = kernel_estimate.estimate(lambda: halves, setup(4))
    assert error(b.kernel, k) < 0.15
    again = kernel_estimate.estimate(lambda: halves, setup(4))
    np.testing.assert_array_equal(again.kernel, b.kernel)
    back = Blur.from_json(b.to_json())
    np.testing.assert_allclose(back.kernel, b.kernel, atol=1e-7)
    assert back.shift_px == b.shift_px and back.pixels == b.pixels


def test_gains_and_offsets_of_the_guide() -> None:
    p = pair(scene(200), bent(9), 4)
    gain = np.array([0.5, 2.0, 30.0], np.float32)[:, None, None]
    b = kernel_estimate.estimate(lambda: [replace(p, x=p.x * gain + 7)], setup(4))
    np.testing.assert_allclose(b.gain * gain.ravel(), 1, atol=0.08)
    np.testing.assert_allclose(b.offset / b.gain / gain.ravel(), -7 / gain.ravel(), atol=0.05)
    assert error(b.kernel, bent(9)) < 0.15


def test_invalid_pixels_do_not_count() -> None:
    p = pair(scene(240), bent(9), 4)
    x, y, x_ok, y_ok = p.x.copy(), p.y.copy(), p.x_valid.copy(), p.y_valid.copy()
    x[:, 100:120, 30:60], x_ok[100:120, 30:60] = 9, False
    y[:, 40:44, 40:50], y_ok[40:44, 40:50] = -5, False
    b = kernel_estimate.estimate(lambda: [Pair(y=y, y_valid=y_ok, x=x, x_valid=x_ok)], setup(4))
    assert error(b.kernel, bent(9)) < 0.15


def test_a_grids_kernel_lies_in_the_middle_of_the_pixel() -> None:
    k = degrade.gaussian_kernel(17, 1.7, centroid_px=1.5)
    b = kernel_estimate.estimate(lambda: [pair(scene(200), k, 4)], setup(4, 1.5))
    np.testing.assert_allclose(b.centroid_px, 1.5, atol=0.1)
    np.testing.assert_allclose(b.shift_px, 0, atol=0.1)


def test_a_shifted_guide_is_refused_on_a_grid_and_corrected_in_a_laboratory() -> None:
    k = degrade.gaussian_kernel(17, 1.7, centroid_px=1.5)
    p = pair(scene(200), k, 4)
    off = replace(p, x=np.roll(p.x, 3, axis=2))
    with pytest.raises(BadPair, match=r"off by dx [23]\.\d, dy -?0\.\d guide pixels \(most allowed 2"):
        kernel_estimate.estimate(lambda: [off], setup(4, 1.5))
    p = pair(scene(200), degrade.gaussian_kernel(15, 1.7), 4)
    b = kernel_estimate.estimate(lambda: [replace(p, x=np.roll(p.x, 3, axis=2))], setup(4))
    np.testing.assert_allclose(b.shift_px, (0, 3), atol=0.15)


def test_what_is_refused() -> None:
    p = pair(scene(200), bent(9), 4)
    few = replace(p, x_valid=np.pad(np.ones((40, 40), dtype=bool), ((0, 160), (0, 160))))
    with pytest.raises(BadPair, match=r"\d+ LR pixels have a valid footprint of 21 x 21 .* needs 43"):
        kernel_estimate.estimate(lambda: [few], setup(4))
    noise = np.random.default_rng(0).random(p.x.shape).astype(np.float32)
    with pytest.raises(BadPair, match=r"unexplained|gains"):
        kernel_estimate.estimate(lambda: [replace(p, x=noise)], setup(4))
    with pytest.raises(BadPair, match="mixed up"):
        kernel_estimate.estimate(lambda: [replace(p, x=p.x[[2, 0, 1]])], setup(4))
    with pytest.raises(BadPair, match="border of its support"):
        wide = np.zeros((41, 41))
        wide[[9, 31], 20] = 0.15
        wide[20, 20] = 0.7
        kernel_estimate.estimate(lambda: [pair(scene(280), wide, 4)], setup(4))
    with pytest.raises(BadPair, match="window of scale 4 in a pair of scale 8"):
        kernel_estimate.estimate(lambda: [p], setup(8))
