"""Contract of a model that restores a scene tile by tile with the same result as in one piece.

    Model.estimate(windows of the scene) -> SceneStatistics    once per scene, deterministic, stored in the plan
    Model.bind(SceneStatistics)          -> Restorer           the same on every worker
    Restorer(x)                          -> y                  a function of the pixels within `halo` only

Everything that depends on the whole scene (input scale, noise level, signal subspace) is in the statistics, so a
Restorer is a map with a finite halo: tiled equals whole by construction.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypedDict

import numpy as np
import numpy.typing as npt
import torch

from hypermend.models.arrays import F32, Mask
from hypermend.models.card import ModelCard

SceneStatistics = Mapping[str, Any]
"""Values that a model estimates once from the whole scene, as a JSON object; arrays through `array_to_json`. Each model
declares its keys in a TypedDict."""
Window = tuple[F32, Mask]
"""Physical values of the good bands (bands, h, w), and which pixels are valid (h, w). Windows are a bounded sample of
the scene, in a fixed order."""


class ArrayJson(TypedDict):
    """An array as JSON types."""

    float32: str
    """base64 of the little-endian elements, in C order."""
    shape: list[int]


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


class CertainRestorer(Restorer, Protocol):
    """A restorer that knows how certain its result is."""

    def with_std(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The result, and the standard deviation of its error, (B, bands, H, W) each; NaN where it is not known."""
        ...


class Model(Protocol):
    """Weights and card, not yet bound to a scene."""

    @property
    def card(self) -> ModelCard:
        """Requirements of the weights."""
        ...

    @property
    def halo(self) -> int:
        """The halo of the restorers that it binds."""
        ...

    @property
    def scale(self) -> int:
        """The scale of the restorers that it binds."""
        ...

    def estimate(self, windows: Iterable[Window]) -> SceneStatistics:
        """Estimate the scene statistics that `bind` needs. Deterministic: same windows, same statistics."""
        ...

    def bind(self, statistics: SceneStatistics) -> Restorer:
        """Return the restorer of the scene that the statistics were estimated on."""
        ...


def array_to_json(array: npt.NDArray[Any]) -> ArrayJson:
    """Encode an array as base64 of little-endian float32, with its shape."""
    data = np.ascontiguousarray(array, dtype="<f4")
    return {"float32": base64.b64encode(data.tobytes()).decode("ascii"), "shape": list(data.shape)}


def array_from_json(packed: ArrayJson) -> F32:
    """Decode an array; the inverse of `array_to_json`."""
    flat = np.frombuffer(base64.b64decode(packed["float32"]), dtype="<f4")
    return flat.reshape(packed["shape"]).astype(np.float32)


@dataclass(frozen=True)
class Identity:
    """Restorer that returns its input bit for bit."""

    halo: int = 0
    scale: int = 1

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """x -> x."""
        return x


@dataclass(frozen=True)
class IdentityModel:
    """Architecture `identity`: no weights, no statistics. Reads and ignores the halo that its card names."""

    card: ModelCard

    @property
    def halo(self) -> int:
        """The card's halo. A halo above 0 measures the cost of reading it without any network."""
        return self.card.halo

    @property
    def scale(self) -> int:
        """Always 1."""
        return 1

    def estimate(self, windows: Iterable[Window]) -> SceneStatistics:
        """Return no statistics."""
        return {}

    def bind(self, statistics: SceneStatistics) -> Restorer:
        """Return the identity."""
        return Identity(halo=self.halo)
