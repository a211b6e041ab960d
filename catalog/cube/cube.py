"""Pixels of a cube: read windows, write whole tiles, mark them as done.

Two rules keep a lost object from being read as "no data":
- flag 0 does not exist in a written tile, so flag 0 means "this tile is missing";
- a shard is omitted only when its whole tile is nodata, so a missing shard of a tile with data is an error.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import numpy as np
import zarr

from hypermend.catalog.arrays import F32, Defects, Flags, LonLat, Stored
from hypermend.catalog.cube.bounded import bounded
from hypermend.catalog.cube.cf import level_name
from hypermend.catalog.cube.layout import has_level_flags, metadata_errors, read_spec
from hypermend.catalog.cube.marks import DoneMarks, Shard, TileIndex
from hypermend.catalog.cube.overviews import overview_parts
from hypermend.catalog.cube.spec import NODATA, VALID
from hypermend.catalog.cube.stores import ReadStore, WriteStore, zarr_store
from hypermend.catalog.errors import BadCube
from hypermend.catalog.storage.archive_store import ArchiveStore

_REPAIR = "`hypermend verify` lists such tiles, the same ingest or restore command writes them again"


class Cube:
    """An existing cube, to read windows and write tiles. Open it once per worker; it pickles as its address."""

    def __init__(self, root: ArchiveStore, path: str) -> None:
        """
        Raises:
            NotFound: no cube at `path`.
            BadCube: its metadata are damaged.
        """
        self.root = root
        self.path = path
        self.spec = read_spec(root, path)
        self.marks = DoneMarks(root, path)
        self._reads = ReadStore(zarr_store(root, path, read_only=True))
        self._writes = WriteStore(zarr_store(root, path, read_only=False))
        with metadata_errors(root, path):
            self._stored = self._in("reflectance")
            self._flags = self._in("valid")
            self._stored_out = self._out("reflectance")
            self._flags_out = self._out("valid")
            if self.spec.defects:
                self._defects = self._in("defect")
                self._defects_out = self._out("defect")[False]
            if self.spec.repaired:
                self._repaired_out = self._out("repaired")[False]
            if self.spec.uncertainty:
                self._std_out = self._out("reflectance_std")[False]

    def __reduce__(self) -> tuple[type[Cube], tuple[ArchiveStore, str]]:
        return Cube, (self.root, self.path)

    def __repr__(self) -> str:
        return f"Cube({self.root.url!r}, {self.path!r})"

    def lonlat(self) -> LonLat | None:
        """Longitude and latitude (y, x) in degrees of every pixel; None for a cube on a grid or without a place."""
        if not self.root.exists(f"{self.path}/lon/zarr.json"):
            return None
        with metadata_errors(self.root, self.path):
            return np.asarray(self._in("lon")[:]), np.asarray(self._in("lat")[:])

    def read(self, y: slice, x: slice) -> tuple[Stored, Flags]:
        """Stored numbers (band, h, w) and flags (h, w) of a window inside the scene.

        Raises:
            BadCube: the window leaves the scene, or a tile under it was never written, is lost or is torn.
        """
        y, x = self._window(y, x)
        with self._read_errors(y, x):
            flags = np.asarray(self._flags[y, x])
        for (iy, ix), part in self._tiles(y, x, flags):
            if not part.all():
                raise BadCube(f"{self._name(iy, ix)}: tile ({iy}, {ix}) was never written or is lost; {_REPAIR}")
        with self._read_errors(y, x):
            stored = np.asarray(self._stored[:, y, x])
        for (iy, ix), part in self._tiles(y, x, flags):
            if self._shard_key(iy, ix) in self._reads.missing and not (part & NODATA).all():
                raise BadCube(f"{self._name(iy, ix)} is lost, and tile ({iy}, {ix}) has data; {_REPAIR}")
        return stored, flags

    def overview(self, level: int, bands: Sequence[int]) -> F32:
        """Physical values (band, h, w) of some bands of an overview; NaN where no pixel is usable.

        Args:
            level: one of the spec's, or 1 for the cube itself.
            bands: positions.

        Raises:
            BadCube: an object is damaged.
        """
        flagged = level == 1 or has_level_flags(self.spec)
        whole = slice(0, self.spec.height), slice(0, self.spec.width)
        with metadata_errors(self.root, self.path), self._read_errors(*whole):
            pixels, flags = (self._stored, self._flags) if level == 1 else self._level(level, flagged)
            stored = _bands(pixels, bands)
            if flagged:
                usable = (np.asarray(flags[...]) & VALID) != 0
            else:
                fill = pixels.fill_value
                usable = (np.isfinite(stored) if np.isnan(fill) else stored != fill).all(axis=0)
        values = stored.astype(np.float32) * np.float32(self.spec.scale_factor) + np.float32(self.spec.add_offset)
        return np.where(usable, values, np.float32(np.nan))

    def at(self, rows: Sequence[int], columns: Sequence[int]) -> F32:
        """Physical values (band, rows, columns) of single pixels on a lattice; NaN where one is not usable.

        Raises:
            BadCube: an object is damaged.
        """
        y, x = (np.array(values, dtype=np.int64) for values in (rows, columns))
        with metadata_errors(self.root, self.path), self._read_errors(slice(0, self.spec.height), slice(0, 1)):
            stored = np.asarray(self._stored.oindex[:, y, x])
            usable = (np.asarray(self._flags.oindex[y, x]) & VALID) != 0
        values = stored.astype(np.float32) * np.float32(self.spec.scale_factor) + np.float32(self.spec.add_offset)
        return np.where(usable, values, np.float32(np.nan))

    def _level(self, level: int, flagged: bool) -> tuple[Any, Any]:
        """The arrays of an overview: pixels, and flags where it has any."""
        names = ("reflectance", "valid") if flagged else ("reflectance",)
        arrays = [self._in(f"{level_name(level)}/{n}") for n in names]
        return arrays[0], arrays[-1]

    def read_defects(self, y: slice, x: slice) -> Defects:
        """Defective bands (band, h, w), True where defective, of a window; all False where the cube keeps none.

        A tile without defects has no object. Its mark tells it from a tile whose object is lost.

        Raises:
            BadCube: the window leaves the scene, or the object of a tile under it is lost or torn.
        """
        y, x = self._window(y, x)
        if not self.spec.defects:
            return np.zeros((self.spec.bands, y.stop - y.start, x.stop - x.start), bool)
        with self._read_errors(y, x):
            packed = np.asarray(self._defects[:, y, x])
        for iy, ix in self._indices(y, x):
            key = f"defect/c/0/{iy}/{ix}"
            if key in self._reads.missing and key in self._marked_defects:
                raise BadCube(f"{self.root.href(f'{self.path}/{key}')} is lost; {_REPAIR}")
        return np.unpackbits(packed, axis=0, count=self.spec.bands, bitorder="little").astype(bool)

    def write(
        self,
        y: slice,
        x: slice,
        stored: Stored,
        flags: Flags,
        defects: Defects | None = None,
        uncertainty: F32 | None = None,
    ) -> tuple[Shard, ...]:
        """Write whole tiles. Returns the objects written, with size and crc32, for `mark`.

        stored: (band, h, w) in the cube's dtype. flags: (h, w) uint8, none 0. A NODATA pixel lacks at least one band;
        the numbers of its other bands are kept. defects: (band, h, w) bool, True where defective; None for none.
        uncertainty: (band, h, w) physical standard deviations, NaN where unknown; None for none.
        Nothing is read back: the old shard, if any, is replaced in one atomic put.

        Raises:
            BadCube: y and x do not cover whole shards (two writers would race and lose data silently), or shape,
                dtype, flags, defects or uncertainty are not the cube's.
        """
        y, x = self._window(y, x)
        self._check_alignment(y, x)
        self._check_pixels(y, x, stored, flags)
        self._check_defects(stored, defects)
        self._check_uncertainty(stored, uncertainty)
        empty = bool((flags & NODATA).all()) and self._is_fill(stored)
        with self.root.errors("write", self.path), self._writes.recording() as written:
            # Without data there is no shard: Zarr then deletes the remains of an earlier try.
            self._stored_out[not empty][:, y, x] = stored
            self._flags_out[True][y, x] = flags
            if self.spec.defects:
                self._defects_out[:, y, x] = 0 if defects is None else np.packbits(defects, axis=0, bitorder="little")
            if self.spec.repaired:
                self._repaired_out[y, x] = 0 if defects is None else defects.sum(axis=0, dtype=np.uint16)
            if self.spec.uncertainty:
                self._std_out[:, y, x] = np.float32(np.nan) if uncertainty is None else uncertainty
            if self.spec.levels:
                left_out = None if self.spec.repaired else defects  # what was repaired can be used
                self._write_overviews(y, x, stored, flags, left_out)
        for shard in written:
            self._reads.missing.discard(shard.key)
        return tuple(sorted(written, key=lambda s: s.key))

    def mark(self, iy: int, ix: int, shards: Sequence[Shard], extra: Mapping[str, Any] | None = None) -> bool:
        """Mark tile (iy, ix) as done; see DoneMarks.mark."""
        self.spec.window(iy, ix)  # raises for a tile that does not exist
        return self.marks.mark(iy, ix, shards, extra)

    def _write_overviews(self, y: slice, x: slice, stored: Stored, flags: Flags, defects: Defects | None) -> None:
        """Write the tile's part of each overview; without a usable pixel there is no shard, as in the cube."""
        for part in overview_parts(stored, flags, defects, levels=self.spec.levels, fill=self.spec.fill):
            rows, cols = (slice(s.start // part.level, -(-s.stop // part.level)) for s in (y, x))
            arrays = self._overviews_out[part.level]
            arrays["reflectance"][bool((part.flags & VALID).any())][:, rows, cols] = part.stored
            if "valid" in arrays:
                arrays["valid"][True][rows, cols] = part.flags

    @cached_property
    def _overviews_out(self) -> dict[int, dict[str, dict[bool, Any]]]:
        """{level: {name: array for writing}}; a cube that is only read does not open them."""
        names = ("reflectance", "valid") if has_level_flags(self.spec) else ("reflectance",)
        with metadata_errors(self.root, self.path):
            return {n: {name: self._out(f"{level_name(n)}/{name}") for name in names} for n in self.spec.levels}

    def _in(self, name: str) -> Any:
        """The array for reading."""
        return bounded(zarr.open_array(self._reads, path=name, mode="r", zarr_format=3))

    def _out(self, name: str) -> dict[bool, Any]:
        """The array for writing; the key says whether chunks that hold only the fill are written too."""
        array = zarr.open_array(self._writes, path=name, mode="r+", zarr_format=3)
        return {empty: array.with_config({"write_empty_chunks": empty}) for empty in (False, True)}

    def _window(self, y: slice, x: slice) -> tuple[slice, slice]:
        for name, s, size in (("y", y, self.spec.height), ("x", x, self.spec.width)):
            if s.step not in (None, 1) or not 0 <= (s.start or 0) < (size if s.stop is None else s.stop) <= size:
                raise BadCube(f"{self.path}: window {name} {s.start}:{s.stop} is not inside 0:{size}")
        return slice(y.start or 0, self.spec.height if y.stop is None else y.stop), slice(
            x.start or 0, self.spec.width if x.stop is None else x.stop
        )

    def _check_alignment(self, y: slice, x: slice) -> None:
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

    def _check_defects(self, stored: Stored, defects: Defects | None) -> None:
        if defects is None:
            return
        if not self.spec.defects:
            raise BadCube(f"{self.path}: got defects, but its spec has defects=False; make the cube with defects=True")
        if defects.shape != stored.shape or defects.dtype != bool:
            raise BadCube(f"{self.path}: got defects {defects.dtype} {defects.shape}, need bool {stored.shape}")

    def _check_uncertainty(self, stored: Stored, uncertainty: F32 | None) -> None:
        if uncertainty is None:
            return
        if not self.spec.uncertainty:
            raise BadCube(f"{self.path}: got uncertainty, but its spec has uncertainty=False")
        if uncertainty.shape != stored.shape or uncertainty.dtype != np.float32:
            got = f"{uncertainty.dtype} {uncertainty.shape}"
            raise BadCube(f"{self.path}: got uncertainty {got}, need float32 {stored.shape}")

    @cached_property
    def _marked_defects(self) -> frozenset[str]:
        """Keys of the objects that hold defects, as the marks list them; read once, for the first tile without one."""
        shards = (shard.key for mark in self.marks.done().values() for shard in mark.shards)
        return frozenset(key for key in shards if key.startswith("defect/"))

    def _is_fill(self, stored: Stored) -> bool:
        if self.spec.fill is None:
            return False
        return bool(np.isnan(stored).all() if np.isnan(self.spec.fill) else (stored == self.spec.fill).all())

    def _tiles(self, y: slice, x: slice, flags: Flags) -> Iterator[tuple[TileIndex, Flags]]:
        """Indices of the tiles under the window, each with its part of the window's flags."""
        _, ty, tx = self.spec.shard
        for iy, ix in self._indices(y, x):
            rows = slice(max(iy * ty - y.start, 0), (iy + 1) * ty - y.start)
            cols = slice(max(ix * tx - x.start, 0), (ix + 1) * tx - x.start)
            yield (iy, ix), flags[rows, cols]

    def _indices(self, y: slice, x: slice) -> Iterator[TileIndex]:
        _, ty, tx = self.spec.shard
        for iy in range(y.start // ty, -(-y.stop // ty)):
            yield from ((iy, ix) for ix in range(x.start // tx, -(-x.stop // tx)))

    def _shard_key(self, iy: int, ix: int) -> str:
        return f"reflectance/c/0/{iy}/{ix}"

    def _name(self, iy: int, ix: int) -> str:
        return self.root.href(f"{self.path}/{self._shard_key(iy, ix)}")

    @contextmanager
    def _read_errors(self, y: slice, x: slice) -> Iterator[None]:
        """Raise Zarr's errors for a damaged chunk as BadCube with the shard's name."""
        try:
            with self.root.errors("read", self.path):
                yield
        except (ValueError, RuntimeError, TypeError) as e:
            raise BadCube(f"{self._undecodable(y, x)}: {str(e).splitlines()[0]}; {_REPAIR}") from e

    def _undecodable(self, y: slice, x: slice) -> str:
        """Names of the objects under the window that do not decode, tried one by one (only after a read failed)."""
        names = []
        for iy, ix in self._indices(y, x):
            rows, cols = self.spec.window(iy, ix)
            objects = [
                (self._shard_key(iy, ix), self._stored, (slice(None), rows, cols)),
                (f"valid/c/{iy}/{ix}", self._flags, (rows, cols)),
            ]
            if self.spec.defects:
                objects.append((f"defect/c/0/{iy}/{ix}", self._defects, (slice(None), rows, cols)))
            for key, array, window in objects:
                try:
                    array[window]
                except (ValueError, RuntimeError, TypeError):
                    names.append(self.root.href(f"{self.path}/{key}"))
        return f"torn: {', '.join(names)}" if names else f"{self.root.href(self.path)} could not be read"


def _bands(pixels: Any, bands: Sequence[int]) -> Stored:
    """Some bands (band, h, w) of an array, each chunk decoded once: an index by a list takes Zarr far longer."""
    step = pixels.chunks[0]
    found: dict[int, Stored] = {}
    for group in {band // step for band in bands}:
        inside = [band for band in bands if band // step == group]
        part = np.asarray(pixels[min(inside) : max(inside) + 1])
        found |= {band: part[band - min(inside)] for band in inside}
    return np.stack([found[band] for band in bands])
