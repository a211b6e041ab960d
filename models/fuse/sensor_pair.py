"""The pair of sensors that weights are bound to. Knows no torch, so that a plan can be made with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from hypermend.models.arrays import F32

CENTRE_TOLERANCE = 0.25
"""Largest difference between band centres, as a share of the bands' spacing."""
RESPONSE_TOLERANCE = 0.05
"""Largest difference between responses of a guide band (Euclidean), as a share of that band's."""


@dataclass(frozen=True, kw_only=True)
class SensorPair:
    """What makes two pairs of images the same pair of sensors."""

    scale: int
    """HR pixels along the edge of an LR pixel."""
    wavelength_nm: tuple[float, ...]
    """(b,) band centres of the image."""
    response: F32
    """(m, b) of the guide's bands in any order, see `interface.PairGeometry`."""

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> SensorPair:
        """Parse the config of a card; the inverse of `to_config`.

        Raises:
            ValueError: other keys than these, or a response of another shape.
        """
        keys = {"scale", "wavelength_nm", "response"}
        if set(config) != keys:
            raise ValueError(f"config with keys {sorted(config)}; it has {sorted(keys)}")
        response = np.asarray(config["response"], np.float32)
        if response.ndim != 2 or response.shape[1] != len(config["wavelength_nm"]):
            raise ValueError(f"a response of shape {response.shape} for {len(config['wavelength_nm'])} bands")
        return cls(scale=int(config["scale"]), wavelength_nm=tuple(config["wavelength_nm"]), response=response)

    def to_config(self) -> dict[str, Any]:
        """JSON types; the response to six digits."""
        return {
            "scale": self.scale,
            "wavelength_nm": list(self.wavelength_nm),
            "response": [[round(float(v), 6) for v in row] for row in self.response],
        }

    def difference(self, other: SensorPair) -> str:
        """Say in what the other pair differs; empty if it is the same pair of sensors."""
        if other.scale != self.scale:
            return f"a scale of {other.scale}, not {self.scale}"
        if other.response.shape != self.response.shape:
            m, b = other.response.shape
            return f"{b} bands and {m} of the guide, not {len(self.wavelength_nm)} and {len(self.response)}"
        there, here = np.array(other.wavelength_nm), np.array(self.wavelength_nm)
        spacing = float(np.median(np.abs(np.diff(here)))) if len(here) > 1 else float(here[0])
        off = np.abs(there - here)
        if off.max() > CENTRE_TOLERANCE * spacing:
            at = int(off.argmax())
            return f"a band at {there[at]:.0f} nm, not at {here[at]:.0f} nm"
        unlike = np.linalg.norm(other.response[:, None] - self.response[None], axis=2)
        unlike = unlike / np.linalg.norm(self.response, axis=1)
        nearest, size = unlike.argmin(axis=1), unlike.min(axis=1)
        if size.max() > RESPONSE_TOLERANCE:
            return f"another response of the guide's band {int(size.argmax()) + 1} (by {size.max():.0%})"
        if len(set(nearest.tolist())) < len(nearest):
            return "two bands of the guide with one response"
        return ""
