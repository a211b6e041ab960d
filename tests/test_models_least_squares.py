"""Fusion without training: exact where it must be, local, the same in pieces, and what it says of a pair."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage

from hypermend.models import checkpoint
from hypermend.models.budget import AdaptationBudget
from hypermend.models.card import BadCard, ModelCard
from hypermend.models.fuse import local_regression
from hypermend.models.fuse.interface import BadPair, Pair, PairGeometry
from hypermend.models.fuse.least_squares import LeastSquaresModel, regression
from hypermend.models.fuse.moments import pair_moments
from hypermend.models.signal import degrade, metrics
from tests.test_models_kernel_estimate import bent, scene

CARD = ModelCard(name="floor", architecture="least-squares", config={"local": False}, halo=40)
P = np.array([[0.5, 0.5, 0, 0, 0, 0, 0], [0, 0.2, 0.5, 0.3, 0, 0, 0], [0, 0, 0, 0.1, 0.5, 0.4, 0]], np.float32)
S = 4


def spectra(side: int, bands: int = 7, seed: int = 0) -> np.ndarray:
    """(bands, side, side): six kinds of spectra, the kinds in patches."""
    rng = np.random.default_rng(seed)
    kinds = np.argmax([ndimage.gaussian_filter(rng.normal(size=(side, side)), 9) for _ in range(6)], axis=0)
    light = scene(side, seed)[0] + 0.2
    z = rng.random((bands, 6))[:, kinds] * light
    return (z / z.max()).astype(np.float32)


def pair(z: np.ndarray, kernel: np.ndarray, response: np.ndarray, *, snr_db: float = 40) -> Pair:
    t = torch.from_numpy(z)[None]
    y = degrade.blur_down(t, torch.from_numpy(kernel).float(), S)[0].numpy()
    y = degrade.gaussian(y, degrade.snr_std(y, snr_db), np.random.default_rng(1))
    x = degrade.respond(t, torch.from_numpy(response))[0].numpy()
    return Pair(y=y, y_valid=np.ones(y.shape[1:], dtype=bool), x=x, x_valid=np.ones(x.shape[1:], dtype=bool))


def tensors(p: Pair) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(p.y)[None], torch.from_numpy(p.x)[None]


@pytest.fixture(scope="module")
def shipped() -> LeastSquaresModel:
    model = checkpoint.load_fusion(checkpoint.builtin("least-squares"))
    assert isinstance(model, LeastSquaresModel)
    return model


@pytest.fixture(scope="module")
def patches() -> tuple[np.ndarray, Pair, PairGeometry]:
    z = spectra(256)
    return z, pair(z, bent(9), P), PairGeometry(scale=S, response=P, expected_centroid_px=0.0)


def test_the_card_says_how_far_it_reaches(shipped: LeastSquaresModel) -> None:
    assert (shipped.card.halo, shipped.card.guide_halo) == (local_regression.HALO, local_regression.GUIDE_HALO)
    assert not shipped.adapts
    with pytest.raises(BadCard, match="config"):
        LeastSquaresModel(replace(CARD, config={}), {})


def test_regression_finds_the_map() -> None:
    rng = np.random.default_rng(0)
    x = rng.random((3, 64, 64)).astype(np.float32)
    weights = rng.normal(size=(5, 4))
    k = bent(7)
    low = degrade.blur_down(torch.from_numpy(x)[None], torch.from_numpy(k).float(), S)[0].numpy()
    y = np.tensordot(weights[:, :3], low, 1) + weights[:, 3, None, None]
    p = Pair(y=y.astype(np.float32), y_valid=np.ones((16, 16), dtype=bool), x=x, x_valid=np.ones((64, 64), dtype=bool))
    found, explained = regression(pair_moments(lambda: [p], k, S), 3)
    np.testing.assert_allclose(found, weights, atol=1e-3)
    np.testing.assert_allclose(explained, 1, atol=1e-5)
    hole = p.x.copy()
    hole[:, 8:20, 8:20] = 99
    ok = p.x_valid.copy()
    ok[8:20, 8:20] = False
    found, _ = regression(pair_moments(lambda: [replace(p, x=hole, x_valid=ok)], k, S), 3)
    np.testing.assert_allclose(found, weights, atol=1e-3)
    with pytest.raises(BadPair, match="no valid pixel"):
        pair_moments(lambda: [replace(p, y_valid=~p.y_valid)], k, S)


def test_the_local_map_beats_the_floor_and_the_floor_beats_interpolation(
    shipped: LeastSquaresModel, patches: tuple[np.ndarray, Pair, PairGeometry]
) -> None:
    z, p, setup = patches
    facts = shipped.estimate(lambda: [p], setup)
    assert json.loads(json.dumps(facts, allow_nan=False)) == facts
    restorer = shipped.bind(facts)
    floor = LeastSquaresModel(CARD, {}).bind(facts)
    y, x = tensors(p)
    scores = [metrics.psnr(z, f(y, x)[0].numpy()) for f in (restorer, floor)]
    plain = metrics.psnr(z, restorer.without_guide(y)[0].numpy())
    assert scores[0] > scores[1] + 0.5 and scores[1] > plain + 5
    assert facts["outside"] == [6] and len(facts["explained"]) == 7


def test_same_windows_same_facts(shipped: LeastSquaresModel, patches: tuple[np.ndarray, Pair, PairGeometry]) -> None:
    _, p, setup = patches
    assert shipped.estimate(lambda: [p], setup) == shipped.estimate(lambda: [p], setup)


def test_no_pixel_knows_of_pixels_beyond_the_halo() -> None:
    small = PairGeometry(scale=S, response=P, expected_centroid_px=0.0)
    z = spectra(S * 120)
    p = pair(z, bent(9), P)
    shipped = LeastSquaresModel(checkpoint.load_fusion(checkpoint.builtin("least-squares")).card, {})
    restorer = shipped.bind(shipped.estimate(lambda: [p], small))
    y, x = tensors(p)
    whole = restorer(y, x)
    h = restorer.halo
    assert h == shipped.card.halo_at(S)
    window = slice(120 - h - 12, 120)  # twelve LR pixels of core, a halo before them, the edge behind
    fine = slice(S * window.start, S * 120)
    part = restorer(y[:, :, window, window], x[:, :, fine, fine])
    torch.testing.assert_close(
        part[:, :, S * h :, S * h :], whole[:, :, S * (120 - 12) :, S * (120 - 12) :], atol=2e-5, rtol=0
    )


def test_it_scales_with_brightness(shipped: LeastSquaresModel, patches: tuple[np.ndarray, Pair, PairGeometry]) -> None:
    _, p, setup = patches
    bright = replace(p, y=p.y * 1000, x=p.x * 50)
    a, b = (shipped.bind(shipped.estimate(lambda q=q: [q], setup))(*tensors(q)) for q in (p, bright))
    error = ((b / 1000 - a).square().mean() / a.square().mean()).sqrt()
    assert error < 0.002


def test_a_known_kernel_is_used_and_the_guide_is_matched_to_it(shipped: LeastSquaresModel) -> None:
    z = spectra(192)
    k = np.pad(np.full((4, 4), 1 / 16), ((3, 0), (3, 0)))  # an LR pixel is the mean of its HR pixels
    own = degrade.gaussian_kernel(5, 0.8, centroid_px=0.4)
    soft = degrade.blur_down(torch.from_numpy(z)[None], torch.from_numpy(own).float(), 1)[0].numpy()
    # The image's optics are softer than the guide's, and off.
    p = replace(pair(soft, k, P), x=np.tensordot(P, z, 1).astype(np.float32))
    setup = PairGeometry(scale=S, response=P, expected_centroid_px=1.5, kernel=k)
    facts = shipped.estimate(lambda: [p], setup)
    assert facts["blur"]["unknowns"] == 0 and facts["blur"]["centroid_px"] == [1.5, 1.5]
    assert facts["start"]["match"]["shape"] == [9, 9]
    y, x = tensors(p)
    restorer = shipped.bind(facts)
    assert (
        metrics.psnr(soft, restorer(y, x)[0].numpy())
        > metrics.psnr(soft, restorer.global_regression(y, x)[0].numpy()) + 1
    )


def test_it_does_not_adapt(shipped: LeastSquaresModel, patches: tuple[np.ndarray, Pair, PairGeometry]) -> None:
    done = shipped.adapt({}, patches[1], (slice(0, 8), slice(0, 8)), AdaptationBudget(steps=5))
    assert done.state == {} and done.figures["adapted"] is False
