"""NEON AOP reflectance: SITE/Reflectance/Reflectance_Data (y, x, band), int16 on a north-up UTM grid.

`Scale_Factor` divides. The map info gives the outer corner of its reference pixel. The windows in the attributes
`Band_Window_N_Nanometers` (water vapour) are not good bands.
Source: NEON, AOP HDF5 reflectance file documentation (NEON.DOC.001288), as read by FujiangJi/hyperproc.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from hypermend.catalog.errors import BadAsset
from hypermend.catalog.meaning.statement import Field, Source, Statements
from hypermend.catalog.meaning.times import utc_time
from hypermend.catalog.meaning.wavelengths import wavelengths_nm
from hypermend.catalog.readers.hierarchical import place
from hypermend.catalog.readers.hierarchical.file import Node
from hypermend.catalog.readers.hierarchical.layout import Arrays, CubeArray, Layout
from hypermend.catalog.readers.profile import FormatRow

_CUBE = "Reflectance/Reflectance_Data"
_NAME = re.compile(r"NEON_D\d\d_\w{4}_DP1_(?:\w+_)?(\d{4})(\d\d)(\d\d)_(\d\d)(\d\d)(\d\d)_", re.A)


def _site(node: Node) -> str | None:
    return next((name for name in node.group if f"{name}/{_CUBE}" in node), None)


def _arrays(node: Node) -> Arrays:
    site = _site(node)
    assert site is not None
    path, facts = f"{site}/{_CUBE}", f"{site}/Reflectance/Metadata"
    array = node.array(path)
    of_cube = Node(array, f"{node.where}, {path}", max_bytes=node.max_bytes)
    read = wavelengths_nm(node.numbers(f"{facts}/Spectral_Data/Wavelength"), None)
    if read is None or len(array.shape) != 3 or array.shape[2] != len(read.nm):
        raise BadAsset(f"{node.where}: {path} is {array.shape} (y, x, band); its Wavelength does not fit it")
    divisor = of_cube.number("Scale_Factor")
    if divisor == 0:
        raise BadAsset(f"{node.where}: Scale_Factor is 0")
    said = Statements()
    said.add(Field.SENSOR, "neon", Source.FILE, path)
    said.add(Field.QUANTITY, "reflectance", Source.FILE, path)
    said.add(Field.SCALE, 1 / divisor, Source.FILE, "Scale_Factor")
    said.add(Field.NODATA, of_cube.number("Data_Ignore_Value"), Source.FILE, "Data_Ignore_Value")
    said.add(Field.WAVELENGTH, read.nm, Source.FILE, f"{facts}/Spectral_Data/Wavelength")
    if f"{facts}/Spectral_Data/FWHM" in node:
        said.add(Field.FWHM, tuple(node.numbers(f"{facts}/Spectral_Data/FWHM")), Source.FILE, "Spectral_Data/FWHM")
    said.add(Field.GOOD, _good(read.nm, node.group[f"{site}/Reflectance"].attrs), Source.FILE, "Band_Window_*")
    system = f"{facts}/Coordinate_System"
    crs = place.checked_crs(f"EPSG:{node.text(f'{system}/EPSG Code')}", node.where)
    said.add(Field.CRS, crs, Source.FILE, "Coordinate_System/EPSG Code")
    if (match := _NAME.search(node.name)) is not None:
        when = utc_time("{}-{}-{}T{}:{}:{}".format(*match.groups()))
        said.add(Field.DATETIME, when, Source.FILE, "its name")
    return Arrays(
        cubes=(CubeArray(path=path, axes="yxb", bands=tuple(range(len(read.nm)))),),
        statements=tuple(said),
        transform=place.map_info_transform(node.text(f"{system}/Map_Info") or "", node.where),
    )


def _good(wavelength_nm: tuple[float, ...], attrs: Mapping[str, Any]) -> tuple[bool, ...] | None:
    """Bands outside the windows that the file names; None where it names none."""
    windows = [np.ravel(attrs[key]) for key in attrs if re.fullmatch(r"Band_Window_\d+_Nanometers", key)]
    if not windows:
        return None
    return tuple(not any(float(w[0]) <= nm <= float(w[-1]) for w in windows) for nm in wavelength_nm)


LAYOUTS = (Layout(product="NEON AOP", matches=lambda node: _site(node) is not None, arrays=_arrays),)

ROWS = (
    FormatRow(
        product="NEON AOP",
        levels="reflectance",
        read="HDF5; `Scale_Factor` divides; water vapour windows are bad bands",
        masks="`Data_Ignore_Value`",
        grid="UTM from `Map_Info`",
    ),
)
