"""The Zarr layout of a cube: create, open, check, read, write. The only file that imports Zarr.

    <path>/zarr.json                 group: CF and Zarr geo attributes, the CubeSpec, consolidated metadata
           reflectance/c/0/<iy>/<ix> one shard = all bands of one tile = one writer
           valid/c/<iy>/<ix>         its flags
           band, wavelength, fwhm, good, detector, gsd, y, x, spatial_ref [, lon, lat]

The format is plain Zarr 3 with CF attributes: bare `xarray.open_zarr(path)` opens it, with nothing of ours.
Every chunk ends with its crc32c, so a flipped or torn byte is an error and never a pixel.

Two rules keep a lost object from being read as "no data":
- flag 0 does not exist in a written tile, so flag 0 means "this tile is not there";
- a shard is left out only when the tile is nodata throughout, so a missing one with data under it is an error.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
import zarr
from zarr.abc.store import ByteRequest, Store
from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import LocalStore, MemoryStore, ObjectStore, WrapperStore

from catalog import cf
from catalog.errors import BadCube, NotFound
from catalog.marks import Mark, Marks, Shard, TileIndex, crc32_hex
from catalog.root import Root, to_json
from catalog.spec import CLOUD, NEAR_FILL, NODATA, SATURATED, SHADOW, SNOW, VALID, CubeSpec

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "CLOUD",
    "NEAR_FILL",
    "NODATA",
    "SATURATED",
    "SHADOW",
    "SNOW",
    "VALID",
    "Cube",
    "CubeSpec",
    "Mark",
    "Shard",
    "check",
    "create",
    "open_cube",
    "read_spec",
]

SPEC_ATTR = "hypermend:spec"
ZSTD_LEVEL = 1
Flags = np.ndarray[Any, np.dtype[np.uint8]]
Stored = np.ndarray[Any, np.dtype[Any]]


def create(
    root: Root,
    path: str,
    spec: CubeSpec,
    *,
    lonlat: tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]] | None = None,
) -> None:
    """Lay out an empty cube at `path`. The same spec again writes nothing.

    lonlat: (y, x) degrees each, of a scene in sensor geometry.

    Raises:
        BadCube: another cube lies there, or lonlat has another shape than the scene.
    """
    if lonlat is not None and any(a.shape != spec.shape[1:] for a in lonlat):
        raise BadCube(f"lon {lonlat[0].shape}, lat {lonlat[1].shape}: the scene is {spec.shape[1:]} (y, x)")
    try:
        there = read_spec(root, path)
    except NotFound:
        objects = _empty_cube(spec, lonlat)
        last = objects.pop("zarr.json")  # a cube exists once its group does
        for key, data in objects.items():
            root.put(f"{path}/{key}", data)
        root.put(f"{path}/zarr.json", last)
        return
    if there != spec:
        differing = [k for k, v in spec.to_dict().items() if there.to_dict()[k] != v]
        raise BadCube(
            f"{root.href(path)} is another cube: {', '.join(differing)} differ; cubes are immutable, use a new path"
        )


def read_spec(root: Root, path: str) -> CubeSpec:
    """The spec that the cube at `path` was created with.

    Raises:
        NotFound: no cube there.
        BadCube: a Zarr group that is none of our cubes.
    """
    try:
        attributes = root.get_json(f"{path}/zarr.json")["attributes"]
        return CubeSpec.from_json(attributes[SPEC_ATTR])
    except (KeyError, TypeError, ValueError) as e:
        raise BadCube(f"{root.href(path)} is no Hypermend cube: attribute {SPEC_ATTR} is missing or damaged") from e


def open_cube(root: Root, path: str, *, chunks: dict[str, int] | None = None) -> xr.Dataset:
    """The cube as a lazy Dataset in physical values, by plain `xarray.open_zarr`.

    chunks: None reads on access without dask; {} makes dask arrays of the cube's chunks.

    Raises:
        NotFound: no cube there.
    """
    if not root.exists(f"{path}/zarr.json"):
        raise NotFound(f"{root.href(path)} is not there")
    where: Any = root.href(path) if root.is_local else _zarr_store(root, path, read_only=True)
    ds: xr.Dataset = xr.open_zarr(where, chunks=chunks, consolidated=True)
    return ds


def check(ds: xr.Dataset) -> None:
    """
    Raises:
        BadCube: `ds` is no cube, saying what is missing.
    """
    for name, dims in {"reflectance": ("band", "y", "x"), "valid": ("y", "x")}.items():
        if name not in ds or ds[name].dims != dims:
            raise BadCube(f"no variable {name}{dims}; found {dict(ds.sizes)} with {sorted(map(str, ds.data_vars))}")
    for name in ("wavelength", "fwhm", "good", "detector", "gsd"):
        if name not in ds.coords or ds[name].dims != ("band",):
            raise BadCube(f"no coordinate {name}(band); found {sorted(map(str, ds.coords))}")
    if SPEC_ATTR not in ds.attrs:
        raise BadCube(f"attribute {SPEC_ATTR} is missing")
    spec = CubeSpec.from_json(ds.attrs[SPEC_ATTR])
    if ds["reflectance"].shape != spec.shape:
        raise BadCube(f"reflectance is {ds['reflectance'].shape}, its spec says {spec.shape}")
    if not np.array_equal(ds["wavelength"].values, spec.wavelength_nm):
        raise BadCube("coordinate wavelength differs from the spec")


class Cube:
    """An existing cube, for reading windows and writing tiles. Open it once per worker; it pickles as its address."""

    def __init__(self, root: Root, path: str) -> None:
        self.root = root
        self.path = path
        self.spec = read_spec(root, path)
        self.marks = Marks(root, path)
        self._reads = _Reads(_zarr_store(root, path, read_only=True))
        self._writes = _Writes(_zarr_store(root, path, read_only=False))
        self._stored = zarr.open_array(self._reads, path="reflectance", mode="r", zarr_format=3)
        self._flags = zarr.open_array(self._reads, path="valid", mode="r", zarr_format=3)
        self._stored_out = self._out("reflectance")
        self._flags_out = self._out("valid")

    def __reduce__(self) -> tuple[type[Cube], tuple[Root, str]]:
        return Cube, (self.root, self.path)

    def __repr__(self) -> str:
        return f"Cube({self.root.url!r}, {self.path!r})"

    def read(self, y: slice, x: slice) -> tuple[Stored, Flags]:
        """Stored numbers (band, h, w) and flags (h, w) of a window inside the scene.

        Raises:
            BadCube: the window leaves the scene, or a tile under it was never written, is lost or is torn.
        """
        y, x = self._window(y, x)
        with self._damage(y, x):
            flags = np.asarray(self._flags[y, x])
        for (iy, ix), part in self._tiles(y, x, flags):
            if not part.all():
                raise BadCube(f"{self._name(iy, ix)}: tile ({iy}, {ix}) was never written or is lost; {_REPAIR}")
        with self._damage(y, x):
            stored = np.asarray(self._stored[:, y, x])
        for (iy, ix), part in self._tiles(y, x, flags):
            if self._shard_key(iy, ix) in self._reads.missing and not (part & NODATA).all():
                raise BadCube(f"{self._name(iy, ix)} is lost, and tile ({iy}, {ix}) has data; {_REPAIR}")
        return stored, flags

    def write(self, y: slice, x: slice, stored: Stored, flags: Flags) -> tuple[Shard, ...]:
        """Write whole tiles; the objects written, with size and crc32, for `mark`.

        stored: (band, h, w) in the cube's dtype. flags: (h, w) uint8, none 0. A NODATA pixel lacks at least one band;
        the numbers of its other bands are kept.
        Nothing is read back: the old shard, if any, is replaced in one atomic put.

        Raises:
            BadCube: y and x do not cover whole shards (two writers would race and lose data without a word), or
                shape, dtype or flags are not the cube's.
        """
        y, x = self._window(y, x)
        self._prove_alignment(y, x)
        self._check_pixels(y, x, stored, flags)
        empty = bool((flags & NODATA).all()) and self._is_fill(stored)
        with self.root.errors("write", self.path), self._writes.recording() as written:
            # Without data there is no shard: Zarr then deletes what an earlier try may have left.
            self._stored_out[not empty][:, y, x] = stored
            self._flags_out[True][y, x] = flags
        for shard in written:
            self._reads.missing.discard(shard.key)
        return tuple(sorted(written, key=lambda s: s.key))

    def mark(self, iy: int, ix: int, shards: Sequence[Shard], extra: Mapping[str, Any] | None = None) -> bool:
        """Say that tile (iy, ix) is done; see Marks.mark."""
        self.spec.window(iy, ix)  # raises for a tile that does not exist
        return self.marks.mark(iy, ix, shards, extra)

    def done(self) -> dict[TileIndex, Mark]:
        """Every tile that is done; see Marks.done."""
        return self.marks.done()

    def fold(self) -> dict[TileIndex, Mark]:
        """All marks into one object; see Marks.fold."""
        return self.marks.fold()

    def unmark(self, index: TileIndex) -> None:
        """The tile is not done; see Marks.unmark."""
        self.marks.unmark(index)

    def verify(self, workers: int = 4) -> list[TileIndex]:
        """Tiles whose mark or objects are missing or changed; see Marks.verify."""
        return self.marks.verify(workers)

    def _out(self, name: str) -> dict[bool, Any]:
        """The array for writing, by whether chunks that hold only the fill are written too."""
        array = zarr.open_array(self._writes, path=name, mode="r+", zarr_format=3)
        return {empty: array.with_config({"write_empty_chunks": empty}) for empty in (False, True)}

    def _window(self, y: slice, x: slice) -> tuple[slice, slice]:
        for name, s, size in (("y", y, self.spec.height), ("x", x, self.spec.width)):
            if s.step not in (None, 1) or not 0 <= (s.start or 0) < (size if s.stop is None else s.stop) <= size:
                raise BadCube(f"{self.path}: window {name} {s.start}:{s.stop} is not inside 0:{size}")
        return slice(y.start or 0, self.spec.height if y.stop is None else y.stop), slice(
            x.start or 0, self.spec.width if x.stop is None else x.stop
        )

    def _prove_alignment(self, y: slice, x: slice) -> None:
        sizes = (("y", y, self.spec.shard[1], self.spec.height), ("x", x, self.spec.shard[2], self.spec.width))
        for name, s, shard, size in sizes:
            if s.start % shard or (s.stop % shard and s.stop != size):
                raise BadCube(
                    f"{self.path}: write to {name} {s.start}:{s.stop}, but shards are {shard} pixels (scene {size}): "
                    "another writer of the same shard would race with this one and lose data; write whole shards"
                )

    def _check_pixels(self, y: slice, x: slice, stored: Stored, flags: Flags) -> None:
        shape = (self.spec.bands, y.stop - y.start, x.stop - x.start)
        if stored.shape != shape or flags.shape != shape[1:]:
            raise BadCube(f"{self.path}: got stored {stored.shape}, flags {flags.shape}; the window is {shape}")
        if stored.dtype.name != self.spec.dtype or flags.dtype != np.uint8:
            raise BadCube(
                f"{self.path}: got stored {stored.dtype}, flags {flags.dtype}; "
                f"the cube holds {self.spec.dtype} and uint8"
            )
        if not flags.all():
            raise BadCube(f"{self.path}: {int((flags == 0).sum())} pixels have no flag; set VALID, NODATA or a reason")

    def _is_fill(self, stored: Stored) -> bool:
        if self.spec.fill is None:
            return False
        return bool(np.isnan(stored).all() if np.isnan(self.spec.fill) else (stored == self.spec.fill).all())

    def _tiles(self, y: slice, x: slice, flags: Flags) -> Iterator[tuple[TileIndex, Flags]]:
        """Tiles under the window, each with its part of the window's flags."""
        _, ty, tx = self.spec.shard
        for iy in range(y.start // ty, -(-y.stop // ty)):
            for ix in range(x.start // tx, -(-x.stop // tx)):
                rows = slice(max(iy * ty - y.start, 0), (iy + 1) * ty - y.start)
                cols = slice(max(ix * tx - x.start, 0), (ix + 1) * tx - x.start)
                yield (iy, ix), flags[rows, cols]

    def _shard_key(self, iy: int, ix: int) -> str:
        return f"reflectance/c/0/{iy}/{ix}"

    def _name(self, iy: int, ix: int) -> str:
        return self.root.href(f"{self.path}/{self._shard_key(iy, ix)}")

    @contextmanager
    def _damage(self, y: slice, x: slice) -> Iterator[None]:
        """What Zarr raises on a damaged chunk, as BadCube with the shard's name."""
        try:
            with self.root.errors("read", self.path):
                yield
        except (ValueError, RuntimeError, TypeError) as e:
            raise BadCube(f"{self._torn(y, x)}: {str(e).splitlines()[0]}; {_REPAIR}") from e

    def _torn(self, y: slice, x: slice) -> str:
        """Which objects under the window do not decode, tried one by one (only after a read failed)."""
        _, ty, tx = self.spec.shard
        names = []
        for iy in range(y.start // ty, -(-y.stop // ty)):
            for ix in range(x.start // tx, -(-x.stop // tx)):
                rows, cols = self.spec.window(iy, ix)
                for key, array, window in (
                    (self._shard_key(iy, ix), self._stored, (slice(None), rows, cols)),
                    (f"valid/c/{iy}/{ix}", self._flags, (rows, cols)),
                ):
                    try:
                        array[window]
                    except (ValueError, RuntimeError, TypeError):
                        names.append(self.root.href(f"{self.path}/{key}"))
        return f"torn: {', '.join(names)}" if names else f"{self.root.href(self.path)} could not be read"


_REPAIR = "`hypermend verify` lists such tiles, the same ingest or restore command writes them again"


class _Reads(WrapperStore[Store]):
    """Remembers which objects were asked for and are not there: Zarr itself would take them for fill."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.missing: set[str] = set()

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        found = await self._store.get(key, prototype, byte_range)
        if found is None or len(found) == 0:  # a shard that was cut to nothing reads as absent, too
            self.missing.add(key)
        else:
            self.missing.discard(key)  # another process has written it since
        return found


class _Writes(WrapperStore[Store]):
    """Measures what is written, and never reads a chunk.

    Zarr reads the old shard when a write leaves out the part of the last shard that lies outside the scene. We
    write all that lies inside, so what was there before, torn perhaps, is of no interest.
    """

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self._written: list[Shard] = []
        self._lock = Lock()

    @contextmanager
    def recording(self) -> Iterator[list[Shard]]:
        with self._lock:  # the writes of two threads must not mix
            self._written = []
            yield self._written

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        return None if "/c/" in key else await self._store.get(key, prototype, byte_range)

    async def set(self, key: str, value: Buffer) -> None:
        await self._store.set(key, value)
        data = value.as_numpy_array()
        self._written.append(Shard(key=key, size=data.nbytes, crc32=crc32_hex(data)))


def _zarr_store(root: Root, path: str, *, read_only: bool) -> Store:
    """The Zarr store whose root is the cube."""
    local = root.local_path(path)
    if local is not None:
        return LocalStore(local, read_only=read_only)
    return ObjectStore(root.at(path), read_only=read_only)


def _empty_cube(spec: CubeSpec, lonlat: tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]] | None) -> dict[str, bytes]:
    """Every object of a cube without pixels: {key: bytes}, made in memory so that `create` can put the group last."""
    store = MemoryStore()
    compressors = [ZstdCodec(level=ZSTD_LEVEL), Crc32cCodec()]
    group = zarr.create_group(store=store, zarr_format=3)
    fill = spec.fill if spec.fill is not None else (np.nan if np.dtype(spec.dtype).kind == "f" else 0)
    group.create_array(
        "reflectance",
        shape=spec.shape,
        dtype=spec.dtype,
        chunks=spec.chunk,
        shards=spec.shard,
        compressors=compressors,
        fill_value=fill,
        dimension_names=("band", "y", "x"),
        attributes=cf.reflectance_attrs(spec, lonlat is not None),
    )
    group.create_array(
        "valid",
        shape=spec.shape[1:],
        dtype="uint8",
        chunks=spec.shard[1:],
        compressors=compressors,
        fill_value=0,
        dimension_names=("y", "x"),
        attributes=cf.valid_attrs(spec, lonlat is not None),
    )
    for name, (dims, values, attributes) in cf.coordinates(spec, lonlat).items():
        array = group.create_array(
            name,
            shape=values.shape,
            dtype=values.dtype,
            chunks=spec.shard[1:] if len(dims) == 2 else values.shape,
            compressors=compressors if dims else None,
            fill_value=np.nan if values.dtype.kind == "f" else 0,
            dimension_names=dims,
            attributes=attributes,
            config={"write_empty_chunks": True},
        )
        array[...] = values
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
