"""Windows of the arrays of HDF5 files: numbers, flags, defects and uncertainty."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np

from hypermend.catalog.arrays import F32, Flags, LonLat, Mask, Stored
from hypermend.catalog.cube.spec import NODATA, CubeSpec
from hypermend.catalog.errors import ArchiveError, BadAsset
from hypermend.catalog.meaning.resolve import Meaning
from hypermend.catalog.readers.hierarchical.file import READ_ERRORS, open_file, require
from hypermend.catalog.readers.hierarchical.layout import MaskArray
from hypermend.catalog.readers.masks import flags_of, with_reasons
from hypermend.catalog.readers.raster.mosaic import block_mean
from hypermend.catalog.scene import Asset
from hypermend.catalog.storage.fetch import AssetFetcher
from hypermend.catalog.storage.hrefs import shown


@dataclass(frozen=True, kw_only=True)
class Part:
    """The bands that one array gives to the cube."""

    path: str
    axes: str
    """letters of its axes in file order: b, y, x"""
    file_bands: tuple[int, ...]
    """0-based bands of the array"""
    cube_bands: tuple[int, ...]
    """their positions in the cube"""
    file: int = 0
    up: int = 1
    """see `CubeArray`"""
    down: int = 1


@dataclass(frozen=True, kw_only=True)
class Parts:
    """All that a source reads."""

    cube: tuple[Part, ...]
    masks: tuple[MaskArray, ...] = ()
    defects: tuple[tuple[MaskArray, Part], ...] = ()
    uncertainty: tuple[Part, ...] = ()
    uncertainty_scale: float = 1.0
    """physical standard deviation = number * scale"""
    uncertainty_fill: float | None = None
    empty: float | None = None


class HierarchicalSource:
    """Windows of the arrays of a scene, which may lie in several files."""

    windowed = True

    def __init__(
        self,
        spec: CubeSpec,
        identity: str,
        assets: Sequence[Asset],
        fetcher: AssetFetcher,
        parts: Parts,
        *,
        meaning: Meaning,
        lonlat: LonLat | None = None,
    ) -> None:
        """
        Args:
            assets: the file of the cube, then its companions.
        """
        self.spec, self.identity, self.meaning, self.lonlat = spec, identity, meaning, lonlat
        self._assets, self._fetcher, self._parts = list(assets), fetcher, parts
        self._stack = ExitStack()
        self._files: dict[int, Any] = {}

    def read(self, y: slice, x: slice) -> tuple[Stored, Flags]:
        """(bands, h, w) stored numbers and (h, w) flags."""
        y, x = self._window(y, x)
        stored = np.empty((self.spec.bands, y.stop - y.start, x.stop - x.start), dtype=self.spec.dtype)
        for part in self._parts.cube:
            stored[list(part.cube_bands)] = self._block(part, y, x)
        flags = flags_of(stored, self.spec)
        if self._parts.empty is not None:
            blank = (stored == self._parts.empty).all(axis=0)
            flags = with_reasons(flags, np.where(blank, NODATA, 0).astype(np.uint8))
        for mask in self._parts.masks:
            part = Part(
                path=mask.path,
                axes=mask.axes,
                file=mask.file,
                file_bands=(mask.plane or 0,),
                cube_bands=(0,),
                up=mask.up,
            )
            flags = with_reasons(flags, mask.rule.flags(self._block(part, y, x)[0]))
        if (defects := self.defects(y, x)) is not None:
            good = np.array(self.spec.good) if any(self.spec.good) else np.ones(self.spec.bands, dtype=bool)
            flags = with_reasons(flags, np.where(defects[good].any(axis=0), NODATA, 0).astype(np.uint8))
        return stored, flags

    def defects(self, y: slice, x: slice) -> Mask | None:
        """(bands, h, w) True where the product marks one band of a pixel as defective; None if it marks none."""
        if not self._parts.defects:
            return None
        y, x = self._window(y, x)
        out = np.zeros((self.spec.bands, y.stop - y.start, x.stop - x.start), dtype=bool)
        for mask, part in self._parts.defects:
            out[list(part.cube_bands)] |= mask.rule.defects(self._block(part, y, x))
        return out

    def uncertainty(self, y: slice, x: slice) -> F32 | None:
        """See `Source.uncertainty`."""
        if not self._parts.uncertainty:
            return None
        y, x = self._window(y, x)
        out = np.full((self.spec.bands, y.stop - y.start, x.stop - x.start), np.nan, dtype=np.float32)
        for part in self._parts.uncertainty:
            block = self._block(part, y, x)
            empty = block < 0  # a standard deviation is not negative: a fill that is not told
            if self._parts.uncertainty_fill is not None:
                empty |= block == self._parts.uncertainty_fill
            out[list(part.cube_bands)] = np.where(empty, np.nan, block * np.float32(self._parts.uncertainty_scale))
        return out

    def _window(self, y: slice, x: slice) -> tuple[slice, slice]:
        return slice(*y.indices(self.spec.height)), slice(*x.indices(self.spec.width))

    def _block(self, part: Part, y: slice, x: slice) -> Stored:
        """(bands of the part, h, w) on the pixels of the cube."""
        rows, columns = _own_pixels(y, part), _own_pixels(x, part)
        block = self._stored(part, rows, columns)
        if part.down > 1:
            return block_mean(block, part.down, self.spec.fill)
        if part.up > 1:
            block = block.repeat(part.up, axis=1).repeat(part.up, axis=2)
            dy, dx = y.start - rows.start * part.up, x.start - columns.start * part.up
            block = block[:, dy : dy + y.stop - y.start, dx : dx + x.stop - x.start]
        return block

    def _stored(self, part: Part, y: slice, x: slice) -> Stored:
        """(bands of the part, h, w) on the pixels of the array."""
        where = shown(self._assets[part.file].href)
        try:
            if part.file not in self._files:
                self._files[part.file] = self._stack.enter_context(open_file(self._assets[part.file], self._fetcher))
            dataset = require(self._files[part.file], part.path, where, max_bytes=self._fetcher.max_bytes)
            window = {"b": slice(min(part.file_bands), max(part.file_bands) + 1), "y": y, "x": x, "t": 0}
            block = np.asarray(dataset[tuple(window[axis] for axis in part.axes)])
        except ArchiveError:
            self.close()  # the next read opens the file again, with a new signature
            raise
        except READ_ERRORS as e:
            self.close()
            raise BadAsset(f"{where}: {part.path} cannot be read: {e}") from e
        axes = part.axes.replace("t", "")
        if "b" not in axes:
            return block.transpose([axes.index(a) for a in "yx"])[None]
        block = block.transpose([axes.index(a) for a in "byx"])
        return block[[i - min(part.file_bands) for i in part.file_bands]]

    def close(self) -> None:
        self._stack.close()
        self._files.clear()


def _own_pixels(window: slice, part: Part) -> slice:
    """Rows or columns of an array that cover those of the cube."""
    if part.down > 1:
        return slice(window.start * part.down, window.stop * part.down)
    return slice(window.start // part.up, -(-window.stop // part.up))
