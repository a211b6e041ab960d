"""Sentinel-2 files as ESA delivers them: SAFE folders, and loose bands taken out of one.

Source: ESA, Sentinel-2 Products Specification Document S2-PDGS-TAS-DI-PSD v14.9 (names, General_Info of MTD_MSIL*.xml).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from hypermend.catalog.errors import BadAsset
from hypermend.catalog.meaning.statement import Field, Source, Statements
from hypermend.catalog.meaning.times import utc_time
from hypermend.catalog.readers.profile import Delivery, file_name, image_asset, layer_asset, metadata_asset
from hypermend.catalog.readers.raster.numbers import metadata_factor, metadata_number
from hypermend.catalog.readers.raster.xml import read_xml
from hypermend.catalog.scene import Asset
from hypermend.catalog.storage.fetch import AssetFetcher

_IMAGE = re.compile(r"(?P<stem>(L2A_)?T\d{2}[A-Z]{3}_\d{8}T\d{6})_(?P<band>B\d[0-9A]|SCL)(_(?P<gsd>\d\d)m)?\.jp2", re.I)
_MASK = re.compile(r"MSK_(CLASSI_B00|QUALIT_B\w\w)\.jp2", re.I)
_METADATA = re.compile(r"MTD_MSIL(1C|2A)\.xml", re.I)
_GSD_M = {**dict.fromkeys(("B02", "B03", "B04", "B08"), 10.0), **dict.fromkeys(("B01", "B09", "B10"), 60.0)}


def is_safe(folder: Path, names: Sequence[str]) -> bool:
    """Whether a folder is a SAFE product, whose files lie in folders below it."""
    return folder.suffix.upper() == ".SAFE" or any(_METADATA.fullmatch(n) for n in names)


def safe_delivery(folder: Path, files: Sequence[str]) -> list[Delivery]:
    """The scenes of a SAFE folder: one for each tile."""
    if not is_safe(folder, [f for f in files if "/" not in f]):
        return []
    tiles: dict[str, list[str]] = {}
    for file in files:
        if "IMG_DATA/" in file and (match := _IMAGE.fullmatch(Path(file).name)):
            tiles.setdefault(match["stem"], []).append(file)
    id = folder.name.removesuffix(".SAFE")
    if not tiles:
        refusal = f"{folder}: a SAFE folder without images; its GRANULE/*/IMG_DATA has none"
        return [Delivery(id=id, files=tuple(files), assets={}, refusal=refusal)]
    found = []
    for stem, images in tiles.items():
        granule = images[0].split("IMG_DATA/")[0]
        assets = _assets(folder, images)
        for file in files:
            name = Path(file).name
            if _METADATA.fullmatch(name) and "/" not in file:
                assets["metadata"] = metadata_asset(folder, file)
            elif file.startswith(f"{granule}QI_DATA/") and _MASK.fullmatch(name):
                assets[Path(name).stem] = layer_asset(folder, file, Path(name).stem)
        found.append(Delivery(id=id if len(tiles) == 1 else f"{id}-{stem}", files=tuple(files), assets=assets))
    return found


def loose_deliveries(folder: Path, files: Sequence[str]) -> list[Delivery]:
    """The scenes of bands outside of a SAFE folder."""
    tiles: dict[str, list[str]] = {}
    for file in files:
        if match := _IMAGE.fullmatch(Path(file).name):
            tiles.setdefault(match["stem"], []).append(file)
    return [Delivery(id=s, files=tuple(own), assets=_assets(folder, own)) for s, own in tiles.items()]


def _assets(folder: Path, images: Sequence[str]) -> dict[str, Asset]:
    assets: dict[str, Asset] = {}
    for file in images:
        match = _IMAGE.fullmatch(Path(file).name)
        if match is None:
            continue
        band, gsd = match["band"].upper(), match["gsd"]
        key = f"{band}_{gsd}m" if gsd else band
        asset = layer_asset(folder, file, key) if band == "SCL" else image_asset(folder, file, key, bands=(band,))
        size = float(gsd) if gsd else _GSD_M.get(band, 20.0)
        assets[key] = Asset(**{**vars(asset), "gsd_m": size})
    return assets


def metadata_statements(asset: Asset, fetcher: AssetFetcher) -> Statements:
    """What MTD_MSIL1C.xml or MTD_MSIL2A.xml says; nothing where it is cut short.

    Raises:
        BadAsset: its bands have different offsets, which ESA has never published.
    """
    root, where = read_xml(asset, fetcher), file_name(asset)
    said = Statements()
    craft = root.findtext(".//SPACECRAFT_NAME") or ""
    if match := re.fullmatch(r"Sentinel-2([A-D])", craft.strip(), re.I):
        said.add(Field.SENSOR, f"sentinel2{match[1].lower()}", Source.SIDECAR, f"{where}: SPACECRAFT_NAME")
    said.add(Field.DATETIME, utc_time(root.findtext(".//PRODUCT_START_TIME") or ""), Source.SIDECAR, where)
    value = root.findtext(".//BOA_QUANTIFICATION_VALUE") or root.findtext(".//QUANTIFICATION_VALUE")
    if value is None:
        return said
    steps = metadata_factor(value, f"{where}: QUANTIFICATION_VALUE")
    said.add(Field.SCALE, 1 / steps, Source.SIDECAR, f"{where}: QUANTIFICATION_VALUE")
    tags = ("BOA_ADD_OFFSET", "RADIO_ADD_OFFSET")
    offsets = {metadata_number(e.text or "0", f"{where}: {tag}") for tag in tags for e in root.iter(tag)}
    if len(offsets) > 1:
        raise BadAsset(f"{where}: bands with offsets {sorted(offsets)}; give the right one with --add-offset")
    offset = offsets.pop() if offsets else 0.0
    said.add(Field.OFFSET, offset / steps, Source.SIDECAR, f"{where}: ADD_OFFSET")
    return said
