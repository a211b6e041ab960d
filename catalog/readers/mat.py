"""MATLAB files: v5 read whole by scipy, v7.3 (which is HDF5 with reversed axes) by windows.

A .mat file does not name its sensor. `LAYOUTS` lists public files whose variables are known. Else the only
three-dimensional numeric array is taken, or the one whose last axis has the sensor's bands, or the one that the item
names in `hypermend:mat_key`. Otherwise an error lists the variables of the file.
"""

from __future__ import annotations

import io
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hypermend.catalog.arrays import Stored
from hypermend.catalog.errors import BadAsset, Refused
from hypermend.catalog.readers.bands import (
    ArraySource,
    Band,
    PixelFormat,
    by_count,
    by_number,
    by_wavelength,
    default_fill,
    make_spec,
    select_bands,
)
from hypermend.catalog.readers.hdf import HdfPart, HdfSource, mat_variables, read_dataset
from hypermend.catalog.scene import Asset, Scene
from hypermend.catalog.sensors import Sensor
from hypermend.catalog.storage.fetch import AssetFetcher
from hypermend.catalog.storage.hrefs import shown

HEADER_BYTES = 128
_BYTES = {"double": 8, "single": 4, "int8": 1, "uint8": 1, "int16": 2, "uint16": 2, "int32": 4, "uint32": 4}
_DTYPES = {"double": "float64", "single": "float32"}


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Variables of a public .mat file: the cube, and those that describe its bands."""

    name: str
    sensor: str
    cube: str
    """variable of the cube"""
    requires: tuple[str, ...] = ()
    """other variables that the file must have"""
    axes: str = "yxb"
    """MATLAB order of axes; "bn" is bands x pixels, pixels column by column"""
    numbers: str | None = None
    """variable with the 1-based band numbers"""
    first: int | None = None
    """number of bands, which are the first ones of the sensor table"""
    wavelength_um: str | None = None
    """variable with the wavelengths in micrometres"""
    size: tuple[str, str] | None = None
    """variables with the number of lines and columns, for "bn\""""
    quantity: str


LAYOUTS = (
    # HySure: both instruments over Paris, scaled to 0..1 by the packager, so not radiance any more
    Layout(
        name="HySure Hyperion + ALI",
        sensor="hyperion",
        cube="HSim",
        requires=("non_del_bands",),
        numbers="non_del_bands",
        quantity="counts",
    ),
    Layout(name="HySure Hyperion + ALI", sensor="ali", cube="MSim", quantity="counts"),
    # 102 of the 115 ROSIS bands; no record says which 13 were removed, so the centres are nominal
    Layout(name="Pavia Centre", sensor="rosis", cube="PaviaCenter", first=102, quantity="counts"),
    Layout(name="Pavia Centre", sensor="rosis", cube="pavia", first=102, quantity="counts"),
    Layout(name="Pavia University", sensor="rosis", cube="paviaU", quantity="counts"),
    Layout(
        name="Pavia registration", sensor="rosis", cube="I1", requires=("wl",), wavelength_um="wl", quantity="counts"
    ),
    Layout(name="MUUFL Gulfport", sensor="muufl", cube="data", quantity="reflectance"),
    Layout(
        name="Jasper Ridge 198",
        sensor="aviris",
        cube="Y",
        requires=("lines", "cols"),
        axes="bn",
        size=("lines", "cols"),
        quantity="counts",
    ),
)
_READ_ERRORS = (ValueError, TypeError, KeyError, OSError, NotImplementedError, zlib.error)
"""Errors of SciPy for a damaged file, or one that is not MATLAB's."""


class _MatFile:
    """Variables of a .mat file, v5 or v7.3: name -> (MATLAB shape, MATLAB class)."""

    def __init__(self, asset: Asset, fetcher: AssetFetcher) -> None:
        self.where = shown(asset.href)
        self.asset, self.fetcher = asset, fetcher
        self.body: Path | io.BytesIO | None = None
        self.v73 = _is_v73(asset, fetcher)
        if self.v73:
            self.variables = mat_variables(asset, fetcher)
            return
        from scipy.io import whosmat  # takes half a second to import; other readers do not need it

        self.body = fetcher.fetch(asset.href)
        try:
            self.variables = {n: (tuple(s), c) for n, s, c in whosmat(self._stream())}
        except _READ_ERRORS as e:
            raise BadAsset(f"{self.where}: is no MATLAB v5 file: {e}") from e

    def _stream(self) -> Any:
        """A path, or the bytes from their start."""
        if isinstance(self.body, io.BytesIO):
            self.body.seek(0)
        return self.body

    def load(self, name: str) -> Stored:
        """A variable in MATLAB's axis order."""
        if self.v73:
            return read_dataset(self.asset, self.fetcher, name).T
        from scipy.io import loadmat

        try:
            return np.asarray(loadmat(self._stream(), variable_names=[name])[name])
        except _READ_ERRORS as e:
            raise BadAsset(f"{self.where}: {name} cannot be read: {e}") from e

    def contents(self) -> str:
        return ", ".join(f"{n} {' x '.join(map(str, s))} {c}" for n, (s, c) in sorted(self.variables.items())) or "none"


def open_mat(
    scene: Scene, assets: Sequence[Asset], table: Sensor, fetcher: AssetFetcher, *, bands: Sequence[str] | None = None
) -> ArraySource | HdfSource:
    """The cube of a .mat file; the module's docstring says which variable that is."""
    if len(assets) != 1:
        raise BadAsset(f"scene {scene.id}: {len(assets)} .mat files; one scene is one file")
    asset = assets[0]
    file = _MatFile(asset, fetcher)
    layout = pick_layout(file.variables, table, scene.properties.get("hypermend:mat_key"), file.where, file.contents())
    shape, kind = file.variables[layout.cube]
    lines, columns, count = _size(layout, shape, file)
    file_bands = _bands(layout, table, count, file)
    picked = select_bands(file_bands, bands, f"scene {scene.id}")
    dtype, loaded = _DTYPES.get(kind, kind), None
    if not file.v73:
        _check_bytes(file, layout.cube, math.prod(shape) * _BYTES.get(kind, 8))
        loaded = _as_bands(file.load(layout.cube), layout, (lines, columns, count))
        dtype = str(loaded.dtype)  # MATLAB stores a double as uint16 if it fits: the type of the stored numbers counts
    pixels = PixelFormat(
        dtype=dtype,
        fill=default_fill(dtype, asset.nodata),
        scale_factor=asset.scale or 1.0,
        add_offset=asset.offset or 0.0,
        quantity=str(scene.properties.get("hypermend:quantity", layout.quantity)),
        attrs={"hypermend:mat_key": layout.cube, "hypermend:layout": layout.name},
    )
    spec, order = make_spec([file_bands[i] for i in picked], (lines, columns), pixels, sensor=table.name)
    order = [picked[i] for i in order]
    if file.v73 and layout.axes == "yxb":
        part = HdfPart(path=layout.cube, axes="bxy", file_bands=tuple(order))  # reversed in HDF5
        return HdfSource(spec, fetcher.identity([asset]), asset, fetcher, [part])
    return ArraySource(
        spec,
        fetcher.identity([asset]),
        lambda: _as_bands(file.load(layout.cube), layout, (lines, columns, count)),
        order,
        loaded=loaded,
    )


def _as_bands(array: Stored, layout: Layout, size: tuple[int, int, int]) -> Stored:
    """MATLAB's order of axes as (band, y, x)."""
    lines, columns, count = size
    if layout.axes == "bn":
        return array.reshape(count, columns, lines).transpose(0, 2, 1)  # pixels run down the columns
    return array.transpose(2, 0, 1)


def _check_bytes(file: _MatFile, name: str, declared: int) -> None:
    if declared > file.fetcher.max_bytes:
        raise Refused(f"{file.where}: {name} holds {declared} bytes, read whole, the limit is {file.fetcher.max_bytes}")


def layout_of(asset: Asset, table: Sensor, fetcher: AssetFetcher) -> Layout:
    """Layout of a file for this sensor; see `pick_layout`."""
    file = _MatFile(asset, fetcher)
    return pick_layout(file.variables, table, None, file.where, file.contents())


def shares_file(layout: Layout) -> bool:
    """Whether files of this layout hold the cubes of several instruments."""
    return len({k.sensor for k in LAYOUTS if k.name == layout.name}) > 1


def pick_layout(
    variables: Mapping[str, tuple[tuple[int, ...], str]], table: Sensor, key: str | None, where: str, contents: str
) -> Layout:
    """The layout of a file with these variables.

    Raises:
        BadAsset: no such key, or several variables could be the cube; the error lists keys and shapes.
    """
    if key is not None and key not in variables:
        raise BadAsset(f"{where}: no variable {key!r}; it holds {contents}")
    for layout in LAYOUTS:
        if (
            layout.sensor == table.name
            and {layout.cube, *layout.requires} <= variables.keys()
            and key in (None, layout.cube)
        ):
            return layout
    if key is None:
        cubes = [n for n, (shape, kind) in variables.items() if len(shape) == 3 and kind in _BYTES]
        fitting = [n for n in cubes if variables[n][0][2] in (table.bands, sum(table.usable))]
        candidates = fitting if fitting else cubes
        if len(candidates) != 1:
            which = "several could be the cube" if candidates else "none is a three-dimensional numeric array"
            raise BadAsset(
                f"{where}: {which} of sensor {table.name} ({table.bands} bands); it holds {contents}; "
                "name one by the item's property hypermend:mat_key"
            )
        key = candidates[0]
    return Layout(name="three-dimensional array", sensor=table.name, cube=key, quantity=table.quantity)


def _size(layout: Layout, shape: tuple[int, ...], file: _MatFile) -> tuple[int, int, int]:
    """Return (lines, columns, bands)."""
    if layout.axes == "bn" and layout.size is not None and len(shape) == 2:
        lines, columns = (int(file.load(n).ravel()[0]) for n in layout.size)
        if lines * columns != shape[1]:
            raise BadAsset(
                f"{file.where}: {layout.cube} has {shape[1]} pixels, {layout.size[0]} x {layout.size[1]} is "
                f"{lines} x {columns} = {lines * columns}"
            )
        return lines, columns, shape[0]
    if len(shape) != 3:
        raise BadAsset(f"{file.where}: {layout.cube} has {len(shape)} axes, a cube has 3; it holds {file.contents()}")
    return shape[0], shape[1], shape[2]


def _bands(layout: Layout, table: Sensor, count: int, file: _MatFile) -> list[Band]:
    if layout.numbers is not None:
        numbers = [int(n) for n in file.load(layout.numbers).ravel()]
        if len(numbers) != count:
            raise BadAsset(
                f"{file.where}: {layout.cube} has {count} bands, {layout.numbers} lists {len(numbers)} band numbers"
            )
        return by_number(table, numbers, file.where)
    if layout.wavelength_um is not None:
        centres = [float(w) * 1000 for w in file.load(layout.wavelength_um).ravel()]
        if len(centres) != count:
            raise BadAsset(
                f"{file.where}: {layout.cube} has {count} bands, {layout.wavelength_um} lists {len(centres)}"
            )
        return by_wavelength(table, centres, file.where)
    if layout.first == count:
        return by_number(table, range(1, count + 1), file.where)
    return by_count(table, count, file.where)


def _is_v73(asset: Asset, fetcher: AssetFetcher) -> bool:
    """Whether the text at the start of the file says v7.3."""
    head = fetcher.head(asset.href, HEADER_BYTES)
    if not head.startswith(b"MATLAB "):
        raise BadAsset(f"{shown(asset.href)}: is no MATLAB file (v5 or v7.3); v4 is not read")
    return head.startswith(b"MATLAB 7.3")
