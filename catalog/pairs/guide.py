"""A guide's pixels on the target grid: unchanged where the two grids coincide, else reprojected.

Reprojection works on squares of a lattice fixed on the target grid, each reprojected on its own by odc-geo. So a pixel
is the same in every window that contains it, and tiled equals whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
from odc.geo.geobox import GeoBox

from hypermend.catalog.arrays import Mask, Stored
from hypermend.catalog.cube.cube import Cube
from hypermend.catalog.cube.spec import VALID, CubeSpec
from hypermend.catalog.grids import transform_point
from hypermend.catalog.pairs.pairing import offset_on, outline_in
from hypermend.catalog.recent import Recent

SQUARE_PX = 256
"""Edge of a square of the reprojection, in target pixels."""
KEPT_SQUARES = 16
MARGIN_PX = 4
"""Guide pixels around a square that the interpolation (cubic convolution) may use."""
HOLE_WEIGHT = 1e-5
"""Largest share of an interpolated number that may come from a hole."""


class GuideOnGrid:
    """Windows of a guide in target pixels."""

    def __init__(self, cube: Cube, bands: Sequence[int], target: CubeSpec) -> None:
        """
        Args:
            bands: 0-based, of the guide's cube.
            target: the cube on whose pixels the guide is read; `pairing.scale_between` has accepted the two.
        """
        self.spec = cube.spec
        self._cube = cube
        self._bands = list(bands)
        self._shape = target.shape[1:]
        self._offset: tuple[int, int] | None = (0, 0)
        self._squares: Recent[tuple[int, int], tuple[Stored, Mask]] = Recent(KEPT_SQUARES)
        if target.grid is not None and cube.spec.grid is not None:
            self._grid, self._guide_grid = target.grid, cube.spec.grid
            self._offset = offset_on(self._grid, self._guide_grid)

    @property
    def reprojected(self) -> bool:
        """Whether the guide's pixels do not coincide with the target grid."""
        return self._offset is None

    def read(self, y: slice, x: slice) -> tuple[Stored, Mask]:
        """Numbers as the guide's cube stores them (band, h, w) and the mask of trusted pixels (h, w).

        Trusted pixels are those that the guide's cube flags as valid: no cloud, no shadow, not saturated, inside the
        guide. Reprojected numbers are float32.
        """
        return self._read_shifted(y, x) if self._offset is not None else self._read_reprojected(y, x)

    def _read_shifted(self, y: slice, x: slice) -> tuple[Stored, Mask]:
        assert self._offset is not None
        top, left = self._offset
        rows, columns = (slice(s.start - o, s.stop - o) for s, o in ((y, top), (x, left)))
        return _window(self._cube, self._bands, rows, columns)

    def _read_reprojected(self, y: slice, x: slice) -> tuple[Stored, Mask]:
        stored = np.empty((len(self._bands), y.stop - y.start, x.stop - x.start), np.float32)
        trusted = np.empty(stored.shape[1:], np.bool_)
        for iy in range(y.start // SQUARE_PX, -(-y.stop // SQUARE_PX)):
            for ix in range(x.start // SQUARE_PX, -(-x.stop // SQUARE_PX)):
                rows, from_rows = _overlap(y, iy)
                columns, from_columns = _overlap(x, ix)
                square, square_trusted = self._squares.get((iy, ix), partial(self._reproject, iy, ix))
                stored[:, rows, columns] = square[:, from_rows, from_columns]
                trusted[rows, columns] = square_trusted[from_rows, from_columns]
        return stored, trusted

    def _reproject(self, iy: int, ix: int) -> tuple[Stored, Mask]:
        from odc.geo.warp import rio_reproject  # loads rasterio, which a pair on one grid does not need

        height, width = self._shape
        y0, x0 = iy * SQUARE_PX, ix * SQUARE_PX
        target = self._grid[y0 : min(y0 + SQUARE_PX, height), x0 : min(x0 + SQUARE_PX, width)]
        # The last band is 1 where the guide is trusted: it stays 1 where the interpolation used no hole.
        out = np.zeros((len(self._bands) + 1, *target.shape), np.float32)
        rows, columns = _guide_window(target, self._guide_grid)
        if rows.start < rows.stop and columns.start < columns.stop:
            stored, trusted = _window(self._cube, self._bands, rows, columns)
            values = np.concatenate([np.where(trusted, stored, 0), trusted[None]]).astype(np.float32)
            source = self._guide_grid[rows, columns]
            for band, result in zip(values, out, strict=True):
                # XSCALE and YSCALE: interpolate, whatever scale GDAL derives from the sizes of this window
                rio_reproject(
                    band, result, source, target, "cubic", src_nodata=None, dst_nodata=None, XSCALE=1, YSCALE=1
                )
        return out[:-1], np.abs(out[-1] - 1) < HOLE_WEIGHT


def _window(cube: Cube, bands: Sequence[int], y: slice, x: slice) -> tuple[Stored, Mask]:
    """A window of the guide in its own pixels; outside the guide it is zero and not trusted."""
    height, width = cube.spec.height, cube.spec.width
    stored = np.zeros((len(bands), y.stop - y.start, x.stop - x.start), cube.spec.dtype)
    trusted = np.zeros(stored.shape[1:], np.bool_)
    rows, columns = (slice(max(s.start, 0), min(s.stop, size)) for s, size in ((y, height), (x, width)))
    if rows.start < rows.stop and columns.start < columns.stop:
        numbers, flags = cube.read(rows, columns)
        into = (
            slice(rows.start - y.start, rows.stop - y.start),
            slice(columns.start - x.start, columns.stop - x.start),
        )
        stored[(..., *into)] = numbers[list(bands)]
        trusted[into] = flags & VALID != 0
    return stored, trusted


def _overlap(wanted: slice, square: int) -> tuple[slice, slice]:
    """Overlap of a window and a square along one axis: in the window's pixels, and in the square's."""
    start, stop = max(wanted.start, square * SQUARE_PX), min(wanted.stop, (square + 1) * SQUARE_PX)
    return slice(start - wanted.start, stop - wanted.start), slice(
        start - square * SQUARE_PX, stop - square * SQUARE_PX
    )


def _guide_window(target: GeoBox, guide: GeoBox) -> tuple[slice, slice]:
    """Rows and columns of the guide under `target`, with a margin, clipped to the guide."""
    box = outline_in(target, guide).boundingbox
    corners = [
        transform_point(~guide.affine, *corner)
        for corner in ((box.left, box.top), (box.right, box.bottom), (box.left, box.bottom), (box.right, box.top))
    ]
    xs, ys = zip(*corners, strict=True)
    height, width = guide.shape
    rows = slice(max(0, int(np.floor(min(ys))) - MARGIN_PX), min(height, int(np.ceil(max(ys))) + MARGIN_PX))
    columns = slice(max(0, int(np.floor(min(xs))) - MARGIN_PX), min(width, int(np.ceil(max(xs))) + MARGIN_PX))
    return rows, columns
