"""Scene: one acquisition of one sensor and its files, independent of the catalog that lists it."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

AUTO = "auto"
"""Sensor of a scene whose files have not been asked for it yet."""
SENSOR_FROM = "hypermend:sensor_from"
"""Property of an item whose sensor is the user's word (`USER`) or that of the files (`FILES`), not the item's own."""
TIME_FROM = "hypermend:datetime_from"
"""The same for its time, which may also be `UNKNOWN`, a `GUESS`, or `MTIME` where the user allowed that."""
FILES, UNKNOWN, USER, GUESS, MTIME = "files", "unknown", "user", "guess", "mtime"


@dataclass(frozen=True, kw_only=True)
class Asset:
    """One file of a scene."""

    key: str
    href: str
    """absolute URL (http, https, s3) or absolute path"""
    roles: tuple[str, ...] = ()
    media_type: str | None = None
    bands: tuple[str, ...] = ()
    """names of its bands in file order, spelled as in the sensor table; may be empty"""
    wavelength_nm: tuple[float, ...] = ()
    """centres of its bands, as the item gives them; may be empty"""
    fwhm_nm: tuple[float, ...] = ()
    nodata: float | None = None
    scale: float | tuple[float, ...] | None = None
    """one number, or one for each of its bands"""
    offset: float | tuple[float, ...] | None = None
    gsd_m: float | None = None
    checksum: str | None = None
    """multihash (file:checksum)"""
    grid: GeoBox | None = None
    """the file's own grid, if the item gives it"""
    alternates: tuple[str, ...] = ()
    """further hrefs of the same file, tried in this order where the first is refused or missing"""
    problem: str | None = None
    """why the item's fields for this file cannot be used; a reader that needs the file refuses the scene with it"""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One acquisition of one sensor."""

    id: str
    collection: str
    datetime: dt.datetime | None
    """aware, UTC; None where no source states it"""
    sensor: str
    """name of a sensor table, or the instrument's own name; `AUTO` before the files were asked"""
    grid: GeoBox | None = None
    """None for a lab image, for sensor geometry, and if the item does not give it"""
    bbox: tuple[float, float, float, float] | None = None
    """west, south, east, north in degrees"""
    geometry: Mapping[str, Any] | None = None
    assets: Mapping[str, Asset]
    stage: str = "raw"
    """raw, source or restored"""
    properties: Mapping[str, Any]
    """all other properties of the item"""

    @property
    def trusted_datetime(self) -> dt.datetime | None:
        """The time, unless it is unknown or only a guess: only such a time may pair two scenes."""
        return None if self.properties.get(TIME_FROM) in (GUESS, MTIME) else self.datetime


def is_data(roles: Sequence[str], media_type: str | None, key: str) -> bool:
    """Whether an asset holds pixels for the cube (or for its flags), not a picture of them."""
    if "data" in roles:
        return True
    pictures = ("thumbnail", "overview", "metadata", "visual", "preview")
    if any(r in pictures for r in roles) or key.lower() in pictures:
        return False
    return media_type is None or not re.search(r"json|xml|html|text|pdf|parquet", media_type)
