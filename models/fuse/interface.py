"""Contract of a fusion model: an image of few pixels and many bands, and a guide of many pixels and few bands.

    FusionModel.estimate(windows of the pair)  -> SceneStatistics   once per scene, deterministic, stored in the plan
    FusionModel.adapt(SceneStatistics, block)  -> Adapted           once per block, where the model adapts
    FusionModel.bind(SceneStatistics, state)   -> FusionRestorer    state: what the block's adaptation learned
    FusionRestorer(y, x)                       -> z                 a function of the pixels within `halo` only

Notation of this package. Y (b, h, w) is the image, X (m, s*h, s*w) the guide, Z (b, s*h, s*w) the fused image. An LR
(low-resolution) pixel is one of Y, an HR (high-resolution) pixel one of X and Z; s is the scale. P (m, b) is the
spectral response, X = P Z. H is blur and decimation, Y = H Z + noise. `signal/degrade.py` defines where LR pixel (i, j)
lies on the HR grid, and where the centre of a kernel lies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypedDict

import numpy as np
import torch

from hypermend.models.arrays import F32, Floats, Mask
from hypermend.models.budget import AdaptationBudget
from hypermend.models.card import ModelCard
from hypermend.models.restorer import SceneStatistics

State = Mapping[str, torch.Tensor]


class BadPair(ValueError):
    """Raised for a pair that cannot be fused; the message says what is wrong, by how much, and what to do."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One window of a scene pair. Physical values without NaN: pixels that are not valid hold fill values."""

    y: F32
    """(b, h, w) good bands of the image."""
    y_valid: Mask
    """(h, w). Saturated pixels are not valid."""
    x: F32
    """(m, s*h, s*w) guide, on the HR grid."""
    x_valid: Mask
    """(s*h, s*w)."""

    def __post_init__(self) -> None:
        """Check shapes and values.

        Raises:
            BadPair: shapes that do not fit together, or values that are not finite.
        """
        (_, h, w), (_, height, width) = self.y.shape, self.x.shape
        if h == 0 or w == 0 or height % h or width % w or height // h != width // w:
            raise BadPair(
                f"guide of {height} x {width} pixels on an image of {h} x {w}: "
                "the guide must be finer by one whole number along both axes"
            )
        if self.y_valid.shape != (h, w) or self.x_valid.shape != (height, width):
            raise BadPair(
                f"masks of {self.y_valid.shape} and {self.x_valid.shape} on images of {(h, w)} and {(height, width)}"
            )
        for name, values in (("image", self.y), ("guide", self.x)):
            if not np.isfinite(values).all():
                raise BadPair(f"the {name} holds NaN or infinite values: fill them and mark them invalid")

    @property
    def scale(self) -> int:
        """HR pixels along the edge of an LR pixel."""
        return int(self.x.shape[1] // self.y.shape[1])


@dataclass(frozen=True, kw_only=True)
class PairGeometry:
    """Geometry and spectral response of a pair, which are known before any pixel is read."""

    scale: int
    """HR pixels along the edge of an LR pixel."""
    response: F32
    """(m, b) P, the guide's bands as weighted sums of the image's bands; rows sum to 1."""
    expected_centroid_px: float
    """Centroid of the blur kernel of an aligned pair, in HR pixels from HR pixel (s*i, s*j) along both axes:
    (s - 1) / 2 where LR pixels cover HR pixels (every georeferenced pair), 0 in a laboratory pair."""
    wavelength_nm: tuple[float, ...] | None = None
    """(b,) centres of the image's bands; None where they are not known."""
    kernel: Floats | None = None
    """(n, n), sum 1, if the blur is given (a simulated image). None: it is estimated from the pair."""

    def __post_init__(self) -> None:
        """Check scale and response.

        Raises:
            BadPair: scale below 1, or a response that is no matrix or whose rows do not sum to 1.
        """
        if self.scale < 1:
            raise BadPair(f"scale {self.scale}: the guide must be as fine as the image or finer, so at least 1")
        if self.response.ndim != 2:
            raise BadPair(f"a response of shape {self.response.shape}; it must be (guide bands, image bands)")
        sums = self.response.sum(axis=1)
        if not np.allclose(sums, 1.0, atol=1e-3):
            raise BadPair(f"rows of the response sum to {np.round(sums, 3).tolist()}; each must sum to 1")


class AdaptationFigures(TypedDict, total=False):
    """Figures of the adaptation of one block, JSON types; stored in the block's mark."""

    adapted: bool
    """Whether the block keeps what was learned."""
    steps: int
    """Optimiser steps made."""
    loss_first: float | None
    loss_last: float | None
    held_out_first: float
    """Squared error on the held-out squares without adaptation, relative to the square of the mean error."""
    held_out_last: float
    """The same with what the block uses in the end."""
    held_out_start: float
    """The same with the training-free start."""
    held_out_fusion: float
    """The same with the network as it was trained."""
    inconsistent_first: float
    """Difference from Y after blur and decimation without adaptation, relative to that of the start."""
    inconsistent_last: float
    held_out_angle_first_deg: float
    held_out_angle_last_deg: float
    seconds: float
    reason: str
    """Why the block is not adapted; empty if it is."""
    fell_back_to: str
    """"fusion" or "start"; empty if the block is adapted."""


@dataclass(frozen=True, kw_only=True)
class Adapted:
    """Result of the adaptation to one block."""

    state: dict[str, torch.Tensor]
    """Learned parameters for `bind`, small enough to store. {}: the block uses the unadapted model."""
    figures: AdaptationFigures


class FusionRestorer(Protocol):
    """A finite-halo map of a pair of windows, bound to one scene (and to one block, if adapted)."""

    @property
    def halo(self) -> int:
        """LR pixels around an LR pixel on which its s x s output pixels may depend: in Y, and s times as many in X."""
        ...

    @property
    def scale(self) -> int:
        """HR pixels along the edge of an LR pixel."""
        ...

    def __call__(self, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Fuse (B, b, h, w) and (B, m, s*h, s*w), float32 physical values without NaN -> (B, b, s*h, s*w)."""
        ...

    def without_guide(self, y: torch.Tensor) -> torch.Tensor:
        """Enlarge (B, b, h, w) -> (B, b, s*h, s*w), for pixels where the guide is not valid."""
        ...


class FusionModel(Protocol):
    """Card and weights, if any, not yet bound to a scene."""

    @property
    def card(self) -> ModelCard:
        """Requirements of the weights. `card.halo_at(scale)` is the halo of the restorers that it binds."""
        ...

    @property
    def adapts(self) -> bool:
        """Whether the model adapts to blocks."""
        ...

    def halo(self, scale: int) -> int:
        """Return the halo of the restorers that it binds, in LR pixels: `card.halo_at(scale)`."""
        ...

    def estimate(self, pairs: Callable[[], Iterable[Pair]], setup: PairGeometry) -> SceneStatistics:
        """Estimate the scene statistics: kernel, noise, gains, axes. Deterministic: same windows, same statistics.

        Args:
            pairs: returns the windows of the scene in a fixed order; may be called more than once.
            setup: geometry of the pair.

        Raises:
            BadPair: the pair cannot be fused.
        """
        ...

    def bind(self, statistics: SceneStatistics, state: State | None = None) -> FusionRestorer:
        """Return the restorer of the scene, with the learned state of a block; None or {}: unadapted."""
        ...

    def adapt(
        self, statistics: SceneStatistics, pair: Pair, core: tuple[slice, slice], budget: AdaptationBudget
    ) -> Adapted:
        """Adapt to one block. Deterministic for a budget without seconds.

        Args:
            statistics: statistics of the scene.
            pair: the block with its margin.
            core: LR rows and columns of the block itself in `pair`.
            budget: limits of the adaptation.
        """
        ...
