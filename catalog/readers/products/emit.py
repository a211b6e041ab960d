"""EMIT L2A: reflectance (downtrack, crosstrack, bands) in sensor geometry.

Source: NASA LP DAAC, EMIT L2A Reflectance User Guide.
"""

from __future__ import annotations

import numpy as np

from hypermend.catalog.meaning.statement import Field, Source, Statements
from hypermend.catalog.meaning.times import utc_time
from hypermend.catalog.readers.hierarchical.file import Node, as_text
from hypermend.catalog.readers.hierarchical.layout import Arrays, CubeArray, Layout


def _arrays(node: Node) -> Arrays:
    cube = node.array("reflectance")
    centres = node.numbers("sensor_band_parameters/wavelengths")
    said = Statements()
    said.add(Field.SENSOR, "emit", Source.FILE, "its layout")
    said.add(Field.QUANTITY, "reflectance", Source.FILE, "reflectance")
    said.add(Field.WAVELENGTH, tuple(centres), Source.FILE, "sensor_band_parameters/wavelengths")
    said.add(Field.FWHM, tuple(node.numbers("sensor_band_parameters/fwhm")), Source.FILE, "sensor_band_parameters/fwhm")
    if "sensor_band_parameters/good_wavelengths" in node:
        good = tuple(g > 0 for g in node.numbers("sensor_band_parameters/good_wavelengths"))
        said.add(Field.GOOD, good, Source.FILE, "sensor_band_parameters/good_wavelengths")
    fill = float(np.ravel(cube.attrs.get("_FillValue", cube.fillvalue))[0])
    said.add(Field.NODATA, fill, Source.FILE, "reflectance, _FillValue")
    if "time_coverage_start" in node.attrs:
        start = utc_time(as_text(node.attrs["time_coverage_start"]))
        said.add(Field.DATETIME, start, Source.FILE, "time_coverage_start")
    return Arrays(
        cubes=(CubeArray(path="reflectance", axes="yxb", bands=tuple(range(len(centres)))),),
        statements=tuple(said),
        lonlat=(node.plane("location/lon"), node.plane("location/lat")),
    )


def _matches(node: Node) -> bool:
    return "reflectance" in node and "sensor_band_parameters" in node


LAYOUTS = (Layout(product="EMIT L2A", matches=_matches, arrays=_arrays),)
