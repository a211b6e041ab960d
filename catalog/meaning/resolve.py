"""The resolver: of all statements about a scene, one value for each field, with the source it came from.

Two sources that state different values are an error that names both; the user's option decides. A product rule or a
sensor table only fills what no source states. For the spectrum the file comes before STAC, whose centres are rounded
or those of the instrument in general; elsewhere the order of `Source` holds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np

from hypermend.catalog.errors import BadAsset
from hypermend.catalog.meaning.statement import Field, Source, Statement

OPTIONS = {
    Field.DATETIME: "--datetime (of ingest: --scene-datetime)",
    Field.QUANTITY: "--quantity",
    Field.UNITS: "--units",
    Field.SCALE: "--scale-factor",
    Field.OFFSET: "--add-offset",
    Field.NODATA: "--nodata",
    Field.WAVELENGTH: "--wavelengths",
    Field.FWHM: "--wavelengths",
    Field.CRS: "--crs",
}
"""Options of `catalog` and `ingest` by which the user decides a field."""
_FILLS = (Source.PRODUCT, Source.TABLE, Source.GUESS)
"""Sources that only fill: they know the product or the instrument, not the scene."""
_SPECTRUM = (Field.WAVELENGTH, Field.FWHM, Field.GOOD)
_SPECTRUM_ORDER = (Source.USER, Source.SIDECAR, Source.FILE, Source.STAC_ASSET, Source.STAC_ITEM, *_FILLS)
_SAME_TIME = timedelta(days=1)  # an item may give the middle of a data take, a file the start of its own part
_SAME_NM = 5.0  # STAC gives micrometres with two or three digits
_SHOWN = 4


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """The value of one field and its source."""

    value: Any
    source: Source
    where: str

    def __str__(self) -> str:
        return f"{self.source} ({self.where})" if self.where else str(self.source)


class Meaning:
    """The resolved fields of a scene, or of one of its files."""

    def __init__(self, resolved: Mapping[Field, Resolved]) -> None:
        self.resolved = dict(resolved)

    def get(self, field: Field, default: Any = None) -> Any:
        """The value of a field, or `default` where no source gives it."""
        return self.resolved[field].value if field in self.resolved else default

    def sources(self) -> dict[str, str]:
        """{field: source}, as a cube keeps it in `attrs["sources"]`."""
        return {str(field): str(found) for field, found in self.resolved.items()}


def resolve(statements: Iterable[Statement], *, label: str) -> Meaning:
    """One value for each field.

    Raises:
        BadAsset: two sources contradict each other; the error names both values and the option that decides.
    """
    by_field: dict[Field, list[Statement]] = {}
    for statement in statements:
        by_field.setdefault(statement.field, []).append(statement)
    return Meaning({field: _decide(field, said, label) for field, said in by_field.items()})


def _decide(field: Field, said: list[Statement], label: str) -> Resolved:
    order = _SPECTRUM_ORDER if field in _SPECTRUM else tuple(Source)
    first, *others = sorted(said, key=lambda s: order.index(s.source))  # sorted is stable
    if first.source is not Source.USER or field is Field.SENSOR:  # no word makes one instrument another
        for other in others:
            if other.source not in _FILLS and not agree(field, first.value, other.value):
                raise BadAsset(f"{label}: {_contradiction(field, first, other)}")
    return Resolved(value=first.value, source=first.source, where=first.where)


def _contradiction(field: Field, first: Statement, other: Statement) -> str:
    remedy = f"; decide with {OPTIONS[field]}" if field in OPTIONS else ""
    if field is Field.SENSOR:
        remedy = "; leave --sensor out, or catalogue the files of each sensor apart"
    return (
        f"its {field} is {shown_value(first.value)} by {first.source} ({first.where}), "
        f"but {shown_value(other.value)} by {other.source} ({other.where}){remedy}"
    )


def agree(field: Field, one: Any, other: Any) -> bool:
    """Whether two values of a field say the same."""
    if field is Field.DATETIME:
        return isinstance(one, datetime) and isinstance(other, datetime) and abs(one - other) <= _SAME_TIME
    if field in (Field.SCALE, Field.OFFSET, Field.NODATA, Field.TRANSFORM, Field.WAVELENGTH, Field.FWHM):
        a, b = np.atleast_1d(np.asarray(one, float)), np.atleast_1d(np.asarray(other, float))
        if a.size != b.size and 1 not in (a.size, b.size):
            return False
        nm = _SAME_NM if field in _SPECTRUM else 0.0
        return bool(np.allclose(a, b, rtol=1e-5, atol=nm, equal_nan=True))
    return bool(one == other)


def shown_value(value: Any) -> str:
    """A value for a message: numbers short, long lists cut."""
    if isinstance(value, float):
        return "NaN" if math.isnan(value) else f"{value:.6g}"
    if isinstance(value, datetime):
        return value.isoformat(timespec="milliseconds" if value.microsecond else "seconds").replace("+00:00", "Z")
    if isinstance(value, list | tuple | np.ndarray):
        parts = [shown_value(v) for v in list(value)[:_SHOWN]]
        return ", ".join(parts) + (f" ... ({len(value)} in all)" if len(value) > _SHOWN else "")
    return str(value)
