"""The CSV of a sensor table -> Sensor: every cell is checked, since users write tables of their own."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from hypermend.catalog.arrays import F64
from hypermend.catalog.errors import BadSensor

SRF = "_srf"
"""End of the name of a file with a measured response."""
QUANTITIES = ("reflectance", "radiance", "counts")
_COLUMNS = ("band", "wavelength_nm", "fwhm_nm", "detector", "usable", "gsd_m")
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Sensor:
    """One instrument, its bands in product order (band number = position + 1)."""

    name: str
    band_name: tuple[str, ...]
    wavelength_nm: tuple[float, ...]
    """centre of each band"""
    fwhm_nm: tuple[float, ...]
    """full width at half maximum; NaN where unknown"""
    detector: tuple[str, ...]
    """VNIR, SWIR ...; a spectral window never mixes two. TIR bands never join a reflective cube"""
    usable: tuple[bool, ...]
    """False: not calibrated, or blind in the usual product"""
    gsd_m: tuple[float, ...]
    """ground sampling distance; NaN in a laboratory"""
    quantity: str
    """quantity of the usual product: reflectance, radiance or counts"""
    source: str
    response: Mapping[str, F64] = field(default_factory=dict, compare=False, repr=False)
    """measured response: `wavelength_nm`, and a column for each band that has one"""

    @property
    def bands(self) -> int:
        return len(self.band_name)


def parse_sensor(name: str, table: str, response: str | None = None, *, where: str) -> Sensor:
    """The text of `<name>.csv`, and of `<name>_srf.csv` where there is one, as a Sensor.

    Args:
        where: the table's file without `.csv`, for messages.

    Raises:
        BadSensor: names file, line and column.
    """
    file = _Csv(f"{where}.csv", table)
    for key in ("quantity", "source"):
        if not file.head.get(key):
            raise BadSensor(f"{file.path}: a line '# {key}: ...' is missing above the columns")
    if file.head["quantity"] not in QUANTITIES:
        raise BadSensor(f"{file.path}: quantity {file.head['quantity']!r} is none of {', '.join(QUANTITIES)}")
    file.demand(_COLUMNS)
    names = file.column("band", _name)
    detectors = file.column("detector", _name)
    centres = file.column("wavelength_nm", _positive)
    file.demand_unique("band", names)
    file.demand_unique("wavelength_nm", list(zip(centres, detectors, strict=True)))
    return Sensor(
        name=name,
        band_name=names,
        wavelength_nm=centres,
        fwhm_nm=file.column("fwhm_nm", _positive_or_nan),
        detector=detectors,
        usable=file.column("usable", _flag),
        gsd_m=file.column("gsd_m", _positive_or_nan),
        quantity=file.head["quantity"],
        source=file.head["source"],
        response={} if response is None else _parse_response(f"{where}{SRF}.csv", response, names),
    )


def _parse_response(path: str, text: str, bands: Sequence[str]) -> dict[str, F64]:
    file = _Csv(path, text)
    file.demand(("wavelength_nm",))
    if unknown := [c for c in file.columns if c != "wavelength_nm" and c not in bands]:
        raise BadSensor(f"{path}, line {file.header_line}, column {unknown[0]!r}: the table has no band of this name")
    columns = {"wavelength_nm": np.array(file.column("wavelength_nm", _positive))}
    if np.any(np.diff(columns["wavelength_nm"]) <= 0):
        line = file.lines[int(np.argmax(np.diff(columns["wavelength_nm"]) <= 0)) + 1]
        raise BadSensor(f"{path}, line {line}, column 'wavelength_nm': wavelengths must increase")
    return columns | {c: np.array(file.column(c, _not_negative)) for c in file.columns if c != "wavelength_nm"}


class _Csv:
    """A CSV with comment lines `# key: value` above its header; errors name file, line and column."""

    def __init__(self, path: str, text: str) -> None:
        self.path = path
        numbered = [(n, line) for n, line in enumerate(text.lstrip("\ufeff").splitlines(), 1) if line.strip()]
        comments = (line[1:].strip().split(":", 1) for _, line in numbered if line.startswith("#"))
        self.head = {c[0].strip(): c[1].strip() for c in comments if len(c) == 2}
        data = [(n, line) for n, line in numbered if not line.startswith("#")]
        if len(data) < 2:
            raise BadSensor(f"{path}: no band in it; it needs a line of column names and one line for each band")
        rows = [list(self._cells(n, line)) for n, line in data]
        (self.header_line, _), *_ = data
        self.columns, self.rows = rows[0], rows[1:]
        self.lines = [n for n, _ in data[1:]]

    def _cells(self, number: int, line: str) -> Iterator[str]:
        """The cells of one line: none goes on in the next line."""
        try:
            cells = next(csv.reader([line], strict=True))
        except csv.Error as e:
            raise BadSensor(f"{self.path}, line {number}: no line of a table ({e})") from None
        for cell in map(str.strip, cells):
            if not cell.isprintable():
                raise BadSensor(f"{self.path}, line {number}: {cell!r} has a character that cannot be printed")
            yield cell

    def demand(self, columns: Sequence[str]) -> None:
        """Refuse a file without one of these columns, or with a row of another length than its header."""
        if missing := [c for c in columns if c not in self.columns]:
            at = f"line {self.header_line}, column {missing[0]!r}"
            raise BadSensor(f"{self.path}, {at}: it is missing; a table has {','.join(columns)}")
        for line, row in zip(self.lines, self.rows, strict=True):
            if len(row) != len(self.columns):
                raise BadSensor(f"{self.path}, line {line}: {len(row)} cells, the header has {len(self.columns)}")

    def column(self, name: str, parse: Callable[[str], T]) -> tuple[T, ...]:
        """The parsed cells of a column."""
        return tuple(self._parsed(name, parse))

    def _parsed(self, name: str, parse: Callable[[str], T]) -> Iterator[T]:
        position = self.columns.index(name)
        for line, row in zip(self.lines, self.rows, strict=True):
            try:
                yield parse(row[position])
            except ValueError as e:
                raise BadSensor(f"{self.path}, line {line}, column {name!r}: {row[position]!r} is {e}") from None

    def demand_unique(self, column: str, values: Sequence[object]) -> None:
        """Refuse two bands of one name, or at one wavelength on one detector."""
        seen: dict[object, int] = {}
        for line, value in zip(self.lines, values, strict=True):
            if value in seen:
                raise BadSensor(f"{self.path}, line {line}, column {column!r}: the same as in line {seen[value]}")
            seen[value] = line


def _name(cell: str) -> str:
    if not cell:
        raise ValueError("empty")
    return cell


def _number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        raise ValueError("no number") from None


def _positive(cell: str) -> float:
    if not math.isfinite(value := _number(cell)) or value <= 0:
        raise ValueError("no positive number")
    return value


def _positive_or_nan(cell: str) -> float:
    return math.nan if cell.lower() == "nan" else _positive(cell)


def _not_negative(cell: str) -> float:
    if not math.isfinite(value := _number(cell)) or value < 0:
        raise ValueError("no number of 0 or more")
    return value


def _flag(cell: str) -> bool:
    if cell.lower() not in ("true", "false"):
        raise ValueError("neither true nor false")
    return cell.lower() == "true"
