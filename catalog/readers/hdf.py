"""HDF5 and NetCDF-4: PRISMA L2D (HE5) and EMIT L2A, kept in sensor geometry with 2-D longitude and latitude; also the
datasets of MATLAB v7.3 files. Windows are read by h5py, over http and s3 by ranges.

Source: ASI, PRISMA Products Specification Document 2.3 (HDFEOS layout); NASA LP DAAC, EMIT L2A Reflectance User Guide.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import h5py
import numpy as np

from hypermend.catalog.arrays import Flags, LonLat, Stored
from hypermend.catalog.cube.spec import CubeSpec
from hypermend.catalog.errors import ArchiveError, BadAsset
from hypermend.catalog.readers.bands import (
    Band,
    PixelFormat,
    by_wavelength,
    default_fill,
    flags_of,
    make_spec,
    select_bands,
)
from hypermend.catalog.scene import Asset, Scene
from hypermend.catalog.sensors import Sensor
from hypermend.catalog.storage.fetch import AssetFetcher
from hypermend.catalog.storage.hrefs import shown

_PRISMA = "HDFEOS/SWATHS/PRS_L2D_HCO"
_READ_ERRORS = (OSError, KeyError, RuntimeError, ValueError, TypeError, IndexError)
"""Errors of h5py for a damaged file, and those that follow from the wrong numbers it may return."""
_MATLAB = {"double", "single", "int8", "uint8", "int16", "uint16", "int32", "uint32"}


@dataclass(frozen=True, kw_only=True)
class HdfPart:
    """One dataset of a cube."""

    path: str
    axes: str
    """letters of its axes in file order: b, y, x"""
    file_bands: tuple[int, ...]
    """0-based band of the dataset for each of the cube's bands in `cube_bands`"""
    cube_bands: tuple[int, ...] | None = None
    """None: all of the cube's bands"""


class HdfSource:
    """Windows of the datasets of one HDF5 file."""

    windowed = True

    def __init__(
        self,
        spec: CubeSpec,
        identity: str,
        asset: Asset,
        fetcher: AssetFetcher,
        parts: Sequence[HdfPart],
        lonlat: LonLat | None = None,
    ) -> None:
        self.spec = spec
        self.identity = identity
        self.lonlat = lonlat
        self._asset, self._fetcher, self._parts = asset, fetcher, tuple(parts)
        self._stack = ExitStack()
        self._file: Any = None

    def read(self, y: slice, x: slice) -> tuple[Stored, Flags]:
        """(bands, h, w) stored numbers and (h, w) flags."""
        y, x = slice(*y.indices(self.spec.height)), slice(*x.indices(self.spec.width))
        try:
            stored = self._window(y, x)
        except ArchiveError:
            self.close()  # the next read opens the file again, with a new signature
            raise
        except _READ_ERRORS as e:
            self.close()
            raise BadAsset(f"{shown(self._asset.href)}: cannot be read: {e}") from e
        return stored, flags_of(stored, self.spec)

    def _window(self, y: slice, x: slice) -> Stored:
        if self._file is None:
            self._file = self._stack.enter_context(open_file(self._asset, self._fetcher))
        out = np.empty((self.spec.bands, y.stop - y.start, x.stop - x.start), dtype=self.spec.dtype)
        for part in self._parts:
            dataset = _require(self._file, part.path, shown(self._asset.href))
            window = {"b": slice(None), "y": y, "x": x}
            block = dataset[tuple(window[axis] for axis in part.axes)]
            block = block.transpose([part.axes.index(a) for a in "byx"])
            target = range(self.spec.bands) if part.cube_bands is None else part.cube_bands
            out[list(target)] = block[list(part.file_bands)]
        return out

    def close(self) -> None:
        self._stack.close()
        self._file = None


def open_hdf(
    scene: Scene, assets: Sequence[Asset], table: Sensor, fetcher: AssetFetcher, *, bands: Sequence[str] | None = None
) -> HdfSource:
    """A PRISMA or EMIT product; see `scene_reader.open_scene`."""
    if len(assets) != 1:
        raise BadAsset(f"scene {scene.id}: {len(assets)} HDF files; one scene is one file")
    asset = assets[0]
    identity = fetcher.identity(assets)
    with open_file(asset, fetcher) as file:
        if _PRISMA in file:
            facts = _prisma(file, asset, table)
        elif "reflectance" in file and "sensor_band_parameters" in file:
            facts = _emit(file, asset, table)
        else:
            raise BadAsset(
                f"{shown(asset.href)}: neither PRISMA L2D ({_PRISMA}) nor EMIT L2A (reflectance, "
                f"sensor_band_parameters); it holds {', '.join(_contents(file)) or 'nothing'}"
            )
    picked = select_bands(facts.bands, bands, f"scene {scene.id}")
    spec, order = make_spec([facts.bands[i] for i in picked], facts.size, facts.pixels, sensor=table.name)
    order = [picked[i] for i in order]
    parts = []
    for path, axes, first, kept in facts.datasets:
        bands_of_part = [(k, kept[i - first]) for k, i in enumerate(order) if first <= i < first + len(kept)]
        if bands_of_part:
            cube_bands, file_bands = zip(*bands_of_part, strict=True)
            parts.append(HdfPart(path=path, axes=axes, file_bands=file_bands, cube_bands=cube_bands))
    return HdfSource(spec, identity, asset, fetcher, parts, facts.lonlat)


@dataclass(frozen=True, kw_only=True)
class _Product:
    bands: list[Band]
    size: tuple[int, int]
    pixels: PixelFormat
    datasets: tuple[tuple[str, str, int, Sequence[int]], ...]
    """(path, axes, position of its first band in `bands`, its 0-based bands that are in `bands`)"""
    lonlat: LonLat


def _prisma(file: Any, asset: Asset, table: Sensor) -> _Product:
    """PRISMA L2D: (y, band, x) cubes of 16-bit numbers, wavelengths as attributes of the file in descending order.

    A wavelength of 0 marks a band that the product leaves empty; the cube omits such bands.
    """
    where, fields = shown(asset.href), f"{_PRISMA}/Data Fields"
    bands: list[Band] = []
    datasets = []
    scales = []
    shapes = []
    number = 0
    for part in ("VNIR", "SWIR"):
        path = f"{fields}/{part}_Cube"
        cube = _require(file, path, where)
        centres = [float(w) for w in _attr(file, f"List_Cw_{part.title()}", where)]
        widths = [float(w) for w in _attr(file, f"List_Fwhm_{part.title()}", where)]
        if not len(centres) == len(widths) == cube.shape[1]:
            raise BadAsset(f"{where}: {part}_Cube has {cube.shape[1]} bands, {len(centres)} wavelengths")
        kept = [i for i, w in enumerate(centres) if w > 0]
        first = len(bands)
        part_bands = by_wavelength(
            table,
            [centres[i] for i in kept],
            where,
            fwhm_nm=[widths[i] for i in kept],
            detector=[part] * len(kept),
            names=[str(number + i + 1) for i in kept],
        )
        numbered = zip(kept, part_bands, strict=True)
        bands += [replace(b, number=number + i + 1) for i, b in numbered]
        datasets.append((path, "ybx", first, kept))
        number += cube.shape[1]
        scales.append(tuple(float(_attr(file, f"L2Scale{part.title()}{e}", where)) for e in ("Min", "Max")))
        shapes.append((cube.shape[0], cube.shape[2], str(cube.dtype)))
    if shapes[0] != shapes[1]:
        raise BadAsset(f"{where}: VNIR is {shapes[0]}, SWIR is {shapes[1]} (y, x, type)")
    attrs: dict[str, Any] = {}
    scale, offset = _prisma_scale(scales[0])
    if scales[0] != scales[1]:
        # one cube has one scale: the numbers stay, `attrs` records the factors of each detector
        attrs["hypermend:detector_scale"] = {
            d: list(_prisma_scale(s)) for d, s in zip(("VNIR", "SWIR"), scales, strict=True)
        }
    height, width, dtype = shapes[0]
    quantity = "reflectance" if not attrs else "counts"
    if attrs:
        scale, offset = 1.0, 0.0
    return _Product(
        bands=bands,
        size=(height, width),
        pixels=PixelFormat(dtype=dtype, fill=0, scale_factor=scale, add_offset=offset, quantity=quantity, attrs=attrs),
        datasets=tuple(datasets),
        lonlat=_lonlat(
            file, f"{_PRISMA}/Geolocation Fields/Longitude", f"{_PRISMA}/Geolocation Fields/Latitude", where
        ),
    )


def _prisma_scale(limits: tuple[float, ...]) -> tuple[float, float]:
    """reflectance = min + number * (max - min) / 65535 (PRISMA specification, section 9)."""
    low, high = limits
    return (high - low) / 65535, low


def _emit(file: Any, asset: Asset, table: Sensor) -> _Product:
    """EMIT L2A: reflectance (downtrack, crosstrack, bands), fill -9999."""
    where = shown(asset.href)
    cube = _require(file, "reflectance", where)
    facts = _require(file, "sensor_band_parameters", where, h5py.Group)
    centres = np.asarray(_require(facts, "wavelengths", where)[()], dtype=float)
    if cube.ndim != 3 or cube.shape[2] != centres.size:
        raise BadAsset(f"{where}: reflectance is {cube.shape}, there are {centres.size} wavelengths")
    fwhm = np.asarray(_require(facts, "fwhm", where)[()], dtype=float)
    good = np.asarray(facts["good_wavelengths"][()]) > 0 if "good_wavelengths" in facts else None
    fill = cube.attrs.get("_FillValue", cube.fillvalue)
    dtype = str(cube.dtype)
    return _Product(
        bands=by_wavelength(
            table, centres.tolist(), where, fwhm_nm=fwhm.tolist(), good=None if good is None else good.tolist()
        ),
        size=(cube.shape[0], cube.shape[1]),
        pixels=PixelFormat(
            dtype=dtype,
            fill=default_fill(dtype, float(np.ravel(fill)[0])),
            quantity="reflectance",
        ),
        datasets=(("reflectance", "yxb", 0, range(centres.size)),),
        lonlat=_lonlat(file, "location/lon", "location/lat", where),
    )


def _lonlat(file: Any, lon: str, lat: str, where: str) -> LonLat:
    return (
        np.asarray(_require(file, lon, where)[()], dtype=np.float64),
        np.asarray(_require(file, lat, where)[()], dtype=np.float64),
    )


def _require(group: Any, path: str, where: str, kind: type[Any] = h5py.Dataset) -> Any:
    if path not in group:
        raise BadAsset(f"{where}: no {path!r}; it holds {', '.join(_contents(group)) or 'nothing'}")
    member = group[path]
    if not isinstance(member, kind):
        raise BadAsset(f"{where}: {path!r} is no {kind.__name__.lower()}")
    linked = member.file.id != group.file.id
    if linked or (kind is h5py.Dataset and (member.external or member.is_virtual)):
        raise BadAsset(f"{where}: {path!r} lies in another file; an asset must hold its own pixels")
    return member


def _attr(file: Any, name: str, where: str) -> Any:
    if name not in file.attrs:
        raise BadAsset(f"{where}: no attribute {name!r}; it has {', '.join(sorted(file.attrs)[:20])}")
    value = file.attrs[name]
    return value if np.ndim(value) else np.asarray(value)[()]


def _contents(group: Any, limit: int = 20) -> list[str]:
    """Datasets with their shapes."""
    out: list[str] = []

    def collect(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and len(out) < limit:
            out.append(f"{name} {item.shape}")

    group.visititems(collect)
    return out


@contextmanager
def open_file(asset: Asset, fetcher: AssetFetcher) -> Iterator[Any]:
    """The open HDF5 file, local or by ranges."""
    try:
        file = h5py.File(fetcher.seekable(asset.href), "r")
    except OSError as e:
        raise BadAsset(f"{shown(asset.href)}: is no HDF5 file: {e}") from e
    with file:
        try:
            yield file
        except _READ_ERRORS as e:
            raise BadAsset(f"{shown(asset.href)}: is damaged: {e}") from e


def start_time(asset: Asset, fetcher: AssetFetcher) -> str | None:
    """Start of the acquisition, as the product writes it."""
    with open_file(asset, fetcher) as file:
        for name in ("Product_StartTime", "time_coverage_start"):
            if (value := file.attrs.get(name)) is not None:
                return value.decode() if isinstance(value, bytes) else str(value)
    return None


def mat_variables(asset: Asset, fetcher: AssetFetcher) -> Mapping[str, tuple[tuple[int, ...], str]]:
    """Variables of a MATLAB v7.3 file: name -> (shape in MATLAB's order, MATLAB class)."""
    with open_file(asset, fetcher) as file:
        members = {n: file[n] for n in file if isinstance(file.get(n, getlink=True), h5py.HardLink)}
        datasets = {n: member for n, member in members.items() if isinstance(member, h5py.Dataset)}
        return {n: (tuple(reversed(dataset.shape)), _matlab_class(dataset)) for n, dataset in datasets.items()}


def _matlab_class(item: Any) -> str:
    attribute = item.attrs.get("MATLAB_class", b"")
    name = attribute.decode() if isinstance(attribute, bytes) else str(attribute)
    return name if name in _MATLAB else name or str(item.dtype)


def read_dataset(asset: Asset, fetcher: AssetFetcher, name: str) -> Stored:
    """A whole dataset in file order."""
    with open_file(asset, fetcher) as file:
        return np.asarray(_require(file, name, shown(asset.href))[()])
