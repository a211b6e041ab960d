"""Values that the user gives for what files do not say: read and checked before any work starts.

Each function raises ValueError with the problem and what to write instead; pydantic puts the option's name before it.
"""

from __future__ import annotations

import csv
import math
import os
import re
from datetime import UTC, datetime
from pathlib import Path

from hypermend.catalog.errors import BadAsset
from hypermend.catalog.meaning.wavelengths import nm_per
from hypermend.catalog.storage.regular_file import open_regular

FEWEST_NM, MOST_NM = 100.0, 100_000.0
"""Range of a wavelength: a number outside is one in another unit."""
MOST_FWHM_NM = 10_000.0
MOST_BYTES = 1 << 20
"""Of a file of wavelengths."""
_NAMES = {"wavelength": "wavelength", "center": "wavelength", "centre": "wavelength", "fwhm": "fwhm", "width": "fwhm"}


def numbers(text: str) -> tuple[float, ...]:
    """Numbers with commas."""
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ValueError("write a number, or one for each band of the file with commas") from None
    if not all(map(math.isfinite, values)):
        raise ValueError("every number must be finite")
    return values


def time(text: str) -> datetime:
    """A time in ISO 8601; UTC without an offset.

    Raises:
        ValueError: no such time, or one that has not come yet.
    """
    try:
        when = datetime.fromisoformat(text.strip())
        when = when.astimezone(UTC) if when.tzinfo is not None else when.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise ValueError("write a time as 2022-07-24T10:45:26Z") from None
    if when > datetime.now(UTC):
        raise ValueError("this time has not come yet; write one as 2022-07-24T10:45:26Z")
    return when


def crs(text: str) -> str:
    """A coordinate reference system: EPSG:n, WKT or PROJJSON, as it is written.

    Raises:
        ValueError: no system that PROJ knows.
    """
    import rasterio
    from rasterio.crs import CRS
    from rasterio.errors import CRSError

    try:
        with rasterio.Env():  # PROJ's own message goes to its log, not to the terminal
            CRS.from_user_input(int(text) if text.isdecimal() else text)
    except CRSError:
        raise ValueError("PROJ knows no such system; write EPSG:32633, for example, or WKT") from None
    return f"EPSG:{text}" if text.isdecimal() else text


def wavelengths(text: str) -> tuple[tuple[float, ...], tuple[float, ...] | None]:
    """Centres and widths in nm, from a list with commas or from a file.

    A file has one column, or is a CSV with a column `wavelength` and perhaps one `fwhm`. Numbers are nanometres, unless
    a column's name, or the end of a list, says um: `wavelength_um`, "0.45,0.55,0.65um".

    Raises:
        ValueError: no such file, no number, or one that is no wavelength.
    """
    if re.fullmatch(r"[\d.,;\s+eE-]+[a-zµμ]*", text) and not os.path.isfile(text):  # noqa: PTH113 - any length
        return _listed(text), None
    path = Path(text).expanduser()
    try:
        with open_regular(path) as file:
            lines = file.read(MOST_BYTES).decode("utf-8-sig").splitlines()
    except BadAsset:
        raise ValueError("it is no file") from None
    except FileNotFoundError:
        raise ValueError("there is no such file, and it is no list of numbers with commas") from None
    except (OSError, UnicodeDecodeError) as e:
        raise ValueError(f"the file cannot be read ({getattr(e, 'strerror', None) or 'no UTF-8 text'})") from None
    rows = [(n, line) for n, line in enumerate(lines, 1) if line.strip() and not line.lstrip().startswith("#")]
    return _columns(rows)


def _listed(text: str) -> tuple[float, ...]:
    unit = re.search(r"[a-zµμ]*$", text.strip())
    name = unit[0] if unit is not None else ""
    parts = re.split(r"[,;\s]+", text.strip().removesuffix(name).strip(" ,;"))
    values = [_number(part, f"number {i}") for i, part in enumerate(parts, 1)]
    return _checked(values, _factor(name or "nm"), [f"number {i}" for i in range(1, len(values) + 1)])


def _columns(rows: list[tuple[int, str]]) -> tuple[tuple[float, ...], tuple[float, ...] | None]:
    """Centres and widths of the lines of a file."""
    if not rows:
        raise ValueError("the file has no number in it")
    cells = list(csv.reader((re.sub(r"[;\t]", ",", line) for _, line in rows), skipinitialspace=True))
    units = {"wavelength": ("nm", 0)}
    if not _is_number(cells[0][0]):
        units = _header(cells.pop(0))
        rows = rows[1:]
    elif len(cells[0]) > 1:
        raise ValueError(
            f"line {rows[0][0]} has {len(cells[0])} columns without names; name them: wavelength,fwhm in the first line"
        )
    where = [f"line {n}" for n, _ in rows]
    columns = {}
    for name, (unit, position) in units.items():
        if short := [w for w, row in zip(where, cells, strict=True) if len(row) <= position]:
            raise ValueError(f"{short[0]} has no {name}")
        values = [_number(row[position], w) for row, w in zip(cells, where, strict=True)]
        columns[name] = _checked(values, _factor(unit), where, name)
    if not columns["wavelength"]:
        raise ValueError("the file has no number in it")
    return columns["wavelength"], columns.get("fwhm")


def _header(names: list[str]) -> dict[str, tuple[str, int]]:
    """Unit and position of the columns that count, by their names."""
    units: dict[str, tuple[str, int]] = {}
    for position, name in enumerate(names):
        words = [word.removesuffix("s") for word in re.findall(r"[a-zµμ]+", name.lower())]
        kinds = [_NAMES[word] for word in words if word in _NAMES]
        if kinds:
            unit = [word for word in words if word not in _NAMES]
            units.setdefault(kinds[-1], (" ".join(unit) or "nm", position))
    if "wavelength" not in units:
        raise ValueError(f"no column 'wavelength'; the first line names {', '.join(names)}")
    return units


def _checked(values: list[float], factor: float, where: list[str], name: str = "wavelength") -> tuple[float, ...]:
    low, high = (FEWEST_NM, MOST_NM) if name == "wavelength" else (0.0, MOST_FWHM_NM)
    for value, at in zip(values, where, strict=True):
        if not low < value * factor < high:
            hint = "; for micrometres write the unit: 0.45um, or a column wavelength_um" if value < FEWEST_NM else ""
            raise ValueError(f"{at}: {value * factor:g} nm is no {name}{hint if name == 'wavelength' else ''}")
    return tuple(round(value * factor, 6) for value in values)


def _factor(unit: str) -> float:
    if (factor := nm_per(unit)) is None:
        raise ValueError(f"unit {unit!r}; wavelengths are in nm or um")
    return factor


def _number(text: str, where: str) -> float:
    if not _is_number(text):
        raise ValueError(f"{where}: {text!r} is no number")
    return float(text)


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
