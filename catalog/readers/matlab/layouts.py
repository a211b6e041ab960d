"""Which variable of a .mat file is the cube, and how its axes lie.

A .mat file does not name its sensor. A public file is known by its variables; else the only three-dimensional numeric
array is taken, or the one with a known number of bands, or the one that the item names in `hypermend:mat_key`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from hypermend.catalog.errors import BadAsset
from hypermend.catalog.readers.matlab.benchmarks import LAYOUTS, Layout
from hypermend.catalog.readers.matlab.file import BYTES, MatFile
from hypermend.catalog.readers.profile import FormatRow
from hypermend.catalog.scene import AUTO
from hypermend.catalog.sensors import Sensor

_ORDERS = {0: "byx", 1: "ybx", 2: "yxb"}
"""Axes of a cube by the position of its bands."""


def pick_layout(
    file: MatFile, table: Sensor | None, sensor: str, key: str | None, *, bands: Sequence[int] = ()
) -> Layout:
    """The layout of a file, for a sensor or for `AUTO`.

    Args:
        bands: numbers of bands that the user's wavelengths, or the file's, allow.

    Raises:
        BadAsset: no such key, ground truth, or several variables could be the cube; the error lists keys and shapes.
    """
    if key is not None and key not in file.variables:
        raise BadAsset(f"{file.where}: no variable {key!r}; it holds {file.contents()}")
    known = [
        layout
        for layout in LAYOUTS
        if {layout.cube, *layout.requires} <= file.variables.keys()
        and key in (None, layout.cube)
        and sensor in (AUTO, layout.sensor)
        and (layout.bands is None or layout.bands in file.variables[layout.cube][0])
    ]
    if len({layout.sensor for layout in known}) > 1:
        names = ", ".join(str(layout.sensor) for layout in known)
        raise BadAsset(f"{file.where}: holds the images of {len(known)} sensors; name one with --sensor: {names}")
    if known:
        return known[0]
    if _is_ground_truth(file):
        raise BadAsset(f"{file.where}: holds class numbers of a ground truth, no image; it is left out")
    return Layout(name="three-dimensional array", cube=key or _only_cube(file, table, bands))


def _is_ground_truth(file: MatFile) -> bool:
    """Whether the only matrix is a map of classes: `*_gt.mat`, as the benchmarks name it."""
    numeric = {n: shape for n, (shape, kind) in file.variables.items() if kind in BYTES}
    stem = file.where.rsplit("/", 1)[-1].split(".")[0]
    named = re.search(r"(_gt|groundtruth|ground_truth|labels?)$", stem, re.I) is not None
    named = named or all(re.search(r"(_gt|^gt|groundt|labels?$)", n, re.I) for n in numeric)
    return named and bool(numeric) and all(len(shape) == 2 for shape in numeric.values())


def shares_file(layout: Layout) -> bool:
    """Whether files of this layout hold the cubes of several instruments."""
    return len({k.sensor for k in LAYOUTS if k.name == layout.name}) > 1


def _only_cube(file: MatFile, table: Sensor | None, bands: Sequence[int]) -> str:
    """The variable that must be the cube."""
    cubes = [n for n, (shape, kind) in file.variables.items() if len(shape) == 3 and kind in BYTES]
    counts = (*bands, *(() if table is None else (table.bands, sum(table.usable))))
    fitting = [n for n in cubes if set(counts) & set(file.variables[n][0])]
    fitting = [n for n in fitting if file.variables[n][0][2] in counts] or fitting
    candidates = fitting if fitting else cubes
    if len(candidates) != 1:
        which = "several could be the cube" if candidates else "none is a three-dimensional numeric array"
        of = "" if table is None else f" of sensor {table.name} ({table.bands} bands)"
        raise BadAsset(
            f"{file.where}: {which}{of}; it holds {file.contents()}; name one by the item's property hypermend:mat_key"
        )
    return candidates[0]


def axes_of(file: MatFile, layout: Layout, counts: Sequence[int]) -> str:
    """Order of the axes of the cube, letters of b, y and x: the bands are last, unless only another axis fits.

    Args:
        counts: numbers of bands that are known; empty if none is.

    Raises:
        BadAsset: two axes could hold the bands.
    """
    shape, _ = file.variables[layout.cube]
    if layout.axes != "yxb" or len(shape) != 3 or not counts:
        return layout.axes
    fitting = [i for i in range(3) if shape[i] in counts]
    if len(fitting) > 1 and layout.bands is None:
        readings = " or ".join(f"{_ORDERS[i]} ({' x '.join(map(str, shape))})" for i in fitting)
        raise BadAsset(
            f"{file.where}: {layout.cube} can be read as {readings}; permute it so that only its last axis has "
            f"{shape[fitting[0]]} elements, or cut its edge"
        )
    return _ORDERS[2 if not fitting or 2 in fitting else fitting[0]]


ROWS = (
    FormatRow(
        product="benchmark `.mat`",
        levels="v5, v7.3",
        read="Indian Pines, Salinas, KSC, Botswana, Pavia, Jasper Ridge, MUUFL, HySure by their variables, "
        "full and corrected; any other with one cube",
        masks="-",
        grid="none",
        refused="v4 (it holds matrices only); ground truth; several variables that could be the cube",
    ),
)
