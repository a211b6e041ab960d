"""Product profiles: what a profile tells a reader about the files of a scene.

A profile (one module of `products`) recognises its product by file names and metadata, from a folder as from a STAC
item, and decides nothing: it lists images, mask layers and statements. The readers of the formats do the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from hypermend.catalog.meaning.statement import Statement
from hypermend.catalog.readers.masks import MaskRule
from hypermend.catalog.scene import Asset


@dataclass(frozen=True, kw_only=True)
class MaskLayer:
    """One band of a mask file, or all its bands for a rule of defects."""

    asset: Asset
    rule: MaskRule
    band: int = 1
    """1-based; not used for defects"""


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
