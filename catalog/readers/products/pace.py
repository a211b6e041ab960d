"""PACE OCI: L1B reflectance at the top of the atmosphere in three detectors, L2 SFREFL surface reflectance.

Both are swaths of about 1 km with longitude and latitude. The bands have no widths in the file, but for the SWIR ones.
Flags of L2: bit i of `l2_flags` is the i-th word of its `flag_meanings`.
Source: NASA OB.DAAC, PACE OCI L1B and L2 format, as read by FujiangJi/hyperproc.
"""

from __future__ import annotations

import math

from hypermend.catalog.cube.spec import CLOUD, NODATA
from hypermend.catalog.errors import BadAsset
from hypermend.catalog.meaning.statement import Field, Source, Statement, Statements
from hypermend.catalog.readers.hierarchical.facts import number_statements, time_statements
from hypermend.catalog.readers.hierarchical.file import Node, as_text
from hypermend.catalog.readers.hierarchical.layout import Arrays, CubeArray, Layout, MaskArray
from hypermend.catalog.readers.masks import MaskRule
from hypermend.catalog.readers.profile import FormatRow

_BANDS = "sensor_band_parameters"
_DETECTORS = ("blue", "red", "SWIR")
_FLAGS = {"CLDICE": CLOUD, "ATMFAIL": NODATA, "NAVFAIL": NODATA}
_L2 = "geophysical_data/rhos"


def _l1b(node: Node) -> Arrays:
    cubes, centres, widths, detector = [], [], [], []
    said = Statements(time_statements(node))
    numbers: list[Statement] = []
    for part in _DETECTORS:
        path = f"observation_data/rhot_{part}"
        array = node.array(path)
        of_part = node.numbers(f"{_BANDS}/{part}_wavelength")
        if len(array.shape) != 3 or array.shape[0] != len(of_part):
            raise BadAsset(f"{node.where}: {path} is {array.shape} (band, y, x), with {len(of_part)} wavelengths")
        cubes.append(CubeArray(path=path, axes="byx", bands=tuple(range(len(of_part)))))
        centres += of_part
        bandpass = f"{_BANDS}/{part}_bandpass"
        widths += node.numbers(bandpass) if bandpass in node else [math.nan] * len(of_part)
        detector += [part] * len(of_part)
        numbers += list(number_statements(path, array, netcdf=True))
    said.extend(numbers)
    said.add(Field.SENSOR, "pace-oci", Source.FILE, "observation_data/rhot_blue")
    said.add(Field.QUANTITY, "reflectance", Source.FILE, "rhot")
    said.add(Field.WAVELENGTH, tuple(centres), Source.FILE, f"{_BANDS}/*_wavelength")
    if len(widths) == len(centres):
        said.add(Field.FWHM, tuple(widths), Source.FILE, f"{_BANDS}/*_bandpass")
    return Arrays(
        cubes=tuple(cubes),
        statements=tuple(said),
        detector=tuple(detector),
        lonlat=(node.plane("geolocation_data/longitude"), node.plane("geolocation_data/latitude")),
    )


def _l2(node: Node) -> Arrays:
    array = node.array(_L2)
    centres = node.numbers(f"{_BANDS}/wavelength_3d")
    if len(array.shape) != 3 or array.shape[2] != len(centres):
        raise BadAsset(f"{node.where}: {_L2} is {array.shape} (y, x, band), with {len(centres)} wavelengths")
    said = Statements(time_statements(node))
    said.extend(number_statements(_L2, array, netcdf=True))
    said.add(Field.SENSOR, "pace-oci", Source.FILE, _L2)
    said.add(Field.QUANTITY, "reflectance", Source.FILE, "rhos")
    said.add(Field.WAVELENGTH, tuple(centres), Source.FILE, f"{_BANDS}/wavelength_3d")
    masks: tuple[MaskArray, ...] = ()
    if (path := "geophysical_data/l2_flags") in node:
        names = as_text(node.array(path).attrs.get("flag_meanings", "")).split()
        bits = {names.index(name): flag for name, flag in _FLAGS.items() if name in names}
        masks = (MaskArray(path=path, rule=MaskRule(name="l2_flags", bits=bits)),)
    return Arrays(
        cubes=(CubeArray(path=_L2, axes="yxb", bands=tuple(range(len(centres)))),),
        statements=tuple(said),
        masks=masks,
        lonlat=(node.plane("navigation_data/longitude"), node.plane("navigation_data/latitude")),
    )


LAYOUTS = (
    Layout(product="PACE OCI L2 SFREFL", matches=lambda node: _L2 in node, arrays=_l2),
    Layout(product="PACE OCI L1B", matches=lambda node: "observation_data/rhot_blue" in node, arrays=_l1b),
)

ROWS = (
    FormatRow(
        product="PACE OCI",
        levels="L1B, L2 SFREFL",
        read="NetCDF; reflectance at the top of the atmosphere (three detectors) or of the surface",
        masks="L2: `l2_flags`",
        grid="longitude and latitude",
    ),
)
