"""The product profiles of deliveries, in the order in which they are asked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hypermend.catalog.readers.products import desis, emit, enmap, hls, hyperion, landsat, sentinel2, wyvern
from hypermend.catalog.readers.profile import Delivery, Description, Profile
from hypermend.catalog.scene import Scene
from hypermend.catalog.storage.fetch import AssetFetcher

PROFILES: tuple[Profile, ...] = (enmap, desis, landsat, hyperion, hls, sentinel2, wyvern, emit)


def describe(scene: Scene, fetcher: AssetFetcher) -> Description | None:
    """The scene as the product that it is; None for a scene of no known product.

    Raises:
        BadAsset: the metadata of its product cannot be read.
    """
    found = (profile.describe(scene, fetcher) for profile in PROFILES)
    return next((d for d in found if d is not None), None)


def deliveries(folder: Path, files: Sequence[str]) -> list[Delivery]:
    """The scenes of known products among the files of a folder, paths below it."""
    found: list[Delivery] = []
    rest = list(files)
    for profile in PROFILES:
        found += profile.deliveries(folder, rest)
        taken = {f for d in found for f in d.files}
        rest = [f for f in rest if f not in taken]
    return found
