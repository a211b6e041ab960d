"""Header of a raster file: its shape, place, masks and statements, and its comparison with the STAC item."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from affine import Affine
from rasterio.enums import ColorInterp, Interleaving, MaskFlags

from hypermend.catalog.errors import BadAsset, Refused
from hypermend.catalog.grids import ALIGN_PX, crs_label
from hypermend.catalog.meaning.statement import Statement
from hypermend.catalog.readers.raster.tags import BandTags, tag_statements
from hypermend.catalog.scene import Asset, Scene
from hypermend.catalog.storage.hrefs import is_remote, shown

if TYPE_CHECKING:
    from hypermend.catalog.storage.fetch import AssetFetcher


@dataclass(frozen=True, kw_only=True)
class Header:
    """Header of a raster file."""

    asset: Asset
    size: tuple[int, int]
    """(y, x)"""
    dtypes: tuple[str, ...]
    """of each band, without an alpha band"""
    crs: str | None
    transform: Affine
    names: tuple[str, ...] | None
    """band names, when every band has one"""
    statements: tuple[Statement, ...]
    """what the file says; per-band values for the bands without alpha"""
    start_time: str | None
    """its tag, which the tiles of one acquisition share"""
    positions: tuple[int, ...]
    """1-based number in the file of each band"""
    alpha: int | None = None
    """1-based number of the alpha band"""
    masked: bool = False
    """it has an internal mask"""
    places: Mapping[str, Any] = field(default_factory=dict)
    """ground control points (`gcps`) and rational polynomial coefficients (`rpcs`), JSON values"""

    @property
    def count(self) -> int:
        return len(self.dtypes)

    @property
    def pixel_size(self) -> float:
        return abs(self.transform.a)


def read_header(asset: Asset, fetcher: AssetFetcher) -> Header:
    """Read the header of a raster file."""

    def header_of(dataset: Any) -> Header:
        _check_blocks(dataset, asset, fetcher.max_bytes)
        alpha = _alpha_band(dataset)
        kept = [i for i in dataset.indexes if i != alpha]
        tags = [BandTags.of(dataset, i) for i in kept]
        dtypes, descriptions = dataset.dtypes, dataset.descriptions  # GDAL is asked for all bands each time
        georeferenced = dataset.crs is not None and not dataset.transform.is_identity
        return Header(
            asset=asset,
            size=(dataset.height, dataset.width),
            dtypes=tuple(dtypes[i - 1] for i in kept),
            crs=_crs_text(dataset.crs) if georeferenced else None,
            transform=dataset.transform,
            names=_names([descriptions[i - 1] for i in kept], tags),
            statements=tuple(tag_statements(dataset, kept, tags, _file_name(asset))),
            start_time=dataset.tags().get("start_time"),
            positions=tuple(kept),
            alpha=alpha,
            masked=_has_mask(dataset) and alpha is None,
            places=_places(dataset),
        )

    return fetcher.raster(asset.href, header_of)


def _check_blocks(dataset: Any, asset: Asset, max_bytes: int) -> None:
    """Refuse a file whose blocks, which GDAL unpacks whole, take more than `max_bytes` in memory.

    Raises:
        Refused: names both numbers.
    """
    itemsizes = [np.dtype(dtype).itemsize for dtype in dataset.dtypes]
    if dataset.interleaving is Interleaving.pixel:
        itemsizes = [sum(itemsizes)]
    shapes = dataset.block_shapes
    size = max((h * w * n for (h, w), n in zip(shapes, itemsizes, strict=False)), default=0)
    if size > max_bytes:
        raise Refused(
            f"{shown(asset.href)}: its blocks of {max(shapes)} (y, x) take {size} bytes, unpacked whole, and the limit "
            f"is {max_bytes}; write it with smaller tiles (gdal_translate -co TILED=YES)"
        )


def mask_sidecar(asset: Asset, listed: Mapping[str, Asset]) -> Asset | None:
    """The `.msk` of a raster file: beside a local one, or among the scene's assets."""
    name = f"{asset.href.split('?')[0]}.msk"
    found = next((a for a in listed.values() if a.href.split("?")[0] == name), None)
    if found is None and not is_remote(asset.href) and Path(f"{asset.href}.msk").is_file():
        found = Asset(key=f"{asset.key}.msk", href=f"{asset.href}.msk", media_type="image/tiff")
    return found


def _file_name(asset: Asset) -> str:
    return shown(asset.href).rsplit("/", 1)[-1]


def _alpha_band(dataset: Any) -> int | None:
    """The alpha band, by colour interpretation or by its own name.

    GDAL marks the fourth of any four bytes so, and the second band of an image of five: a band with a wavelength, or
    with another name, is a measurement.
    """
    for i, colour, text in zip(dataset.indexes, dataset.colorinterp, dataset.descriptions, strict=True):
        named = (text or "").strip()
        told = colour is ColorInterp.alpha and (not named or re.search(r"alpha|mask|valid", named, re.I))
        if (told or named.lower() == "alpha") and not BandTags.of(dataset, i).measures:
            return int(i)
    return None


def _has_mask(dataset: Any) -> bool:
    """Whether the file has one mask for all its bands.

    The public `mask_flag_enums` makes its lists for every band: a twentieth of the ingest of files of 200 bands.
    """
    return bool(dataset._mask_flags()[0] & MaskFlags.per_dataset.value)


def _places(dataset: Any) -> dict[str, Any]:
    points, crs = dataset.gcps
    found: dict[str, Any] = {}
    if points:
        found["gcps"] = {
            "crs": _crs_text(crs) if crs is not None else None,
            "points": [[p.row, p.col, p.x, p.y, p.z] for p in points],
        }
    if dataset.rpcs is not None:
        found["rpcs"] = dataset.rpcs.to_gdal()
    return found


def _crs_text(crs: Any) -> str:
    epsg = crs.to_epsg()
    return f"EPSG:{epsg}" if epsg else str(crs.to_wkt())


def _names(descriptions: Sequence[str | None], tags: Sequence[BandTags]) -> tuple[str, ...] | None:
    names = [t.get("description") or d for t, d in zip(tags, descriptions, strict=True)]
    return tuple(str(n) for n in names) if names and all(names) else None


def check_against_item(header: Header, scene: Scene) -> None:
    """Compare a header with the item, which must not contradict it.

    Raises:
        BadAsset: they differ; the error names both values.
    """
    asset = header.asset
    grid = asset.grid or (scene.grid if sum(a.href == asset.href for a in scene.assets.values()) else None)
    several = len(scene.assets) > 1 and asset.grid is None  # the item's grid is that of the mosaic
    where = f"asset {asset.key} ({shown(asset.href)})"
    if asset.bands and len(asset.bands) != header.count:
        raise BadAsset(f"{where}: the item lists {len(asset.bands)} bands, the file has {header.count}")
    if grid is None or several:
        return
    if tuple(grid.shape) != header.size:
        raise BadAsset(f"{where}: the item says shape {tuple(grid.shape)}, the file {header.size}")
    if header.crs is None or grid.crs != header.crs:
        raise BadAsset(f"{where}: the item says CRS {crs_label(grid.crs)}, the file {crs_label(header.crs)}")
    if not np.allclose(grid.affine[:6], header.transform[:6], rtol=1e-9, atol=header.pixel_size * ALIGN_PX):
        raise BadAsset(
            f"{where}: the item says transform {tuple(grid.affine[:6])}, the file {tuple(header.transform[:6])}"
        )
