"""Outlines of grids in longitude and latitude, as items carry them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from affine import Affine
from odc.geo.geobox import GeoBox
from pyproj.exceptions import ProjError

if TYPE_CHECKING:
    pass

_POINTS = 8  # of each edge: a straight edge of a projection is a curve in degrees
_DIGITS = 7  # a centimetre


def footprint(grid: GeoBox) -> tuple[Mapping[str, Any] | None, tuple[float, float, float, float] | None]:
    """GeoJSON polygon and bounding box (west, south, east, north) of a grid, in degrees.

    None for both where its reference system has no way to degrees, or the grid lies where it does not hold.
    """
    try:
        outline = grid.footprint("EPSG:4326", npoints=_POINTS).json
    except ProjError:
        return None, None
    if outline["type"] != "Polygon" or not outline["coordinates"]:
        return None, None
    rings = [[[round(lon, _DIGITS), round(lat, _DIGITS)] for lon, lat, *_ in ring] for ring in outline["coordinates"]]
    lons, lats = zip(*rings[0], strict=True)
    bbox = min(lons), min(lats), max(lons), max(lats)
    if not all(math.isfinite(edge) for edge in bbox):
        return None, None
    return {"type": "Polygon", "coordinates": rings}, bbox


ALIGN_PX = 0.01
"""Grids may differ by this part of a pixel (rounding of degrees), not more."""


def at(transform: Affine, col: float, row: float) -> tuple[float, float]:
    """(x, y) of a place in pixels."""
    a, b, c, d, e, f = transform[:6]
    return a * col + b * row + c, d * col + e * row + f


def short_crs(crs: Any) -> str:
    epsg = crs.to_epsg() if hasattr(crs, "to_epsg") else None
    return f"EPSG:{epsg}" if epsg else str(crs)[:60]
