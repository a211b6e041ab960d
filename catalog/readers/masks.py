"""Flags of a cube: from nodata, and from the mask layers of products, whose rules say what their numbers mean.

A rule is data: a product profile lists its layers, the reader of the format reads them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hypermend.catalog.arrays import Flags, Mask, Stored
from hypermend.catalog.cube.spec import NODATA, VALID, CubeSpec

MASKS_ATTR = "hypermend:masks"
"""Attribute of a cube: names of the mask layers in its flags and defects."""


@dataclass(frozen=True, kw_only=True)
class MaskRule:
    """What the numbers of one mask layer mean."""

    name: str
    """as the product names the layer"""
    values: Mapping[int, int] = field(default_factory=dict)
    """number of the layer -> flag of the cube (NODATA, CLOUD ...)"""
    bits: Mapping[int, int] = field(default_factory=dict)
    """bit of the layer, from 0 -> flag of the cube"""
    defect: bool = False
    """True: the layer has the bands of the image, and any number that is not in `sound` marks a defect there"""
    sound: tuple[int, ...] = (0,)

    def flags(self, codes: NDArray[Any]) -> Flags:
        """Flags (h, w) of a layer (h, w) without defects: 0 where it says nothing."""
        out = np.zeros(codes.shape, dtype=np.uint8)
        for number, flag in self.values.items():
            out[codes == number] |= flag
        for bit, flag in self.bits.items():
            out[(codes.astype(np.int64) >> bit) & 1 == 1] |= flag
        return out

    def defects(self, codes: NDArray[Any]) -> Mask:
        """True (band, h, w) where the layer marks a defect of one band."""
        return ~np.isin(codes, self.sound)


def with_reasons(flags: Flags, reasons: Flags) -> Flags:
    """Flags with the reasons of a mask layer; a reason clears VALID."""
    out = flags | reasons
    return np.where(reasons > 0, out & ~np.uint8(VALID), out).astype(np.uint8)


def flags_of(stored: Stored, spec: CubeSpec) -> Flags:
    """VALID where every good band has data, else NODATA; a pixel without any good band becomes fill in all bands.

    A pixel with only some bands missing keeps its stored numbers but is not VALID: no network may see its fill.
    """
    good = [i for i, g in enumerate(spec.good) if g] or list(range(spec.bands))
    some_missing = np.zeros(stored.shape[1:], dtype=bool)
    all_missing = np.ones(stored.shape[1:], dtype=bool)
    for band in good:  # one band at a time: no second copy of the window
        missing = _missing(stored[band], spec.fill)
        some_missing |= missing
        all_missing &= missing
    if spec.fill is not None and all_missing.any():
        stored[:, all_missing] = spec.fill
    return np.where(some_missing, NODATA, VALID).astype(np.uint8)


def _missing(band: Stored, fill: float | int | None) -> Mask:
    """Where a band (y, x) has no data: its fill, and for floats any number that is not finite."""
    missing = np.zeros(band.shape, dtype=bool) if fill is None else np.asarray(band == fill)
    return missing | ~np.isfinite(band) if band.dtype.kind == "f" else missing
