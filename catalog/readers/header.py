"""Header of a raster file, and its comparison with the STAC item. The file's own header wins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from affine import Affine

from hypermend.catalog.errors import BadAsset
from hypermend.catalog.grids import ALIGN_PX, crs_label
from hypermend.catalog.scene import Asset, Scene
from hypermend.catalog.storage.hrefs import shown

if TYPE_CHECKING:
    from hypermend.catalog.storage.fetch import AssetFetcher

_WAVELENGTH_NM = {"nanometers": 1.0, "nanometer": 1.0, "nm": 1.0, "micrometers": 1e3, "micrometer": 1e3, "um": 1e3}


@dataclass(frozen=True, kw_only=True)
class Header:
    """Header of a raster file."""

    asset: Asset
    size: tuple[int, int]
    """(y, x)"""
    dtypes: tuple[str, ...]
    nodata: float | None
    scale: float
    offset: float
    crs: str | None
    transform: Affine
    names: tuple[str, ...] | None
    """band names, when every band has one"""
    wavelength_nm: tuple[float, ...] | None
    fwhm_nm: tuple[float, ...] | None
    good: tuple[bool, ...] | None
    tags: Mapping[str, str]
    """of the whole file"""

    @property
    def count(self) -> int:
        return len(self.dtypes)

    @property
    def pixel_size(self) -> float:
        return abs(self.transform.a)


def read_header(asset: Asset, fetcher: AssetFetcher) -> Header:
    """Read the header of a raster file."""

    def header_of(dataset: Any) -> Header:
        tags = [{k.lower(): v for k, v in dataset.tags(i).items()} for i in dataset.indexes]
        scales, offsets = set(dataset.scales), set(dataset.offsets)
        if len(scales) > 1 or len(offsets) > 1:
            raise BadAsset(f"{shown(asset.href)}: bands differ in scale {sorted(scales)} or offset {sorted(offsets)}")
        georeferenced = dataset.crs is not None and not dataset.transform.is_identity
        return Header(
            asset=asset,
            size=(dataset.height, dataset.width),
            dtypes=tuple(dataset.dtypes),
            nodata=dataset.nodata,
            scale=scales.pop(),
            offset=offsets.pop(),
            crs=_crs_text(dataset.crs) if georeferenced else None,
            transform=dataset.transform,
            names=_names(dataset.descriptions, tags),
            wavelength_nm=_wavelengths(tags),
            fwhm_nm=_tag_numbers(tags, "fwhm"),
            good=_good_bands(tags),
            tags=dict(dataset.tags()),
        )

    return fetcher.raster(asset.href, header_of)


def _crs_text(crs: Any) -> str:
    epsg = crs.to_epsg()
    return f"EPSG:{epsg}" if epsg else str(crs.to_wkt())


def _names(descriptions: Sequence[str | None], tags: Sequence[dict[str, str]]) -> tuple[str, ...] | None:
    names = [t.get("description") or d for t, d in zip(tags, descriptions, strict=True)]
    return tuple(str(n) for n in names) if all(names) else None


def _tag_numbers(tags: Sequence[dict[str, str]], key: str) -> tuple[float, ...] | None:
    if not all(key in t for t in tags):
        return None
    unit = _WAVELENGTH_NM.get(tags[0].get("wavelength_units", "nanometers").lower(), 1.0)
    return tuple(float(t[key]) * unit for t in tags)


def _good_bands(tags: Sequence[dict[str, str]]) -> tuple[bool, ...] | None:
    if not any("bbl" in t for t in tags):
        return None
    return tuple(t.get("bbl", "1").strip() not in ("0", "0.0") for t in tags)


def _wavelengths(tags: Sequence[dict[str, str]]) -> tuple[float, ...] | None:
    return _tag_numbers(tags, "wavelength")


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
