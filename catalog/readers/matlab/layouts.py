"""Layouts of public .mat files: which variable is the cube, and which bands it has.

A .mat file does not name its sensor. Else the only three-dimensional numeric array is taken, or the one with the
sensor's bands, or the one that the item names in `hypermend:mat_key`.
"""

from __future__ import annotations

from dataclasses import dataclass

from hypermend.catalog.errors import BadAsset
from hypermend.catalog.readers.matlab.file import BYTES, MatFile
from hypermend.catalog.scene import AUTO
from hypermend.catalog.sensors import Sensor


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Variables of a public .mat file: the cube, and those that describe its bands."""

    name: str
    sensor: str | None = None
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
    quantity: str | None = None


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


def pick_layout(file: MatFile, table: Sensor | None, sensor: str, key: str | None) -> Layout:
    """The layout of a file, for a sensor or for `AUTO`.

    Raises:
        BadAsset: no such key, or several variables could be the cube; the error lists keys and shapes.
    """
    if key is not None and key not in file.variables:
        raise BadAsset(f"{file.where}: no variable {key!r}; it holds {file.contents()}")
    known = [
        layout
        for layout in LAYOUTS
        if {layout.cube, *layout.requires} <= file.variables.keys()
        and key in (None, layout.cube)
        and sensor in (AUTO, layout.sensor)
    ]
    if len({layout.sensor for layout in known}) > 1:
        names = ", ".join(str(layout.sensor) for layout in known)
        raise BadAsset(f"{file.where}: holds the images of {len(known)} sensors; name one with --sensor: {names}")
    if known:
        return known[0]
    return Layout(name="three-dimensional array", cube=key or _only_cube(file, table))


def shares_file(layout: Layout) -> bool:
    """Whether files of this layout hold the cubes of several instruments."""
    return len({k.sensor for k in LAYOUTS if k.name == layout.name}) > 1


def _only_cube(file: MatFile, table: Sensor | None) -> str:
    """The variable that must be the cube."""
    cubes = [n for n, (shape, kind) in file.variables.items() if len(shape) == 3 and kind in BYTES]
    counts = () if table is None else (table.bands, sum(table.usable))
    fitting = [n for n in cubes if file.variables[n][0][2] in counts]
    candidates = fitting if fitting else cubes
    if len(candidates) != 1:
        which = "several could be the cube" if candidates else "none is a three-dimensional numeric array"
        of = "" if table is None else f" of sensor {table.name} ({table.bands} bands)"
        raise BadAsset(
            f"{file.where}: {which}{of}; it holds {file.contents()}; name one by the item's property hypermend:mat_key"
        )
    return candidates[0]
