"""Tanager-1 (Planet): basic products in sensor geometry (HDF-EOS swath), ortho products on a grid (HDF-EOS grid).

Arrays are (band, y, x) float32; wavelengths, widths, good bands and the unit are attributes of the cube. The grid is in
`StructMetadata.0`, whose corners are outer edges of pixels. Cloud, cirrus and nodata masks lie beside the cube, the
uncertainty of the surface reflectance too.
Source: Planet, Tanager core imagery product specification, as read by FujiangJi/hyperproc and opengeos/HyperCoast.
"""

from __future__ import annotations

import re
from functools import partial

import numpy as np

from hypermend.catalog.cube.spec import CLOUD, NODATA
from hypermend.catalog.errors import BadAsset
from hypermend.catalog.meaning.statement import Field, Source, Statements
from hypermend.catalog.meaning.times import utc_time
from hypermend.catalog.readers.hierarchical import place
from hypermend.catalog.readers.hierarchical.facts import (
    number_statements,
    quantity_statements,
    uncertainty_array,
    unit_of,
)
from hypermend.catalog.readers.hierarchical.file import Node
from hypermend.catalog.readers.hierarchical.layout import Arrays, CubeArray, Layout, MaskArray, Transform
from hypermend.catalog.readers.masks import MaskRule
from hypermend.catalog.readers.profile import FormatRow

_GRID, _SWATH = "HDFEOS/GRIDS/HYP", "HDFEOS/SWATHS/HYP"
_CUBES = ("surface_reflectance", "toa_radiance")
_MASKS = {"beta_cloud_mask": CLOUD, "beta_cirrus_mask": CLOUD, "nodata_pixels": NODATA}
_FILL = -9999.0
_NAME = re.compile(r"(\d{4})(\d\d)(\d\d)_(\d\d)(\d\d)(\d\d)_\d+_\w+", re.A)


def _arrays(home: str, cube: str, node: Node) -> Arrays:
    path = f"{home}/Data Fields/{cube}"
    array = node.array(path)
    of_cube = Node(array, f"{node.where}, {cube}", max_bytes=node.max_bytes)
    centres = [float(w) for w in np.ravel(of_cube.attribute("wavelengths"))]
    if len(array.shape) != 3 or array.shape[0] != len(centres):
        raise BadAsset(f"{node.where}: {cube} is {array.shape} (band, y, x), with {len(centres)} wavelengths")
    said = Statements()
    said.add(Field.SENSOR, "tanager", Source.FILE, home)
    said.add(Field.WAVELENGTH, tuple(centres), Source.FILE, f"{cube}, attribute wavelengths")
    if "fwhm" in array.attrs:
        said.add(Field.FWHM, tuple(float(w) for w in np.ravel(array.attrs["fwhm"])), Source.FILE, f"{cube}, fwhm")
    if "good_wavelengths" in array.attrs:
        good = tuple(bool(g > 0) for g in np.ravel(array.attrs["good_wavelengths"]))
        said.add(Field.GOOD, good, Source.FILE, f"{cube}, good_wavelengths")
    said.extend(number_statements(cube, array))
    said.add(Field.NODATA, _FILL, Source.PRODUCT, "Tanager")
    said.extend(quantity_statements(cube, array.attrs))
    said.add(Field.DATETIME, _time(node), Source.FILE, "its name")
    transform, lonlat = None, None
    if home == _GRID:
        grid = Node(node.group[home], node.where, max_bytes=node.max_bytes)
        epsg = int(np.ravel(grid.attribute("epsg_code"))[0])
        said.add(Field.CRS, place.checked_crs(f"EPSG:{epsg}", node.where), Source.FILE, "epsg_code")
        transform = _transform(node, array.shape[1], array.shape[2])
    else:
        places = f"{home}/Geolocation Fields"
        lonlat = node.plane(f"{places}/Longitude"), node.plane(f"{places}/Latitude")
    beside = f"{path}_uncertainty"
    array_of = CubeArray(path=path, axes="byx", bands=tuple(range(len(centres))))
    return Arrays(
        cubes=(array_of,),
        statements=tuple(said),
        masks=tuple(
            MaskArray(path=f"{home}/Data Fields/{name}", rule=MaskRule(name=name, values={1: flag}))
            for name, flag in _MASKS.items()
            if f"{home}/Data Fields/{name}" in node
        ),
        uncertainty=uncertainty_array(node, beside, array_of, unit_of(array.attrs)) if beside in node else None,
        lonlat=lonlat,
        transform=transform,
    )


def _time(node: Node) -> object:
    match = _NAME.match(node.name)
    return utc_time("{}-{}-{}T{}:{}:{}".format(*match.groups())) if match else None


def _transform(node: Node, rows: int, columns: int) -> Transform:
    """Affine from the corners in the metadata of HDF-EOS.

    Raises:
        BadAsset: the metadata have no corners, or corners of pixel centres.
    """
    text = node.text("HDFEOS INFORMATION/StructMetadata.0") or ""
    corners = [
        re.search(rf"{key}\s*=\s*\(([^,)]{{1,40}}),([^)]{{1,40}})\)", text)
        for key in ("UpperLeftPointMtrs", "LowerRightMtrs")
    ]
    if any(c is None for c in corners):
        raise BadAsset(f"{node.where}: StructMetadata.0 has no UpperLeftPointMtrs and LowerRightMtrs")
    if "HE5_HDFE_CENTER" in text:
        raise BadAsset(f"{node.where}: its grid is registered at pixel centres, which is not read")
    (west, north), (east, south) = ((float(c[1]), float(c[2])) for c in corners if c is not None)
    return (east - west) / columns, 0.0, west, 0.0, (south - north) / rows, north


def _matches(home: str, cube: str, node: Node) -> bool:
    return f"{home}/Data Fields/{cube}" in node


LAYOUTS = tuple(
    Layout(
        product=f"Tanager {kind} {cube.split('_')[1]}",
        matches=partial(_matches, home, cube),
        arrays=partial(_arrays, home, cube),
    )
    for home, kind in ((_GRID, "ortho"), (_SWATH, "basic"))
    for cube in _CUBES
)

ROWS = (
    FormatRow(
        product="Tanager-1",
        levels="basic and ortho, radiance and surface reflectance",
        read="HDF5 (HDF-EOS), float32; good bands by its own list",
        masks="cloud, cirrus, nodata masks",
        grid="ortho: its grid; basic: longitude and latitude",
        refused="a grid registered at pixel centres",
    ),
)
