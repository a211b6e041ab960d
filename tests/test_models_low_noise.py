"""Scenes of small noise: noise goes, and means of cells, structure of single bands and constant areas stay."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hypermend.models.denoise import low_noise
from hypermend.models.denoise.low_noise import CELL_PX, HALO, ConservativeDenoiser, GuideRegression, detail
from hypermend.models.signal.metrics import psnr, sam
from hypermend.models.signal.subspace import Subspace, moments, subspace

STD = 0.004


def textured(bands: int, h: int = 96, w: int = 80) -> np.ndarray:
    """Four smooth spectra; fields of 8 pixels with smooth shading: (bands, h, w), about 0 to 1."""
    rng = np.random.default_rng(0)
    at = np.linspace(0, 1, bands)
    spectra = np.stack([np.exp(-((at - c) ** 2) / 0.08) for c in np.linspace(0, 1, 4)])
    fields = np.kron(rng.random((4, h // 8, w // 8)), np.ones((8, 8)))
    shade = 0.8 + 0.2 * np.sin(np.arange(h) / 7)[:, None] * np.cos(np.arange(w) / 5)
    cube = np.einsum("rb,rhw->bhw", spectra, fields * shade)
    return np.asarray(cube / cube.max(), dtype=np.float32)


def noisy(clean: np.ndarray, std: float = STD) -> np.ndarray:
    return (clean + np.random.default_rng(1).normal(0, std, clean.shape)).astype(np.float32)


def facts(cube: np.ndarray) -> Subspace:
    m = moments([(cube, np.ones(cube.shape[1:], dtype=bool))])
    s = subspace(m) if m else None
    assert s is not None
    return s


def run(cube: np.ndarray, s: Subspace, halo: int = HALO) -> np.ndarray:
    padded = np.pad(cube, ((0, 0), (halo, halo), (halo, halo)), mode="reflect")
    out = ConservativeDenoiser(s, halo)(torch.from_numpy(padded)[None])[0].numpy()
    return np.asarray(out[:, halo:-halo, halo:-halo])


def cell_means(x: np.ndarray) -> np.ndarray:
    b, h, w = x.shape
    return np.asarray(x.reshape(b, h // CELL_PX, CELL_PX, w // CELL_PX, CELL_PX).mean(axis=(2, 4)))


def test_noise_goes() -> None:
    clean = textured(31)
    cube = noisy(clean)
    out = run(cube, facts(cube))
    assert psnr(clean, out) > psnr(clean, cube) + 3
    assert sam(clean, out).degrees < sam(clean, cube).degrees


@pytest.mark.parametrize("halo", [HALO, 52, 56])
def test_means_of_the_scenes_cells_stay_whatever_the_halo(halo: int) -> None:
    cube = noisy(textured(31))
    out = run(cube, facts(cube), halo)
    assert np.abs(out - cube).max() > STD
    np.testing.assert_allclose(cell_means(out), cell_means(cube), atol=1e-6)


def test_tiled_equals_whole() -> None:
    cube = noisy(textured(8))
    restorer = ConservativeDenoiser(facts(cube), HALO)
    padded = torch.from_numpy(np.pad(cube, ((0, 0), (HALO, HALO), (HALO, HALO)), mode="reflect"))[None]
    inner = slice(HALO, -HALO)
    once = restorer(padded)[0, :, inner, inner].numpy()
    for tile in (32, 48, 96):
        for y in range(0, 96, tile):
            for x in range(0, 80, tile):
                part = restorer(padded[:, :, y : y + tile + 2 * HALO, x : x + tile + 2 * HALO])[0, :, inner, inner]
                np.testing.assert_allclose(part.numpy(), once[:, y : y + tile, x : x + tile], atol=1e-5 * STD)


def test_what_one_band_alone_sees_stays() -> None:
    """A point and a line of ten times the noise, in a single band each."""
    cube = noisy(textured(24))
    s = facts(cube)
    cube[5, 40, 40] += 10 * STD
    cube[20, 10:70, 33] += 10 * STD
    change = run(cube, s) - cube
    assert abs(change[5, 40, 40]) < 4 * STD
    assert abs(change[20, 12:68, 33].mean()) < 1.5 * STD


def test_what_goes_along_with_the_scene_stays() -> None:
    """A fit by the guides themselves leaves nothing of them, and little of noise is lost to it."""
    rng = torch.Generator().manual_seed(0)
    coefficients = 20 * torch.randn(1, 8, 64, 64, generator=rng)
    fit = GuideRegression(coefficients)
    mixed = detail(coefficients)[:, :3].sum(dim=1, keepdim=True)
    inner = (..., slice(16, -16), slice(16, -16))
    assert float((mixed - fit(mixed))[inner].square().mean() / mixed[inner].square().mean()) < 1e-3
    noise = torch.randn(1, 1, 64, 64, generator=rng)
    assert float(fit(noise)[inner].square().mean()) < 0.1


def test_a_constant_area_stays() -> None:
    cube = noisy(textured(31))
    cube[:, 16:64, 16:64] = 0.25
    inner = (slice(None), slice(16 + CELL_PX, 64 - CELL_PX), slice(16 + CELL_PX, 64 - CELL_PX))
    np.testing.assert_allclose(run(cube, facts(cube))[inner], cube[inner], atol=1e-6)


def test_a_band_that_does_not_vary_stays() -> None:
    cube = noisy(textured(31))
    cube[4] = 0
    out = run(cube, facts(cube))
    assert np.isfinite(out).all()
    np.testing.assert_array_equal(out[4], cube[4])


def test_reach() -> None:
    cube = noisy(textured(12, 160, 160))
    restorer = ConservativeDenoiser(facts(cube), HALO)
    moved = cube.copy()
    moved[:, 80, 80] += 0.2
    before, after = (restorer(torch.from_numpy(c)[None])[0] for c in (cube, moved))
    changed = ((before - after).abs().amax(dim=0) > 0).nonzero()
    assert int((changed - 80).abs().max()) <= low_noise.HALO


def test_wrong_number_of_bands_is_named() -> None:
    cube = noisy(textured(31))
    with pytest.raises(ValueError, match=r"30 bands.*31 bands"):
        ConservativeDenoiser(facts(cube), HALO)(torch.from_numpy(cube[:30])[None])
