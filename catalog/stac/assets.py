"""Assets of STAC items: `eo:bands`, `bands`, `raster:bands` and the fields of 1.1 become one Asset here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from hypermend.catalog.band_names import match_band
from hypermend.catalog.scene import Asset, is_data
from hypermend.catalog.sensors import Sensor
from hypermend.catalog.stac.fields import BadField, crs_of, grid_fields, grid_of, mapping, number, sequence, text
from hypermend.catalog.storage.hrefs import resolve_href


def read_asset(
    key: str,
    raw: Mapping[str, Any],
    *,
    base: str | None,
    within: str | None,
    own: bool,
    crs: str | None,
    table: Sensor,
    item_bands: Sequence[Any],
) -> Asset | None:
    """An asset of an item; None for a picture or a document whose href may not be followed.

    Args:
        base, within, own: see `hrefs.resolve_href`.
        crs: the item's, for an asset that has none of its own.
        item_bands: the item's bands, to which those of old assets are indices.

    Raises:
        BadField: names the problem, without the asset's key.
    """
    roles = tuple(str(r) for r in sequence("roles", raw.get("roles")))
    media_type = text("type", raw.get("type"))
    if (written := text("href", raw.get("href"))) is None:
        raise BadField("it has no href")
    try:
        href = resolve_href(written, base, within=within, own=own)
    except ValueError as e:
        if is_data(roles, media_type, key):
            raise BadField(str(e)) from e
        return None  # a thumbnail or an XML that is never read must not exclude the scene
    bands = [_band(b, item_bands) for b in sequence("bands", raw.get("bands") or raw.get("eo:bands"))]
    raster = [mapping("raster:bands", b) for b in sequence("raster:bands", raw.get("raster:bands"))]
    per_band = [{**a, **b} for a, b in zip(bands, raster, strict=False)] or raster or bands
    return Asset(
        key=key,
        href=href,
        roles=roles,
        media_type=media_type,
        bands=tuple(_band_name(b, i, key, len(bands), table) for i, b in enumerate(bands)),
        nodata=_common("nodata", raw, per_band, finite=False),
        scale=_common("scale", raw, per_band),
        offset=_common("offset", raw, per_band),
        gsd_m=number("gsd", raw.get("gsd")),
        checksum=text("file:checksum", raw.get("file:checksum")),
        grid=grid_of(raw, crs_of(raw) or crs),
    )


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
    if asset.scale is not None:
        fields["raster:scale"] = asset.scale
    if asset.offset is not None:
        fields["raster:offset"] = asset.offset
    if asset.gsd_m is not None:
        fields["gsd"] = asset.gsd_m
    if asset.checksum is not None:
        fields["file:checksum"] = asset.checksum
    return {**fields, **grid_fields(asset.grid)}


def _band(band: Any, item_bands: Sequence[Any]) -> dict[str, Any]:
    """A band object; old items give an index into the item's bands or a bare name."""
    if isinstance(band, Mapping):
        return dict(band)
    if isinstance(band, int) and 0 <= band < len(item_bands):
        return _band(item_bands[band], ())
    return {"name": str(band)}


def _band_name(band: Mapping[str, Any], position: int, key: str, count: int, table: Sensor) -> str:
    """The sensor table's name for a band: by its name, else by its centre wavelength, else the name as it is."""
    name = str(band.get("name") or (key if count == 1 else position + 1))
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
        return number(field, fields.get(field, fields.get(f"raster:{field}")), finite=finite)

    if (value := value_in(raw)) is not None:
        return value
    values = {value_in(band) for band in per_band}
    return values.pop() if len(values) == 1 else None
