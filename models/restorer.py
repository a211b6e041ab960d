"""What a model must offer so that a scene can be restored tile by tile with the same answer as in one piece.

    Model.estimate(windows of the scene) -> Facts      once per scene, deterministic, stored in the plan
    Model.bind(Facts)                    -> Restorer   the same on every worker
    Restorer(x)                          -> y          a function of the pixels within `halo` only

Whatever depends on the whole scene (input scale, noise level, signal subspace) therefore sits in the Facts, and a
Restorer is a finite-halo map: tiled equals whole by construction.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from hypermend.models.arrays import F32, Mask
from hypermend.models.card import ModelCard

SceneStatistics = dict[str, Any]
"""JSON types only; arrays through `array_to_json`."""
Window = tuple[F32, Mask]
"""(bands, h, w) physical values of the good bands, (h, w) valid. A bounded sample of the scene, in a fixed order."""


class Restorer(Protocol):
    """A finite-halo map of pixels, bound to one scene."""

    @property
    def halo(self) -> int:
        """Input pixels around an output pixel that it may depend on."""
        ...

    @property
    def scale(self) -> int:
        """Output pixels for each input pixel along one axis."""
        ...

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """(B, bands, H, W) float32 physical values without NaN -> (B, bands', scale*H, scale*W)."""
        ...


class Model(Protocol):
    """Weights and card, not yet bound to a scene."""

    @property
    def card(self) -> ModelCard:
        """What the weights need to be used rightly."""
        ...

    @property
    def halo(self) -> int:
        """As for the restorers it binds."""
        ...

    @property
    def scale(self) -> int:
        """As for the restorers it binds."""
        ...

    def estimate(self, windows: Iterable[Window]) -> SceneStatistics:
        """What the restorer must know of the whole scene. Deterministic: same windows, same facts."""
        ...

    def bind(self, facts: SceneStatistics) -> Restorer:
        """The restorer for the scene that the facts were estimated on."""
        ...


def array_to_json(array: npt.NDArray[Any]) -> SceneStatistics:
    """An array as JSON: base64 of little-endian float32 with its shape."""
    data = np.ascontiguousarray(array, dtype="<f4")
    return {"float32": base64.b64encode(data.tobytes()).decode("ascii"), "shape": list(data.shape)}


def array_from_json(packed: SceneStatistics) -> F32:
    """Inverse of `array_to_json`."""
    flat = np.frombuffer(base64.b64decode(packed["float32"]), dtype="<f4")
    return flat.reshape(packed["shape"]).astype(np.float32)


@dataclass(frozen=True)
class Identity:
    """The restorer that changes nothing, bit for bit."""

    halo: int = 0
    scale: int = 1

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """x -> x."""
        return x


@dataclass(frozen=True)
class IdentityModel:
    """Architecture `identity`: no weights, no facts. A card with a halo reads (and ignores) that many extra pixels."""

    card: ModelCard

    @property
    def halo(self) -> int:
        """As the card says: lets the cost of a halo be measured apart from any network."""
        return self.card.halo

    @property
    def scale(self) -> int:
        """Always 1."""
        return 1

    def estimate(self, windows: Iterable[Window]) -> SceneStatistics:
        """Nothing to know."""
        return {}

    def bind(self, facts: SceneStatistics) -> Restorer:
        """The identity."""
        return Identity(halo=self.halo)
