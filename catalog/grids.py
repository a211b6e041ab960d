"""Grids: map coordinates of pixels, and the footprint of a grid in degrees, as STAC items carry it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from affine import Affine
from odc.geo.geobox import GeoBox
from pyproj.exceptions import ProjError

ALIGN_PX = 0.01
"""Largest difference between two grids, in pixels, at which they count as one: rounding of degrees, not more."""
_POINTS = 8  # of each edge: a straight edge of a projection is a curve in degrees
_DIGITS = 7  # a centimetre


def transform_point(transform: Affine, x: float, y: float) -> tuple[float, float]:
    """A point under an affine transform: (column, row) to map coordinates, or back under the inverse."""
    a, b, c, d, e, f = transform[:6]
    return a * x + b * y + c, d * x + e * y + f


def crs_label(crs: Any) -> str:
    """Short name of a CRS, for messages."""
    epsg = crs.to_epsg() if hasattr(crs, "to_epsg") else None
    return f"EPSG:{epsg}" if epsg else str(crs)[:60]


def footprint(grid: GeoBox) -> tuple[Mapping[str, Any] | None, tuple[float, float, float, float] | None]:
    """GeoJSON polygon and bounding box (west, south, east, north) of a grid, in degrees.

    None for both if its reference system has no transformation to degrees, or the grid lies outside its validity.
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
