"""A scene that is read whole: the file has no windows."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from hypermend.catalog.arrays import F32, Flags, LonLat, Mask, Stored
from hypermend.catalog.cube.spec import CubeSpec
from hypermend.catalog.meaning.resolve import Meaning
from hypermend.catalog.readers.masks import flags_of


class ArraySource:
    """A scene that is read whole: the first read loads the file."""

    windowed = False
    lonlat: LonLat | None = None

    def __init__(
        self,
        spec: CubeSpec,
        identity: str,
        load: Callable[[], Stored],
        order: Sequence[int],
        *,
        meaning: Meaning,
        loaded: Stored | None = None,
    ) -> None:
        """
        Args:
            load: returns (band, y, x) in file order.
            order: position in the file of each cube band.
            loaded: the array, if it has been loaded already.
        """
        self.spec = spec
        self.identity = identity
        self.meaning = meaning
        self._load = load
        self._order = list(order)
        self._array = loaded

    def read(self, y: slice, x: slice) -> tuple[Stored, Flags]:
        """(bands, h, w) stored numbers and (h, w) flags."""
        if self._array is None:
            self._array = self._load()
        stored = np.stack([self._array[i, y, x] for i in self._order]).astype(self.spec.dtype, copy=False)
        return stored, flags_of(stored, self.spec)

    def defects(self, y: slice, x: slice) -> Mask | None:
        """None: see `Source.defects`."""
        return None

    def uncertainty(self, y: slice, x: slice) -> F32 | None:
        """None: see `Source.uncertainty`."""
        return None

    def close(self) -> None:
        self._array = None
