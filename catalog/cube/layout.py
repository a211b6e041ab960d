"""The Zarr layout of a cube: create, read its spec, open.

    <path>/zarr.json                 group: CF and Zarr geo attributes, the CubeSpec, consolidated metadata
           reflectance/c/0/<iy>/<ix> one shard = all bands of one tile = one writer
           valid/c/<iy>/<ix>         its flags
           [defect/c/0/<iy>/<ix>]    its defective bands, one bit each; no object where none is. Of a restored cube:
                                     those that were predicted, and repaired/c/<iy>/<ix>, how many they are
           [reflectance_std/c/0/...] standard deviation of each number, where the product states it
           band, wavelength, fwhm, good, detector, gsd, y, x, spatial_ref [, time] [, lon, lat]
           [ovr_4x/, ovr_16x/]       overviews: reflectance, one shard for each tile of the cube, and coordinates

The format is plain Zarr 3 with CF attributes: `xarray.open_zarr(path)` opens it without Hypermend.
Every chunk ends with its crc32c, so a flipped or torn byte is an error and never a pixel.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from zarr.abc.codec import BytesBytesCodec
from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.storage import MemoryStore

from hypermend.catalog.arrays import LonLat
from hypermend.catalog.cube import cf
from hypermend.catalog.cube.bounded import bounded
from hypermend.catalog.cube.spec import CubeSpec
from hypermend.catalog.cube.stores import zarr_store
from hypermend.catalog.documents import MALFORMED
from hypermend.catalog.errors import BadCube, NotFound
from hypermend.catalog.storage.archive_store import ArchiveStore, to_json

if TYPE_CHECKING:
    import xarray as xr

SPEC_ATTR = "hypermend:spec"
ZSTD_LEVEL = 1
_COMPRESSORS = (ZstdCodec(level=ZSTD_LEVEL), Crc32cCodec())
_OF_OVERVIEWS = (Crc32cCodec(),)
"""Not compressed: a quarter of the time that an overview takes, for a hundredth of a cube's size."""
_DAMAGE = (*MALFORMED, RuntimeError)
"""Errors of Zarr and xarray for damaged metadata."""


def create(
    root: ArchiveStore,
    path: str,
    spec: CubeSpec,
    *,
    lonlat: LonLat | None = None,
) -> None:
    """Create an empty cube at `path`; nothing is written if it exists with the same spec.

    lonlat: (y, x) degrees each, of a scene in sensor geometry.

    Raises:
        BadCube: another cube lies at `path`, or lonlat has another shape than the scene.
    """
    if lonlat is not None and any(a.shape != spec.shape[1:] for a in lonlat):
        raise BadCube(f"lon {lonlat[0].shape}, lat {lonlat[1].shape}: the scene is {spec.shape[1:]} (y, x)")
    try:
        existing = read_spec(root, path)
    except NotFound:
        objects = _empty_cube(spec, lonlat)
        last = objects.pop("zarr.json")  # a cube exists once its group does
        for key, data in objects.items():
            root.put(f"{path}/{key}", data)
        root.put(f"{path}/zarr.json", last)
        return
    if existing != spec:
        new, old = spec.to_dict(), existing.to_dict()
        differing = sorted(k for k in new.keys() | old.keys() if new.get(k) != old.get(k))
        raise BadCube(
            f"{root.href(path)} is another cube: {', '.join(differing)} differ; cubes are immutable, use a new path"
        )


def read_spec(root: ArchiveStore, path: str) -> CubeSpec:
    """The spec that the cube at `path` was created with.

    Raises:
        NotFound: no cube there.
        BadCube: a Zarr group that is no cube of Hypermend.
    """
    try:
        attributes = root.get_json(f"{path}/zarr.json")["attributes"]
        return CubeSpec.from_json(attributes[SPEC_ATTR])
    except MALFORMED as e:
        raise BadCube(f"{root.href(path)} is no Hypermend cube: attribute {SPEC_ATTR} is missing or damaged") from e


def open_cube(root: ArchiveStore, path: str, *, chunks: dict[str, int] | None = None) -> xr.Dataset:
    """The cube as a lazy Dataset in physical values, as `xarray.open_zarr` opens it.

    chunks: None reads on access without dask; {} makes dask arrays of the cube's chunks.

    Raises:
        NotFound: no cube there.
        BadCube: its metadata are damaged.
    """
    import xarray as xr  # with pandas it takes as long to load as all that a job needs; only who opens a cube needs it
    from xarray.backends import ZarrStore

    if not root.exists(f"{path}/zarr.json"):
        raise NotFound(f"{root.href(path)} is not there")
    with metadata_errors(root, path):
        store = ZarrStore.open_group(zarr_store(root, path, read_only=True), consolidated=True)
        for name in store.array_keys():
            store.members[name] = bounded(store.members[name])
        return xr.open_dataset(store, engine="store", chunks=chunks)


def portable(ds: xr.Dataset) -> xr.Dataset:
    """The dataset of a cube, fit to be written anywhere: `to_netcdf`, `to_zarr` of either format, `xarray.concat`.

    Encodings and attributes that describe this Zarr store are left out, and nested attributes become JSON. Decoded
    numbers of up to 16 bits become float32, whose 24 bits hold them; Zarr's JSON cannot ask xarray for that.
    """
    out = ds.drop_attrs(deep=False).assign_attrs(
        {k: _plain_attr(v) for k, v in ds.attrs.items() if not k.startswith(_OF_THE_STORE)}
    )
    pixels = ds["reflectance"]
    if pixels.dtype == np.float64 and np.dtype(pixels.encoding.get("dtype", np.float64)).itemsize <= 2:
        out["reflectance"] = out["reflectance"].astype(np.float32, keep_attrs=True)
    for name, variable in ds.variables.items():
        out[name].encoding = {k: v for k, v in variable.encoding.items() if k in _PORTABLE}
    return out


_PORTABLE = ("dtype", "scale_factor", "add_offset", "_FillValue", "units", "calendar", "grid_mapping")
_OF_THE_STORE = ("zarr_conventions", "multiscales", "spatial:")


def _plain_attr(value: Any) -> Any:
    nested = isinstance(value, dict) or (isinstance(value, list) and any(isinstance(v, dict | list) for v in value))
    return json.dumps(value) if nested or value is None else value


@contextmanager
def metadata_errors(root: ArchiveStore, path: str) -> Iterator[None]:
    """Raise errors of the store, and those of Zarr for damaged metadata, as errors of the catalog."""
    try:
        with root.errors("open", path):
            yield
    except _DAMAGE as e:
        first_line = str(e).partition("\n")[0]
        raise BadCube(
            f"the metadata of {root.href(path)} are damaged ({first_line}); `hypermend verify` names the repair"
        ) from e


def _empty_cube(spec: CubeSpec, lonlat: LonLat | None) -> dict[str, bytes]:
    """Every object of a cube without pixels: {key: bytes}, made in memory so that `create` can put the group last."""
    store = MemoryStore()
    group = zarr.create_group(store=store, zarr_format=3)
    _create_array(group, "reflectance", spec, _COMPRESSORS, cf.reflectance_attrs(spec, lonlat is not None))
    _create_flags(group, spec, attributes=cf.valid_attrs(spec, lonlat is not None))
    if spec.defects:
        _create_defects(group, spec, attributes=cf.defect_attrs(spec, lonlat is not None))
    if spec.repaired:
        _create_repaired(group, spec, attributes=cf.repaired_attrs(spec, lonlat is not None))
    if spec.uncertainty:
        physical = replace(spec, dtype="float32", fill=math.nan)
        _create_array(group, "reflectance_std", physical, _COMPRESSORS, cf.std_attrs(spec, lonlat is not None))
    _create_coordinates(group, spec, cf.coordinates(spec, lonlat))
    for level in spec.levels:
        _create_overview(group, cf.level_name(level), spec.overview(level))
    objects = {key: buffer.to_bytes() for key, buffer in store._store_dict.items()}
    # Consolidated by hand: Zarr's own function warns on every call that this is not in the Zarr 3 core document.
    members = {k.removesuffix("/zarr.json"): json.loads(v) for k, v in objects.items() if k.endswith("/zarr.json")}
    head = json.loads(objects["zarr.json"])
    head["attributes"] = {**cf.dataset_attrs(spec), SPEC_ATTR: spec.to_json()}
    head["consolidated_metadata"] = {
        "kind": "inline",
        "must_understand": False,
        "metadata": dict(sorted(members.items())),
    }
    objects["zarr.json"] = to_json(head)
    return objects


def _create_array(
    group: zarr.Group, name: str, spec: CubeSpec, compressors: Sequence[BytesBytesCodec], attributes: dict[str, Any]
) -> None:
    """The array of the pixels, of a cube or of an overview."""
    group.create_array(
        name,
        shape=spec.shape,
        dtype=spec.dtype,
        chunks=spec.chunk,
        shards=spec.shard,
        compressors=compressors,
        fill_value=spec.fill if spec.fill is not None else (np.nan if np.dtype(spec.dtype).kind == "f" else 0),
        dimension_names=("band", "y", "x"),
        attributes=attributes,
    )


def _create_flags(group: zarr.Group, spec: CubeSpec, *, attributes: dict[str, Any]) -> None:
    group.create_array(
        "valid",
        shape=spec.shape[1:],
        dtype="uint8",
        chunks=spec.shard[1:],
        compressors=_COMPRESSORS,
        fill_value=0,
        dimension_names=("y", "x"),
        attributes=attributes,
    )


def _create_defects(group: zarr.Group, spec: CubeSpec, *, attributes: dict[str, Any]) -> None:
    group.create_array(
        "defect",
        shape=(spec.defect_bytes, *spec.shape[1:]),
        dtype="uint8",
        chunks=(spec.defect_bytes, *spec.shard[1:]),
        compressors=_COMPRESSORS,
        fill_value=0,
        dimension_names=("defect_byte", "y", "x"),
        attributes=attributes,
    )


def _create_repaired(group: zarr.Group, spec: CubeSpec, *, attributes: dict[str, Any]) -> None:
    group.create_array(
        "repaired",
        shape=spec.shape[1:],
        dtype="uint16",
        chunks=spec.shard[1:],
        compressors=_COMPRESSORS,
        fill_value=0,
        dimension_names=("y", "x"),
        attributes=attributes,
    )


def _create_overview(group: zarr.Group, name: str, spec: CubeSpec) -> None:
    """The group of an overview; it has flags only where its numbers cannot say that a pixel has no data."""
    level = group.create_group(name, attributes=cf.geo_attrs(spec))
    _create_array(level, "reflectance", spec, _OF_OVERVIEWS, cf.level_attrs(spec))
    if has_level_flags(spec):
        _create_flags(level, spec, attributes=cf.level_flags_attrs())
    _create_coordinates(level, spec, cf.level_coordinates(spec))


def has_level_flags(spec: CubeSpec) -> bool:
    """Whether overviews need flags: without a fill, an integer cannot say that there are no data."""
    return spec.fill is None and np.dtype(spec.dtype).kind in "iu"


def _create_coordinates(group: zarr.Group, spec: CubeSpec, coordinates: dict[str, cf.Coordinate]) -> None:
    for name, (dims, values, attributes) in coordinates.items():
        array = group.create_array(
            name,
            shape=values.shape,
            dtype=values.dtype,
            chunks=spec.shard[1:] if len(dims) == 2 else values.shape,
            compressors=_COMPRESSORS if dims else None,
            fill_value=np.nan if values.dtype.kind == "f" else 0,
            dimension_names=dims,
            attributes=attributes,
            config={"write_empty_chunks": True},
        )
        array[...] = values
