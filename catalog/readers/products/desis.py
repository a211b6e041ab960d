"""DESIS L1B, L1C and L2A: a spectral image, METADATA.xml, and for L2A QL_QUALITY-2.

The metadata give centre, width, gain and offset of every band, also of binned products. L1B is in sensor geometry.
QL_QUALITY, which rates each band of a pixel, is not read: its codes are not published with the product.
Source: DLR, DESIS Products Specification, PAV-DLR-TN-004; band descriptions of QL_QUALITY-2.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from xml.etree.ElementTree import Element

from hypermend.catalog.cube.spec import CLOUD, SHADOW, SNOW
from hypermend.catalog.errors import BadAsset
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
    metadata_asset,
)
from hypermend.catalog.readers.raster.xml import columns, read_xml
from hypermend.catalog.scene import Asset, Scene
from hypermend.catalog.storage.fetch import AssetFetcher

_STEM = r"(?P<stem>DESIS-HSI-(?P<level>L1B|L1C|L2A)-.+?)-"
_IMAGE = re.compile(rf"{_STEM}SPECTRAL_IMAGE(_COG)?\.tiff?", re.I)
_QUALITY = re.compile(rf"{_STEM}QL_QUALITY-2(_COG)?\.tiff?", re.I)
_METADATA = re.compile(rf"{_STEM}METADATA\.xml", re.I)
_TIME = re.compile(r"-(\d{8}T\d{6})-")
_RADIANCE_UNITS = "mW cm-2 sr-1 um-1"
_LAYERS = {1: ("shadow", SHADOW), 3: ("snow", SNOW), 4: ("haze over land", CLOUD), 5: ("haze over water", CLOUD)} | {
    6: ("cloud over land", CLOUD),
    7: ("cloud over water", CLOUD),
}
"""band of QL_QUALITY-2 -> its class and the flag; 2 is land, 8 water, 9 and 10 are retrievals"""
_WIDTHS = ("wavelengthWidthOfBand", "FWHMOfBand", "FWHM")
_CENTRES = ("wavelengthCenterOfBand", "wavelengthCenter")


def deliveries(folder: Path, files: Sequence[str]) -> list[Delivery]:
    """See `Profile`."""
    found = []
    for file in files:
        if (match := _IMAGE.fullmatch(Path(file).name)) is None:
            continue
        stem = match["stem"]
        own = tuple(f for f in files if Path(f).name.startswith(f"{stem}-"))
        assets = {"image": image_asset(folder, file, "image")}
        for other in own:
            if _METADATA.fullmatch(Path(other).name):
                assets["metadata"] = metadata_asset(folder, other)
            elif _QUALITY.fullmatch(Path(other).name):
                assets["quality2"] = layer_asset(folder, other, "quality2")
        found.append(Delivery(id=stem, files=own, assets=assets))
    return found


def describe(scene: Scene, fetcher: AssetFetcher) -> Description | None:
    """See `Profile`."""
    images = {a: m for a in scene.assets.values() if (m := _IMAGE.fullmatch(file_name(a)))}
    if not images:
        return None
    match = next(iter(images.values()))
    level, name = match["level"].upper(), match[0]
    radiance = level != "L2A"
    said = Statements()
    said.add(Field.SENSOR, "desis", Source.FILE, f"name {name}")
    if time := _TIME.search(name):
        said.add(Field.DATETIME, utc_time(time[1]), Source.PRODUCT, f"name {name}")
    said.add(Field.QUANTITY, "radiance" if radiance else "reflectance", Source.PRODUCT, f"DESIS {level}")
    said.add(Field.UNITS, _RADIANCE_UNITS if radiance else None, Source.PRODUCT, f"DESIS {level}")
    said.add(Field.NODATA, -32768, Source.PRODUCT, f"DESIS {level}")
    metadata = [a for a in scene.assets.values() if _METADATA.fullmatch(file_name(a))]
    for asset in metadata:
        said.extend(_metadata(asset, fetcher))
    quality = [a for a in scene.assets.values() if _QUALITY.fullmatch(file_name(a))]
    return Description(
        product=f"DESIS {level}",
        images=tuple(images),
        masks=tuple(layer for a in quality for layer in _masks(a)),
        statements=tuple(said),
        sidecars=tuple(metadata),
        placed=level != "L1B",
    )


def _masks(asset: Asset) -> list[MaskLayer]:
    """A layer for each class: any number but 0 marks it."""
    return [
        MaskLayer(
            asset=asset,
            band=band,
            rule=MaskRule(name=f"QL_QUALITY-2 {name}", values=dict.fromkeys(range(1, 256), flag)),
        )
        for band, (name, flag) in _LAYERS.items()
    ]


def _metadata(asset: Asset, fetcher: AssetFetcher) -> Statements:
    """What METADATA.xml says; `band` occurs in it also outside of bandCharacterisation.

    Raises:
        BadAsset: it describes no bands.
    """
    root, where = read_xml(asset, fetcher), file_name(asset)
    bands = root.findall(".//bandCharacterisation/band")
    if not bands:
        raise BadAsset(f"{where}: describes no bands (bandCharacterisation); it is no DESIS metadata")
    bands.sort(key=_number)
    tags = (_present(bands[0], _CENTRES, where), _present(bands[0], _WIDTHS, where), "gainOfBand", "offsetOfBand")
    said = Statements()
    fields = (Field.WAVELENGTH, Field.FWHM, Field.SCALE, Field.OFFSET)
    for field, tag, values in zip(fields, tags, columns(bands, tags, where), strict=True):
        same = field in (Field.SCALE, Field.OFFSET) and len(set(values)) == 1
        said.add(field, values[0] if same else values, Source.SIDECAR, f"{where}: {tag}")
    said.add(Field.DATETIME, utc_time(root.findtext(".//startTime") or ""), Source.SIDECAR, f"{where}: startTime")
    return said


def _number(band: Element) -> int:
    text = (band.findtext("bandNumber") or "0").strip()
    return int(text) if text.isdecimal() else 0


def _present(band: Element, tags: Sequence[str], where: str) -> str:
    found = next((tag for tag in tags if band.find(tag) is not None), None)
    if found is None:
        raise BadAsset(f"{where}: its bands have none of {', '.join(tags)}")
    return found


ROWS = (
    FormatRow(
        product="DESIS",
        levels="L1B, L1C, L2A",
        read="folder or item: `SPECTRAL_IMAGE.tif`, `METADATA.xml`, also binned; centre, width, gain and offset of "
        "each band, L1 decoded to radiance",
        masks="L2A: `QL_QUALITY-2` (cloud, haze, shadow, snow); `QL_QUALITY` is not read",
        grid="L1C, L2A: their own; L1B: sensor geometry",
        refused="metadata that describe no bands",
    ),
)
