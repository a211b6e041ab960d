"""Statements: what one source says about a scene, before anything is decided.

A reader lists what it finds and decides nothing; `resolve` decides.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Source(StrEnum):
    """Where a statement comes from. Their order is the order of trust."""

    USER = "user"
    STAC_ASSET = "STAC asset"
    STAC_ITEM = "STAC item"
    SIDECAR = "sidecar"
    FILE = "file header"
    PRODUCT = "product rule"
    TABLE = "sensor table"
    GUESS = "guess"


class Field(StrEnum):
    """Facts that a scene needs, or may have."""

    SENSOR = "sensor"
    """name of the instrument, as in the sensor tables where it has one"""
    DATETIME = "datetime"
    """start of the acquisition, aware, UTC"""
    QUANTITY = "quantity"
    """reflectance, radiance or counts"""
    UNITS = "units"
    """of the physical value, after scale and offset"""
    SCALE = "scale"
    """physical = stored * scale + offset; one number, or one for each band of the file"""
    OFFSET = "offset"
    NODATA = "nodata"
    """the stored number that means "no data\""""
    WAVELENGTH = "wavelength"
    """centres in nm, one for each band of the file"""
    FWHM = "fwhm"
    """full widths at half maximum in nm, one for each band of the file"""
    GOOD = "good"
    """whether each band of the file can be used"""
    CRS = "crs"
    TRANSFORM = "transform"


@dataclass(frozen=True, kw_only=True)
class Statement:
    """One source says one thing."""

    field: Field
    value: Any
    source: Source
    where: str
    """file and key, property or option, as the user knows it; no secret"""


class Statements:
    """A list of statements that leaves out what a source does not say."""

    def __init__(self, statements: Iterable[Statement] = ()) -> None:
        self._all = list(statements)

    def __iter__(self) -> Iterator[Statement]:
        return iter(self._all)

    def add(self, field: Field, value: Any, source: Source, where: str) -> None:
        """Add a statement; None says nothing."""
        if value is not None:
            self._all.append(Statement(field=field, value=value, source=source, where=where))

    def extend(self, statements: Iterable[Statement]) -> None:
        """Add the statements of another source."""
        self._all.extend(statements)
