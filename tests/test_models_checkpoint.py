"""Cards and checkpoints: a round trip, and one clear error for everything that is not what it says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from hypermend.models import checkpoint
from hypermend.models.card import BadCard, ModelCard
from hypermend.models.restorer import array_from_json, array_to_json

CARD = ModelCard(
    name="a", architecture="identity", accepts_range_nm=(400.0, 700.0), quantity=("reflectance",), trained_on=("x", "y")
)


def test_card_round_trip(tmp_path: Path) -> None:
    assert ModelCard.from_dict(json.loads(json.dumps(CARD.to_dict()))) == CARD
    CARD.write(tmp_path / "card.json")
    assert ModelCard.read(tmp_path / "card.json") == CARD


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"archtecture": "x"}, "did you mean 'architecture'"),
        ({"zzz": 1}, "known keys"),
        ({"name": ""}, "'name' must be a non-empty string"),
        ({"scale": 0}, "scale 0"),
        ({"halo": -1}, "halo -1"),
        ({"window_bands": 0}, "window_bands 0"),
        ({"accepts_range_nm": [700.0, 400.0]}, "accepts_range_nm"),
        ({"spectrum": {"bands": 31}}, "spectrum with keys"),
    ],
)
def test_bad_cards(change: dict[str, object], message: str) -> None:
    with pytest.raises(BadCard, match=message):
        ModelCard.from_dict({**CARD.to_dict(), **change})


def test_bad_card_files(tmp_path: Path) -> None:
    with pytest.raises(BadCard, match="no model card"):
        checkpoint.load(tmp_path)
    (tmp_path / "card.json").write_text("{")
    with pytest.raises(BadCard, match="not JSON"):
        checkpoint.load(tmp_path)
    (tmp_path / "card.json").write_text("[]")
    with pytest.raises(BadCard, match="list"):
        checkpoint.load(tmp_path)


def test_every_built_in_model_is_for_a_task() -> None:
    cards = [ModelCard.read(checkpoint.builtin(name) / "card.json") for name in checkpoint.builtins()]
    tasks = {card.name: checkpoint.task_of(card) for card in cards}
    assert tasks.pop("identity") is None
    assert set(tasks.values()) == {"denoise", "sharpen", "fuse"}


def test_identity_is_the_input_itself() -> None:
    model = checkpoint.load(checkpoint.builtin("identity"))
    x = torch.randn(1, 3, 4, 5)
    assert model.bind(model.estimate([]))(x) is x
    assert (model.halo, model.scale) == (0, 1)


def test_weights_are_proved(tmp_path: Path) -> None:
    card = checkpoint.save(tmp_path, CARD, {"w": torch.arange(3.0)})
    assert len(card.weights_sha256) == 64 and checkpoint.load(tmp_path).card == card
    data = (tmp_path / "weights.safetensors").read_bytes()
    (tmp_path / "weights.safetensors").write_bytes(data[:-1] + b"\x01")
    with pytest.raises(checkpoint.BadCheckpoint, match=card.weights_sha256):
        checkpoint.load(tmp_path)
    (tmp_path / "weights.safetensors").unlink()
    with pytest.raises(checkpoint.BadCheckpoint, match="missing"):
        checkpoint.load(tmp_path)


def test_unknown_names(tmp_path: Path) -> None:
    ModelCard(name="a", architecture="resnet").write(tmp_path / "card.json")
    with pytest.raises(checkpoint.BadCheckpoint, match=r"'resnet'; known: identity"):
        checkpoint.load(tmp_path)
    for name in ("nothing", "../identity"):
        with pytest.raises(checkpoint.BadCheckpoint, match=r"there are: .*identity"):
            checkpoint.builtin(name)


def test_arrays_survive_as_json() -> None:
    a = torch.randn(3, 4).numpy()
    assert (array_from_json(json.loads(json.dumps(array_to_json(a)))) == a).all()
