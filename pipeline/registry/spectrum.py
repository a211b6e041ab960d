"""The spectrum that a model or a genotype was made for, and its distance to another."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from hypermend.models.card import ModelCard


def training_spectrum(card: ModelCard) -> Spectrum | None:
    """Spectrum of a model's training scenes; None where its card does not say: then only its name selects it."""
    return Spectrum(**card.spectrum) if card.spectrum else None


NEAR_DISTANCE = 0.25
"""Distance up to which a genotype or a model is taken for another sensor: 19 % more bands (2 ** 0.25), or a quarter of
the joint range that only one of the two covers."""


@dataclass(frozen=True, kw_only=True)
class Spectrum:
    """The part of a sensor that decides which architecture suits it."""

    bands: int
    """Number of good bands."""
    low_nm: float
    high_nm: float

    def __post_init__(self) -> None:
        """Check the numbers that are computed with.

        Raises:
            ValueError: they are no spectrum.
        """
        if not (0 < self.bands < 1e6 and 0 <= self.low_nm <= self.high_nm < math.inf):
            raise ValueError(f"{self.bands} bands from {self.low_nm} to {self.high_nm} nm are no spectrum")

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
