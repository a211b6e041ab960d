"""The denoiser: noise is measured, small noise is left alone bit for bit, tiled equals whole, any number of bands."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hypermend.models import checkpoint
from hypermend.models.card import BadCard, ModelCard
from hypermend.models.denoise.model import NoiseGate, StasModel, network
from hypermend.models.denoise.stas import Genotype
from hypermend.models.denoise.subspace_denoiser import CONTEXT_PX, rare_share
from hypermend.models.restorer import SceneStatistics, Window
from hypermend.models.signal.metrics import psnr, sam
from hypermend.models.signal.subspace import FACTORS, Subspace, moments, signal_axes, subspace
from tests.test_models_stas import COUNTED

GENOTYPE = Genotype(("conv3",) * 10)
SUBSPACE: dict[str, Any] = {
    "domain": "subspace",
    "genotype": GENOTYPE.to_dict(),
    "channels": 6,
    "width": 2,
    "activate": True,
    "gate": {"of_scene": 0.008, "of_noisiest": 0.006, "of_band": 0.05},
}


def scene(bands: int, h: int = 96, w: int = 80, seed: int = 0, rank: int = 4) -> np.ndarray:
    """Smooth spectra, textured abundances: (bands, h, w), about 0 to 1."""
    rng = np.random.default_rng(seed)
    at = np.linspace(0, 1, bands)
    spectra = np.stack([np.exp(-((at - c) ** 2) / 0.08) for c in np.linspace(0, 1, rank)])
    field = rng.random((rank, h // 8 + 1, w // 8 + 1))
    maps = np.kron(field, np.ones((8, 8)))[:, :h, :w] * (0.8 + 0.2 * rng.random((h, w)))
    cube = np.einsum("rb,rhw->bhw", spectra, maps)
    return (cube / cube.max()).astype(np.float32)


def noisy(cube: np.ndarray, std: float | np.ndarray, seed: int = 1) -> np.ndarray:
    noise = np.random.default_rng(seed).standard_normal(cube.shape)
    return (cube + noise * np.broadcast_to(np.asarray(std), (len(cube),))[:, None, None]).astype(np.float32)


def whole(cube: np.ndarray) -> list[Window]:
    return [(cube, np.ones(cube.shape[1:], dtype=bool))]


def random_model(config: dict[str, Any], *, window: int | None = None) -> StasModel:
    torch.manual_seed(0)
    net = network(config)
    halo = net.halo + (CONTEXT_PX if config["domain"] == "subspace" else 0)
    card = ModelCard(name="random", architecture="stas", config=config, halo=halo, window_bands=window)
    return StasModel(card, net.state_dict())


@pytest.mark.parametrize("bands", [12, 31, 100, 220])
def test_noise_of_each_band_is_measured_whatever_the_texture(bands: int) -> None:
    std = np.random.default_rng(2).uniform(0.005, 0.1, bands)
    m = moments(whole(noisy(scene(bands, 160, 160), std)))
    s = subspace(m) if m else None
    assert s is not None
    assert np.abs(s.noise_std / std - 1).max() < 0.25
    assert np.abs(s.noise_std / std - 1).mean() < 0.06
    np.testing.assert_allclose(s.basis.T @ s.basis, np.eye(s.basis.shape[1]), atol=1e-8)
    assert s.power[3] > 2 > 1.6 > s.power[6]  # four materials, then noise of power about 1
    assert FACTORS >= 4


def test_noise_is_not_taken_for_texture() -> None:
    """Eigenvalues above 1 that noise alone makes count as no factor: otherwise the noise comes out 3 % too small."""
    std = np.random.default_rng(2).uniform(0.02, 0.1, 180)
    m = moments(whole(noisy(scene(180, 64, 64), std)))
    s = subspace(m) if m else None
    assert s is not None
    assert abs(float(np.median(s.noise_std / std)) - 1) < 0.01


@pytest.mark.parametrize("bands", [31, 200])
def test_weak_signal_has_an_axis(bands: int) -> None:
    """A material of 1/20 of the noise's power in a pixel, in long waves: the eigenvectors of pixels point elsewhere."""
    std, h = 0.1, 192
    line = np.exp(-(((np.arange(bands) / bands - 0.3) / 0.05) ** 2))
    line /= np.linalg.norm(line)
    wave = np.sin(2 * np.pi * np.arange(h) / 96)[:, None] * np.sin(2 * np.pi * np.arange(h) / 64)
    cube = noisy(scene(bands, h, h) + (0.45 * std * line[:, None, None] * wave).astype(np.float32), std)
    m = moments(whole(cube))
    s = subspace(m) if m else None
    assert m is not None and s is not None
    signal = signal_axes(m, s)
    np.testing.assert_allclose(signal.basis.T @ signal.basis, np.eye(signal.basis.shape[1]), atol=1e-8)
    assert np.linalg.norm(signal.basis.T @ line) > 0.9 > 0.8 > np.linalg.norm(s.basis[:, :5].T @ line)
    assert (signal.power[6:] < 1.05).all()  # four materials, the line, and little of the noise
    np.testing.assert_allclose(signal.power[:3], s.power[:3], rtol=0.05)


def test_noise_alone_has_one_axis_without_power() -> None:
    m = moments(whole(noisy(np.full((31, 96, 96), 0.0, np.float32), 0.1)))
    s = subspace(m) if m else None
    assert m is not None and s is not None
    signal = signal_axes(m, s)
    assert signal.power.tolist() == [1.0] and np.isfinite(signal.basis).all()


def test_a_spectrum_that_five_pixels_have_is_kept() -> None:
    """It has no axis; the neighbouring bands of its pixels agree, which noise, spikes and stripes do not."""
    std, at = 0.04, (np.array([10, 20, 37, 61, 80]), np.array([70, 12, 33, 50, 5]))
    clean = scene(64)
    line = 0.35 * np.exp(-0.5 * ((np.arange(64) - 40) / 1.5) ** 2)
    rare = clean.copy()
    rare[:, *at] += line[:, None].astype(np.float32)
    model = checkpoint.load(checkpoint.builtin("stas-subspace"))
    out = {}
    for name, image in (("rare", rare), ("clean", clean)):
        cube = noisy(image, std)
        out[name] = model.bind(model.estimate(whole(cube)))(torch.from_numpy(cube)[None])[0].numpy()
    kept = line @ (out["rare"] - rare)[:, *at] / (line @ line)
    assert np.abs(kept).max() < 0.4 and np.abs(kept).mean() < 0.2
    out["rare"][:, *at] = clean[:, *at]
    assert psnr(clean, out["rare"]) > psnr(clean, out["clean"]) - 0.2


def test_what_a_single_band_has_is_not_rare_but_noise() -> None:
    rest, one = torch.randn(1, 200, 64, 64, generator=torch.Generator().manual_seed(0)), torch.ones(200, 1, 1)
    assert float(rare_share(rest, one).max()) == 0.0
    rest[:, 50] += 40.0  # a stripe
    assert float(rare_share(rest, one).max()) == 0.0
    rest[:, 48:53] += 20.0
    assert float(rare_share(rest / 7, 7 * one).min()) > 0.8
    assert float(rare_share(torch.zeros(1, 3, 4, 4), 0 * one[:3]).max()) == 0.0


def test_facts_are_json_small_and_deterministic() -> None:
    cube = noisy(scene(224), 0.05)
    model = random_model(SUBSPACE)
    facts = model.estimate(whole(cube))
    text = json.dumps(facts, allow_nan=False)
    assert len(text) < 100_000
    assert text == json.dumps(model.estimate(whole(cube)), allow_nan=False)
    again = Subspace.from_json(json.loads(text))
    assert again.to_json() == {k: v for k, v in facts.items() if k in again.to_json()}


@pytest.mark.parametrize("bands", [6, 64])
def test_tiled_equals_whole(bands: int) -> None:
    cube = noisy(scene(bands), 0.1)
    model = random_model(SUBSPACE)
    restorer = model.bind(model.estimate(whole(cube)))
    h = restorer.halo
    padded = torch.from_numpy(np.pad(cube, ((0, 0), (h, h), (h, h)), mode="reflect"))[None]
    inner = slice(h, -h)
    once = restorer(padded)[0, :, inner, inner].numpy()
    assert not np.array_equal(once, cube)
    for tile in (32, 48, 96):
        for y in range(0, 96, tile):
            for x in range(0, 80, tile):
                part = restorer(padded[:, :, y : y + tile + 2 * h, x : x + tile + 2 * h])[0, :, inner, inner]
                np.testing.assert_allclose(part.numpy(), once[:, y : y + tile, x : x + tile], atol=1e-5)


def test_small_noise_is_left_alone_bit_for_bit() -> None:
    clean = scene(31)
    model = random_model(SUBSPACE)
    facts = model.estimate(whole(noisy(clean, 0.001)))
    assert facts["kind"] == "untouched" and "below" in facts["reason"]
    x = torch.from_numpy(clean)[None]
    assert model.bind(facts)(x) is x


def test_a_quiet_band_is_left_alone_beside_a_noisy_one() -> None:
    std = np.where(np.arange(31) == 7, 0.0005, 0.08)
    cube = noisy(scene(31), std)
    model = random_model(SUBSPACE)
    facts = model.estimate(whole(cube))
    assert facts["restored"][7] == 0 and sum(facts["restored"]) == 30
    out = model.bind(facts)(torch.from_numpy(cube)[None])[0].numpy()
    np.testing.assert_array_equal(out[7], cube[7])
    assert np.abs(out[8] - cube[8]).mean() > 0.01


def test_no_noise_no_change_even_with_the_gate_open() -> None:
    """Corrections are bounded by multiples of the noise, whatever the weights say."""
    config = {**SUBSPACE, "gate": {"of_scene": 0.0, "of_noisiest": 0.0, "of_band": 0.0}}
    clean = scene(31)
    model = random_model(config)
    for std in (1e-3, 1e-5):
        cube = noisy(clean, std)
        out = model.bind(model.estimate(whole(cube)))(torch.from_numpy(cube)[None])[0].numpy()
        assert np.sqrt(np.square(out - cube).mean()) < 6 * std


@pytest.mark.parametrize("value", [0.0, 0.5])
def test_constant_and_empty_scenes_pass_through(value: float) -> None:
    cube = np.full((31, 20, 20), value, np.float32)
    model = random_model(SUBSPACE)
    empty: list[Window] = [(cube, np.zeros((20, 20), bool))]
    for windows in (whole(cube), empty, []):
        facts = model.estimate(windows)
        assert facts["kind"] == "untouched"
        x = torch.from_numpy(cube)[None]
        assert model.bind(json.loads(json.dumps(facts)))(x) is x


def test_a_band_that_does_not_vary_is_neither_used_nor_changed() -> None:
    cube = noisy(scene(31), 0.08)
    cube[4] = 0
    cube[9] = 0.3
    model = random_model(SUBSPACE)
    out = model.bind(model.estimate(whole(cube)))(torch.from_numpy(cube)[None])[0].numpy()
    assert np.isfinite(out).all()
    np.testing.assert_array_equal(out[[4, 9]], cube[[4, 9]])


def test_invalid_pixels_do_not_enter_the_facts() -> None:
    cube = noisy(scene(31), 0.05)
    valid = np.ones(cube.shape[1:], bool)
    valid[:, 40:] = False
    spoilt = np.where(valid, cube, np.float32(1e9))
    model = random_model(SUBSPACE)
    kept = model.estimate([(cube, valid)])
    assert model.estimate([(spoilt, valid)]) == kept


def test_wrong_number_of_bands_is_named() -> None:
    cube = noisy(scene(31), 0.05)
    model = random_model(SUBSPACE)
    restorer = model.bind(model.estimate(whole(cube)))
    with pytest.raises(ValueError, match=r"30 bands.*31 bands"):
        restorer(torch.from_numpy(cube[:30])[None])


def test_the_papers_own_reading_on_bands_can_be_bound() -> None:
    config = {"domain": "bands", "genotype": COUNTED.to_dict(), "channels": 31, "width": None, "activate": False}
    model = random_model(config, window=31)
    cube = noisy(scene(31, 40, 40), 0.05) * 1000
    restorer = model.bind(model.estimate(whole(cube)))
    assert restorer.halo == COUNTED.halo == 28
    out = restorer(torch.from_numpy(cube)[None])
    assert out.shape == (1, 31, 40, 40) and bool(out.isfinite().all())
    with pytest.raises(BadCard, match="window_bands"):
        random_model(config, window=30)


def test_a_card_that_does_not_fit_is_refused() -> None:
    with pytest.raises(BadCard, match="domain"):
        network({**SUBSPACE, "domain": "pixels"})
    state = network(SUBSPACE).state_dict()
    card = ModelCard(name="odd", architecture="stas", config={**SUBSPACE, "width": 3}, halo=20 + CONTEXT_PX)
    with pytest.raises(BadCard, match="weights do not fit"):
        StasModel(card, state)
    with pytest.raises(BadCard, match="halo"):
        StasModel(ModelCard(name="odd", architecture="stas", config=SUBSPACE, halo=1), state)


def test_gate_looks_at_scene_and_band() -> None:
    @dataclass(frozen=True)
    class Bands:
        noise_std: np.ndarray
        rms = np.array([0.0, 0.5, 0.5, 0.5, 0.005])
        input_scale = 1.0

    gate = NoiseGate(of_scene=0.008, of_noisiest=0.006, of_band=0.05)
    noisy_scene = Bands(np.array([0.0, 0.001, 0.01, 0.02, 0.009]))
    assert gate.noisy_bands(noisy_scene) == [False, False, True, True, True]  # type: ignore[arg-type]
    few_noisy_bands = Bands(np.array([0.0, 0.001, 0.001, 0.02, 0.007]))
    assert not any(gate.noisy_bands(few_noisy_bands))  # type: ignore[arg-type]
    assert gate.low_noise_bands(few_noisy_bands) == [False, True, True, True, True]  # type: ignore[arg-type]
    one_broken_band = Bands(np.array([0.0, 0.001, 0.001, 0.02, 0.002]))
    assert not any(gate.low_noise_bands(one_broken_band))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["stas-subspace"])
def test_the_shipped_weights_denoise(name: str) -> None:
    model = checkpoint.load(checkpoint.builtin(name))
    assert model.card.trained_on and model.card.recipe["seconds"] > 0
    assert sum(f.stat().st_size for f in checkpoint.builtin(name).iterdir()) < 4e6
    clean = scene(31)
    for std, gain_db in ((0.03, 3.0), (0.12, 6.0)):
        cube = noisy(clean, std)
        facts: SceneStatistics = model.estimate(whole(cube))
        out = model.bind(facts)(torch.from_numpy(cube)[None])[0].numpy()
        assert psnr(clean, out) > psnr(clean, cube) + gain_db
        assert sam(clean, out).degrees < sam(clean, cube).degrees


def test_save_and_load_the_denoiser(tmp_path: Path) -> None:
    model = random_model(SUBSPACE)
    state = network(SUBSPACE).state_dict()
    card = checkpoint.save(tmp_path, model.card, state)
    assert checkpoint.load(tmp_path).card == card
