"""Public .mat files: their variables, and which bands of the instrument they hold.

The corrected benchmark cubes, with their published lists of bands, are in `data/benchmarks.toml`.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from importlib import resources
from typing import Any


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
    bands: int | None = None
    """number of bands that the cube must have"""
    kept: tuple[int, ...] | None = None
    """1-based channels of the sensor table, as published"""
    nominal_nm: tuple[float, float] | None = None
    """first and last centre, where nothing tells those between"""
    size: tuple[str, str] | None = None
    """variables with the number of lines and columns, for "bn\""""
    quantity: str | None = None


_FILES = (
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
    Layout(name="Pavia registration", sensor="rosis", cube="I1", requires=("wl",), quantity="counts"),
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


def _benchmarks() -> tuple[Layout, ...]:
    """One layout for each variable of each cube."""
    text = resources.files("hypermend.catalog").joinpath("data", "benchmarks.toml").read_text(encoding="utf-8")
    return tuple(_layout(cube, variable) for cube in tomllib.loads(text)["cube"] for variable in cube["variables"])


def _layout(cube: dict[str, Any], variable: str) -> Layout:
    nominal = cube.get("nominal")
    return Layout(
        name=cube["name"],
        sensor=cube["sensor"],
        cube=variable,
        bands=cube["bands"],
        kept=channels(cube["kept"]) if "kept" in cube else None,
        nominal_nm=None if nominal is None else (nominal[0], nominal[1]),
        quantity="counts",
    )


def channels(text: str) -> tuple[int, ...]:
    """Channel numbers of a list such as "1-107, 113"."""
    out: list[int] = []
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        out += range(int(first), int(last or first) + 1)
    return tuple(out)


LAYOUTS: tuple[Layout, ...] = (*_FILES, *_benchmarks())
"""All public files that are known."""
