"""Save and load a model: a folder with card.json and, if it has weights, weights.safetensors. No pickle anywhere.

What a model computes with is imported when it is loaded: a plan asks only for its name and card, and a worker that
denoises has no use for what a fusion solves its equations with.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError

from hypermend.models.card import ModelCard

if TYPE_CHECKING:
    import torch

    from hypermend.models.fuse.protocol import FusionModel
    from hypermend.models.restorer import Model

    State = Mapping[str, torch.Tensor]

CARD, WEIGHTS = "card.json", "weights.safetensors"
_HOME = Path(__file__).parent / "weights"


class BadCheckpoint(ValueError):
    """A folder that does not hold the model its card speaks of."""


def _identity(card: ModelCard, state: State) -> Model:
    from hypermend.models.restorer import IdentityModel

    return IdentityModel(card)


def _ssrnet(card: ModelCard, state: State) -> Model:
    from hypermend.models.sharpen.model import SsrnetModel

    return SsrnetModel(card, state)


def _stas(card: ModelCard, state: State) -> Model:
    from hypermend.models.denoise.model import StasModel

    return StasModel(card, state)


def _least_squares(card: ModelCard, state: State) -> FusionModel:
    from hypermend.models.fuse.least_squares import LeastSquaresModel

    return LeastSquaresModel(card, state)


def _ual(card: ModelCard, state: State) -> FusionModel:
    from hypermend.models.fuse.model import UalModel

    return UalModel(card, state)


ARCHITECTURES: dict[str, Callable[[ModelCard, State], Model]] = {
    "identity": _identity,
    "ssrnet": _ssrnet,
    "stas": _stas,
}
"""Name in a card -> what builds the model from card and weights. A new network is one more row."""
FUSIONS: dict[str, Callable[[ModelCard, State], FusionModel]] = {"least-squares": _least_squares, "ual": _ual}
"""The same for models that fuse two images."""
_TASKS = {"stas": "denoise", "ssrnet": "sharpen"}
"""What a model of one image is for, by its architecture; the identity is for nothing."""


def task_of(card: ModelCard) -> str | None:
    """What the model is for: denoise, sharpen or fuse; None where it is for nothing, or its architecture unknown."""
    return "fuse" if card.architecture in FUSIONS else _TASKS.get(card.architecture)


def builtins() -> list[str]:
    """Names of the weights that ship with the package."""
    return sorted(p.parent.name for p in _HOME.glob(f"*/{CARD}"))


def builtin(name: str) -> Path:
    """Folder of weights that ship with the package.

    Raises:
        BadCheckpoint: no such weights; lists those there are.
    """
    names = builtins()
    if name not in names:
        raise BadCheckpoint(f"no built-in model {name!r}; there are: {', '.join(names)}")
    return _HOME / name


def save(folder: Path, card: ModelCard, state: State) -> ModelCard:
    """Write weights and card; returns the card with the sha256 of the weights in it.

    Float weights are stored as they are (half precision stays half).
    """
    from safetensors.torch import save as save_tensors

    folder.mkdir(parents=True, exist_ok=True)
    digest = ""
    if state:
        data = save_tensors({k: v.detach().cpu().contiguous() for k, v in sorted(state.items())})
        digest = hashlib.sha256(data).hexdigest()
        (folder / WEIGHTS).write_bytes(data)
    card = dataclasses.replace(card, weights_sha256=digest)
    card.write(folder / CARD)  # last: a folder with a card is whole
    return card


def load(folder: str | Path) -> Model:
    """Read a model of one image; the weights are proved against the card's sha256 before they are parsed.

    Raises:
        BadCheckpoint: unknown architecture, missing, altered or unfitting weights, or a model that fuses two images.
        BadCard: no card, or one that cannot be read.
    """
    card, state = _read(Path(folder))
    if card.architecture not in ARCHITECTURES:
        raise BadCheckpoint(f"model {card.name!r} fuses two images: it restores pairs, with the task fuse")
    return ARCHITECTURES[card.architecture](card, state)


def load_fusion(folder: str | Path) -> FusionModel:
    """Read a model that fuses two images; raises as `load` does."""
    card, state = _read(Path(folder))
    if card.architecture not in FUSIONS:
        raise BadCheckpoint(f"model {card.name!r} restores one image; a fusion is one of: {', '.join(sorted(FUSIONS))}")
    return FUSIONS[card.architecture](card, state)


def _read(folder: Path) -> tuple[ModelCard, State]:
    """Card and proved weights of a known architecture."""
    from safetensors.torch import load as load_tensors

    card = ModelCard.read(folder / CARD)
    known = sorted({*ARCHITECTURES, *FUSIONS})
    if card.architecture not in known:
        raise BadCheckpoint(
            f"model {card.name!r}: unknown architecture {card.architecture!r}; known: {', '.join(known)}"
        )
    state: State = {}
    if card.weights_sha256:
        try:
            data = (folder / WEIGHTS).read_bytes()
        except FileNotFoundError:
            raise BadCheckpoint(f"model {card.name!r}: {folder / WEIGHTS} is missing") from None
        digest = hashlib.sha256(data).hexdigest()
        if digest != card.weights_sha256:
            raise BadCheckpoint(
                f"model {card.name!r}: {folder / WEIGHTS} has sha256 {digest}, its card says {card.weights_sha256}; "
                "copy the folder again"
            )
        try:
            state = load_tensors(data)
        except SafetensorError as e:
            raise BadCheckpoint(f"model {card.name!r}: {folder / WEIGHTS} is not safetensors: {e}") from e
    return card, state
