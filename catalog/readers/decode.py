"""Bands with scales of their own: decoded to float32 when they are read (docs/decisions/0019).

One array of a cube has one scale (CF). Where the bands of a product differ in theirs (EnMAP L1, Landsat L1, PRISMA with
two detectors) the cube holds the physical values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from hypermend.catalog.arrays import F32, F64, Flags, LonLat, Mask, Stored
from hypermend.catalog.cube.spec import CubeSpec
from hypermend.catalog.meaning.resolve import Meaning
from hypermend.catalog.readers.bands import Band

STORED_ATTR = "hypermend:stored"


class DecodedSource:
    """A source whose numbers are decoded band by band: physical = stored * scale + offset, fill NaN."""

    def __init__(self, source: Any, scale: F64, offset: F64) -> None:
        """
        Args:
            source: a Source of stored numbers.
            scale, offset: one for each band of its spec.
        """
        self._source = source
        self._scale, self._offset = scale, offset
        stored: CubeSpec = source.spec
        chunk, shard = CubeSpec.layout(stored.shape, "float32")
        facts = {"dtype": stored.dtype, "scale_factor": scale.tolist(), "add_offset": offset.tolist()}
        self.spec = replace(
            stored,
            dtype="float32",
            fill=float("nan"),
            chunk=chunk,
            shard=shard,
            attrs={**stored.attrs, STORED_ATTR: facts},
        )
        self.windowed: bool = source.windowed
        self.identity: str = source.identity
        self.lonlat: LonLat | None = source.lonlat
        self.meaning: Meaning = source.meaning

    def read(self, y: slice, x: slice) -> tuple[Stored, Flags]:
        """(bands, h, w) float32 physical values and (h, w) flags."""
        stored, flags = self._source.read(y, x)
        fill = self._source.spec.fill
        out = np.empty(stored.shape, dtype=np.float32)
        for i, band in enumerate(stored):  # one band at a time: no second copy of the window
            out[i] = band * self._scale[i] + self._offset[i]
            if fill is not None and not np.isnan(fill):
                out[i][band == fill] = np.nan
        return out, flags

    def defects(self, y: slice, x: slice) -> Mask | None:
        """See `Source.defects`."""
        found: Mask | None = self._source.defects(y, x)
        return found

    def uncertainty(self, y: slice, x: slice) -> F32 | None:
        """See `Source.uncertainty`."""
        found: F32 | None = self._source.uncertainty(y, x)
        return found

    def close(self) -> None:
        self._source.close()


def decoded(source: Any, bands: Sequence[Band]) -> Any:
    """The source itself, or decoded where its bands differ in scale or offset.

    Args:
        bands: those of the cube, in its order.
    """
    scale = np.array([b.scale_factor for b in bands], dtype=np.float64)
    offset = np.array([b.add_offset for b in bands], dtype=np.float64)
    if np.all(scale == scale[0]) and np.all(offset == offset[0]):
        return source
    return DecodedSource(source, scale, offset)
