"""The filter of one pair of sensors: what holds whatever its weights are, its training, and the shipped one."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from hypermend.models.budget import AdaptationBudget
from hypermend.models.card import BadCard, ModelCard
from hypermend.models.fit import FitSettings, Progress, Resume
from hypermend.models.fuse import filter_training
from hypermend.models.fuse.candidates import NAMES, Candidates
from hypermend.models.fuse.filter_training import FilterSums, fit_filter
from hypermend.models.fuse.interface import Pair, PairGeometry
from hypermend.models.fuse.pair_filter import GUIDE_HALO, HALO, PairFilterModel
from hypermend.models.fuse.sensor_pair import SensorPair
from hypermend.models.restorer import SceneStatistics, array_from_json
from hypermend.models.signal.degrade import gaussian
from tests.test_models_fuse import BANDS, SCALE, cube, pair_of, whole

NM = tuple(np.linspace(420, 720, BANDS).tolist())


def known(setup: PairGeometry) -> PairGeometry:
    """The pair with its band centres."""
    return replace(setup, wavelength_nm=NM)


def card_of(setup: PairGeometry, **more: Any) -> ModelCard:
    pair = SensorPair(scale=SCALE, wavelength_nm=NM, response=setup.response)
    return ModelCard(
        name="t", architecture="pair-filter", config=pair.to_config(), halo=HALO, guide_halo=GUIDE_HALO, **more
    )


def state_of(size: float = 0.02) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    return {
        "filter": size * torch.randn(BANDS, len(NAMES) * BANDS, generator=g),
        "missed": torch.eye(BANDS),
    }


Ready = tuple[PairFilterModel, Pair, PairGeometry, SceneStatistics]


@pytest.fixture(scope="module")
def ready() -> Ready:
    pair, setup = pair_of(cube())
    setup = known(setup)
    model = PairFilterModel(card_of(setup), state_of())
    return model, pair, setup, model.estimate(partial(list, (pair,)), setup)


def fuse(model: PairFilterModel, facts: SceneStatistics, pair: Pair) -> torch.Tensor:
    return model.bind(facts)(torch.from_numpy(pair.y)[None], torch.from_numpy(pair.x)[None])[0]


def start(model: PairFilterModel, facts: SceneStatistics, pair: Pair) -> torch.Tensor:
    return model.start.bind(facts)(torch.from_numpy(pair.y)[None], torch.from_numpy(pair.x)[None])[0]


def test_a_tile_with_its_halo_is_the_whole(ready: Ready) -> None:
    model, _, _, facts = ready
    pair, _ = pair_of(cube(368, seed=1))
    halo = model.halo(SCALE)
    at = slice(92 - 2 - halo, 92)  # LR rows and columns of a tile of two pixels at the corner
    part = whole(pair.y[:, at, at], pair.x[:, SCALE * at.start :, SCALE * at.start :])
    inner = slice(SCALE * halo, None)
    torch.testing.assert_close(
        fuse(model, facts, part)[:, inner, inner], fuse(model, facts, pair)[:, -2 * SCALE :, -2 * SCALE :]
    )


def test_brightness_scales_the_answer(ready: Ready) -> None:
    model, pair, setup, facts = ready
    bright = whole(1000 * pair.y, 7 * pair.x)
    again = model.estimate(partial(list, (bright,)), setup)
    torch.testing.assert_close(fuse(model, again, bright), 1000 * fuse(model, facts, pair), rtol=2e-3, atol=2.0)


def test_a_pair_of_other_sensors_gets_the_start_and_a_reason(ready: Ready) -> None:
    model, pair, setup, facts = ready
    assert facts["filter"]["used"] and not torch.allclose(fuse(model, facts, pair), start(model, facts, pair))
    shifted = tuple(nm + 20 for nm in NM)
    other = (setup.response + 0.02).astype(np.float32)
    others = {
        "band centres that are not known": replace(setup, wavelength_nm=None),
        "a band at 440 nm, not at 420 nm": replace(setup, wavelength_nm=shifted),
        "another response of the guide's band": replace(setup, response=other / other.sum(axis=1, keepdims=True)),
    }
    for reason, geometry in others.items():
        unlike = model.estimate(partial(list, (pair,)), geometry)
        assert not unlike["filter"]["used"] and reason in unlike["filter"]["reason"]
        assert torch.equal(fuse(model, unlike, pair), start(model, unlike, pair))
    sensors = model.sensors
    twice = np.concatenate((setup.response[:1], setup.response[:-1]))
    assert sensors.difference(replace(sensors, response=twice)) == "two bands of the guide with one response"
    assert sensors.difference(replace(sensors, scale=2)) == "a scale of 2, not 4"
    assert "3 bands and" in sensors.difference(
        SensorPair(scale=SCALE, wavelength_nm=NM[:3], response=setup.response[:, :3])
    )
    assert SensorPair.from_config(sensors.to_config()).difference(sensors) == ""


def test_the_guides_bands_may_come_in_any_order(ready: Ready) -> None:
    model, pair, setup, facts = ready
    back = replace(setup, response=setup.response[::-1].copy())
    turned = replace(pair, x=pair.x[::-1].copy())
    again = model.estimate(partial(list, (turned,)), back)
    assert again["filter"]["used"]
    torch.testing.assert_close(fuse(model, again, turned), fuse(model, facts, pair), rtol=1e-3, atol=1e-4)


def test_the_result_agrees_with_a_clean_guide_and_less_with_a_noisy_one() -> None:
    """With noise in the guide, making P z = x would copy it: that is measured beside."""
    z = cube(160, seed=3)
    pair, setup = pair_of(z)
    setup = known(setup)
    clean = replace(pair, x=np.tensordot(setup.response, z, 1).astype(np.float32))
    noise = 0.03 * float(clean.x.std())
    noisy = replace(clean, x=gaussian(clean.x, noise, np.random.default_rng(1)))
    model = PairFilterModel(card_of(setup), state_of(0.0))

    def left(pair: Pair) -> tuple[float, float, float]:
        """Difference from the guide of the start and the result, and of the result from the truth."""
        facts = model.estimate(partial(list, (pair,)), setup)
        images = [f(model, facts, pair).numpy() for f in (start, fuse)]
        gain, offset = (array_from_json(facts["filter"][k])[:, None, None] for k in ("gain", "offset"))
        guide = gain * pair.x + offset
        first, last = (float(np.abs(np.tensordot(setup.response, i, 1) - guide).mean()) for i in images)
        errors = [float(np.square(i - z).mean()) for i in images]
        return last / first, errors[1] / errors[0], float(array_from_json(facts["filter"]["uncertain"]).mean())

    agreed, gained, certain = left(clean)
    agreed_noisy, gained_noisy, uncertain = left(noisy)
    assert agreed < 0.5 and gained < 1.0
    assert agreed_noisy > agreed and gained_noisy < 1.01
    assert uncertain > 0.5 * noise > certain


def test_candidates_leave_what_y_says_as_it_is(ready: Ready) -> None:
    """A step that Y's own pixels contradict is taken back: blurred and decimated, steps are small."""
    model, pair, _, facts = ready
    r = model.bind(facts).local_regression
    s = r(torch.from_numpy(pair.y)[None], torch.from_numpy(pair.x)[None])
    steps = list(Candidates(r).steps(s))
    assert len(steps) == len(NAMES)
    for name, step in zip(NAMES, steps, strict=True):
        assert step.shape == s.coefficients.shape and step.isfinite().all(), name
        assert r.down(step).square().mean() < 0.5 * step.square().mean() + 1.0, name


# ----------------------------------------------------------------------------------------------------- adaptation

CORE = (slice(2, 22), slice(2, 22))


def test_a_block_adapts_in_closed_form_and_gains(ready: Ready) -> None:
    """A filter of random weights is a bad prior: what it does wrong shows in the pair made of its result."""
    model, pair, _, facts = ready
    one, two = (model.adapt(facts, pair, CORE, AdaptationBudget(steps=1)) for _ in range(2))
    assert one.figures["adapted"] and one.figures["held_out_last"] < 0.98 and one.figures["reason"] == ""
    assert torch.equal(one.state["change"], two.state["change"])
    k = len(array_from_json(facts["start"]["project"]))
    assert one.state["change"].shape == (BANDS, len(NAMES) * k)
    truth = torch.from_numpy(cube())
    y, x = torch.from_numpy(pair.y)[None], torch.from_numpy(pair.x)[None]
    at = (..., slice(8, 88), slice(8, 88))
    plain, adapted = ((model.bind(facts, s)(y, x)[0] - truth)[at].square().mean() for s in ({}, one.state))
    assert adapted < plain


def test_blocks_that_cannot_adapt_say_why(ready: Ready) -> None:
    model, pair, setup, facts = ready
    clouded = replace(pair, y_valid=np.zeros_like(pair.y_valid))
    figures = model.adapt(facts, clouded, CORE, AdaptationBudget(steps=1)).figures
    assert "valid guide pixels" in figures["reason"] and figures["fell_back_to"] == "fusion"
    other = model.estimate(partial(list, (pair,)), replace(setup, wavelength_nm=None))
    adapted = model.adapt(other, pair, CORE, AdaptationBudget(steps=1))
    assert adapted.state == {} and adapted.figures["fell_back_to"] == "start"
    assert "band centres" in adapted.figures["reason"]


# ------------------------------------------------------------------------------------------------------- training


def sensors() -> SensorPair:
    _, setup = pair_of(cube())
    return SensorPair(scale=SCALE, wavelength_nm=NM, response=setup.response)


def batches(count: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    z = cube(160, seed=5)
    stream = filter_training.sample_stream(lambda rng: z, sensors(), 96, seed=3, batch=2)
    return [stream.batch(step, range(2)) for step in range(count)]


def test_a_resumed_training_is_the_same_and_the_filter_gains() -> None:
    made = batches(5)
    settings = FitSettings(steps=5, report_every=1)
    whole_run = list(fit_filter(FilterSums(BANDS), iter(made), None, settings))
    stopped: Progress | None = None
    for stopped in fit_filter(FilterSums(BANDS), iter(made), None, settings):
        if stopped.step == 2:
            break
    assert stopped is not None
    kept = {k: v.clone() for k, v in stopped.state().items()}
    resume = Resume(state=kept, step=2, seconds=stopped.seconds)
    resumed = list(fit_filter(FilterSums(BANDS), iter(made[2:]), None, settings, resume=resume))
    for name, value in whole_run[-1].ema.state_dict().items():
        torch.testing.assert_close(resumed[-1].ema.state_dict()[name], value, rtol=0, atol=0)
    assert whole_run[0].loss == pytest.approx(1.0)  # nothing is learned before the first sample
    assert whole_run[-1].loss < 0.98 and whole_run[-1].fraction == 1.0


def test_two_workers_learn_what_one_does() -> None:
    """Their sums are added: here each worker's exchange gets the other's share from a run before."""
    made = batches(2)
    alone = FilterSums(BANDS)
    for steps, missed in made:
        alone.add(steps, missed, None)
    shares: list[list[torch.Tensor]] = []
    for own in (0, 1):
        seen: list[torch.Tensor] = []
        half = FilterSums(BANDS)
        for steps, missed in made:
            half.add(steps[own : own + 1], missed[own : own + 1], lambda flat, seen=seen: seen.append(flat.clone()))
        shares.append(seen)
    together = FilterSums(BANDS)
    other = iter(shares[1])
    for steps, missed in made:
        together.add(steps[:1], missed[:1], lambda flat: flat.add_(next(other)))
    for name, value in alone.state_dict().items():
        torch.testing.assert_close(together.state_dict()[name], value)


def test_a_card_that_does_not_fit_is_refused() -> None:
    _, setup = pair_of(cube())
    card = card_of(setup)
    for config, said in (
        ({**card.config, "more": 1}, "config with keys"),
        ({**card.config, "wavelength_nm": list(NM[:-1])}, "for 11 bands"),
    ):
        with pytest.raises(BadCard, match=said):
            PairFilterModel(dataclasses.replace(card, config=config), state_of())
    with pytest.raises(BadCard, match="do not fit the config"):
        PairFilterModel(card, {**state_of(), "missed": torch.eye(3)})
    with pytest.raises(BadCard, match="card says halo 3"):
        PairFilterModel(dataclasses.replace(card, halo=3), state_of())
