"""EMIT L1B radiance and L2A reflectance: (downtrack, crosstrack, bands) in sensor geometry, versions 001 and 002.

The mask of L2A and the uncertainty lie in files of their own, which are recognised by their content; L1B has OBS beside
it, which a cube does not need. The geometry lookup table (GLT) of the file leads to a grid in degrees; the cube keeps
the pixels as recorded with their longitude and latitude, and `attrs["hypermend:glt"]` names the grid. Clouds, cirrus
and their buffer clear VALID, as does the spacecraft; water does not. The aggregate flag only repeats the others.
Source: NASA LP DAAC, EMIT L1B and L2A User Guides; nasa/EMIT-Data-Resources.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from hypermend.catalog.cube.spec import CLOUD, NODATA
from hypermend.catalog.errors import BadAsset
from hypermend.catalog.meaning.statement import Field, Source, Statements
from hypermend.catalog.meaning.times import utc_time
from hypermend.catalog.meaning.wavelengths import wavelengths_nm
from hypermend.catalog.readers.hierarchical.facts import uncertainty_array
from hypermend.catalog.readers.hierarchical.file import Node, as_text
from hypermend.catalog.readers.hierarchical.layout import Arrays, Companion, CubeArray, Layout, MaskArray
from hypermend.catalog.readers.hierarchical.units import radiance_unit
from hypermend.catalog.readers.masks import MaskRule
from hypermend.catalog.readers.profile import Delivery, Description, FormatRow
from hypermend.catalog.scene import Asset, Scene
from hypermend.catalog.storage.fetch import AssetFetcher

_FILE = re.compile(
    r"(?P<folder>.*/)?EMIT_L\w\w_(?P<kind>RFL|RFLUNCERT|MASK|RAD|OBS)_(?P<granule>\d{3}_\d{8}T\d{6})(_\d+_\d+)?\.nc",
    re.I,
)
"""Orbit and scene at the end: in version 002 only the mask, a product of its own, has them."""
_FILES = {"RFL": ("RFLUNCERT", "MASK"), "RAD": ("OBS",)}
"""Cube -> files of the same granule that belong to it."""
_UNREAD = ("OBS",)
_MEDIA = "application/x-netcdf"
_BANDS = "sensor_band_parameters"
_MASKS = {"cirrus": CLOUD, "cloud": CLOUD, "spacecraft": NODATA}
"""Word in the name of a mask band -> flag."""
_NO_FLAGS = ("aggregate", "prob", "distance")
"""Words in the names of mask bands that hold no flag, or repeat others."""
_MASK_BANDS = ("cloud", "cirrus", "water", "spacecraft", "dilated cloud", "aod550", "h2o", "aggregate")
"""Where the file does not name them."""


def _arrays(node: Node) -> Arrays:
    name = "radiance" if "radiance" in node else "reflectance"
    cube = node.array(name)
    said = Statements()
    said.add(Field.SENSOR, "emit", Source.FILE, "its layout")
    said.add(Field.QUANTITY, name, Source.FILE, name)
    if name == "radiance":
        if text := _unit(node, name):
            said.add(Field.UNITS, radiance_unit(text) or text, Source.FILE, "radiance, units")
        said.add(Field.UNITS, "uW cm-2 sr-1 nm-1", Source.PRODUCT, "EMIT L1B")
    count = cube.shape[-1]
    centres = wavelengths_nm(node.numbers(f"{_BANDS}/wavelengths"), _unit(node, f"{_BANDS}/wavelengths"))
    if centres is None or len(centres.nm) != count:
        raise BadAsset(f"{node.where}: {name} is {cube.shape}; its {_BANDS}/wavelengths do not fit it")
    said.add(Field.WAVELENGTH, centres.nm, Source.FILE, f"{_BANDS}/wavelengths, {centres.how}")
    if f"{_BANDS}/fwhm" in node:
        said.add(Field.FWHM, tuple(node.numbers(f"{_BANDS}/fwhm")), Source.FILE, f"{_BANDS}/fwhm")
    if f"{_BANDS}/good_wavelengths" in node:
        good = tuple(g > 0 for g in node.numbers(f"{_BANDS}/good_wavelengths"))
        said.add(Field.GOOD, good, Source.FILE, f"{_BANDS}/good_wavelengths")
    fill = float(np.ravel(cube.attrs.get("_FillValue", cube.fillvalue))[0])
    said.add(Field.NODATA, fill, Source.FILE, f"{name}, _FillValue")
    if "time_coverage_start" in node.attrs:
        start = utc_time(as_text(node.attrs["time_coverage_start"]))
        said.add(Field.DATETIME, start, Source.FILE, "time_coverage_start")
    return Arrays(
        cubes=(CubeArray(path=name, axes="yxb", bands=tuple(range(count))),),
        statements=tuple(said),
        lonlat=(node.plane("location/lon"), node.plane("location/lat")),
        attrs=_glt(node),
    )


def _unit(node: Node, path: str) -> str | None:
    attrs = node.array(path).attrs
    return as_text(attrs["units"]) if "units" in attrs else None


def _glt(node: Node) -> dict[str, Any]:
    """The grid to which the file's lookup table leads: GDAL's geotransform, shape and reference system."""
    if not {"geotransform", "spatial_ref"} <= set(node.attrs) or "location/glt_x" not in node:
        return {}
    return {
        "hypermend:glt": {
            "geotransform": [float(v) for v in np.ravel(node.attrs["geotransform"])],
            "crs": as_text(node.attrs["spatial_ref"]),
            "shape": [int(n) for n in node.array("location/glt_x").shape],
        }
    }


def _is_cube(level: str, node: Node) -> bool:
    name = "radiance" if level == "L1B" else "reflectance"
    return name in node and f"{_BANDS}/wavelengths" in node and "location/lon" in node


def _is_mask(node: Node) -> bool:
    return "mask" in node and f"{_BANDS}/mask_bands" in node


def _with_masks(node: Node, number: int, arrays: Arrays) -> Arrays:
    names = [as_text(name).lower() for name in node.values(f"{_BANDS}/mask_bands")]
    shape = node.array("mask").shape
    if len(shape) != 3 or len(names) != shape[2]:
        raise BadAsset(f"{node.where}: mask is {shape} (y, x, band), {len(names)} names of its bands")
    if not any(word in name for name in names for word in _MASKS):
        names = list(_MASK_BANDS[: len(names)])
    masks = []
    for plane, name in enumerate(names):
        flag = next((flag for word, flag in _MASKS.items() if word in name), None)
        if flag is not None and not any(word in name for word in _NO_FLAGS):
            rule = MaskRule(name=name, values={1: flag})
            masks.append(MaskArray(path="mask", axes="yxb", rule=rule, plane=plane, file=number))
    return replace(arrays, masks=(*arrays.masks, *masks))


def _is_uncertainty(node: Node) -> bool:
    return "reflectance_uncertainty" in node and "reflectance" not in node


def _with_uncertainty(node: Node, number: int, arrays: Arrays) -> Arrays:
    beside = uncertainty_array(node, "reflectance_uncertainty", arrays.cubes[0], None, file=number)
    return replace(arrays, uncertainty=beside)


def deliveries(folder: Path, files: Sequence[str]) -> list[Delivery]:
    """See `profile.Profile`: the files of a granule are one scene; OBS and a browse picture belong to it, unread."""
    granules: dict[tuple[str, str], dict[str, str]] = {}
    for file in files:
        if match := _FILE.fullmatch(file):
            granules.setdefault((match["folder"] or "", match["granule"]), {})[match["kind"].upper()] = file
    found = []
    for kinds in granules.values():
        for cube, companions in _FILES.items():
            if cube not in kinds:
                continue
            of_cube = {kind: kinds[kind] for kind in (cube, *companions) if kind in kinds}
            assets = {
                kind.lower(): Asset(key=kind.lower(), href=str(folder / file), roles=("data",), media_type=_MEDIA)
                for kind, file in of_cube.items()
                if kind not in _UNREAD
            }
            id = of_cube[cube].rsplit("/", 1)[-1].removesuffix(".nc")
            found.append(Delivery(id=id, files=tuple(of_cube.values()), assets=assets))
    return found


def describe(scene: Scene, fetcher: AssetFetcher) -> Description | None:
    """None: the content of the files says what they are, see `COMPANIONS`."""
    return None


LAYOUTS = (
    Layout(product="EMIT L2A", matches=lambda node: _is_cube("L2A", node), arrays=_arrays),
    Layout(product="EMIT L1B", matches=lambda node: _is_cube("L1B", node), arrays=_arrays),
)
COMPANIONS = (
    Companion(product="EMIT L2A mask", matches=_is_mask, add=_with_masks, needed=True),
    Companion(product="EMIT L2A uncertainty", matches=_is_uncertainty, add=_with_uncertainty, needed=False),
)

ROWS = (
    FormatRow(
        product="EMIT",
        levels="L1B, L2A",
        read="NetCDF as a file or an item of several; radiance or reflectance; RFLUNCERT as `reflectance_std`; OBS "
        "and pictures are left out",
        masks="MASK: cloud, cirrus, buffers, spacecraft",
        grid="sensor geometry, longitude and latitude; the grid of the GLT is named",
        refused="a mask of other pixels than the cube",
    ),
)
