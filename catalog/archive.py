"""The Python API of an archive: search it, open its cubes, select bands by wavelength."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hypermend.catalog.errors import NotFound, Refused
from hypermend.catalog.keys import cube_key, source_collection
from hypermend.catalog.scene import Scene
from hypermend.catalog.stac import index
from hypermend.catalog.stac.static_catalog import rebuild_catalogs
from hypermend.catalog.storage.archive_store import ArchiveStore

if TYPE_CHECKING:
    import xarray as xr

_NEAR_NM = 1.0
_WIDTH_NM = 10.0  # of a band whose width is not known
ARCHIVE_FOLDERS = {"genotypes", "index", "items", "leases", "models", "nightly", "restored", "runs", "searches"} | {
    "sensors",
    "source",
    "training",
}
"""An archive has at least one of these (docs/archive-layout.md)."""


@dataclass(frozen=True, kw_only=True)
class Item:
    """One scene found in an archive."""

    root: ArchiveStore
    scene: Scene

    def dataset(self) -> xr.Dataset:
        """The scene's cube in physical values, as dask arrays of its chunks: nothing is read yet.

        Numbers of up to 16 bits come as float32. `to_netcdf`, `to_zarr` and `xarray.concat` take the dataset as it is.

        Raises:
            Refused: the scene is raw; ingest it first.
            NotFound: the cube is gone.
        """
        # Imports xarray and Zarr, which a search does not need.
        from hypermend.catalog.cube.layout import open_cube, portable

        return portable(open_cube(self.root, cube_key(self.scene), chunks={}))


@dataclass(frozen=True, kw_only=True)
class Archive:
    """One archive, local or on S3."""

    root: ArchiveStore

    def search(
        self,
        *,
        stage: str | None = None,
        sensor: str | None = None,
        collection: str | None = None,
        collections: Sequence[str] = (),
        bbox: Sequence[float] | None = None,
        datetime: str | None = None,
        query: Sequence[str] = (),
        ids: Sequence[str] | None = None,
    ) -> list[Item]:
        """The current items that pass every filter, collections being one of these; see index.search."""
        scenes = index.search(
            self.root,
            stage=stage,
            sensor=sensor,
            collections=(*collections, *([collection] if collection else ())),
            bbox=bbox,
            datetime=datetime,
            query=query,
            ids=ids,
        )
        return [Item(root=self.root, scene=scene) for scene in scenes]

    def sources(
        self,
        *,
        collections: Sequence[str] = (),
        sensor: str | None = None,
        bbox: Sequence[float] | None = None,
        datetime: str | None = None,
        ids: Sequence[str] | None = None,
    ) -> index.SearchResult:
        """Scenes that have a source cube, as the items of these. Collections are those of the scenes."""
        named = [source_collection(name) for name in collections]
        return index.search(
            self.root, stage="source", sensor=sensor, collections=named, bbox=bbox, datetime=datetime, ids=ids
        )

    def reindex(self) -> int:
        """Rebuild the index and the browsable catalogs from the items. Returns the number of items."""
        count = index.rebuild(self.root)
        rebuild_catalogs(self.root)
        return count


def open(url: str | os.PathLike[str]) -> Archive:
    """The archive at `url`: a local folder or s3://bucket/prefix. An empty one is an archive without items.

    Raises:
        NotFound: no such folder, or one that holds other things than an archive.
    """
    if "://" not in os.fspath(url) and not Path(url).expanduser().is_dir():
        raise NotFound(f"no archive at {url}: no such folder; `hypermend catalog` and `hypermend ingest` make one")
    root = ArchiveStore(url)
    if not ARCHIVE_FOLDERS & set(root.folders("")) and any(not e.key.startswith(".") for e in root.list("")):
        raise NotFound(
            f"{url} is no archive: there are files in it, but neither items nor cubes, models or runs; "
            "`hypermend catalog` makes an archive of image files, `hypermend ingest --stac` one of a STAC catalog"
        )
    return Archive(root=root)


def nearest(ds: xr.Dataset, wavelength_nm: Sequence[float]) -> xr.Dataset:
    """The bands of a cube nearest to each wavelength, in the given order.

    Only good bands are taken, unless the cube has none. Where detectors overlap, two bands may be about equally near:
    among those within 1 nm of the nearest, the one with the narrower response is taken, then the one that comes first.

    Raises:
        Refused: a wavelength lies outside the cube's range by more than the width of its outermost band.
    """
    centre, fwhm = ds["wavelength"].values, np.nan_to_num(ds["fwhm"].values, nan=np.inf)
    usable = np.flatnonzero(ds["good"].values)
    if not len(usable):
        usable = np.arange(len(centre))
    picked = []
    for wanted in wavelength_nm:
        away = np.abs(centre[usable] - wanted)
        near = usable[away <= away.min() + _NEAR_NM]
        best = int(near[np.argmin(fwhm[near])])
        inside = centre[usable[0]] <= wanted <= centre[usable[-1]]
        if not inside and away.min() > (fwhm[best] if np.isfinite(fwhm[best]) else _WIDTH_NM):
            raise Refused(
                f"{wanted} nm is outside this cube: its bands reach from {centre[usable[0]]} to {centre[usable[-1]]} nm"
            )
        picked.append(best)
    return ds.isel(band=picked)
