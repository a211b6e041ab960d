"""The part of a cube that is exported: a window of its pixels and some of its bands, read tile by tile."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from pyproj import Transformer
from rasterio.windows import Window

from hypermend.catalog.arrays import Flags, Stored
from hypermend.catalog.cube.cube import Cube
from hypermend.catalog.cube.spec import VALID, CubeSpec
from hypermend.catalog.errors import Refused

Bbox = tuple[float, float, float, float]
_POINTS = 21  # of each edge of a box: straight in degrees is curved in a projection
_WIDER = {"uint8": "int16", "int8": "int16", "uint16": "int32", "int16": "int32"}


@dataclass(frozen=True, kw_only=True)
class Block:
    """Pixels of one tile of the cube that lie in the selection."""

    y: slice
    """Rows of the exported file."""
    x: slice
    stored: Stored
    """(band, h, w) in the type of the file; nodata where the pixel is not usable."""
    flags: Flags

    @property
    def window(self) -> Window:
        """The same place for rasterio."""
        return Window.from_slices(self.y, self.x)


@dataclass(frozen=True, kw_only=True)
class Selection:
    """A window and some bands of a cube, and how a file stores them."""

    cube: Cube
    y: slice
    x: slice
    bands: tuple[int, ...]
    """Positions in the cube, from 0."""
    spec: CubeSpec
    """Of the exported pixels: their bands, grid, type and fill."""

    def blocks(self) -> Iterator[Block]:
        """Read the selection; one tile is in memory at a time."""
        rows, columns = self.cube.spec.tiles
        for iy in range(rows):
            for ix in range(columns):
                y, x = self.cube.spec.window(iy, ix)
                y, x = _overlap(y, self.y), _overlap(x, self.x)
                if y.start >= y.stop or x.start >= x.stop:
                    continue
                stored, flags = self.cube.read(y, x)
                out = stored[list(self.bands)].astype(self.spec.dtype, copy=False)
                out[:, (flags & VALID) == 0] = self.spec.fill
                yield Block(y=_moved(y, self.y.start), x=_moved(x, self.x.start), stored=out, flags=flags)


def select(cube: Cube, *, bbox: Bbox | None = None, bands: str | None = None) -> Selection:
    """Choose pixels and bands.

    Args:
        cube: a finished cube.
        bbox: west, south, east, north in degrees; west > east is a box over the date line. None for all pixels.
        bands: names, numbers and ranges of numbers with commas, such as ``B2,B8A`` or ``1-30,40``. None for all.

    Raises:
        Refused: the box lies outside the scene or the scene has no grid, or there is no such band.
    """
    spec = cube.spec
    y, x = (slice(0, spec.height), slice(0, spec.width)) if bbox is None else pixel_window(spec.grid, bbox)
    chosen = band_positions(spec, bands)
    height, width = y.stop - y.start, x.stop - x.start
    transform = spec.transform
    if transform is not None:
        transform = tuple((Affine(*transform) * Affine.translation(x.start, y.start))[:6])
    dtype, fill = _with_nodata(spec)
    shape = len(chosen), height, width
    chunk, shard = CubeSpec.layout(shape, dtype)
    per_band: dict[str, Any] = {
        name: tuple(getattr(spec, name)[i] for i in chosen)
        for name in ("band", "band_name", "wavelength_nm", "fwhm_nm", "detector", "good", "gsd_m")
    }
    part = replace(
        spec,
        shape=shape,
        dtype=dtype,
        fill=fill,
        transform=transform,
        chunk=chunk,
        shard=shard,
        defects=False,
        uncertainty=False,
        overviews=False,
        **per_band,
    )
    return Selection(cube=cube, y=y, x=x, bands=chosen, spec=part)


def pixel_window(grid: GeoBox | None, bbox: Bbox) -> tuple[slice, slice]:
    """Rows and columns of the pixels that a box in degrees touches.

    Raises:
        Refused: none, or there is no grid.
    """
    if grid is None or grid.crs is None:
        raise Refused("--bbox needs a scene with map coordinates, and this one has none; export it whole")
    west, south, east, north = bbox
    if west > east:
        east += 360
    across, up = np.linspace(west, east, _POINTS), np.linspace(south, north, _POINTS)
    lon, lat = (part.ravel() for part in np.meshgrid(across, up))
    xs, ys = Transformer.from_crs("EPSG:4326", grid.crs.proj, always_xy=True).transform(lon, lat)
    if grid.crs.geographic:  # such a grid may count its longitudes from 0 to 360, or lie beyond the date line
        xs = xs + 360 * np.round((grid.extent.boundingbox.left + grid.extent.boundingbox.right - 2 * xs.mean()) / 720)
    known = np.isfinite(xs) & np.isfinite(ys)
    if not known.any():
        raise Refused(f"--bbox {_numbers(bbox)} cannot be expressed in the scene's reference system")
    a, b, c, d, e, f = (~grid.affine)[:6]
    cols, rows = a * xs[known] + b * ys[known] + c, d * xs[known] + e * ys[known] + f
    y, x = _slice(rows, grid.shape[0]), _slice(cols, grid.shape[1])
    if y.start >= y.stop or x.start >= x.stop:
        box = grid.footprint("EPSG:4326").boundingbox
        raise Refused(f"--bbox {_numbers(bbox)} lies outside the scene, which covers {_numbers(box)}")
    return y, x


def band_positions(spec: CubeSpec, bands: str | None) -> tuple[int, ...]:
    """Positions of the bands that the user names, in the order of the cube.

    Raises:
        Refused: there is no such band.
    """
    if bands is None:
        return tuple(range(spec.bands))
    chosen: set[int] = set()
    for part in (word.strip() for word in bands.split(",")):
        found = [i for i, name in enumerate(spec.band_name) if name == part]
        if not found and (match := re.fullmatch(r"(\d{1,9})(?:-(\d{1,9}))?", part)):
            first, last = int(match[1]), int(match[2] or match[1])
            found = [i for i, number in enumerate(spec.band) if first <= number <= last]
        if not found:
            raise Refused(
                f"--bands: the cube has no band {part!r}; its bands are {_some(spec.band_name)}, numbered "
                f"{min(spec.band)} to {max(spec.band)}"
            )
        chosen.update(found)
    return tuple(sorted(chosen))


def _with_nodata(spec: CubeSpec) -> tuple[str, float | int]:
    """Type and nodata of the file: those of the cube, or a wider type if every number of the cube is a measurement."""
    if spec.fill is not None:
        return spec.dtype, spec.fill
    if np.dtype(spec.dtype).kind == "f":
        return spec.dtype, np.nan
    if (wider := _WIDER.get(spec.dtype)) is not None:
        return wider, int(np.iinfo(wider).min)
    return "float64", np.nan


def _slice(positions: NDArray[Any], size: int) -> slice:
    return slice(max(int(np.floor(positions.min())), 0), min(int(np.ceil(positions.max())), size))


def _overlap(a: slice, b: slice) -> slice:
    return slice(max(a.start, b.start), min(a.stop, b.stop))


def _moved(s: slice, start: int) -> slice:
    return slice(s.start - start, s.stop - start)


def _numbers(values: Sequence[float]) -> str:
    return " ".join(f"{value:.5g}" for value in values)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 8 else f"{', '.join(names[:3])} ... {names[-1]}"
