"""What the attributes of an array say about its numbers: scale, nodata, quantity and unit, time, instrument."""

from __future__ import annotations

import base64
import re
import struct
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import numpy as np

from hypermend.catalog import sensors
from hypermend.catalog.arrays import Stored
from hypermend.catalog.errors import BadAsset
from hypermend.catalog.meaning.statement import Field, Source, Statements
from hypermend.catalog.meaning.times import utc_time
from hypermend.catalog.readers.hierarchical.file import Node, as_text
from hypermend.catalog.readers.hierarchical.layout import CubeArray, UncertaintyArray
from hypermend.catalog.readers.hierarchical.units import is_none, is_percent, radiance_unit

_UNIT_KEYS = ("units", "unit", "Unit", "Units")
_TIME_KEYS = ("time_coverage_start", "start_datetime", "acquisition_time", "Product_StartTime")
_INSTRUMENT_KEYS = ("instrument", "sensor", "platform")
_REFLECTANCE = re.compile(r"reflectance|(^|[_ ])(rfl|refl|sr|rho[st]?|boa|toa_refl)([_ ]|$)", re.I)
_RADIANCE = re.compile(r"(?<!ir)radiance|(^|[_ ])(rdn|rad|lw?)([_ ]|$)", re.I)
_SECONDS = {"second": 1, "minute": 60, "hour": 3600, "day": 86400}
_NETCDF_FILL = 9.969209968386869e36


def unit_of(attrs: Mapping[str, Any]) -> str | None:
    """The unit of an array, as written."""
    return next((as_text(attrs[key]) for key in _UNIT_KEYS if key in attrs), None)


def quantity_statements(name: str, attrs: Mapping[str, Any]) -> Statements:
    """Quantity and unit by `units`, `standard_name`, `long_name` and the name of the array."""
    said = Statements()
    unit = unit_of(attrs)
    words = " ".join([*(as_text(attrs[k]) for k in ("quantity", "standard_name", "long_name") if k in attrs), name])
    if unit is not None and (radiance := radiance_unit(unit)) is not None:
        said.add(Field.QUANTITY, "radiance", Source.FILE, f"{name}, units {unit}")
        said.add(Field.UNITS, radiance, Source.FILE, f"{name}, units {unit}")
    elif _RADIANCE.search(words):
        said.add(Field.QUANTITY, "radiance", Source.FILE, f"{name}, its name")
        said.add(Field.UNITS, unit or None, Source.FILE, f"{name}, units {unit}")
    elif _REFLECTANCE.search(words) and (unit is None or is_none(unit) or is_percent(unit)):
        said.add(Field.QUANTITY, "reflectance", Source.FILE, f"{name}, its name")
    return said


def number_statements(name: str, array: Any, *, netcdf: bool = False) -> Statements:
    """CF: scale_factor, add_offset, _FillValue or missing_value. Percent become fractions.

    Raises:
        BadAsset: an attribute is no number, or the numbers are packed in a way that is not read.
    """
    said = Statements()
    attrs = array.attrs
    if as_text(attrs.get("_Unsigned", "")).lower() == "true" and array.dtype.kind == "i":
        raise BadAsset(f"{name}: stores unsigned numbers as {array.dtype} (_Unsigned); convert it to {array.dtype} 'u'")
    scale, offset = _number(attrs, "scale_factor", name), _number(attrs, "add_offset", name)
    if (unit := unit_of(attrs)) is not None and is_percent(unit):
        scale, offset = (1.0 if scale is None else scale) / 100, None if offset is None else offset / 100
    said.add(Field.SCALE, scale, Source.FILE, f"{name}, scale_factor")
    said.add(Field.OFFSET, offset, Source.FILE, f"{name}, add_offset")
    fill, key = _nodata(name, array)
    said.add(Field.NODATA, fill, Source.FILE, f"{name}, {key}")
    if fill is None and netcdf and array.dtype.kind == "f":
        said.add(Field.NODATA, _NETCDF_FILL, Source.PRODUCT, "NetCDF's own fill value")
    return said


def uncertainty_array(
    node: Node, path: str, cube: CubeArray, unit: str | None, file: int = 0
) -> UncertaintyArray | None:
    """The standard deviations at `path`; None where their scale or unit cannot be told, which must not be guessed.

    Args:
        unit: of the cube, as written; an array without a unit of its own has the same.
    """
    array = node.array(path)
    own = unit_of(array.attrs)
    said = {s.field: s.value for s in number_statements(path, array)}
    if array.dtype.kind not in "fiu" or (array.dtype.kind in "iu" and Field.SCALE not in said):
        return None
    if own is not None and unit is not None and own != unit and not (is_none(own) and is_none(unit)):
        return None
    scale = float(said.get(Field.SCALE, 1.0))
    if own is None and unit is not None and is_percent(unit):
        scale /= 100
    return UncertaintyArray(array=replace(cube, path=path, file=file), scale=scale, fill=said.get(Field.NODATA))


def _nodata(name: str, array: Any) -> tuple[float | None, str]:
    """The number that means "no data", and where it stands; in Zarr 2 CF's `_FillValue` is the array's fill value."""
    for key in ("_FillValue", "missing_value"):
        value = array.attrs.get(key)
        if isinstance(value, str) and array.dtype.kind == "f":  # xarray in Zarr 3: base64 of a double
            try:
                return struct.unpack("<d", base64.b64decode(value, validate=True))[0], key
            except (ValueError, struct.error):
                pass
        if (number := _number(array.attrs, key, name)) is not None:
            return number, key
    metadata = getattr(array, "metadata", None)
    if getattr(metadata, "zarr_format", None) == 2 and array.fill_value is not None:
        return float(array.fill_value), "fill_value"
    return None, ""


def _number(attrs: Mapping[str, Any], key: str, name: str) -> float | None:
    if key not in attrs:
        return None
    try:
        return float(np.ravel(attrs[key])[0])
    except (ValueError, TypeError, IndexError) as e:
        raise BadAsset(f"{name}: its attribute {key} is {attrs[key]!r}, no number") from e


def time_statements(node: Node) -> Statements:
    """Start of the acquisition: an attribute of the file, else a time coordinate with one value."""
    said = Statements()
    for key in _TIME_KEYS:
        if key in node.attrs:
            said.add(Field.DATETIME, utc_time(as_text(node.attrs[key])), Source.FILE, key)
            return said
    for path, array in node.arrays.items():
        if path.rsplit("/", 1)[-1].lower() in ("time", "acquisition_time") and array.size == 1:
            said.add(Field.DATETIME, _cf_time(array, node.values(path)), Source.FILE, path)
    return said


def _cf_time(array: Any, values: Stored) -> datetime | None:
    """The time of a coordinate with one value, in CF's "days since 1970-01-01"; None if it cannot be read."""
    match = re.match(r"(second|minute|hour|day)s?\s+since\s+(.+)", unit_of(array.attrs) or "", re.I)
    calendar = as_text(array.attrs.get("calendar", "standard")).lower()
    if match is None or calendar not in ("standard", "gregorian", "proleptic_gregorian"):
        return None
    epoch = utc_time(re.sub(r"(UTC|Z)$", "", match[2].strip()).strip(), any_year=True)
    value = float(np.ravel(values)[0])
    if epoch is None or not np.isfinite(value):
        return None
    try:
        return utc_time((epoch + timedelta(seconds=value * _SECONDS[match[1].lower()])).isoformat())
    except OverflowError:
        return None


def instrument_statements(node: Node) -> Statements:
    """The instrument by the attributes of the file: a sensor table's name where there is one, else its own."""
    said = Statements()
    for key in _INSTRUMENT_KEYS:
        if key in node.attrs and (text := as_text(node.attrs[key])):
            name = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
            if name in sensors.names() or (key != "platform" and 0 < len(name) <= 40):
                said.add(Field.SENSOR, name, Source.FILE, key)
                break
    return said
