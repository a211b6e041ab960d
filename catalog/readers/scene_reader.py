"""Entry point to pixels: the files of a Scene -> a Source that reads windows of its source cube.

One module for each format: GeoTIFF and JPEG 2000 (`tiff`, also one file per band and mosaics), ENVI (`envi`), HDF5,
NetCDF-4 and Zarr (`hierarchical`), MATLAB (`matlab`), PNG stacks (`png`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, Protocol
from urllib.parse import urlsplit

import numpy as np

from hypermend.catalog.arrays import F32, Flags, LonLat, Mask, Stored
from hypermend.catalog.cube.spec import CubeSpec
from hypermend.catalog.errors import ArchiveError, BadAsset, BadCube
from hypermend.catalog.meaning.resolve import Meaning
from hypermend.catalog.readers.envi import open_envi
from hypermend.catalog.readers.hierarchical.reader import open_hdf
from hypermend.catalog.readers.matlab.reader import open_mat
from hypermend.catalog.readers.png import open_png
from hypermend.catalog.readers.products.registry import describe
from hypermend.catalog.readers.profile import Description
from hypermend.catalog.readers.tiff import open_tiff
from hypermend.catalog.scene import Asset, Scene, is_data
from hypermend.catalog.sensors import SHIPPED, SensorTables
from hypermend.catalog.storage.fetch import GIB, AssetFetcher
from hypermend.catalog.storage.hrefs import shown
from hypermend.catalog.storage.signing import Signer

READER_VERSION = 2
"""Raised by hand when the same files yield another cube; part of the ingest id."""
MAX_CUBE_BYTES = 2**44
"""A larger declared shape is a mistake or an attack, not a scene."""
_FORMATS = (
    ("tiff", r"\.(tiff?|jp2)$", r"image/(tiff|jp2|vnd\.stac\.geotiff)"),
    ("envi", r"\.(hdr|bsq|bil|bip|img|dat)$", r"application/(x-)?envi"),
    ("hdf", r"\.(h5|he5|hdf5?|nc|nc4)$|\.zarr(/|$)", r"application/((x-)?(hdf5?|netcdf)|(vnd[.+])?zarr)"),
    ("mat", r"\.mat$", r"application/(x-)?matlab-data"),
    ("png", r"\.png$", r"image/png"),
)
_PICTURE = re.compile(r"browse|thumb|quick-?look|preview|overview|(^|_)visual", re.I)
"""Names of pictures of a cube, where no role says it."""
_OPEN: dict[str, Callable[..., Source]] = {
    "tiff": open_tiff,
    "envi": open_envi,
    "hdf": open_hdf,
    "mat": open_mat,
    "png": open_png,
}


class Source(Protocol):
    """Pixels of one scene, as its source cube will hold them."""

    spec: CubeSpec
    """the source cube of the scene"""
    windowed: bool
    """True: a read costs about as much as its window. False: the first read loads the whole file"""
    identity: str
    """changes with any of the files"""
    lonlat: LonLat | None
    """(y, x) degrees, for scenes kept in sensor geometry"""
    meaning: Meaning
    """every fact of the scene that was resolved: time and sensor among them"""

    def read(self, y: slice, x: slice) -> tuple[Stored, Flags]:
        """(bands, h, w) stored numbers in spec.dtype and (h, w) flags."""
        ...

    def defects(self, y: slice, x: slice) -> Mask | None:
        """(bands, h, w) True where the product marks one band of a pixel as defective; None if it marks none."""
        ...

    def uncertainty(self, y: slice, x: slice) -> F32 | None:
        """(bands, h, w) physical standard deviations, NaN where unknown; None where spec.uncertainty is False."""
        ...

    def close(self) -> None: ...


class SceneSource:
    """The source of a scene, whose files must stay as they were when it was opened."""

    def __init__(self, source: Source, fetcher: AssetFetcher) -> None:
        self._source, self._fetcher = source, fetcher
        self.spec: CubeSpec = source.spec
        self.windowed: bool = source.windowed
        self.identity: str = source.identity
        self.lonlat: LonLat | None = source.lonlat
        self.meaning: Meaning = source.meaning
        self.state = fetcher.state
        """changes with any of the files, also where the item gives a checksum, which may be out of date"""

    def read(self, y: slice, x: slice) -> tuple[Stored, Flags]:
        """See `Source.read`.

        Raises:
            BadAsset: a file has changed since the scene was opened.
        """
        pixels = self._source.read(y, x)
        self._fetcher.check_unchanged(whole=False)
        return pixels

    def defects(self, y: slice, x: slice) -> Mask | None:
        """See `Source.defects` and `read`."""
        found = self._source.defects(y, x)
        self._fetcher.check_unchanged(whole=False)
        return found

    def uncertainty(self, y: slice, x: slice) -> F32 | None:
        """See `Source.uncertainty` and `read`."""
        found = self._source.uncertainty(y, x)
        self._fetcher.check_unchanged(whole=False)
        return found

    def check_unchanged(self) -> None:
        """Raise BadAsset if any file has changed since the scene was opened; asks every server."""
        self._fetcher.check_unchanged(whole=True)

    def close(self) -> None:
        self._source.close()


def open_scene(
    scene: Scene,
    *,
    bands: Sequence[str] | None = None,
    gsd_m: float | None = None,
    sign: Signer | None = None,
    max_bytes: int = 4 * GIB,
    tables: SensorTables = SHIPPED,
) -> SceneSource:
    """Open the files of a scene; headers are read, pixels are not.

    Args:
        bands: names of the bands to take; None for all of the sensor's.
        gsd_m: pixel size of the cube, where the product offers several (Sentinel-2).
        sign: signer of remote hrefs.
        max_bytes: limit for formats that are read whole.
        tables: of the sensors.

    Raises:
        BadAsset: the files contradict the item, or cannot become one cube.
        NotFound, Refused, Unreachable: the files cannot be reached.
    """
    if bands is not None and not bands:
        raise BadAsset(f"scene {scene.id}: empty selection of bands; name some of sensor {scene.sensor}")
    alternates = {a.href: a.alternates for a in scene.assets.values() if a.alternates}
    fetcher = AssetFetcher(sign, max_bytes=max_bytes, alternates=alternates)
    product = describe(scene, fetcher)
    kind, assets = _files(scene, product)
    if gsd_m is not None and kind not in ("tiff", "hdf"):
        raise BadAsset(f"scene {scene.id}: gsd {gsd_m:g} m is requested, but {kind} files have one grid")
    if bad := next((a for a in assets if a.problem is not None), None):
        raise BadAsset(f"scene {scene.id}: asset {bad.key!r}: {bad.problem}")
    options: dict[str, Any] = {"gsd_m": gsd_m} if kind in ("tiff", "hdf") else {}
    if kind == "tiff":
        options["product"] = product
    try:
        source = _OPEN[kind](scene, assets, fetcher, tables=tables, bands=bands, **options)
        check_size(source.spec, scene.id)
    except BadCube as e:
        raise BadAsset(f"scene {scene.id}: {e}") from e
    except ArchiveError as e:
        e.add_note(f"while opening scene {scene.id}")
        raise
    return SceneSource(source, fetcher)


def _files(scene: Scene, product: Description | None) -> tuple[str, list[Asset]]:
    """Format and files of the cube: of a known product only its images, else all but pictures and unknown files.

    Raises:
        BadAsset: no such file, or files of several formats.
    """
    kinds: dict[str, list[Asset]] = {}
    files: Sequence[Asset] = [a for a in scene.assets.values() if _is_pixels(a)]
    if product is not None and product.images:
        files = product.images
    for asset in files:  # an asset that is not needed never fails a scene
        if asset.problem is not None and "data" not in asset.roles:
            continue
        if (kind := file_format(asset)) is not None:
            kinds.setdefault(kind, []).append(asset)
    if len(kinds) > 1:
        kinds.pop("png", None)  # beside another format it is a picture of the cube
    if not kinds:
        listed = ", ".join(f"{a.key} ({shown(a.href)})" for a in list(scene.assets.values())[:6])
        raise BadAsset(f"scene {scene.id}: no asset in a format that can be read; it has {listed}")
    if len(kinds) > 1:
        listed = "; ".join(
            f"{kind}: {', '.join(a.key for a in of_kind[:4])}" for kind, of_kind in sorted(kinds.items())
        )
        raise BadAsset(f"scene {scene.id}: its assets have {len(kinds)} formats ({listed}); one is read")
    ((kind, assets),) = kinds.items()
    return kind, assets


def _is_pixels(asset: Asset) -> bool:
    """Whether an asset holds pixels; one whose role says so does, whatever its name."""
    if not is_data(asset.roles, asset.media_type, asset.key):
        return False
    name = f"{asset.key} {urlsplit(asset.href).path.rsplit('/', 1)[-1]}"
    return asset.key != "visual" and ("data" in asset.roles or not _PICTURE.search(name))


def check_size(spec: CubeSpec, id: str) -> None:
    """Refuse a huge declared shape before anything is allocated.

    Raises:
        BadAsset: the shape exceeds the limit.
    """
    declared = int(np.prod(spec.shape, dtype=object)) * np.dtype(spec.dtype).itemsize
    if declared > MAX_CUBE_BYTES:
        raise BadAsset(f"scene {id}: its header declares {spec.shape} = {declared} bytes, limit {MAX_CUBE_BYTES}")


def file_format(asset: Asset) -> str | None:
    """Format of an asset, by its name, else by its media type; None if no reader knows it."""
    path = urlsplit(asset.href).path if "://" in asset.href else asset.href
    for kind, name, _ in _FORMATS:
        if re.search(name, path, re.I):
            return kind
    for kind, _, media in _FORMATS:
        if asset.media_type and re.search(media, asset.media_type, re.I):
            return kind
    return None
