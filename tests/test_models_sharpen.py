"""The sharpener: any units and bands, tiled and grouped equal whole, and a card must fit its weights."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hypermend.models import checkpoint
from hypermend.models.card import BadCard, ModelCard
from hypermend.models.restorer import Window
from hypermend.models.sharpen.model import SsrnetModel, by_bands, network
from hypermend.models.signal.bicubic import enlarge, reduce
from hypermend.models.signal.metrics import psnr, sam

CONFIG: dict[str, Any] = {"scale": 2, "filters": 4, "modules": 1, "separable": True, "residual": False}
CARD = ModelCard(name="random", architecture="ssrnet", config=CONFIG, scale=2, halo=9)


def state(config: dict[str, Any] = CONFIG) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return network(config).state_dict()


def model(**changes: Any) -> SsrnetModel:
    card = replace(CARD, **changes)
    return SsrnetModel(card, state(card.config))


def scene(bands: int = 5, h: int = 24, w: int = 20) -> np.ndarray:
    return np.random.default_rng(0).random((bands, h, w)).astype(np.float32)


def whole(cube: np.ndarray) -> list[Window]:
    return [(cube, np.ones(cube.shape[1:], dtype=bool))]


@pytest.mark.parametrize("scale", [2, 3])
def test_tiled_equals_whole(scale: int) -> None:
    m = model(config={**CONFIG, "scale": scale}, scale=scale)
    cube = scene()
    restorer = m.bind(json.loads(json.dumps(m.estimate(whole(cube)))))
    h = restorer.halo
    padded = torch.from_numpy(np.pad(cube, ((0, 0), (h, h), (h, h)), mode="reflect"))[None]
    inner = slice(scale * h, -scale * h)
    once = restorer(padded)[0, :, inner, inner]
    assert once.shape == (5, scale * 24, scale * 20)
    for tile in (7, 12):
        for y in range(0, 24, tile):
            for x in range(0, 20, tile):
                part = restorer(padded[:, :, y : y + tile + 2 * h, x : x + tile + 2 * h])[0, :, inner, inner]
                expected = once[:, scale * y : scale * (y + tile), scale * x : scale * (x + tile)]
                torch.testing.assert_close(part, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("bands", [1, 11, 12, 64])
def test_groups_of_bands_give_the_same(bands: int) -> None:
    m, x = model(), torch.from_numpy(scene(bands, 6, 5))[None]
    with torch.inference_mode():
        torch.testing.assert_close(by_bands(m.net, x, feature_bytes=1), m.net(x), atol=1e-5, rtol=0)


def test_units_do_not_matter() -> None:
    m, cube = model(), scene()
    a = m.bind(m.estimate(whole(cube)))(torch.from_numpy(cube)[None])
    other = 1000 * cube + 300
    facts = m.estimate(whole(other))
    # What is bright follows the offset too, so bind to the scale that the offset left alone.
    facts["input_scale"] = 1000 * m.estimate(whole(cube))["input_scale"]
    b = m.bind(facts)(torch.from_numpy(other)[None])
    torch.testing.assert_close((b - 300) / 1000, a, atol=1e-4, rtol=0)


def test_facts_come_from_the_valid_pixels_of_all_windows() -> None:
    m, cube = model(), scene()
    valid = np.ones((24, 20), bool)
    valid[:, 15:] = False
    spoilt = np.where(valid, cube, np.float32(1e9))
    parts: list[Window] = [(spoilt[:, :10], valid[:10]), (spoilt[:, 10:], valid[10:])]
    facts = m.estimate(parts)
    assert facts["mean"] == m.estimate([(cube, valid)])["mean"]
    assert 0.99 < facts["input_scale"] < 1.0


def test_scenes_without_data_or_light_are_enlarged() -> None:
    m, cube = model(), np.zeros((3, 8, 8), np.float32)
    x = torch.from_numpy(cube)[None]
    nothing = m.estimate([(cube, np.zeros((8, 8), bool))])
    assert nothing["reason"] == "no valid pixel"
    torch.testing.assert_close(m.bind(nothing)(x), enlarge(x, 2))
    assert bool(m.bind(m.estimate(whole(cube)))(x).isfinite().all())


def test_wrong_number_of_bands_is_named() -> None:
    m, cube = model(), scene()
    with pytest.raises(ValueError, match=r"4 bands.*5 bands"):
        m.bind(m.estimate(whole(cube)))(torch.from_numpy(cube[:4])[None])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scale": 3}, "card says scale 3, its config has 2"),
        ({"halo": 8}, "card says halo 8, its config has 9"),
        ({"config": {**CONFIG, "filter": 4}}, "keys are .*'filters'"),
        ({"config": {**CONFIG, "filters": "many"}}, "'many'.* is a whole number"),
        ({"config": {**CONFIG, "scale": 1}}, "x1"),
    ],
)
def test_a_card_that_is_wrong_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BadCard, match=message):
        model(**changes)


def test_weights_that_do_not_fit_are_refused() -> None:
    with pytest.raises(BadCard, match="'random': weights do not fit"):
        SsrnetModel(replace(CARD, config={**CONFIG, "filters": 5}), state())


def test_save_and_load(tmp_path: Path) -> None:
    card = checkpoint.save(tmp_path, CARD, state())
    loaded = checkpoint.load(tmp_path)
    assert loaded.card == card and (loaded.scale, loaded.halo) == (2, 9)
    cube = scene()
    x = torch.from_numpy(cube)[None]
    facts = loaded.estimate(whole(cube))
    torch.testing.assert_close(loaded.bind(facts)(x), model().bind(facts)(x))


def discs(bands: int, size: int = 96) -> np.ndarray:
    """Smooth spectra, sharp discs: (bands, size, size), 0 to 1."""
    rng, at = np.random.default_rng(1), np.linspace(0, 1, bands)
    spectra = np.stack([np.exp(-((at - c) ** 2) / 0.08) for c in np.linspace(0, 1, 4)])
    y, x = np.mgrid[:size, :size]
    maps = np.zeros((4, size, size))
    for m in maps:
        for _ in range(12):
            m += rng.random() * np.clip(
                rng.uniform(6, 16) - np.hypot(y - rng.uniform(0, size), x - rng.uniform(0, size)), 0, 1
            )
    cube = np.einsum("rb,rhw->bhw", spectra, maps)
    return (cube / cube.max()).astype(np.float32)


@pytest.mark.parametrize(
    ("name", "bands"),
    [("ssrnet-x2-small", 31), ("ssrnet-x2-small", 100), ("ssrnet-x3-small", 31), ("ssrnet-x4-small", 31)],
)
def test_the_shipped_weights_sharpen(name: str, bands: int) -> None:
    m = checkpoint.load(checkpoint.builtin(name))
    assert m.card.trained_on and m.card.recipe["seconds"] > 0
    truth = discs(bands)
    coarse = reduce(torch.from_numpy(truth), m.scale)
    restorer = m.bind(m.estimate(whole(coarse.numpy())))
    h = restorer.halo
    padded = torch.from_numpy(np.pad(coarse.numpy(), ((0, 0), (h, h), (h, h)), mode="reflect"))[None]
    inner = slice(m.scale * h, -m.scale * h)
    ours, bicubic = restorer(padded)[0, :, inner, inner].numpy(), enlarge(coarse, m.scale).numpy()
    assert psnr(truth, ours) > psnr(truth, bicubic) + 1.0
    assert sam(truth, ours).degrees < sam(truth, bicubic).degrees
