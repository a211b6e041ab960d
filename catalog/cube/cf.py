"""The attributes of a cube: CF 1.11 and the Zarr conventions proj, spatial and multiscales. Pure values, no Zarr.

Sources: https://cfconventions.org (1.11), https://github.com/zarr-conventions/proj, .../spatial and .../multiscales,
all as tagged v0.1.
"""

from __future__ import annotations

import base64
import math
import re
import struct
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import numpy as np
from odc.geo.crs import CRS

from hypermend.catalog.arrays import LonLat
from hypermend.catalog.cube.spec import FLAGS, SOURCES_ATTR, CubeSpec

_PROJ = {
    "schema_url": "https://raw.githubusercontent.com/zarr-conventions/proj/refs/tags/v0.1/schema.json",
    "spec_url": "https://github.com/zarr-conventions/proj/blob/v0.1/README.md",
    "uuid": "f17cb550-5864-4468-aeb7-f3180cfb622f",
    "name": "proj",
    "description": "Coordinate reference system information for geospatial data",
}
_SPATIAL = {
    "schema_url": "https://raw.githubusercontent.com/zarr-conventions/spatial/refs/tags/v0.1/schema.json",
    "spec_url": "https://github.com/zarr-conventions/spatial/blob/v0.1/README.md",
    "uuid": "689b58e2-cf7b-45e0-9fff-9cfc0883d6b4",
    "name": "spatial",
    "description": "Spatial coordinate information",
}
_MULTISCALES = {
    "schema_url": "https://raw.githubusercontent.com/zarr-conventions/multiscales/refs/tags/v0.1/schema.json",
    "spec_url": "https://github.com/zarr-conventions/multiscales/blob/v0.1/README.md",
    "uuid": "d35379db-88df-4056-af3a-620245f8e347",
    "name": "multiscales",
    "description": "Multiscale layout of zarr datasets",
}
_LONG_NAME = {
    "reflectance": "surface reflectance",
    "radiance": "radiance at the sensor",
    "counts": "numbers as the instrument recorded them",
}
Coordinate = tuple[tuple[str, ...], np.ndarray[Any, Any], dict[str, Any]]


def dataset_attrs(spec: CubeSpec) -> dict[str, Any]:
    """Attributes of the group: provenance from the spec, then the conventions, which win."""
    return {
        **spec.attrs,
        "Conventions": "CF-1.11",
        "sensor": spec.sensor,
        "stage": spec.stage,
        "quantity": spec.quantity,
        **geo_attrs(spec),
    }


def geo_attrs(spec: CubeSpec) -> dict[str, Any]:
    """Attributes of the Zarr conventions, for the group of a cube or of one of its overviews."""
    conventions = [_SPATIAL]
    attrs: dict[str, Any] = {"spatial:dimensions": ["y", "x"], "spatial:bbox": _bbox(spec)}
    if spec.crs is not None:
        conventions.insert(0, _PROJ)
        attrs |= proj_fields(spec.crs)
    if spec.levels:  # shape and transform then belong to the levels, and must not be said twice
        conventions.insert(0, _MULTISCALES)
        attrs["multiscales"] = {"layout": list(_layout(spec)), "resampling_method": "average"}
    else:
        attrs |= _grid_fields(spec)
    return {"zarr_conventions": conventions, **attrs}


def level_name(level: int) -> str:
    """Name of the group of an overview, as GDAL names its own."""
    return f"ovr_{level}x"


def _layout(spec: CubeSpec) -> Iterator[dict[str, Any]]:
    """The cube's own array, then its overviews; each as GDAL 3.13 looks it up."""
    yield {"asset": "reflectance", "transform": {"scale": [1.0, 1.0], "translation": [0.0, 0.0]}, **_grid_fields(spec)}
    before, name = 1, "reflectance"
    for level in spec.levels:
        scale = level / before
        yield {
            "asset": level_name(level),
            "derived_from": name,
            "transform": {"scale": [scale, scale], "translation": [0.0, 0.0]},
            **_grid_fields(spec.overview(level)),
        }
        before, name = level, level_name(level)


def _grid_fields(spec: CubeSpec) -> dict[str, Any]:
    return {"spatial:shape": list(spec.shape[1:]), "spatial:transform": list(_transform(spec))}


def proj_fields(crs: str) -> dict[str, str]:
    """`proj:code` for a CRS written as a code, else `proj:wkt2`."""
    if re.fullmatch(r"[A-Za-z]+:[0-9]+", crs):
        return {"proj:code": crs.upper()}
    return {"proj:wkt2": CRS(crs).proj.to_wkt("WKT2_2019")}


def reflectance_attrs(spec: CubeSpec, lonlat: bool) -> dict[str, Any]:
    attrs: dict[str, Any] = {
        "long_name": _LONG_NAME[spec.quantity],
        "quantity": spec.quantity,
        "units": spec.units,
        "coordinates": _names(("wavelength", "fwhm", "good", "detector", "gsd", *_time_names(spec)), lonlat),
        "grid_mapping": "spatial_ref",
    }
    if spec.uncertainty:
        attrs["ancillary_variables"] = "reflectance_std"
    if spec.scale_factor != 1.0:
        attrs["scale_factor"] = spec.scale_factor
    if spec.add_offset != 0.0:
        attrs["add_offset"] = spec.add_offset
    if spec.fill is not None:
        attrs["_FillValue"] = encode_fill(spec.fill, spec.dtype)
    return attrs


def valid_attrs(spec: CubeSpec, lonlat: bool) -> dict[str, Any]:
    return {
        "long_name": "what is known of the pixel; usable exactly when bit 1 (valid) is set, 0 was never written",
        "flag_masks": list(FLAGS.values()),
        "flag_meanings": " ".join(FLAGS),
        "coordinates": _names(_time_names(spec), lonlat),
        "grid_mapping": "spatial_ref",
    }


def defect_attrs(spec: CubeSpec, lonlat: bool) -> dict[str, Any]:
    """Bit i of byte j tells of the band at position 8j+i, both from 0: NumPy's unpackbits with bitorder "little"."""
    bands = (
        "bands of the pixel that were predicted from the others" if spec.repaired else "defective bands of the pixel"
    )
    return {
        "long_name": f"{bands}; bit i of byte j, from 0, is set for the band at position 8j+i",
        "flag_masks": [1 << i for i in range(8)],
        "flag_meanings": " ".join(f"band_at_8j_plus_{i}" for i in range(8)),
        "coordinates": _names(_time_names(spec), lonlat),
        "grid_mapping": "spatial_ref",
    }


def std_attrs(spec: CubeSpec, lonlat: bool) -> dict[str, Any]:
    """Attributes of the standard deviations: physical values as float32, NaN where unknown."""
    return {
        "long_name": f"standard deviation of the {spec.quantity}, {std_source(spec)}",
        "units": spec.units,
        "coordinates": _names(("wavelength", "good", *_time_names(spec)), lonlat),
        "grid_mapping": "spatial_ref",
        "_FillValue": encode_fill(math.nan, "float32"),
    }


def std_source(spec: CubeSpec) -> str:
    """Who states the standard deviations of a cube."""
    return "as the product states it" if spec.stage == "source" else "as the restoration estimates it"


def repaired_attrs(spec: CubeSpec, lonlat: bool) -> dict[str, Any]:
    """Attributes of the numbers of repaired bands."""
    return {
        "long_name": "number of bands of the pixel that were predicted from the others; `defect` says which",
        "units": "1",
        "coordinates": _names(_time_names(spec), lonlat),
        "grid_mapping": "spatial_ref",
    }


def encode_fill(fill: float | int, dtype: str) -> int | str:
    """`_FillValue` as xarray keeps it in Zarr 3: an integer, or base64 of the little-endian double."""
    if np.dtype(dtype).kind in "iu":
        return int(fill)
    return base64.standard_b64encode(struct.pack("<d", float(fill))).decode()


def coordinates(spec: CubeSpec, lonlat: LonLat | None) -> dict[str, Coordinate]:
    """{name: (dimensions, values, attributes)} of every coordinate."""
    detectors = sorted(set(spec.detector))
    number = {name: i for i, name in enumerate(detectors)}
    told = spec.attrs.get(SOURCES_ATTR, {}).get("wavelength")
    source = {} if told is None else {"source": told}
    along_band: dict[str, tuple[np.ndarray[Any, Any], dict[str, Any]]] = {
        "band": (
            np.array(spec.band, "int32"),
            {"long_name": "number of the band in the original product, from 1", "band_name": list(spec.band_name)},
        ),
        "wavelength": (
            np.array(spec.wavelength_nm, "float64"),
            {"standard_name": "radiation_wavelength", "long_name": "centre wavelength", "units": "nm"} | source,
        ),
        "fwhm": (
            np.array(spec.fwhm_nm, "float64"),
            {"long_name": "full width at half maximum of the spectral response", "units": "nm"},
        ),
        "good": (np.array(spec.good, "bool"), {"long_name": "band can be used"}),
        "detector": (
            np.array([number[d] for d in spec.detector], "int8"),
            {
                "long_name": "detector that recorded the band",
                "flag_values": list(range(len(detectors))),
                "flag_meanings": " ".join(re.sub(r"\s+", "_", d) or "unnamed" for d in detectors),
            },
        ),
        "gsd": (
            np.array(spec.gsd_m, "float64"),
            {"long_name": "ground sampling distance of the instrument in the band", "units": "m"},
        ),
    }
    out: dict[str, Coordinate] = {name: (("band",), values, attrs) for name, (values, attrs) in along_band.items()}
    out |= _pixel_centres(spec)
    out["spatial_ref"] = ((), np.array(0, "int32"), spatial_ref_attrs(spec))
    if spec.time is not None:
        out["time"] = _time(spec.time)
    if lonlat is not None:
        for name, values, words in zip(
            ("lon", "lat"), lonlat, (("longitude", "degrees_east"), ("latitude", "degrees_north")), strict=True
        ):
            attrs = {"standard_name": words[0], "units": words[1]}
            out[name] = (("y", "x"), np.asarray(values, "float64"), attrs)
    return out


_OF_LEVELS = ("band", "wavelength", "y", "x", "spatial_ref")


def level_coordinates(spec: CubeSpec) -> dict[str, Coordinate]:
    """The coordinates that an overview repeats: enough to be opened by itself."""
    every = coordinates(spec, None)
    return {name: every[name] for name in _OF_LEVELS}


def level_attrs(spec: CubeSpec) -> dict[str, Any]:
    """Attributes of the array of an overview."""
    return {**reflectance_attrs(spec, False), "coordinates": "wavelength spatial_ref"}


def level_flags_attrs() -> dict[str, Any]:
    """Attributes of the flags of an overview."""
    return {
        "long_name": "whether a usable pixel lies under it; 0 was never written",
        "flag_masks": [FLAGS["valid"], FLAGS["nodata"]],
        "flag_meanings": "valid nodata",
        "coordinates": "spatial_ref",
        "grid_mapping": "spatial_ref",
    }


def _time(value: str) -> Coordinate:
    """Scalar time in whole microseconds, which integers hold exactly."""
    attrs = {
        "standard_name": "time",
        "long_name": "time of acquisition",
        "units": "microseconds since 1970-01-01T00:00:00",
        "calendar": "proleptic_gregorian",
    }
    elapsed = datetime.fromisoformat(value) - datetime.fromisoformat("1970-01-01T00:00:00+00:00")
    return (), np.array(elapsed // timedelta(microseconds=1), "int64"), attrs


def _time_names(spec: CubeSpec) -> tuple[str, ...]:
    return () if spec.time is None else ("time",)


def spatial_ref_attrs(spec: CubeSpec) -> dict[str, Any]:
    """CF grid mapping with the WKT that GDAL, rioxarray and odc-geo read; only a transform without a CRS."""
    attrs: dict[str, Any] = {}
    if spec.crs is not None:
        crs = CRS(spec.crs).proj
        attrs |= {k: v if isinstance(v, str | int | float) else list(v) for k, v in crs.to_cf().items()}
        attrs["spatial_ref"] = attrs["crs_wkt"]
    if spec.transform is not None:
        a, b, c, d, e, f = spec.transform
        attrs["GeoTransform"] = " ".join(repr(v) for v in (c, a, b, f, d, e))
    return attrs


def _pixel_centres(spec: CubeSpec) -> dict[str, Coordinate]:
    """y and x. Without a grid, or on a rotated one, they count pixels from the corner: 0.5, 1.5 ..."""
    a, b, c, d, e, f = _transform(spec)
    rows, cols = np.arange(spec.height) + 0.5, np.arange(spec.width) + 0.5
    attrs = {
        "y": {"long_name": "row, pixel centre", "units": "1"},
        "x": {"long_name": "column, pixel centre", "units": "1"},
    }
    if spec.transform is not None and b == d == 0:
        rows, cols = f + e * rows, c + a * cols
        if spec.crs is not None:
            attrs = _axis_attrs(spec.crs)
    return {"y": (("y",), rows, attrs["y"]), "x": (("x",), cols, attrs["x"])}


def _axis_attrs(crs: str) -> dict[str, dict[str, str]]:
    system = CRS(crs)
    if system.geographic:
        return {
            "y": {"axis": "Y", "standard_name": "latitude", "units": "degrees_north"},
            "x": {"axis": "X", "standard_name": "longitude", "units": "degrees_east"},
        }
    units = system.proj.axis_info[0].unit_name if system.proj.axis_info else "metre"
    return {
        "y": {"axis": "Y", "standard_name": "projection_y_coordinate", "units": units},
        "x": {"axis": "X", "standard_name": "projection_x_coordinate", "units": units},
    }


def _transform(spec: CubeSpec) -> tuple[float, float, float, float, float, float]:
    return spec.transform or (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def _bbox(spec: CubeSpec) -> list[float]:
    """xmin, ymin, xmax, ymax of the outer pixel edges."""
    a, b, c, d, e, f = _transform(spec)
    corners = [(col, row) for col in (0, spec.width) for row in (0, spec.height)]
    xs = [a * col + b * row + c for col, row in corners]
    ys = [d * col + e * row + f for col, row in corners]
    return [min(xs), min(ys), max(xs), max(ys)]


def _names(names: tuple[str, ...], lonlat: bool) -> str:
    return " ".join((*names, *(("lon", "lat") if lonlat else ()), "spatial_ref"))
