"""The variables and dimensions of a cube, as the datacube extension of STAC writes them.

Source: https://github.com/stac-extensions/datacube (v2.2.0), https://github.com/radiantearth/stac-best-practices
(Zarr, 2026-08).
"""

from __future__ import annotations

from typing import Any

from hypermend.catalog.cube.cf import geo_attrs, std_source
from hypermend.catalog.cube.spec import CubeSpec


def datacube_fields(spec: CubeSpec) -> dict[str, Any]:
    """`cube:dimensions` and `cube:variables` of a cube without its overviews, which repeat them."""
    west, south, east, north = geo_attrs(spec)["spatial:bbox"]
    dimensions: dict[str, Any] = {
        "band": {
            "type": "spectral",
            "description": "number of the band in the original product",
            "values": list(spec.band),
        },
        "y": {"type": "spatial", "axis": "y", "extent": [south, north]},
        "x": {"type": "spatial", "axis": "x", "extent": [west, east]},
    }
    for axis in ("y", "x"):  # the extension takes degrees for granted where nothing is said
        dimensions[axis]["reference_system"] = spec.crs if spec.crs is not None else "pixels of the image"
    pixels = ["y", "x"]
    variables: dict[str, Any] = {
        "reflectance": {"dimensions": ["band", *pixels], "type": "data", "unit": spec.units},
        "valid": {"dimensions": pixels, "type": "auxiliary", "description": "flags of each pixel"},
        "wavelength": {"dimensions": ["band"], "type": "auxiliary", "unit": "nm"},
        "fwhm": {"dimensions": ["band"], "type": "auxiliary", "unit": "nm"},
    }
    if spec.defects:
        dimensions["defect_byte"] = {"type": "bits", "values": list(range(spec.defect_bytes))}
        variables["defect"] = {
            "dimensions": ["defect_byte", *pixels],
            "type": "auxiliary",
            "description": f"{'repaired' if spec.repaired else 'defective'} bands of each pixel, one bit each",
        }
    if spec.repaired:
        variables["repaired"] = {
            "dimensions": pixels,
            "type": "auxiliary",
            "description": "number of repaired bands of each pixel",
        }
    if spec.uncertainty:
        variables["reflectance_std"] = {
            "dimensions": ["band", *pixels],
            "type": "auxiliary",
            "unit": spec.units,
            "description": f"standard deviation, {std_source(spec)}",
        }
    return {"cube:dimensions": dimensions, "cube:variables": variables}
