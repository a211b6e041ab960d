"""Wyvern Dragonette L1B and L2A: a GeoTIFF and masks; wavelengths, nodata and scale stand only in the STAC item.

The pixel quality mask is not read: its bits are not published with the product.
Source: Wyvern Open Data catalog (asset names, eo:bands in micrometres, raster:bands).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from hypermend.catalog.cube.spec import NODATA
from hypermend.catalog.meaning.statement import Field, Source, Statements
from hypermend.catalog.meaning.times import utc_time
from hypermend.catalog.readers.masks import MaskRule
from hypermend.catalog.readers.profile import Delivery, Description, FormatRow, MaskLayer, file_name
from hypermend.catalog.scene import Asset, Scene
from hypermend.catalog.storage.fetch import AssetFetcher

_NAME = re.compile(r"wyvern[_-]dragonette[_-]?\d+_(?P<time>\d{8}T\d{6})", re.I)
_MASK = re.compile(r"mask", re.I)
_DATA_MASK = MaskRule(name="Data Mask", values={0: NODATA})


def deliveries(folder: Path, files: Sequence[str]) -> list[Delivery]:
    """See `Profile`. Without the item a file of Wyvern is a GeoTIFF like others; its masks are no scenes."""
    return []


def describe(scene: Scene, fetcher: AssetFetcher) -> Description | None:
    """See `Profile`."""
    rasters = [a for a in scene.assets.values() if re.search(r"\.tiff?$", file_name(a), re.I)]
    images = [
        a for a in rasters if not _is_mask(a) and not {"thumbnail", "overview", "visual"} & {a.key.lower(), *a.roles}
    ]
    match = next((m for text in (scene.id, *map(file_name, images)) if (m := _NAME.search(text))), None)
    if match is None or len(images) != 1:
        return None
    surface = re.search(
        r"l2a", f"{scene.id} {scene.properties.get('processing:level', '')} {file_name(images[0])}", re.I
    )
    said = Statements()
    said.add(Field.SENSOR, "wyvern", Source.PRODUCT, f"name {match[0]}")
    said.add(Field.DATETIME, utc_time(match["time"]), Source.PRODUCT, f"name {match[0]}")
    said.add(
        Field.QUANTITY,
        "reflectance" if surface else "radiance",
        Source.PRODUCT,
        f"Wyvern {'L2A' if surface else 'L1B'}",
    )
    said.add(Field.UNITS, None if surface else "W m-2 sr-1 um-1", Source.PRODUCT, "Wyvern L1B")
    masks = [a for a in rasters if _is_mask(a) and re.search(r"data[ _-]?mask", f"{a.key} {file_name(a)}", re.I)]
    return Description(
        product=f"Wyvern {'L2A' if surface else 'L1B'}",
        images=tuple(images),
        masks=tuple(MaskLayer(asset=a, rule=_DATA_MASK) for a in masks),
        statements=tuple(said),
    )


def _is_mask(asset: Asset) -> bool:
    return _MASK.search(f"{asset.key} {file_name(asset)}") is not None


ROWS = (
    FormatRow(
        product="Wyvern Dragonette",
        levels="L1B, L2A",
        read="item: the GeoTIFF, with wavelengths, scale and nodata from the item",
        masks="data mask: 0 is no data; the pixel quality mask is not read",
        grid="its own",
    ),
)
