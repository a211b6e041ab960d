"""Grids: map coordinates of pixels, and the footprint of a grid in degrees, as STAC items carry it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from affine import Affine
from odc.geo.geobox import GeoBox
from pyproj.exceptions import ProjError

from hypermend.catalog.dateline import Bbox, outline_of_ring

ALIGN_PX = 0.01
"""Largest difference between two grids, in pixels, at which they count as one: rounding of degrees, not more."""
_POINTS = 8  # of each edge: a straight edge of a projection is a curve in degrees


def transform_point(transform: Affine, x: float, y: float) -> tuple[float, float]:
    """A point under an affine transform: (column, row) to map coordinates, or back under the inverse."""
    a, b, c, d, e, f = transform[:6]
    return a * x + b * y + c, d * x + e * y + f


def crs_label(crs: Any) -> str:
    """Short name of a CRS, for messages."""
    epsg = crs.to_epsg() if hasattr(crs, "to_epsg") else None
    return f"EPSG:{epsg}" if epsg else str(crs)[:60]


def footprint(grid: GeoBox) -> tuple[Mapping[str, Any] | None, Bbox | None]:
    """GeoJSON outline and bounding box of a grid, in degrees; split at the date line, with west > east, if it crosses.

    None for both if its reference system has no transformation to degrees, or the grid lies outside its validity.
    """
    try:
        outline = grid.footprint("EPSG:4326", npoints=_POINTS).json
    except ProjError:
        return None, None
    if outline["type"] != "Polygon" or not outline["coordinates"]:
        return None, None
    ring = [(lon, lat) for lon, lat, *_ in outline["coordinates"][0]]
    if not all(math.isfinite(degrees) for point in ring for degrees in point):
        return None, None
    # The edges of a geographic grid are as long as they look; those of any other are projected in short steps.
    found = outline_of_ring(ring, crossing_deg=360 if grid.crs is not None and grid.crs.geographic else 180)
    return (None, None) if found is None else found
