"""Product profiles: what a profile tells a reader about the files of a scene.

A profile (one module of `products`) recognises its product by file names and metadata, from a folder as from a STAC
item, and decides nothing: it lists images, mask layers and statements. The readers of the formats do the rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from hypermend.catalog.meaning.statement import Field, Statement
from hypermend.catalog.readers.masks import MaskRule
from hypermend.catalog.scene import Asset, Scene
from hypermend.catalog.storage.fetch import AssetFetcher
from hypermend.catalog.storage.hrefs import is_remote


@dataclass(frozen=True, kw_only=True)
class FormatRow:
    """A line of docs/formats.md, which a test makes from the `ROWS` of every profile and format."""

    product: str
    levels: str
    read: str
    """files, and what becomes of their numbers"""
    masks: str
    grid: str
    refused: str = "-"


@dataclass(frozen=True, kw_only=True)
class MaskLayer:
    """One band of a mask file, or all its bands for a rule of defects."""

    asset: Asset
    rule: MaskRule
    band: int = 1
    """1-based; for defects that of the image's first band"""
    image: str | None = None
    """key of the image whose bands the defects are, or name of its band; None where there is one image"""


@dataclass(frozen=True, kw_only=True)
class Description:
    """What a profile knows of a scene."""

    product: str
    """product and level, such as "EnMAP L2A\""""
    images: tuple[Asset, ...]
    """files of the cube; every other asset of the scene is ignored"""
    masks: tuple[MaskLayer, ...] = ()
    statements: tuple[Statement, ...] = ()
    """about all images; per-band values in the order of the bands of the images, one after the other"""
    by_asset: Mapping[str, tuple[Statement, ...]] = field(default_factory=dict)
    """about one image, by asset key"""
    detectors: Mapping[str, str] = field(default_factory=dict)
    """detector of all bands of an image, by asset key"""
    sidecars: tuple[Asset, ...] = ()
    """files that the profile read: the identity of the scene covers them"""
    class_bands: Mapping[str, MaskRule] = field(default_factory=dict)
    """bands of the images that hold classes and no measurements, by name in capitals"""
    required: Mapping[Field, str] = field(default_factory=dict)
    """facts of integers that no rule gives: the error where no source states them"""
    outside: int | None = None
    """stored number that marks, in all bands of a pixel, that it lies outside the swath"""
    placed: bool = True
    """False: the place that the files state is only approximate; the scene stays in sensor geometry"""
    left_out: tuple[str, ...] = ()
    """names of bands that the product has and the cube has not"""
    attrs: Mapping[str, Any] = field(default_factory=dict)
    """facts for the attributes of the cube"""


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """Files of a folder that are one scene."""

    id: str
    files: tuple[str, ...]
    """paths below the folder that belong to it, assets or not: no other scene takes them"""
    assets: Mapping[str, Asset]
    refusal: str | None = None
    """why these files are no scene, with what to do; None for a scene"""


class Profile(Protocol):
    """A product; each module of `products` that is listed in `products.registry` is one."""

    def deliveries(self, folder: Path, files: Sequence[str]) -> list[Delivery]:
        """The scenes of this product among the files of a folder, paths below it."""
        ...

    def describe(self, scene: Scene, fetcher: AssetFetcher) -> Description | None:
        """The scene as this product; None for a scene of another product.

        Raises:
            BadAsset: its metadata cannot be read.
        """
        ...


def file_name(asset: Asset) -> str:
    """Name of an asset's file, without folder and query."""
    return (urlsplit(asset.href).path if is_remote(asset.href) else asset.href).rsplit("/", 1)[-1]


TIFF_MEDIA = "image/tiff; application=geotiff"


def image_asset(folder: Path, file: str, key: str, *, bands: tuple[str, ...] = ()) -> Asset:
    """A GeoTIFF or JPEG 2000 of a folder that belongs to the cube."""
    media = "image/jp2" if file.lower().endswith(".jp2") else TIFF_MEDIA
    return Asset(key=key, href=str(folder / file), roles=("data",), media_type=media, bands=bands)


def layer_asset(folder: Path, file: str, key: str) -> Asset:
    """A mask of a folder."""
    media = "image/jp2" if file.lower().endswith(".jp2") else TIFF_MEDIA
    return Asset(key=key, href=str(folder / file), roles=("data-mask",), media_type=media)


def metadata_asset(folder: Path, file: str, key: str = "metadata") -> Asset:
    """A metadata file of a folder."""
    media = "application/xml" if file.lower().endswith(".xml") else "text/plain"
    return Asset(key=key, href=str(folder / file), roles=("metadata",), media_type=media)
