"""Repair of a scene's defects before it is restored: what is missing is predicted from the other bands of its pixel.

Missing is what the product calls defective, what `defects.py` found in the scene, and the spikes of a window. Stripes
(`stripes.py`) are subtracted before, where the user asks for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NotRequired, TypedDict

import numpy as np

from hypermend.models.arrays import F32, I64, Mask
from hypermend.models.restorer import ArrayJson, array_from_json, array_to_json
from hypermend.models.signal.defects import Columns, Defects, DefectsJson, Strips, find_defects
from hypermend.models.signal.masked_estimate import MaskedWindow
from hypermend.models.signal.masked_fit import REACH_PX, MaskedFit
from hypermend.models.signal.stripes import PlacedWindow, Stripes, StripesJson, find_stripes
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
    stripes: NotRequired[StripesJson]
    """none where no stripe is subtracted"""


@dataclass(frozen=True, kw_only=True)
class Repair:
    """Repair of one scene; arrays are over its good bands."""

    defects: Defects
    fit: MaskedFit
    stripes: Stripes | None = None

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
            The values, without stripes, and which of them were repaired (b, h, w).
        """
        missing = missing | self.defects.missing(values, x)
        if self.stripes is not None:
            values = self.stripes.remove(values, x)
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
        facts: RepairJson = {
            "defects": self.defects.to_json(),
            "space": fit.space.to_json(),
            "missing": array_to_json(fit.missing),
            "most_noise": array_to_json(fit.most_noise),
            "axes": fit.axes,
            "spiky": [int(b) for b in np.flatnonzero(fit.spiky)],
            "dense": [int(b) for b in np.flatnonzero(fit.dense)],
        }
        return facts if self.stripes is None else {**facts, "stripes": self.stripes.to_json()}

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
        stripes = Stripes.from_json(facts["stripes"]) if "stripes" in facts else None
        return cls(defects=Defects.from_json(facts["defects"]), fit=fit, stripes=stripes)


def masked(
    windows: Callable[[], Iterable[PlacedWindow]], columns: Columns, *, destripe: bool = False
) -> tuple[Defects, Stripes | None, Callable[[], Iterable[MaskedWindow]]]:
    """Find defects and stripes of a scene; count defects as missing in its windows, and subtract stripes from them.

    Args:
        windows: gives a sample of the scene, the same in each call.
        columns: gives the scene, or a sample of its rows over the whole width.
        destripe: whether to look for stripes.

    Returns:
        The defects; the stripes, None where there are none; the windows.
    """
    defects = find_defects(columns)

    def lacking() -> Iterator[PlacedWindow]:
        for values, valid, missing, x in windows():
            yield values, valid, missing | defects.missing(values, x), x

    stripes = find_stripes(lacking, lambda: _lacking(columns(), defects)) if destripe else None
    found = stripes or None

    def clean() -> Iterator[MaskedWindow]:
        for values, valid, missing, x in lacking():
            yield (values if found is None else np.where(valid, found.remove(values, x), np.float32(0))), valid, missing

    return defects, found, clean


def _lacking(groups: Iterable[Strips], defects: Defects) -> Iterator[Iterator[MaskedWindow]]:
    """Groups of columns with their defects counted as missing."""
    x0 = 0

    def strips_of(strips: Strips) -> Iterator[MaskedWindow]:
        nonlocal x0
        width = 0
        for values, valid, missing in strips:
            width = values.shape[2]
            yield values, valid, missing | defects.missing(values, np.arange(x0, x0 + width))
        x0 += width

    return (strips_of(strips) for strips in groups)
