"""The metadata file of a one-GeoTIFF-per-band delivery (`*_MTL.txt` of Landsat and Hyperion L1T).

Landsat gives radiance = RADIANCE_MULT_BAND_n * DN + RADIANCE_ADD_BAND_n, Hyperion radiance = DN / SCALING_FACTOR
(40 in the VNIR, 80 in the SWIR). A cube has one scale: when all its bands share theirs the cube holds radiance, else it
holds counts, and the factors of each band stand in its attributes. Never reflectance.
Source: USGS Landsat 4-7 Collection 1 Level-1 Data Format Control Book; USGS EO-1 Hyperion L1T product description.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypermend.catalog.errors import BadAsset
from hypermend.catalog.readers.bands import Band
from hypermend.catalog.scene import Asset, Scene
from hypermend.catalog.storage.fetch import AssetFetcher

LIMIT_BYTES = 4 << 20


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Factors from the counts of a cube to radiance (W m-2 sr-1 um-1)."""

    quantity: str
    scale_factor: float
    add_offset: float
    attrs: dict[str, Any]


def calibration(scene: Scene, bands: Sequence[Band], fetcher: AssetFetcher) -> Calibration | None:
    """Calibration from the scene's MTL file; None if it has none."""
    asset = find_mtl(scene.assets)
    if asset is None:
        return None
    body = AssetFetcher(fetcher.sign, max_bytes=LIMIT_BYTES).fetch(asset.href)
    text = body.read_text(encoding="latin-1") if isinstance(body, Path) else _decoded(body)
    fields = parse_mtl(text)
    factors = [_factor(fields, b) for b in bands]
    if any(f is None for f in factors):
        missing = [b.name for b, f in zip(bands, factors, strict=True) if f is None]
        raise BadAsset(f"scene {scene.id}: the MTL file has no radiance scale for bands {', '.join(missing[:8])}")
    complete = [f for f in factors if f is not None]
    if len(set(complete)) == 1:
        mult, add = complete[0]
        return Calibration(quantity="radiance", scale_factor=mult, add_offset=add, attrs={})
    order = sorted(range(len(bands)), key=lambda i: bands[i].wavelength_nm)
    attrs = {
        "hypermend:radiance_mult": [complete[i][0] for i in order],
        "hypermend:radiance_add": [complete[i][1] for i in order],
        "hypermend:radiance_units": "W m-2 sr-1 um-1",
    }
    return Calibration(quantity="counts", scale_factor=1.0, add_offset=0.0, attrs=attrs)


def find_mtl(assets: Mapping[str, Asset]) -> Asset | None:
    """The MTL file among a scene's assets, by its name."""
    return next((a for a in assets.values() if re.search(r"_MTL(_L1[A-Z]+)?\.txt$", a.href.split("?")[0], re.I)), None)


def _decoded(body: io.BytesIO) -> str:
    return body.getvalue().decode("latin-1")


def parse_mtl(text: str) -> dict[str, str]:
    """The KEY = VALUE lines as a dict; groups are ignored, as keys are unique in these files."""
    fields = {}
    for line in text.splitlines():
        key, sign, value = line.partition("=")
        if sign and (key := key.strip()) not in ("GROUP", "END_GROUP"):
            fields[key] = value.strip().strip('"')
    return fields


def _factor(fields: Mapping[str, str], band: Band) -> tuple[float, float] | None:
    """(multiplier, addend) of one band."""
    number = re.sub(r"\D", "", band.name).lstrip("0") or str(band.number)
    mult = fields.get(f"RADIANCE_MULT_BAND_{number}")
    if mult is not None:
        return float(mult), float(fields.get(f"RADIANCE_ADD_BAND_{number}", "0"))
    divisor = fields.get(f"SCALING_FACTOR_{band.detector}")
    return (1 / float(divisor), 0.0) if divisor is not None else None
