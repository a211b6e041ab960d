"""ENVI headers (`.hdr`, and the ENVI domain of a GeoTIFF): parsing, and the statements in them.

Source: NV5 Geospatial, "ENVI Header Files"; Specim's headers for `acquisition date` and `start time`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime

from hypermend.catalog import sensors
from hypermend.catalog.errors import BadAsset
from hypermend.catalog.meaning.statement import Field, Source, Statements
from hypermend.catalog.meaning.times import utc_time
from hypermend.catalog.meaning.wavelengths import wavelengths_nm

_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([ed][-+]?\d+)?|[-+]?(nan|inf(inity)?)", re.I)
_DATE = re.compile(r"DATE ?\((?P<order>[^)]{0,40})\) ?:? ?(?P<date>\d+[-./]\d+[-./]\d+)", re.I)
_CLOCK = re.compile(r"(\d{1,2}:\d{2}:\d{2}(\.\d+)?)")


def parse_header(text: str) -> dict[str, str]:
    """`key = value` and `key = { ... }` of an ENVI header; keys in lower case, one space for several.

    Raises:
        BadAsset: the text does not begin with ENVI.
    """
    if not text.lstrip("\ufeff").startswith("ENVI"):
        raise BadAsset("an ENVI header begins with the word ENVI; this one does not")
    fields: dict[str, str] = {}
    lines = iter(text.splitlines()[1:])
    for line in lines:
        key, sign, value = line.partition("=")
        key = " ".join(key.lower().split())
        if not sign or not key or key.startswith(";"):
            continue
        value = value.strip()
        if value.startswith("{"):
            parts = [value[1:]]
            while "}" not in parts[-1]:
                if (following := next(lines, None)) is None:
                    break
                parts.append(following)
            value = "\n".join(parts).partition("}")[0].strip()
        fields[key] = value
    return fields


def number(text: str) -> float | None:
    """The number that a field begins with, whatever stands around it; None for none."""
    match = _NUMBER.match(text.strip().strip("{}'\" "))
    return None if match is None else float(match[0].lower().replace("d", "e"))


def numbers(fields: Mapping[str, str], key: str, count: int, where: str) -> tuple[float, ...] | None:
    """A list with one number for each band; None where the field is missing.

    Raises:
        BadAsset: another count, or something that is no number.
    """
    if key not in fields:
        return None
    try:
        values = tuple(float(v) for v in fields[key].replace("\n", " ").strip("{} ").split(",") if v.strip())
    except ValueError as e:
        raise BadAsset(f"{where}: {key!r} holds something that is no number: {e}") from e
    if len(values) != count:
        raise BadAsset(f"{where}: {key!r} has {len(values)} values, the image has {count} bands")
    return values


def header_statements(fields: Mapping[str, str], count: int, source: Source, where: str) -> Statements:
    """The statements of an ENVI header.

    Args:
        fields: keys in lower case with spaces, as `parse_header` gives them.
        count: bands of the image.
        where: the file's name, for messages.

    Raises:
        BadAsset: a list that does not fit the bands.
    """
    said = Statements()

    def add(field: Field, value: object, key: str) -> None:
        said.add(field, value, source, f"{where}: {key}")

    unit = fields.get("wavelength units")
    if (values := numbers(fields, "wavelength", count, where)) is not None:
        widths = numbers(fields, "fwhm", count, where)
        if (spectrum := wavelengths_nm(values, unit)) is not None:
            add(Field.WAVELENGTH, spectrum.nm, "wavelength")
            add(Field.FWHM, None if widths is None else tuple(w * spectrum.factor for w in widths), "fwhm")
    if (bbl := numbers(fields, "bbl", count, where)) is not None:
        add(Field.GOOD, tuple(b != 0 for b in bbl), "bbl")
    if (ignored := fields.get("data ignore value")) is not None:
        add(Field.NODATA, number(ignored), "data ignore value")
    _add_scale(said, fields, count, source, where)
    add(Field.DATETIME, acquisition_time(fields), "acquisition time")
    _add_sensor(said, fields.get("sensor type", ""), source, where)
    return said


def _add_scale(said: Statements, fields: Mapping[str, str], count: int, source: Source, where: str) -> None:
    """Gains and offsets: physical = gain * stored + offset, in the unit that `data units` names, if any."""
    for prefix, quantity in (("data reflectance ", "reflectance"), ("data ", None)):
        gains = numbers(fields, f"{prefix}gain values", count, where)
        offsets = numbers(fields, f"{prefix}offset values", count, where)
        if (gains is None or set(gains) == {1.0}) and (offsets is None or set(offsets) == {0.0}):
            continue
        said.add(Field.SCALE, gains or (1.0,) * count, source, f"{where}: {prefix}gain values")
        said.add(Field.OFFSET, offsets or (0.0,) * count, source, f"{where}: {prefix}offset values")
        said.add(Field.QUANTITY, quantity, source, f"{where}: {prefix}gain values")
        break
    factor = number(fields.get("reflectance scale factor", ""))
    if factor is not None and factor > 0:
        said.add(Field.SCALE, 1 / factor, source, f"{where}: reflectance scale factor")
        said.add(Field.QUANTITY, "reflectance", source, f"{where}: reflectance scale factor")
    units = fields.get("data units", "")
    for word in ("reflectance", "radiance"):
        if word in units.lower():
            said.add(Field.QUANTITY, word, source, f"{where}: data units")


def _add_sensor(said: Statements, text: str, source: Source, where: str) -> None:
    name = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    if not name or name == "unknown":
        return
    known = {n.replace("-", ""): n for n in sensors.names()}
    table = known.get(name.replace("-", ""))
    # the name of an instrument without a table only fills: nobody spells it the same way twice
    said.add(Field.SENSOR, table or name, source if table else Source.PRODUCT, f"{where}: sensor type")


def acquisition_time(fields: Mapping[str, str]) -> datetime | None:
    """The time of the image: `acquisition time`, or Specim's `acquisition date` with `start time`."""
    if (text := fields.get("acquisition time")) and (when := utc_time(text.strip("{} "))) is not None:
        return when
    day = _DATE.search(fields.get("acquisition date", ""))
    clock = _CLOCK.search(fields.get("start time", ""))
    if day is None or clock is None:
        return None
    order = [part[0].lower() for part in re.split(r"[-./]", day["order"]) if part]
    if sorted(order) != ["d", "m", "y"]:
        return None
    part = dict(zip(order, re.split(r"[-./]", day["date"]), strict=True))
    return utc_time(f"{part['y']}-{part['m']:0>2}-{part['d']:0>2}T{clock[1]:0>8}")
