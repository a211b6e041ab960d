"""Grids as files write them: reference systems in attributes, transforms, coordinates of rows and columns."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from pyproj import CRS
from pyproj.exceptions import CRSError

from hypermend.catalog.arrays import F64
from hypermend.catalog.errors import BadAsset
from hypermend.catalog.readers.hierarchical.file import as_text
from hypermend.catalog.readers.hierarchical.layout import Transform

_TOLERANCE = 0.1
"""Largest distance of a coordinate from a regular grid, in pixels: float32 rounds easting and northing."""
_CRS_KEYS = ("crs_wkt", "spatial_ref", "epsg_code", "epsg", "EPSG_code", "proj4")


def crs_of(attrs: Mapping[str, Any], where: str) -> str | None:
    """Reference system of a grid mapping variable ("EPSG:n", else WKT); None where it names none.

    Raises:
        BadAsset: it names one that cannot be read.
    """
    for key in _CRS_KEYS:
        if key in attrs and (text := as_text(attrs[key])):
            return checked_crs(f"EPSG:{text}" if re.fullmatch(r"\d{4,6}", text) else text, f"{where}, {key}")
    if "grid_mapping_name" not in attrs:
        return None
    values = {key: attrs[key] for key in attrs if key not in ("DIMENSION_LIST", "REFERENCE_LIST")}
    plain = {k: v.tolist() if isinstance(v, np.ndarray | np.generic) else v for k, v in values.items()}
    plain["grid_mapping_name"] = as_text(plain["grid_mapping_name"])
    try:
        return _name(CRS.from_cf(plain))
    except (CRSError, KeyError, TypeError, ValueError) as e:
        raise BadAsset(f"{where}: its grid mapping {plain['grid_mapping_name']} cannot be read: {e}") from e


def checked_crs(text: str, where: str) -> str:
    """A reference system in one spelling.

    Raises:
        BadAsset: it cannot be read.
    """
    try:
        return _name(CRS.from_user_input(text))
    except CRSError as e:
        raise BadAsset(f"{where}: no reference system: {text[:80]}") from e


def _name(crs: CRS) -> str:
    code = crs.to_epsg()
    return f"EPSG:{code}" if code else crs.to_wkt()


def transform_of(x: F64, y: F64, where: str) -> Transform | None:
    """Transform of the grid whose pixel centres are `x` (columns) and `y` (rows); None if they are not regular.

    Raises:
        BadAsset: coordinates of fewer than two rows or columns, which give no pixel size.
    """
    if min(x.size, y.size) < 2:
        raise BadAsset(f"{where}: {y.size} x {x.size} pixels; one row or column gives no pixel size")
    steps = []
    for values in (x, y):
        step = (values[-1] - values[0]) / (values.size - 1)
        ideal = values[0] + step * np.arange(values.size)
        if not np.isfinite(step) or step == 0 or np.abs(values - ideal).max() > _TOLERANCE * abs(step):
            return None
        steps.append(float(step))
    dx, dy = steps
    return dx, 0.0, float(x[0]) - dx / 2, 0.0, dy, float(y[0]) - dy / 2


def wrapped(lon: F64) -> F64:
    """Longitudes in -180..180 where all of them lie beyond 180; across the date line they go on."""
    return lon - 360.0 if lon.size and float(np.nanmin(lon)) >= 180.0 else lon


def gdal_transform(text: str, where: str) -> Transform:
    """A geotransform as GDAL writes it: origin and steps, x then y.

    Raises:
        BadAsset: not six numbers.
    """
    try:
        c, a, b, f, d, e = (float(v) for v in re.split(r"[,\s]+", text.strip()))
    except ValueError as error:
        raise BadAsset(f"{where}: GeoTransform {text[:80]!r} is not six numbers") from error
    return a, b, c, d, e, f


def map_info_transform(text: str, where: str) -> Transform:
    """Transform of an ENVI `map info`: the reference pixel is counted from 1, its corner has the coordinates.

    Raises:
        BadAsset: numbers are missing, or the grid is rotated.
    """
    parts = [p.strip() for p in text.strip("{} ").split(",")]
    try:
        column, row, east, north, dx, dy = (float(p) for p in parts[1:7])
    except ValueError as e:
        raise BadAsset(f"{where}: map info {text[:80]!r} has no place and pixel size") from e
    turned = [re.match(r"rotation\s*=\s*(-?[\d.]+)", part, re.I) for part in parts[7:]]
    if any(match is not None and float(match[1]) != 0 for match in turned):
        raise BadAsset(f"{where}: its map info is rotated ({text[:120]}); only grids along the axes are read from it")
    return dx, 0.0, east - (column - 1) * dx, 0.0, -dy, north + (row - 1) * dy
