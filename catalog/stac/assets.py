"""Assets of STAC items: `eo:bands`, `bands`, `raster:bands` and the fields of 1.1 become one Asset here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from hypermend.catalog.band_names import match_band
from hypermend.catalog.scene import Asset
from hypermend.catalog.sensors import Sensor
from hypermend.catalog.stac.fields import BadField, crs_of, grid_fields, grid_of, mapping, number, sequence, text
from hypermend.catalog.storage.hrefs import resolve_href

_NONE_AS_TEXT = ("", "null", "none")
"""Written by servers that turn every value into text (DLR: raster:nodata "null")."""
_LONGEST_UM = 20.0
"""Longest wavelength of an optical band; a larger number is in nanometres, against STAC"""


def read_asset(
    key: str,
    raw: Any,
    *,
    base: str | None,
    within: str | None,
    own: bool,
    crs: str | None,
    table: Sensor | None,
    item_bands: Sequence[Any],
) -> Asset:
    """An asset of an item. Fields that cannot be used become its `problem`: only a reader knows whether it needs them.

    Args:
        base, within, own: see `hrefs.resolve_href`.
        crs: the item's, for an asset that has none of its own.
        table: None where the sensor has no table; bands then keep their names.
        item_bands: the item's bands, to which those of old assets are indices.
    """
    fields = raw if isinstance(raw, Mapping) else {}
    kept = Asset(key=key, href="", roles=_texts(fields.get("roles")), media_type=_text(fields.get("type")))
    href = ""
    try:
        mapping("it", raw)
        if (problem := text("hypermend:problem", fields.get("hypermend:problem"))) is not None:
            return replace(kept, href=_text(fields.get("href")) or "", problem=problem)
        if (written := text("href", fields.get("href"))) is None:
            raise BadField("it has no href")
        try:
            href = resolve_href(written, base, within=within, own=own)
        except ValueError as e:
            raise BadField(str(e)) from e
        roles = tuple(str(r) for r in sequence("roles", fields.get("roles")))
        media_type = text("type", fields.get("type"))
        bands = [_band(b, item_bands) for b in sequence("bands", fields.get("bands") or fields.get("eo:bands"))]
        raster = [mapping("raster:bands", b) for b in sequence("raster:bands", fields.get("raster:bands"))]
        per_band = [{**a, **b} for a, b in zip(bands, raster, strict=False)] or raster or bands
        return Asset(
            key=key,
            href=href,
            roles=roles,
            media_type=media_type,
            bands=tuple(_band_name(b, i, key, len(bands), table) for i, b in enumerate(bands)),
            wavelength_nm=_nanometres(bands, "center_wavelength"),
            fwhm_nm=_nanometres(bands, "full_width_half_max"),
            nodata=_common("nodata", fields, per_band, finite=False),
            scale=_of_bands("scale", fields, per_band, len(bands), 1.0),
            offset=_of_bands("offset", fields, per_band, len(bands), 0.0),
            gsd_m=number("gsd", fields.get("gsd")),
            checksum=text("file:checksum", fields.get("file:checksum")),
            grid=grid_of(fields, crs_of(fields) or crs),
            alternates=_alternates(fields, base=base, within=within, own=own),
        )
    except BadField as e:
        return replace(kept, href=href, problem=str(e))


def asset_fields(asset: Asset) -> dict[str, Any]:
    """Fields of an Asset in STAC 1.1."""
    fields: dict[str, Any] = {"href": asset.href}
    if asset.media_type is not None:
        fields["type"] = asset.media_type
    if asset.roles:
        fields["roles"] = list(asset.roles)
    if asset.bands:
        fields["bands"] = [{"name": b} for b in asset.bands]
    if asset.nodata is not None:
        fields["nodata"] = asset.nodata if math.isfinite(asset.nodata) else str(asset.nodata)
    for name, value in (("raster:scale", asset.scale), ("raster:offset", asset.offset)):
        if isinstance(value, tuple):
            for band, number_of_band in zip(fields["bands"], value, strict=True):
                band[name] = number_of_band
        elif value is not None:
            fields[name] = value
    for name, centres in (("eo:center_wavelength", asset.wavelength_nm), ("eo:full_width_half_max", asset.fwhm_nm)):
        for band, nm in zip(fields.get("bands", ()), centres, strict=False):
            band[name] = round(nm / 1000, 9)
    if asset.gsd_m is not None:
        fields["gsd"] = asset.gsd_m
    if asset.checksum is not None:
        fields["file:checksum"] = asset.checksum
    if asset.alternates:
        fields["alternate"] = {str(n): {"href": href} for n, href in enumerate(asset.alternates, start=1)}
    if asset.problem is not None:
        fields["hypermend:problem"] = asset.problem
    return {**fields, **grid_fields(asset.grid)}


def _alternates(fields: Mapping[str, Any], *, base: str | None, within: str | None, own: bool) -> tuple[str, ...]:
    """Hrefs of the alternate-assets extension that may be followed, in the order of the item."""
    found: list[str] = []
    for alternate in mapping("alternate", fields.get("alternate")).values():
        written = _text(mapping("an alternate", alternate).get("href"))
        try:
            if written is not None:
                found.append(resolve_href(written, base, within=within, own=own))
        except ValueError:
            continue  # another way to the same file must not cost the first
    return tuple(found)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(map(str, value)) if isinstance(value, list | tuple) else ()


def _band(band: Any, item_bands: Sequence[Any]) -> dict[str, Any]:
    """A band object; old items give an index into the item's bands or a bare name."""
    if isinstance(band, Mapping):
        return dict(band)
    if isinstance(band, int) and 0 <= band < len(item_bands):
        return _band(item_bands[band], ())
    return {"name": str(band)}


def _band_name(band: Mapping[str, Any], position: int, key: str, count: int, table: Sensor | None) -> str:
    """The sensor table's name for a band: by its name, else by its centre wavelength, else the name as it is."""
    name = str(band.get("name") or (key if count == 1 else position + 1))
    if table is None:
        return name
    if (match := match_band(name, table)) is not None:
        return match
    centre_um = number("center_wavelength", band.get("center_wavelength") or band.get("eo:center_wavelength"))
    if centre_um:
        nm = centre_um * 1000
        nearest = min(range(table.bands), key=lambda i: abs(table.wavelength_nm[i] - nm))
        if abs(table.wavelength_nm[nearest] - nm) <= max(table.fwhm_nm[nearest] / 2, 5):
            return table.band_name[nearest]
    return name


def _common(
    field: str, raw: Mapping[str, Any], per_band: Sequence[Mapping[str, Any]], *, finite: bool = True
) -> float | None:
    """A number that holds for the whole asset: its own field, or the same in all its bands."""

    def value_in(fields: Mapping[str, Any]) -> float | None:
        value = fields.get(field, fields.get(f"raster:{field}"))
        if isinstance(value, str) and value.strip().lower() in _NONE_AS_TEXT:
            return None
        return number(field, value, finite=finite)

    if (value := value_in(raw)) is not None:
        return value
    values = {value_in(band) for band in per_band}
    return values.pop() if len(values) == 1 else None


def _of_bands(
    field: str, raw: Mapping[str, Any], per_band: Sequence[Mapping[str, Any]], bands: int, default: float
) -> float | tuple[float, ...] | None:
    """A number that holds for the whole asset, or one for each of its bands where they differ."""
    if (common := _common(field, raw, per_band)) is not None or len(per_band) != bands:
        return common
    values = [number(field, band.get(field, band.get(f"raster:{field}"))) for band in per_band]
    return None if all(v is None for v in values) else tuple(default if v is None else v for v in values)


def _nanometres(bands: Sequence[Mapping[str, Any]], field: str) -> tuple[float, ...]:
    """Wavelengths of all bands, which STAC gives in micrometres; empty if one lacks its own, or has another unit."""
    values = [number(field, band.get(field, band.get(f"eo:{field}"))) for band in bands]
    known = [v for v in values if v is not None and 0 < v < _LONGEST_UM]
    return tuple(round(v * 1000, 6) for v in known) if len(known) == len(values) else ()
