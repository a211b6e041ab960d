"""Meaning of raster files: files with the same bands are one group, resolved together; a cube joins groups.

Also the bands of each group, and the sidecars that a file may have: an ENVI header beside a GeoTIFF.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hypermend.catalog.band_names import match_band
from hypermend.catalog.errors import BadAsset, Refused
from hypermend.catalog.meaning.of_scene import item_statements, stac_statements, user_statements
from hypermend.catalog.meaning.resolve import OPTIONS, Meaning, Resolved, agree, resolve, shown_value
from hypermend.catalog.meaning.statement import Field, Source, Statement, Statements
from hypermend.catalog.readers.bands import Band, by_count, by_name, by_wavelength
from hypermend.catalog.readers.likely import likely_sensors
from hypermend.catalog.readers.profile import Description
from hypermend.catalog.readers.raster.header import Header
from hypermend.catalog.scene import Scene
from hypermend.catalog.sensors import SHIPPED, Sensor, SensorTables
from hypermend.catalog.storage.hrefs import shown

_ONE_FOR_ALL = (Field.QUANTITY, Field.UNITS, Field.NODATA)
"""Fields in which the files of one cube must agree"""


@dataclass(frozen=True, kw_only=True, eq=False)
class Group:
    """Files with the same bands: one file, or a mosaic."""

    headers: tuple[Header, ...]
    meaning: Meaning
    first: int
    """number of bands in the groups before it"""

    @property
    def count(self) -> int:
        return self.headers[0].count

    @property
    def where(self) -> str:
        return shown(self.headers[0].asset.href)


def resolve_groups(
    scene: Scene,
    headers: Sequence[Header],
    product: Description | None,
    sidecar: Callable[[Header], Iterable[Statement]],
) -> list[Group]:
    """Groups of the files, each with its meaning.

    Args:
        sidecar: the statements of the files beside a file.

    Raises:
        BadAsset: two sources contradict each other.
        Refused: no source states a fact that the product leaves open.
    """
    label = f"scene {scene.id}"
    grouped = _same_bands(headers)
    total = sum(group[0].count for group in grouped)
    groups, first = [], 0
    for group in grouped:
        count = group[0].count
        said = Statements([*user_statements(scene), *item_statements(scene)])
        said.extend(product.statements if product is not None else ())
        said = Statements(_part(s, first, count, total) for s in said)
        for header in group:
            said.extend(stac_statements(scene, [header.asset]))
            said.extend(product.by_asset.get(header.asset.key, ()) if product is not None else ())
            said.extend(sidecar(header))
            said.extend(header.statements)
        floats = all(np.dtype(d).kind == "f" for d in group[0].dtypes)
        meaning = resolve((s for s in said if not (floats and _packs_integers(s))), label=label)
        if product is not None and not floats:
            for field, message in product.required.items():
                if field not in meaning.resolved:
                    raise Refused(f"{label}: {message}")
        groups.append(Group(headers=tuple(group), meaning=meaning, first=first))
        first += count
    return groups


def _packs_integers(statement: Statement) -> bool:
    """Whether a statement is a product's rule for its integers, which hold scaled numbers; floats are physical."""
    return statement.source is Source.PRODUCT and statement.field in (Field.SCALE, Field.OFFSET, Field.NODATA)


def _part(statement: Statement, first: int, count: int, total: int) -> Statement:
    """The part of a per-band value that belongs to a group; other values as they are."""
    value = statement.value
    if isinstance(value, tuple) and len(value) == total and count != total:
        return replace(statement, value=value[first : first + count])
    return statement


def _same_bands(headers: Sequence[Header]) -> list[list[Header]]:
    """Groups of files with the same bands: each group is a mosaic."""
    groups: dict[Any, list[Header]] = {}
    for h in headers:
        centres = next((s.value for s in h.statements if s.field is Field.WAVELENGTH), None)
        key = (h.asset.bands or h.names, centres, h.count)
        groups.setdefault(key if any(key[:2]) or h.count > 1 else (h.asset.key,), []).append(h)
    return list(groups.values())


def bands_of(
    group: Group, table: Sensor | None, detector: str | None, label: str, *, tables: SensorTables = SHIPPED
) -> list[Band | str]:
    """A Band for each band of the files, or its bare name if the sensor table lacks it.

    Args:
        detector: that of all bands of the group, where the product says it.
        tables: among which the likely answers are.

    Raises:
        BadAsset: nothing identifies the bands; the error gives the likely answers.
    """
    header, meaning = group.headers[0], group.meaning
    where = f"{label}, {group.where}"
    names = header.asset.bands or header.names or ((header.asset.key,) if header.count == 1 else None)
    centres = meaning.get(Field.WAVELENGTH)
    of_table = table is not None and names is not None and all(match_band(n, table) for n in names)
    if of_table and centres is not None and _rounded(meaning):
        centres = None
    if centres is not None:
        if len(centres) != header.count:
            raise BadAsset(
                f"{where}: {len(centres)} wavelengths by {meaning.resolved[Field.WAVELENGTH]}, "
                f"the file has {header.count} bands"
            )
        widths, good = meaning.get(Field.FWHM), meaning.get(Field.GOOD)
        found = by_wavelength(
            table,
            centres,
            where,
            fwhm_nm=widths,
            good=good,
            names=header.asset.bands or None,
            detector=None if detector is None else [detector] * header.count,
        )
        return [_numbered_after(band, group.first, named=bool(header.asset.bands)) for band in found]
    if table is None:
        raise BadAsset(f"{where}: {unidentified(header.count, names, meaning.get(Field.SENSOR), tables)}")
    if names is not None and any(match_band(n, table) for n in names):
        return [by_name(table, [n], where)[0] if match_band(n, table) else n for n in names]
    if header.count == 1 and names is not None:
        return list(names)
    if names is not None and not _numbered(names):
        listed = ", ".join(names[:6])
        likely = likely_sensors(header.count, tables, names=names)
        hint = f"; the likely sensors are {', '.join(likely)}" if likely else ""
        if header.count not in (table.bands, sum(table.usable)):
            raise BadAsset(f"{where}: none of its bands ({listed}) is one of sensor {table.name}{hint}")
    return list(by_count(table, header.count, where))


def _rounded(meaning: Meaning) -> bool:
    """Whether the wavelengths are those of an item, which rounds them: a sensor table with such bands knows better."""
    return meaning.resolved[Field.WAVELENGTH].source in (Source.STAC_ASSET, Source.STAC_ITEM)


def _numbered_after(band: Band, before: int, *, named: bool) -> Band:
    """A band numbered after those of the groups before its own."""
    number = band.number + before
    return replace(band, number=number, name=band.name if named else str(number))


def unidentified(
    count: int, names: Sequence[str] | None, sensor: str | None = None, tables: SensorTables = SHIPPED
) -> str:
    """Message for bands that nothing identifies, with the likely answers.

    Args:
        sensor: name of the instrument, if a source gives it although it has no table.
    """
    listed = f" named {', '.join(names[:6])}{' ...' if len(names) > 6 else ''}" if names else ""
    if sensor is not None:
        return (
            f"{count} bands{listed} without wavelengths, and there is no table of sensor {sensor}; "
            "give its table with --sensors, or --wavelengths"
        )
    likely = likely_sensors(count, tables, names=names)
    which = f" (such bands have {', '.join(likely[:8])}{' ...' if len(likely) > 8 else ''})" if likely else ""
    return (
        f"{count} bands{listed} without wavelengths, and no source names the instrument; "
        f"give --sensor{which}, or --wavelengths"
    )


def _numbered(names: Sequence[str]) -> bool:
    return all(any(c.isdigit() for c in n) and n.lower().startswith(("band", "channel")) for n in names)


def joined_meaning(parts: Sequence[tuple[Meaning, int]], label: str) -> Meaning:
    """Meaning of the bands of a cube, each with the meaning of its files and its position (from 0) in them.

    Raises:
        BadAsset: the files differ where a cube has one value, or some bands have no scale.
    """
    first = parts[0][0]
    resolved = dict(first.resolved)
    for field in _ONE_FOR_ALL:
        for meaning, _ in parts[1:]:
            one, other = first.resolved.get(field), meaning.resolved.get(field)
            if (one is None) != (other is None) or (one and other and not agree(field, one.value, other.value)):
                raise BadAsset(f"{label}: {_difference(field, one, other)}")
    for field, default in ((Field.SCALE, 1.0), (Field.OFFSET, 0.0)):
        found = [(_of_band(m, field, i), m) for m, i in parts]
        if all(value is None for value, _ in found):
            resolved.pop(field, None)
            continue
        if field is Field.SCALE and any(value is None for value, _ in found):
            raise BadAsset(f"{label}: some of its bands have no scale, others have {shown_value(found[0][0])} ...")
        source = next(m.resolved[field] for value, m in found if value is not None)
        values = tuple(default if value is None else value for value, _ in found)
        resolved[field] = replace(source, value=values)
    return Meaning(resolved)


def _difference(field: Field, one: Resolved | None, other: Resolved | None) -> str:
    values = [f"{shown_value(r.value)} ({r.where})" if r is not None else "none" for r in (one, other)]
    remedy = f"; decide with {OPTIONS[field]}" if field in OPTIONS else ""
    return f"files with {field} {values[0]} and {values[1]}; one cube has one{remedy}"


def _of_band(meaning: Meaning, field: Field, position: int) -> float | None:
    value = meaning.get(field)
    if value is None:
        return None
    factors = np.atleast_1d(np.asarray(value, dtype=np.float64))
    return float(factors[position if factors.size > 1 else 0])
