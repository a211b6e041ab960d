"""The fusion that ships, on a small made pair with random weights: what holds whatever the weights are."""

from __future__ import annotations

import dataclasses
from functools import partial

import numpy as np
import pytest
import torch
from scipy import ndimage

from hypermend.models import checkpoint
from hypermend.models.budget import AdaptationBudget
from hypermend.models.card import BadCard, ModelCard
from hypermend.models.fuse import adaptation
from hypermend.models.fuse.correction_net import GUIDE_CONTRAST_RADIUS_PX, CorrectionNet
from hypermend.models.fuse.interface import Adapted, BadPair, Pair, PairGeometry
from hypermend.models.fuse.local_regression import GUIDE_HALO, HALO
from hypermend.models.fuse.model import UalModel
from hypermend.models.fuse.samples import (
    FusionSampleSettings,
    kernel,
    loss,
    mistaken,
    response,
    sample_stream,
    simulate,
)
from hypermend.models.restorer import SceneStatistics
from hypermend.models.signal.degrade import blur_down, gaussian, gaussian_kernel, snr_std

SCALE, BANDS = 4, 12
CONFIG = {"channels": 5, "width": 4, "depth": 1, "stages": 1}
REACH = 3
"""Of the network of that config."""


def cube(edge: int = 96, seed: int = 0) -> np.ndarray:
    """(BANDS, edge, edge): four materials with edges, smooth shading."""
    rng = np.random.default_rng(seed)
    spectra = ndimage.gaussian_filter1d(rng.random((4, BANDS)), 1.0, axis=1) + 0.1
    fields = ndimage.gaussian_filter(rng.standard_normal((4, edge, edge)), (0, 3, 3))
    shade = 0.6 + 0.4 * ndimage.gaussian_filter(rng.random((edge, edge)), 8) / 0.5
    return (spectra[fields.argmax(0)].transpose(2, 0, 1) * shade).astype(np.float32)


def pair_of(z: np.ndarray, snr_db: float = 40.0, seed: int = 0) -> tuple[Pair, PairGeometry]:
    rng = np.random.default_rng(seed)
    p = response(BANDS, np.random.default_rng(4))
    k = torch.from_numpy(gaussian_kernel(9, 1.8)).float()
    y = blur_down(torch.from_numpy(z)[None], k, SCALE)[0].numpy()
    x = np.tensordot(p, z, 1).astype(np.float32)
    y, x = (gaussian(a, snr_std(a, snr_db), rng) for a in (y, x))
    return whole(y, x), PairGeometry(scale=SCALE, response=p, expected_centroid_px=0.0)


def whole(y: np.ndarray, x: np.ndarray) -> Pair:
    return Pair(y=y, y_valid=np.ones(y.shape[1:], dtype=bool), x=x, x_valid=np.ones(x.shape[1:], dtype=bool))


def model_of(*, silent: bool = False) -> UalModel:
    torch.manual_seed(0)
    net = CorrectionNet(**{k: v for k, v in CONFIG.items() if k != "channels"})
    if not silent:
        torch.nn.init.normal_(net.fusion.head.weight, std=0.05)
    card = ModelCard(
        name="t", architecture="ual", config=CONFIG, halo=HALO, guide_halo=GUIDE_HALO + GUIDE_CONTRAST_RADIUS_PX + REACH
    )
    return UalModel(card, net.state_dict())


@pytest.fixture(scope="module")
def ready() -> tuple[UalModel, Pair, PairGeometry, SceneStatistics]:
    model, (pair, setup) = model_of(), pair_of(cube())
    facts = model.estimate(partial(list, (pair,)), setup)
    return model, pair, setup, {**facts, "network": {"used": True, "reason": ""}}


def fuse(
    model: UalModel, facts: SceneStatistics, pair: Pair, state: dict[str, torch.Tensor] | None = None
) -> torch.Tensor:
    return model.bind(facts, state)(torch.from_numpy(pair.y)[None], torch.from_numpy(pair.x)[None])[0]


def test_a_new_network_is_the_training_free_start(ready: tuple[UalModel, Pair, PairGeometry, SceneStatistics]) -> None:
    model, pair, _, facts = ready
    start = model.start.bind(facts)(torch.from_numpy(pair.y)[None], torch.from_numpy(pair.x)[None])[0]
    assert torch.equal(fuse(model_of(silent=True), facts, pair), start)
    torch.testing.assert_close(fuse(model, facts, pair, adaptation.silent()), start)
    assert not torch.allclose(fuse(model, facts, pair), start)


def test_nothing_learned_is_the_fusion(ready: tuple[UalModel, Pair, PairGeometry, SceneStatistics]) -> None:
    model, pair, _, facts = ready
    nothing = {"gain": torch.zeros(4), "share": torch.zeros(3)}
    assert torch.equal(fuse(model, facts, pair, nothing), fuse(model, facts, pair))


def test_a_network_that_does_not_prove_itself_is_not_used(
    ready: tuple[UalModel, Pair, PairGeometry, SceneStatistics],
) -> None:
    _, pair, setup, _ = ready
    torch.manual_seed(1)
    bad = model_of()
    torch.nn.init.normal_(bad.net.fusion.head.weight, std=1.0)
    facts = bad.estimate(partial(list, (pair,)), setup)
    assert not facts["network"]["used"] and facts["network"]["missed_network"] > facts["network"]["missed_start"]
    torch.testing.assert_close(fuse(bad, facts, pair), fuse(model_of(silent=True), facts, pair))
    adapted = bad.adapt(facts, pair, (slice(4, 20), slice(4, 20)), AdaptationBudget(steps=5))
    assert adapted.state == {} and adapted.figures["fell_back_to"] == "start"


def test_a_tile_with_its_halo_is_the_whole(ready: tuple[UalModel, Pair, PairGeometry, SceneStatistics]) -> None:
    model, _, _, facts = ready
    pair, _ = pair_of(cube(336, seed=1))
    halo = model.halo(SCALE)
    assert halo == model.card.halo_at(SCALE)
    at = slice(84 - 2 - halo, 84)  # LR rows and columns of a tile of two pixels at the corner
    part = whole(pair.y[:, at, at], pair.x[:, SCALE * at.start :, SCALE * at.start :])
    inner = slice(SCALE * halo, None)
    torch.testing.assert_close(
        fuse(model, facts, part)[:, inner, inner], fuse(model, facts, pair)[:, -2 * SCALE :, -2 * SCALE :]
    )


def test_brightness_scales_the_answer(ready: tuple[UalModel, Pair, PairGeometry, SceneStatistics]) -> None:
    model, pair, setup, facts = ready
    bright = whole(1000 * pair.y, 7 * pair.x)
    again = {**model.estimate(partial(list, (bright,)), setup), "network": facts["network"]}
    torch.testing.assert_close(fuse(model, again, bright), 1000 * fuse(model, facts, pair), rtol=2e-3, atol=2.0)


def test_adaptation_is_deterministic_and_keeps_figures(
    ready: tuple[UalModel, Pair, PairGeometry, SceneStatistics],
) -> None:
    model, pair, _, facts = ready

    def run() -> Adapted:
        return model.adapt(facts, pair, (slice(4, 20), slice(4, 20)), AdaptationBudget(steps=20))

    one, two = run(), run()
    assert one.state.keys() == two.state.keys() and all(torch.equal(v, two.state[k]) for k, v in one.state.items())
    assert {k: v for k, v in one.figures.items() if k != "seconds"} == {
        k: v for k, v in two.figures.items() if k != "seconds"
    }
    assert one.figures["held_out_last"] <= one.figures["held_out_first"]
    assert one.figures["steps"] == 20 or one.figures["steps"] % adaptation.STEPS_PER_CHECK == 0
    if one.state:
        assert fuse(model, facts, pair, one.state).isfinite().all()


def test_a_block_without_help_falls_back(ready: tuple[UalModel, Pair, PairGeometry, SceneStatistics]) -> None:
    model, pair, _, facts = ready
    core = (slice(4, 20), slice(4, 20))
    for changed, steps, why in (
        (pair, 0, "no steps"),
        (dataclasses.replace(pair, x_valid=np.zeros_like(pair.x_valid)), 5, "0 valid guide pixels"),
    ):
        adapted = model.adapt(facts, changed, core, AdaptationBudget(steps=steps))
        assert adapted.state == {} and why in adapted.figures["reason"]
        assert adapted.figures["fell_back_to"] == "fusion"


def test_a_guide_of_noise_is_refused() -> None:
    pair, setup = pair_of(cube())
    noise = np.random.default_rng(1).random(pair.x.shape).astype(np.float32)
    with pytest.raises(BadPair, match="guide bands"):
        model_of().estimate(partial(list, (whole(pair.y, noise),)), setup)


def test_a_card_that_does_not_fit_is_refused() -> None:
    model = model_of()
    state = model.net.state_dict()
    with pytest.raises(BadCard, match="halo"):
        UalModel(dataclasses.replace(model.card, guide_halo=1), state)
    with pytest.raises(BadCard, match="keys"):
        UalModel(dataclasses.replace(model.card, config={"width": 4}), state)
    with pytest.raises(BadCard, match="do not fit"):
        UalModel(dataclasses.replace(model.card, config={**CONFIG, "width": 5}), state)


def test_kernels_and_responses_sum_to_one() -> None:
    rng = np.random.default_rng(0)
    for scale in (3, 4, 8):
        k = kernel(scale, rng)
        off = mistaken(k, 0.1, rng)
        assert k.min() >= 0 and k.sum() == pytest.approx(1) and off.sum() == pytest.approx(1)
        assert 0.02 < np.linalg.norm(off - k) / np.linalg.norm(k) < 0.12
    np.testing.assert_allclose(response(31, rng).sum(axis=1), 1, rtol=1e-5)


def test_samples_are_seeded_and_train() -> None:
    s = FusionSampleSettings(channels=5, scene_px=72, patch_px=32, scales=(4,))
    z = cube()
    one, two = (simulate(z, [], s, np.random.default_rng(5)) for _ in range(2))
    assert torch.equal(one.missed, two.missed) and one.coefficient_features.isfinite().all()
    x, target = next(sample_stream(lambda rng: (z, []), s, seed=0, batch=2).batches())
    net = CorrectionNet(width=4, depth=1, stages=1)
    first = loss(net(x), target)
    torch.autograd.backward(first)
    assert net.fusion.head.weight.grad is not None and net.fusion.head.weight.grad.abs().sum() > 0


@pytest.mark.skipif(
    not any((p.parent.name == "ual-fusion") for p in checkpoint.builtin("identity").parent.glob("*/card.json")),
    reason="no trained weights yet",
)
def test_the_shipped_model_fuses() -> None:
    model = checkpoint.load_fusion(checkpoint.builtin("ual-fusion"))
    z = cube()
    pair, setup = pair_of(z)
    facts = model.estimate(partial(list, (pair,)), setup)
    y, x = torch.from_numpy(pair.y)[None], torch.from_numpy(pair.x)[None]
    error = (model.bind(facts)(y, x)[0] - torch.from_numpy(z)).square().mean()
    interpolated = (model.bind(facts).without_guide(y)[0] - torch.from_numpy(z)).square().mean()
    assert error < 0.3 * interpolated
