"""The raster profile that rasterio's formats share."""

from __future__ import annotations

from typing import Any

from affine import Affine

from hypermend.catalog.cube.spec import CubeSpec

GDAL_OPTIONS = {"GDAL_CACHEMAX": 64, "GDAL_PAM_ENABLED": False}
"""64 MiB of blocks, whatever the machine's memory, and no `.aux.xml` beside the file."""


def raster_profile(spec: CubeSpec) -> dict[str, Any]:
    """Size, type, nodata and georeference of a file, as `rasterio.open` takes them."""
    profile: dict[str, Any] = {
        "count": spec.bands,
        "height": spec.height,
        "width": spec.width,
        "dtype": spec.dtype,
        "nodata": spec.fill,
    }
    if spec.crs is not None:
        profile["crs"] = spec.crs
    if spec.transform is not None:
        profile["transform"] = Affine(*spec.transform)
    return profile
