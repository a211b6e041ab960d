"""The spectrum that a model or a genotype was made for, and how far another one is from it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hypermend.models.card import ModelCard

if TYPE_CHECKING:
    pass


def training_spectrum(card: ModelCard) -> Spectrum | None:
    """What the model was trained on; None where its card does not say, and then it is used by its name alone."""
    return Spectrum(**card.spectrum) if card.spectrum else None


NEAR_DISTANCE = 0.25
"""Distance up to which a genotype is proposed again: a fifth more bands, or a quarter of the range moved."""


@dataclass(frozen=True, kw_only=True)
class Spectrum:
    """What of a sensor decides on an architecture."""

    bands: int
    """Good ones."""
    low_nm: float
    high_nm: float

    def distance(self, other: Spectrum) -> float:
        """0 for the same band count and range; symmetric."""
        doublings = abs(math.log2(self.bands / other.bands))
        shared = min(self.high_nm, other.high_nm) - max(self.low_nm, other.low_nm)
        together = max(self.high_nm, other.high_nm) - min(self.low_nm, other.low_nm)
        return doublings + 1 - (max(0.0, shared) / together if together > 0 else 1.0)

    def __str__(self) -> str:
        return f"{self.bands} bands, {self.low_nm:.0f}-{self.high_nm:.0f} nm"

    def to_dict(self) -> dict[str, Any]:
        """JSON types."""
        return {"bands": self.bands, "low_nm": self.low_nm, "high_nm": self.high_nm}
