"""Save and load a model: a folder with card.json and, if it has weights, weights.safetensors. No pickle anywhere.

The code of a model is imported when the model is loaded: a plan needs only its name and card, and a worker that
denoises does not need the solvers of a fusion.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, cast

from safetensors import SafetensorError

from hypermend.models.card import BadCard, ModelCard

if TYPE_CHECKING:
    import torch

    from hypermend.models.fuse.interface import FusionModel
    from hypermend.models.restorer import Model

    State = Mapping[str, torch.Tensor]

Task = Literal["denoise", "sharpen", "fuse"]
CARD, WEIGHTS = "card.json", "weights.safetensors"
_HOME = Path(__file__).parent / "weights"


class BadCheckpoint(ValueError):
    """A folder that does not hold the model that its card describes."""


class Architecture(NamedTuple):
    """One kind of model: its task, and how it is built from card and weights."""

    task: Task | None
    """None: the model has no task."""
    build: Callable[[ModelCard, State], Model | FusionModel]
    of_pair: bool = False
    """`build` returns a FusionModel, which restores an image with a guide, not a Model."""


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


def _pair_filter(card: ModelCard, state: State) -> FusionModel:
    from hypermend.models.fuse.pair_filter import PairFilterModel

    return PairFilterModel(card, state)


def _ual(card: ModelCard, state: State) -> FusionModel:
    from hypermend.models.fuse.model import UalModel

    return UalModel(card, state)


ARCHITECTURES: dict[str, Architecture] = {
    "identity": Architecture(None, _identity),
    "least-squares": Architecture("fuse", _least_squares, of_pair=True),
    "pair-filter": Architecture("fuse", _pair_filter, of_pair=True),
    "ssrnet": Architecture("sharpen", _ssrnet),
    "stas": Architecture("denoise", _stas),
    "ual": Architecture("fuse", _ual, of_pair=True),
}
"""Name in a card -> task and builder. A new network is one more row."""


def task_of(card: ModelCard) -> Task | None:
    """Task of the model; None for the identity and for an unknown architecture."""
    return ARCHITECTURES[card.architecture].task if card.architecture in ARCHITECTURES else None


def builtins() -> list[str]:
    """Names of the weights that ship with the package."""
    return sorted(p.parent.name for p in _HOME.glob(f"*/{CARD}"))


def builtin(name: str) -> Path:
    """Folder of weights that ship with the package.

    Raises:
        BadCheckpoint: no such weights; the message lists the available ones.
    """
    names = builtins()
    if name not in names:
        raise BadCheckpoint(f"no built-in model {name!r}; there are: {', '.join(names)}")
    return _HOME / name


def save(folder: Path, card: ModelCard, state: State) -> ModelCard:
    """Write weights and card; return the card with the sha256 of the weights in it.

    Float weights keep their precision (half stays half).
    """
    from safetensors.torch import save as save_tensors

    folder.mkdir(parents=True, exist_ok=True)
    digest = ""
    if state:
        data = save_tensors({k: v.detach().cpu().contiguous() for k, v in sorted(state.items())})
        digest = hashlib.sha256(data).hexdigest()
        (folder / WEIGHTS).write_bytes(data)
    card = dataclasses.replace(card, weights_sha256=digest)
    card.write(folder / CARD)  # last: a folder with a card is complete
    return card


def load(folder: str | Path) -> Model:
    """Read a model of one image. The weights are checked against the card's sha256 before they are parsed.

    Raises:
        BadCheckpoint: an unknown architecture, a model that fuses two images, or weights that are missing, altered or
            do not fit.
        BadCard: no card, or one that cannot be read.
    """
    card, state = _read(Path(folder))
    if ARCHITECTURES[card.architecture].of_pair:
        raise BadCheckpoint(f"model {card.name!r} fuses two images: it restores pairs, with the task fuse")
    return cast("Model", _built(card, state))


def load_fusion(folder: str | Path) -> FusionModel:
    """Read a model that fuses two images; raises as `load` does."""
    card, state = _read(Path(folder))
    if not ARCHITECTURES[card.architecture].of_pair:
        fusions = sorted(name for name, architecture in ARCHITECTURES.items() if architecture.of_pair)
        raise BadCheckpoint(f"model {card.name!r} restores one image; a fusion is one of: {', '.join(fusions)}")
    return cast("FusionModel", _built(card, state))


def _built(card: ModelCard, state: State) -> Model | FusionModel:
    """The model of a card and its weights.

    Raises:
        BadCard: names the card.
    """
    try:
        return ARCHITECTURES[card.architecture].build(card, state)
    except BadCard as error:
        named = str(error) if str(error).startswith("model ") else f"model {card.name!r}: {error}"
        raise BadCard(named) from error
    except (RuntimeError, ValueError, TypeError, KeyError) as error:  # settings that together make no network
        raise BadCard(f"model {card.name!r}: its card and weights make no {card.architecture}: {error}") from error


def _read(folder: Path) -> tuple[ModelCard, State]:
    """Card and verified weights of a known architecture."""
    from safetensors.torch import load as load_tensors

    card = ModelCard.read(folder / CARD)
    if card.architecture not in ARCHITECTURES:
        known = ", ".join(sorted(ARCHITECTURES))
        raise BadCheckpoint(f"model {card.name!r}: unknown architecture {card.architecture!r}; known: {known}")
    state: State = {}
    if card.weights_sha256:
        try:
            if not (folder / WEIGHTS).is_file():  # a FIFO would make it wait
                raise FileNotFoundError
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
        except (SafetensorError, ArithmeticError, KeyError, RuntimeError, TypeError, ValueError) as e:
            raise BadCheckpoint(f"model {card.name!r}: {folder / WEIGHTS} is not safetensors: {e}") from e
    return card, state
