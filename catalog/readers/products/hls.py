"""Harmonized Landsat and Sentinel-2 (HLS) v2: S30 and L30, one GeoTIFF for each band and Fmask.

Reflectance = 1e-4 * DN, -9999 is nodata. S30 is adjusted to the bands of OLI where OLI has them.
Source: NASA LP DAAC, HLS Product User Guide v2 (bands, Fmask bits: 1 cloud, 2 beside it, 3 shadow, 4 snow or ice).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from hypermend.catalog.cube.spec import CLOUD, NODATA, SHADOW, SNOW
from hypermend.catalog.meaning.statement import Field, Source, Statements
from hypermend.catalog.meaning.times import utc_time
from hypermend.catalog.readers.masks import MaskRule
from hypermend.catalog.readers.profile import (
    Delivery,
    Description,
    FormatRow,
    MaskLayer,
    file_name,
    image_asset,
    layer_asset,
)
from hypermend.catalog.scene import Asset, Scene
from hypermend.catalog.storage.fetch import AssetFetcher

_STEM = r"(?P<stem>HLS\.(?P<kind>[SL]30)\.T\w{5}\.(?P<time>\d{7}T\d{6})\.v\d\.\d)"
_BAND = re.compile(rf"{_STEM}\.(?P<band>B\d[0-9A])\.tiff?", re.I)
_FMASK = re.compile(rf"{_STEM}\.Fmask\.tiff?", re.I)
_BITS = {1: CLOUD, 3: SHADOW, 4: SNOW}
_FILL = 255  # all bits, but no cloud


def _flags(number: int) -> int:
    """Reasons of a number of Fmask; bits 6 and 7 rate the aerosol."""
    return NODATA if number == _FILL else sum(flag for bit, flag in _BITS.items() if number >> bit & 1)


_FMASK_RULE = MaskRule(name="Fmask", values={n: flags for n in range(256) if (flags := _flags(n))})


def deliveries(folder: Path, files: Sequence[str]) -> list[Delivery]:
    """See `Profile`."""
    scenes: dict[str, dict[str, Asset]] = {}
    for file in files:
        name = Path(file).name
        if match := _BAND.fullmatch(name):
            band = match["band"].upper()
            scenes.setdefault(match["stem"], {})[band] = image_asset(folder, file, band, bands=(band,))
        elif match := _FMASK.fullmatch(name):
            scenes.setdefault(match["stem"], {})["Fmask"] = layer_asset(folder, file, "Fmask")
    return [
        Delivery(id=stem, files=tuple(f for f in files if Path(f).name.startswith(f"{stem}.")), assets=assets)
        for stem, assets in scenes.items()
        if set(assets) != {"Fmask"}
    ]


def describe(scene: Scene, fetcher: AssetFetcher) -> Description | None:
    """See `Profile`."""
    bands = {a: m for a in scene.assets.values() if (m := _BAND.fullmatch(file_name(a)))}
    if not bands:
        return None
    first = next(iter(bands.values()))
    kind = first["kind"].upper()
    said = Statements()
    # a rule and no statement of the file: an item may name the satellite, whose bands have the same names
    said.add(Field.SENSOR, f"hls-{kind.lower()}", Source.PRODUCT, f"name {first['stem']}")
    said.add(Field.DATETIME, _time(first["time"]), Source.PRODUCT, f"name {first['stem']}")
    said.add(Field.QUANTITY, "reflectance", Source.PRODUCT, f"HLS {kind}")
    said.add(Field.SCALE, 1e-4, Source.PRODUCT, f"HLS {kind}")
    said.add(Field.NODATA, -9999, Source.PRODUCT, f"HLS {kind}")
    masks = [a for a in scene.assets.values() if _FMASK.fullmatch(file_name(a))]
    return Description(
        product=f"HLS {kind}",
        images=tuple(replace(a, bands=(m["band"].upper(),)) for a, m in bands.items()),
        masks=tuple(MaskLayer(asset=a, rule=_FMASK_RULE) for a in masks),
        statements=tuple(said),
    )


def _time(text: str) -> datetime | None:
    """The time in a name, which counts the days of the year."""
    try:
        return utc_time(datetime.strptime(text, "%Y%jT%H%M%S").isoformat())
    except ValueError:
        return None


ROWS = (
    FormatRow(
        product="HLS",
        levels="S30, L30",
        read="one GeoTIFF per band, folder or item; reflectance; time from the name",
        masks="Fmask: cloud, shadow, snow; -9999 is no data",
        grid="its own",
    ),
)
