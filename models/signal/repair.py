"""Repair of a scene's defects before it is restored: what is missing is predicted from the other bands of its pixel.

Missing is what the product calls defective, what `defects.py` found in the scene, and the spikes of a window.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypedDict

import numpy as np

from hypermend.models.arrays import F32, I64, Mask
from hypermend.models.restorer import ArrayJson, array_from_json, array_to_json
from hypermend.models.signal.defects import Columns, Defects, DefectsJson, find_defects
from hypermend.models.signal.masked_estimate import MaskedWindow
from hypermend.models.signal.masked_fit import REACH_PX, MaskedFit
from hypermend.models.signal.subspace import Subspace, SubspaceStatistics


class RepairJson(TypedDict):
    """`Repair` as JSON types."""

    defects: DefectsJson
    space: SubspaceStatistics
    missing: ArrayJson
    most_noise: ArrayJson
    axes: int
    spiky: list[int]
    """positions of the bands that have spikes"""
    dense: list[int]


@dataclass(frozen=True, kw_only=True)
class Repair:
    """Repair of one scene; arrays are over its good bands."""

    defects: Defects
    fit: MaskedFit

    reach_px = REACH_PX
    """Pixels around a number that its repair depends on."""

    def __call__(self, values: F32, known: Mask, missing: Mask, x: I64) -> tuple[F32, Mask]:
        """Repair a window.

        Args:
            values: (b, h, w) without NaN.
            known: (h, w) pixels that hold data; others are neither used nor repaired.
            missing: (b, h, w) numbers that the product calls defective.
            x: (w,) columns of the scene.

        Returns:
            The values, and which of them were repaired (b, h, w).
        """
        missing = missing | self.defects.missing(values, x)
        gap = missing | ~known
        missing |= self.fit.spikes(values, gap)
        repaired = self.fit.predictable(missing) & known
        lacks = np.asarray(repaired.any(axis=0))
        if not lacks.any():
            return values, repaired
        prediction = self.fit.predict(values, ~(missing | ~known), lacks)
        return np.where(repaired, prediction, values), repaired

    def to_json(self) -> RepairJson:
        fit = self.fit
        return {
            "defects": self.defects.to_json(),
            "space": fit.space.to_json(),
            "missing": array_to_json(fit.missing),
            "most_noise": array_to_json(fit.most_noise),
            "axes": fit.axes,
            "spiky": [int(b) for b in np.flatnonzero(fit.spiky)],
            "dense": [int(b) for b in np.flatnonzero(fit.dense)],
        }

    @classmethod
    def from_json(cls, facts: RepairJson) -> Repair:
        """Parse JSON types; the inverse of `to_json`, to float32 precision."""
        missing = array_from_json(facts["missing"]).astype(np.float64)
        bands = np.arange(len(missing))
        fit = MaskedFit(
            space=Subspace.from_json(facts["space"]),
            missing=missing,
            axes=int(facts["axes"]),
            spiky=np.isin(bands, facts["spiky"]),
            dense=np.isin(bands, facts["dense"]),
            most_noise=array_from_json(facts["most_noise"]).astype(np.float64),
        )
        return cls(defects=Defects.from_json(facts["defects"]), fit=fit)


PlacedWindow = tuple[F32, Mask, Mask, I64]
"""A `MaskedWindow` and its columns in the scene (w,)."""


def masked(
    windows: Callable[[], Iterable[PlacedWindow]], columns: Columns
) -> tuple[Defects, Callable[[], Iterable[MaskedWindow]]]:
    """Find the defects of a scene and count them as missing in its windows.

    Args:
        windows: gives a sample of the scene, the same in each call.
        columns: gives the scene, or a sample of its rows over the whole width.
    """
    defects = find_defects(columns)

    def lacking() -> Iterable[MaskedWindow]:
        for values, valid, missing, x in windows():
            yield values, valid, missing | defects.missing(values, x)

    return defects, lacking
