"""Source of raster files on one grid: windows of pixels, flags and defects."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from rasterio.windows import Window

from hypermend.catalog.arrays import F32, Flags, LonLat, Mask, Stored
from hypermend.catalog.cube.spec import CubeSpec
from hypermend.catalog.meaning.resolve import Meaning
from hypermend.catalog.readers.masks import flags_of, with_reasons
from hypermend.catalog.readers.raster.masks import DefectFiles, MaskFiles, mask_at_pixels
from hypermend.catalog.readers.raster.mosaic import Box, Layer, PlacedFile, block_mean
from hypermend.catalog.storage.fetch import AssetFetcher


@dataclass(frozen=True, kw_only=True)
class PlacedScene:
    """The files of a scene on the grid of its cube."""

    spec: CubeSpec
    identity: str
    meaning: Meaning
    layers: tuple[Layer, ...]
    masks: tuple[MaskFiles, ...]
    defects: tuple[DefectFiles, ...]
    outside: int | None
    """see `Description.outside`"""


class TiffSource:
    """Windows of raster files on one grid."""

    windowed = True
    lonlat: LonLat | None = None

    def __init__(self, scene: PlacedScene, fetcher: AssetFetcher) -> None:
        self.spec = scene.spec
        self.identity = scene.identity
        self.meaning = scene.meaning
        self._scene = scene
        self._fetcher = fetcher
        self._opened: dict[str, Any] = {}

    def read(self, y: slice, x: slice) -> tuple[Stored, Flags]:
        """(bands, h, w) stored numbers, (h, w) flags; only files under the window are opened."""
        box = self._box(y, x)
        y0, y1, x0, x1 = box
        empty = 0 if self.spec.fill is None else self.spec.fill
        stored = np.full((self.spec.bands, y1 - y0, x1 - x0), empty, dtype=self.spec.dtype)
        for layer in self._scene.layers:
            self._fill(stored, layer, box)
        if self._scene.outside is not None:
            self._empty_outside(stored, self._scene.outside)
        flags = flags_of(stored, self.spec)
        for mask in self._scene.masks:
            for file in mask.files:
                if (part := file.part_of(box)) is not None:
                    here = (slice(part[0] - y0, part[1] - y0), slice(part[2] - x0, part[3] - x0))
                    flags[here] = with_reasons(flags[here], self._mask(file, mask, part))
        return stored, flags

    def defects(self, y: slice, x: slice) -> Mask | None:
        """See `Source.defects`."""
        if not self._scene.defects:
            return None
        box = self._box(y, x)
        y0, y1, x0, x1 = box
        marked = np.zeros((self.spec.bands, y1 - y0, x1 - x0), dtype=bool)
        for layer in self._scene.defects:
            for file in layer.files:
                if (part := file.part_of(box)) is None:
                    continue
                window, inside = file.window(part)
                codes = self._raster(file, _read_bands(layer.file_bands, window))
                shape = (part[1] - part[0], part[3] - part[2])
                found = mask_at_pixels(
                    layer.rule.defects(codes).astype(np.uint8), file.up, file.down, inside, shape
                ).astype(bool)
                where = (slice(part[0] - y0, part[1] - y0), slice(part[2] - x0, part[3] - x0))
                marked[(list(layer.cube_bands), *where)] |= found
        return marked

    def _box(self, y: slice, x: slice) -> Box:
        y0, y1, _ = y.indices(self.spec.height)
        x0, x1, _ = x.indices(self.spec.width)
        return y0, y1, x0, x1

    def _empty_outside(self, stored: Stored, outside: int) -> None:
        """Fill pixels that hold the number of the outside in all good bands."""
        good = [i for i, g in enumerate(self.spec.good) if g] or list(range(self.spec.bands))
        beyond = np.ones(stored.shape[1:], dtype=bool)
        for band in good:  # one band at a time: no second copy of the window
            beyond &= stored[band] == outside
        stored[:, beyond] = self.spec.fill

    def _mask(self, file: PlacedFile, layer: MaskFiles, part: Box) -> Flags:
        """Flags of the part of a window that a mask file covers."""
        window, inside = file.window(part)

        def codes(dataset: Any) -> Any:
            if layer.band == 0:
                return dataset.read_masks(1, window=window)
            return dataset.read(layer.band, window=window)

        flags = layer.rule.flags(self._raster(file, codes))
        return mask_at_pixels(flags, file.up, file.down, inside, (part[1] - part[0], part[3] - part[2]))

    def _fill(self, out: Stored, layer: Layer, box: Box) -> None:
        for file in layer.files:
            if (part := file.part_of(box)) is None:
                continue
            pixels = self._pixels(file, layer.file_bands, part)
            window = (slice(part[0] - box[0], part[1] - box[0]), slice(part[2] - box[2], part[3] - box[2]))
            if (nodata := self.spec.fill) is not None and len(layer.files) > 1:
                # where files overlap, one without data here keeps the data of another
                holes = np.isnan(pixels) if np.isnan(nodata) else pixels == nodata
                pixels = np.where(holes, out[(list(layer.cube_bands), *window)], pixels)
            out[(list(layer.cube_bands), *window)] = pixels

    def _pixels(self, file: PlacedFile, bands: tuple[int, ...], part: Box) -> Stored:
        """A part of the target grid, from one file."""
        window, (dy, dx) = file.window(part)
        pixels: Stored = self._raster(file, _read_bands(bands, window))
        if file.down > 1:
            return block_mean(pixels, file.down, self.spec.fill)
        if file.up > 1:
            pixels = pixels.repeat(file.up, axis=1).repeat(file.up, axis=2)
            pixels = pixels[:, dy : dy + part[1] - part[0], dx : dx + part[3] - part[2]]
        return pixels

    def _raster(self, file: PlacedFile, use: Callable[[Any], Any]) -> Any:
        return self._fetcher.raster(file.header.asset.href, use, opened=self._opened)

    def uncertainty(self, y: slice, x: slice) -> F32 | None:
        """None: see `Source.uncertainty`."""
        return None

    def close(self) -> None:
        for dataset in self._opened.values():
            dataset.close()
        self._opened.clear()


def _read_bands(bands: tuple[int, ...], window: Window) -> Callable[[Any], Any]:
    return lambda dataset: dataset.read(list(bands), window=window)
