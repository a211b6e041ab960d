"""What a layout tells the reader about the arrays of a scene."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from hypermend.catalog.arrays import LonLat
from hypermend.catalog.meaning.statement import Statement
from hypermend.catalog.readers.hierarchical.file import Node
from hypermend.catalog.readers.masks import MaskRule

Transform = tuple[float, float, float, float, float, float]


@dataclass(frozen=True, kw_only=True)
class CubeArray:
    """One array that holds bands of the cube."""

    path: str
    axes: str
    """letters of its axes in file order: b, y, x, and t for one of one element; "yx" for a single band"""
    bands: tuple[int, ...]
    """0-based bands of the array that are bands of the scene, in the order of the scene"""
    up: int = 1
    """how often each pixel is repeated in the cube, along rows and columns"""
    down: int = 1
    """how many pixels are averaged to one of the cube"""
    file: int = 0
    """0: the file of the cube; else the number of a companion, from 1"""


@dataclass(frozen=True, kw_only=True)
class UncertaintyArray:
    """One array of standard deviations, with the bands of the cube."""

    array: CubeArray
    scale: float = 1.0
    """physical standard deviation = number * scale"""
    fill: float | None = None
    """the number that means "unknown"; negative ones always do"""


@dataclass(frozen=True, kw_only=True)
class MaskArray:
    """One array whose numbers become flags, or defects of single bands."""

    path: str
    rule: MaskRule
    axes: str = "yx"
    plane: int | None = None
    """band of the array where one of its bands is the mask; None for "yx", and for defects"""
    bands: tuple[int, ...] = ()
    """for defects: bands of the array"""
    first: int = 0
    """for defects: position of the first of `bands` in the bands of the scene"""
    up: int = 1
    """see `CubeArray`"""
    file: int = 0
    """0: the file of the cube; else the number of a companion, from 1"""


@dataclass(frozen=True, kw_only=True)
class Arrays:
    """The arrays of a scene. Per-band values have the order of the bands of `cubes`, one after the other."""

    cubes: tuple[CubeArray, ...]
    statements: tuple[Statement, ...]
    names: tuple[str, ...] | None = None
    numbers: tuple[int, ...] | None = None
    """1-based numbers in the original product; None for 1, 2, 3 ..."""
    detector: tuple[str, ...] | None = None
    masks: tuple[MaskArray, ...] = ()
    uncertainty: UncertaintyArray | None = None
    lonlat: LonLat | None = None
    transform: Transform | None = None
    empty: float | None = None
    """number that a pixel without data has in all bands, though it is a measurement in one"""
    attrs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A product whose files the reader knows by their content."""

    product: str
    """product and level, such as "PRISMA L2D\""""
    matches: Callable[[Node], bool]
    arrays: Callable[[Node], Arrays]


@dataclass(frozen=True, kw_only=True)
class Companion:
    """A file beside the cube that adds masks or uncertainty."""

    product: str
    matches: Callable[[Node], bool]
    add: Callable[[Node, int, Arrays], Arrays]
    """(file, its number, arrays of the cube) -> arrays with what it adds"""
    needed: bool
    """True: the flags of the cube would be wrong without it, so that it must be readable"""
