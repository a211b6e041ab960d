"""NetCDF-4 with CF 1.11: the variables and attributes of the cube, without its Zarr conventions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5netcdf
import numpy as np

from hypermend.catalog.arrays import LonLat
from hypermend.catalog.cube import cf
from hypermend.catalog.cube.spec import CubeSpec
from hypermend.pipeline.export.selection import Selection
from hypermend.pipeline.export.written import TellingFile

_COMPRESSION = {"compression": "gzip", "compression_opts": 4, "shuffle": True}


def write_netcdf(selection: Selection, path: Path, lonlat: LonLat | None) -> None:
    """Write the file tile by tile.

    Args:
        lonlat: degrees of each exported pixel, of a scene in sensor geometry.
    """
    with TellingFile(path, "w+b") as telling:
        _write(selection, telling, lonlat)
        telling.check()


def _write(selection: Selection, telling: TellingFile, lonlat: LonLat | None) -> None:
    spec = selection.spec
    with h5netcdf.File(telling, "w") as file:
        file.dimensions = {"band": spec.bands, "y": spec.height, "x": spec.width}
        title = {"Conventions": "CF-1.11", "sensor": spec.sensor, "stage": spec.stage, "quantity": spec.quantity}
        file.attrs.update(title)
        for name, (dims, values, attrs) in cf.coordinates(spec, lonlat).items():
            _put(file, name, dims, values, attrs)
        attrs = {k: v for k, v in cf.reflectance_attrs(spec, lonlat is not None).items() if k != "_FillValue"}
        pixels = file.create_variable(
            "reflectance", ("band", "y", "x"), spec.dtype, chunks=_chunks(spec), fillvalue=spec.fill, **_COMPRESSION
        )
        pixels.attrs.update(attrs)
        flags = file.create_variable("valid", ("y", "x"), "u1", chunks=_chunks(spec)[1:], **_COMPRESSION)
        flags.attrs.update(_plain(cf.valid_attrs(spec, lonlat is not None), np.uint8))
        for block in selection.blocks():
            pixels[:, block.y, block.x] = block.stored
            flags[block.y, block.x] = block.flags
            telling.check()


def _put(file: Any, name: str, dims: tuple[str, ...], values: Any, attrs: dict[str, Any]) -> None:
    if values.dtype == bool:  # NetCDF has none
        values = values.astype("i1")
        attrs = {**attrs, "flag_values": [0, 1], "flag_meanings": "bad good"}
    variable = file.create_variable(name, dims, values.dtype, data=values)
    variable.attrs.update(_plain(attrs, values.dtype.type))


def _plain(attrs: dict[str, Any], kind: Any) -> dict[str, Any]:
    """Attributes that NetCDF holds; flags have the type of their variable, as CF wants it."""
    return {k: np.asarray(v, kind) if k in ("flag_values", "flag_masks") else v for k, v in attrs.items()}


def _chunks(spec: CubeSpec) -> tuple[int, int, int]:
    bands, rows, cols = spec.chunk
    return min(bands, spec.bands), min(rows, spec.height), min(cols, spec.width)
