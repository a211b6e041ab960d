"""PRISMA L1, L2B, L2C and L2D: (y, band, x) cubes of 16-bit numbers, one for each detector, wavelengths descending.

A wavelength of 0 marks a band that was not acquired; the scene has no such band. L1 is radiance = number / factor -
offset, L2 is min + number * (max - min) / 65535, each detector with its own factors. In L2 the number 0 is no
measurement; in L1 it is a small radiance, and only a pixel with 0 in all bands is empty. L1, L2B and L2C are in sensor
geometry, L2D is on a UTM grid. The corners in the attributes are centres of pixels where they span one pixel less than
the image, which is what ASI writes, and outer edges where they span all of it. The error matrices mark single bands of
a pixel: 1 defective, 2 saturated, 3 less accurate, 4 not a number; a band that its matrix rejects in most of the image
(water vapour) is not good.
Source: ASI, PRISMA Products Specification Document 2.3; IREA-CNR prismaread and ESA SNAP (error codes); EnMAP-Box
issues 473 and 1072 (corners).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import numpy as np

from hypermend.catalog.arrays import LonLat, Stored
from hypermend.catalog.cube.spec import CLOUD
from hypermend.catalog.errors import BadAsset
from hypermend.catalog.meaning.statement import Field, Source, Statements
from hypermend.catalog.meaning.times import utc_time
from hypermend.catalog.readers.hierarchical.file import Node, as_text
from hypermend.catalog.readers.hierarchical.layout import Arrays, CubeArray, Layout, MaskArray, Transform
from hypermend.catalog.readers.masks import MaskRule
from hypermend.catalog.readers.profile import FormatRow

T = TypeVar("T")
_DETECTORS = ("VNIR", "SWIR")
_GSD_M = 30.0
_SAMPLED_ROWS = 8
_REJECTED = 0.5
"""A band that is rejected in more than this share of the sampled pixels is not good."""


@dataclass(frozen=True, kw_only=True)
class _Level:
    """How one level differs from the others."""

    quantity: str
    errors: str
    """name of the error matrix after the detector"""
    factors: Callable[[Node, str], tuple[float, float]]
    """(scale, offset) of a detector"""
    statements: Mapping[Field, object] = field(default_factory=dict)


def _l1_factors(node: Node, detector: str) -> tuple[float, float]:
    divisor = node.number(f"ScaleFactor_{detector}")
    if divisor == 0:
        raise BadAsset(f"{node.where}: ScaleFactor_{detector} is 0")
    return 1 / divisor, 0.0 - node.number(f"Offset_{detector}")


def _l2_factors(node: Node, detector: str) -> tuple[float, float]:
    low, high = node.number(f"L2Scale{detector}Min"), node.number(f"L2Scale{detector}Max")
    return (high - low) / 65535, low


_RADIANCE = {Field.UNITS: "W m-2 sr-1 um-1"}
_LEVELS = {
    "L1": _Level(
        quantity="radiance", errors="PIXEL_SAT_ERR_MATRIX", factors=_l1_factors, statements=_RADIANCE
    ),
    "L2B": _Level(
        quantity="radiance", errors="PIXEL_L2_ERR_MATRIX", factors=_l2_factors,
        statements={**_RADIANCE, Field.NODATA: 0},
    ),
    "L2C": _Level(
        quantity="reflectance", errors="PIXEL_L2_ERR_MATRIX", factors=_l2_factors, statements={Field.NODATA: 0}
    ),
    "L2D": _Level(
        quantity="reflectance", errors="PIXEL_L2_ERR_MATRIX", factors=_l2_factors, statements={Field.NODATA: 0}
    ),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class _Detector:
    """The bands of one detector that were acquired."""

    cube: CubeArray
    errors: MaskArray | None
    centres: tuple[float, ...]
    widths: tuple[float, ...]
    count: int
    """bands of the array, the empty ones too"""


def _arrays(name: str, node: Node) -> Arrays:
    level, swath = _LEVELS[name], _swath(name)
    detectors: list[_Detector] = []
    for part in _DETECTORS:
        detectors.append(_detector(node, swath, part, level, first=sum(len(d.centres) for d in detectors)))
    numbers: list[int] = []
    for i, d in enumerate(detectors):
        numbers += [sum(before.count for before in detectors[:i]) + b + 1 for b in d.cube.bands]
    factors = [level.factors(node, part.title()) for part in _DETECTORS]
    said = Statements()
    said.add(Field.SENSOR, "prisma", Source.FILE, swath)
    said.add(Field.WAVELENGTH, _joined(d.centres for d in detectors), Source.FILE, "List_Cw_Vnir, List_Cw_Swir")
    said.add(Field.FWHM, _joined(d.widths for d in detectors), Source.FILE, "List_Fwhm_Vnir, List_Fwhm_Swir")
    where = "ScaleFactor_*, Offset_*" if name == "L1" else "L2Scale*Min, L2Scale*Max"
    for fact, i in ((Field.SCALE, 0), (Field.OFFSET, 1)):
        said.add(
            fact, _joined((f[i],) * len(d.centres) for f, d in zip(factors, detectors, strict=True)), Source.FILE, where
        )
    said.add(Field.QUANTITY, level.quantity, Source.FILE, swath)
    for fact, value in level.statements.items():
        said.add(fact, value, Source.PRODUCT, f"PRISMA {name}")
    said.add(Field.GOOD, _good(node, detectors), Source.FILE, "error matrices, and share of empty pixels")
    if "Product_StartTime" in node.attrs:
        said.add(Field.DATETIME, utc_time(as_text(node.attrs["Product_StartTime"])), Source.FILE, "Product_StartTime")
    transform = None
    cube = node.array(detectors[0].cube.path)
    if name == "L2D" and "Epsg_Code" in node.attrs:
        said.add(Field.CRS, f"EPSG:{int(node.number('Epsg_Code'))}", Source.FILE, "Epsg_Code")
        transform = _transform(node, cube.shape[0], cube.shape[2])
    return Arrays(
        cubes=tuple(d.cube for d in detectors),
        statements=tuple(said),
        names=tuple(map(str, numbers)),
        numbers=tuple(numbers),
        detector=_joined((part,) * len(d.centres) for part, d in zip(_DETECTORS, detectors, strict=True)),
        masks=(*(d.errors for d in detectors if d.errors is not None), *_cloud_mask(node, swath)),
        lonlat=None if transform is not None else _lonlat(node, swath),
        transform=transform,
        empty=0 if name == "L1" else None,
    )


def _detector(node: Node, swath: str, part: str, level: _Level, *, first: int) -> _Detector:
    path = f"{swath}/Data Fields/{part}_Cube"
    shape = node.array(path).shape
    centres = [float(w) for w in np.ravel(node.attribute(f"List_Cw_{part.title()}"))]
    widths = [float(w) for w in np.ravel(node.attribute(f"List_Fwhm_{part.title()}"))]
    if len(shape) != 3 or not len(centres) == len(widths) == shape[1]:
        raise BadAsset(f"{node.where}: {part}_Cube is {shape} (y, band, x), with {len(centres)} wavelengths")
    kept = tuple(i for i, w in enumerate(centres) if w > 0)
    errors = f"{swath}/Data Fields/{part}_{level.errors}"
    mask = None
    if errors in node:
        mask = MaskArray(
            path=errors, axes="ybx", rule=MaskRule(name=level.errors, defect=True), bands=kept, first=first
        )
    return _Detector(
        cube=CubeArray(path=path, axes="ybx", bands=kept),
        errors=mask,
        centres=tuple(centres[i] for i in kept),
        widths=tuple(widths[i] for i in kept),
        count=shape[1],
    )


def _good(node: Node, detectors: list[_Detector]) -> tuple[bool, ...] | None:
    """Whether each band has a result in most of the image; None where there are no error matrices."""
    if any(d.errors is None for d in detectors):
        return None
    rows = node.array(detectors[0].cube.path).shape[0]
    picked = np.unique(np.linspace(0, rows - 1, min(rows, _SAMPLED_ROWS)).astype(int))
    numbers: list[Stored] = []
    errors: list[Stored] = []
    for d in detectors:
        assert d.errors is not None
        for out, path in ((numbers, d.cube.path), (errors, d.errors.path)):
            array = node.array(path)
            if array.shape != node.array(d.cube.path).shape:
                raise BadAsset(f"{node.where}: {path} is {array.shape}, its cube {node.array(d.cube.path).shape}")
            out.append(np.stack([array[int(row)] for row in picked])[:, list(d.cube.bands)])  # (rows, bands, x)
    stored, codes = np.concatenate(numbers, axis=1), np.concatenate(errors, axis=1)
    inside = (stored != 0).any(axis=1)
    if not inside.any():
        return None
    rejected = ((codes != 0) & inside[:, None]).sum(axis=(0, 2)) / inside.sum()
    good = rejected <= _REJECTED
    return tuple(good.tolist()) if good.any() else None


def _transform(node: Node, rows: int, columns: int) -> Transform:
    """Affine of the grid, whose origin is the outer corner of the first pixel.

    Raises:
        BadAsset: the corners do not span the image in pixels of 30 m.
    """
    west, north = node.number("Product_ULcorner_easting"), node.number("Product_ULcorner_northing")
    shift = _GSD_M / 2  # the corner is the centre of the first pixel
    if {"Product_LRcorner_easting", "Product_LRcorner_northing"} <= set(node.attrs):
        width = node.number("Product_LRcorner_easting") - west
        height = north - node.number("Product_LRcorner_northing")
        if np.allclose((width, height), (_GSD_M * columns, _GSD_M * rows), atol=1.0):
            shift = 0.0
        elif not np.allclose((width, height), (_GSD_M * (columns - 1), _GSD_M * (rows - 1)), atol=1.0):
            raise BadAsset(
                f"{node.where}: its corners are {width:g} m and {height:g} m apart, {columns} x {rows} pixels of "
                f"{_GSD_M:g} m are not"
            )
    return _GSD_M, 0.0, west - shift, 0.0, -_GSD_M, north + shift


def _lonlat(node: Node, swath: str) -> LonLat:
    """Longitude and latitude of the pixels; L1 gives them for each detector."""
    home = f"{swath}/Geolocation Fields"
    suffix = "" if f"{home}/Longitude" in node else "_VNIR"
    return node.plane(f"{home}/Longitude{suffix}"), node.plane(f"{home}/Latitude{suffix}")


def _cloud_mask(node: Node, swath: str) -> tuple[MaskArray, ...]:
    """The cloud mask of L1."""
    path = f"{swath}/Data Fields/Cloud_Mask"
    return (MaskArray(path=path, rule=MaskRule(name="Cloud_Mask", values={1: CLOUD})),) if path in node else ()


def _joined(parts: Iterable[Sequence[T]]) -> tuple[T, ...]:
    """The values of all detectors, one after the other."""
    return tuple(value for part in parts for value in part)


def _swath(level: str) -> str:
    return f"HDFEOS/SWATHS/PRS_{level}_HCO"


def _matches(level: str, node: Node) -> bool:
    return f"{_swath(level)}/Data Fields/VNIR_Cube" in node


LAYOUTS = tuple(
    Layout(product=f"PRISMA {level}", matches=partial(_matches, level), arrays=partial(_arrays, level))
    for level in ("L2D", "L2C", "L2B", "L1")
)

ROWS = (
    FormatRow(
        product="PRISMA",
        levels="L1, L2B, L2C, L2D",
        read="HE5; radiance or reflectance with the scale of each detector; bands that were not acquired left out",
        masks="`*_ERR_MATRIX` as defects per band, cloud mask; 0 is no data",
        grid="L2D: UTM from its corners; others: sensor geometry",
        refused="corners that do not span the image",
    ),
)
