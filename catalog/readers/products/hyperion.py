"""EO-1 Hyperion L1T: 242 GeoTIFFs of one band and an MTL file. L1R is HDF4, which is not read.

Radiance = DN / SCALING_FACTOR (40 in the VNIR, 80 in the SWIR), W m-2 sr-1 um-1. The swath lies slanted in its image:
outside, all bands hold 0; a single band may measure 0, as most do in the absorption of water vapour.
Source: USGS, EO-1 Hyperion L1T product description and MTL files.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from hypermend.catalog.errors import BadAsset
from hypermend.catalog.meaning.statement import Field, Source, Statements
from hypermend.catalog.meaning.times import utc_time
from hypermend.catalog.readers.profile import Delivery, Description, FormatRow, file_name, image_asset, metadata_asset
from hypermend.catalog.readers.raster.mtl import Mtl, read_mtl
from hypermend.catalog.readers.raster.numbers import metadata_factor
from hypermend.catalog.scene import Asset, Scene
from hypermend.catalog.storage.fetch import AssetFetcher

_STEM = r"(?P<stem>EO1H\w+?)"
_BAND = re.compile(rf"{_STEM}_B(?P<band>\d{{3}})_L1(T|GST|GS)\.tiff?", re.I)
_MTL = re.compile(r"(?P<stem>\w+?)_MTL(_L1\w+)?\.txt", re.I)
_L1R = re.compile(rf"{_STEM}\.L1R", re.I)
_VNIR_BANDS = 70
_DAY_OF_YEAR = re.compile(r"(\d{4}) (\d{1,3}) (\d{2}:\d{2}:\d{2}(?:\.\d+)?)")
_NOT_READ = (
    "Hyperion L1R is HDF4, which Hypermend does not read: order the L1T product, or convert the file to ENVI "
    "(a GDAL with HDF4: gdal_translate -of ENVI)"
)


def deliveries(folder: Path, files: Sequence[str]) -> list[Delivery]:
    """See `Profile`."""
    bands: dict[str, dict[str, Asset]] = {}
    for file in files:
        if match := _BAND.fullmatch(Path(file).name):
            key = f"B{match['band']}"
            bands.setdefault(match["stem"], {})[key] = image_asset(folder, file, key, bands=(f"B{int(match['band'])}",))
    found = []
    for stem, assets in bands.items():
        own = tuple(f for f in files if Path(f).name.startswith(f"{stem}_"))
        if mtl := next((f for f in own if _MTL.fullmatch(Path(f).name)), None):
            assets["mtl"] = metadata_asset(folder, mtl, "mtl")
        found.append(Delivery(id=stem, files=own, assets=assets))
    for file in files:
        if match := _L1R.fullmatch(Path(file).name):
            own = tuple(f for f in files if Path(f).name.startswith(f"{match['stem']}."))
            found.append(Delivery(id=match["stem"], files=own, assets={}, refusal=f"{folder / file}: {_NOT_READ}"))
    return found


def describe(scene: Scene, fetcher: AssetFetcher) -> Description | None:
    """See `Profile`."""
    if any(_L1R.fullmatch(file_name(a)) for a in scene.assets.values()):
        raise BadAsset(f"scene {scene.id}: {_NOT_READ}")
    images = {a: int(m["band"]) for a in scene.assets.values() if (m := _BAND.fullmatch(file_name(a)))}
    if not images:
        return None
    said = Statements()
    said.add(Field.SENSOR, "hyperion", Source.FILE, f"name {file_name(next(iter(images)))}")
    said.add(Field.QUANTITY, "radiance", Source.PRODUCT, "Hyperion L1T")
    said.add(Field.UNITS, "W m-2 sr-1 um-1", Source.PRODUCT, "Hyperion L1T")
    mtl_asset = next((a for a in scene.assets.values() if _MTL.fullmatch(file_name(a))), None)
    by_asset = {}
    if mtl_asset is not None:
        where, mtl = file_name(mtl_asset), read_mtl(mtl_asset, fetcher)
        factors = {part: mtl.get(f"SCALING_FACTOR_{part}") for part in ("VNIR", "SWIR")}
        said.add(Field.DATETIME, _start(mtl), Source.SIDECAR, f"{where}: START_TIME")
        said.add(Field.DATETIME, utc_time(mtl.get("ACQUISITION_DATE") or ""), Source.GUESS, "the day alone")
        for asset, number in images.items():
            part = "VNIR" if number <= _VNIR_BANDS else "SWIR"
            if (factor := factors[part]) is None:
                raise BadAsset(f"scene {scene.id}: {where} has no SCALING_FACTOR_{part} for band B{number}")
            scale = Statements()
            key = f"{where}: SCALING_FACTOR_{part}"
            scale.add(Field.SCALE, 1 / metadata_factor(factor, key), Source.SIDECAR, key)
            by_asset[asset.key] = tuple(scale)
    return Description(
        product="Hyperion L1T",
        images=tuple(images),
        statements=tuple(said),
        by_asset=by_asset,
        sidecars=() if mtl_asset is None else (mtl_asset,),
        outside=0,
    )


def _start(mtl: Mtl) -> datetime | None:
    """START_TIME, which counts the days of the year."""
    if (match := _DAY_OF_YEAR.fullmatch((mtl.get("START_TIME") or "").strip())) is None:
        return None
    try:
        day = datetime.strptime(f"{match[1]} {match[2]}", "%Y %j")
    except ValueError:
        return None
    return utc_time(f"{day:%Y-%m-%d}T{match[3]}")


ROWS = (
    FormatRow(
        product="EO-1 Hyperion",
        levels="L1T",
        read="242 GeoTIFFs with their MTL; radiance by the factor of each detector",
        masks="0 in all bands: outside the swath",
        grid="its own",
        refused="L1R (HDF4): order L1T, or convert it to ENVI",
    ),
)
