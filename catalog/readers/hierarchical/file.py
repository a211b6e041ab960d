"""Files of groups and arrays: opened safely, asked for what a layout needs.

HDF5 and NetCDF-4 are opened by h5py, over http and s3 by ranges; a member that lies in another file is refused. Zarr
stores are opened by `zarr_file`; its groups and arrays have the same methods.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

import h5py
import numpy as np

from hypermend.catalog.arrays import F64, Stored
from hypermend.catalog.errors import BadAsset, Refused
from hypermend.catalog.readers.hierarchical.packed_chunks import check_packed_chunks
from hypermend.catalog.readers.hierarchical.zarr_file import is_zarr, zarr_array, zarr_group
from hypermend.catalog.scene import Asset
from hypermend.catalog.storage.fetch import AssetFetcher
from hypermend.catalog.storage.hrefs import shown

READ_ERRORS = (OSError, KeyError, RuntimeError, ValueError, TypeError, IndexError, OverflowError, AttributeError)
"""Errors of h5py and Zarr for a damaged file, and those that follow from the wrong numbers they may return."""
_OTHER_FORMATS = (
    (b"CDF", "is NetCDF-3; convert it to NetCDF-4 (nccopy -k nc4 IN OUT)"),
    (b"\x0e\x03\x13\x01", "is HDF4, which is not read; convert it to HDF5 (h4toh5) or NetCDF-4"),
)
_MAX_LIST_BYTES = 64 << 20
"""Lists of bands and coordinates are read whole; a larger one is no list."""

_CHECKED: WeakKeyDictionary[Any, set[str]] = WeakKeyDictionary()
"""Arrays of open HDF5 files whose packed chunks have been looked at."""


@contextmanager
def open_file(asset: Asset, fetcher: AssetFetcher) -> Iterator[Any]:
    """The open HDF5 file, local or by ranges.

    Raises:
        BadAsset: another format, which is named; or a damaged file.
    """
    where = shown(asset.href)
    if is_zarr(asset):
        with zarr_group(asset, fetcher) as group:
            yield group
        return
    try:
        file = h5py.File(fetcher.seekable(asset.href), "r")
    except OSError as e:
        head = fetcher.head(asset.href, 4)
        for magic, remedy in _OTHER_FORMATS:
            if head.startswith(magic):
                raise BadAsset(f"{where}: {remedy}") from e
        raise BadAsset(f"{where}: is no HDF5 file: {e}") from e
    with file:
        try:
            yield file
        except READ_ERRORS as e:
            raise BadAsset(f"{where}: is damaged: {e}") from e


class Node:
    """A group or file of a layout, with the name of the file for its errors."""

    def __init__(
        self,
        group: Any,
        where: str,
        *,
        max_bytes: int,
        band_counts: Sequence[int] = (),
        gsd_m: float | None = None,
    ) -> None:
        """
        Args:
            max_bytes: limit for arrays that are read whole, and for chunks.
            band_counts: numbers of bands that the user's wavelengths or sensor allow.
            gsd_m: pixel size of the cube, where the product offers several.
        """
        self.group, self.where, self.gsd_m = group, where, gsd_m
        self.max_bytes = max_bytes
        self.band_counts = tuple(band_counts)

    def __contains__(self, path: str) -> bool:
        return path in self.group

    @property
    def attrs(self) -> Any:
        return self.group.attrs

    @cached_property
    def arrays(self) -> dict[str, Any]:
        """All arrays by path."""
        return arrays_of(self.group)

    @property
    def name(self) -> str:
        """Name of the file."""
        return self.where.rstrip("/").rsplit("/", 1)[-1]

    def array(self, path: str) -> Any:
        """The array at `path`.

        Raises:
            BadAsset: nothing there, a group, or an array in another file.
        """
        return require(self.group, path, self.where, max_bytes=self.max_bytes)

    def values(self, path: str) -> Stored:
        """A small array, whole."""
        array = self.array(path)
        if array.size * array.dtype.itemsize > min(_MAX_LIST_BYTES, self.max_bytes):
            raise BadAsset(f"{self.where}: {path!r} is {array.shape}; a list of bands or coordinates is expected")
        return np.asarray(array[()])

    def numbers(self, path: str) -> list[float]:
        """A list of numbers."""
        return [float(v) for v in np.ravel(self.values(path))]

    def plane(self, path: str) -> F64:
        """A whole (y, x) array of doubles.

        Raises:
            Refused: it is larger than may be read whole.
        """
        array = self.array(path)
        check_plane(array.shape, f"{self.where}: {path}", self.max_bytes)
        return np.asarray(array[()], dtype=np.float64)

    def text(self, path: str) -> str | None:
        """A text in an array; None where there is none."""
        return as_text(self.values(path)) if path in self.group else None

    def attribute(self, name: str) -> Any:
        """An attribute of this group.

        Raises:
            BadAsset: it has none of this name; the error lists its attributes.
        """
        if name not in self.attrs:
            raise BadAsset(f"{self.where}: no attribute {name!r}; it has {', '.join(sorted(self.attrs)[:20])}")
        return self.attrs[name]

    def number(self, name: str) -> float:
        """A number among the attributes."""
        return float(np.ravel(self.attribute(name))[0])


def as_text(value: Any) -> str:
    """A text that HDF5 stores as bytes, as a string or as an array of one of them."""
    while isinstance(value, np.ndarray | list | tuple) and np.size(value):
        value = np.ravel(np.asarray(value, dtype=object))[0]
    return value.decode("utf-8", "replace").strip("\0 \n") if isinstance(value, bytes) else str(value).strip("\0 \n")


def check_plane(shape: Sequence[int], what: str, max_bytes: int) -> None:
    """Refuse an array of doubles that is larger than may be read whole.

    Raises:
        Refused: names both numbers.
    """
    if (size := math.prod(shape) * 8) > max_bytes:
        raise Refused(f"{what}: {tuple(shape)} doubles take {size} bytes, read whole, and the limit is {max_bytes}")


def require(group: Any, path: str, where: str, *, max_bytes: int) -> Any:
    """The array of a group, which must lie in the same file.

    Raises:
        BadAsset: no such array; the error lists what there is. Or a Zarr array of an unknown codec.
        Refused: one of its chunks takes more than `max_bytes` in memory, or unpacks to more.
    """
    if path not in group:
        raise BadAsset(f"{where}: no {path!r}; it holds {', '.join(contents(group)) or 'nothing'}")
    member = group[path]
    if not hasattr(member, "shape"):
        raise BadAsset(f"{where}: {path!r} is no array")
    if isinstance(member, h5py.Dataset):
        linked = member.file.id != group.file.id
        if linked or member.external or member.is_virtual:
            raise BadAsset(f"{where}: {path!r} lies in another file; an asset must hold its own pixels")
    if (chunk := math.prod(member.chunks or ()) * member.dtype.itemsize) > max_bytes:
        raise Refused(
            f"{where}: {path!r} has chunks of {member.chunks} = {chunk} bytes, read whole, and the limit is "
            f"{max_bytes}; write it with smaller chunks"
        )
    if not isinstance(member, h5py.Dataset):
        return zarr_array(member, f"{where}: {path!r}")
    if member.chunks and path not in (checked := _CHECKED.setdefault(group, set())):
        check_packed_chunks(member, f"{where}: {path!r}", max_bytes)
        checked.add(path)
    return member


def contents(group: Any, limit: int = 20) -> list[str]:
    """Arrays with their shapes."""
    return [f"{path} {array.shape}" for path, array in list(arrays_of(group).items())[:limit]]


def arrays_of(group: Any) -> dict[str, Any]:
    """All arrays of a group and of the groups in it, by path; links to other files are not followed."""
    found: dict[str, Any] = {}
    if isinstance(group, h5py.Group):

        def collect(name: str, item: Any) -> None:
            if isinstance(item, h5py.Dataset) and item.shape is not None:
                found[name] = item

        group.visititems(collect)
        return found
    return {path: member for path, member in group.members(max_depth=None) if hasattr(member, "shape")}


def dims_of(array: Any) -> tuple[str, ...]:
    """Names of the dimensions of an array, "" for one without."""
    if isinstance(array, h5py.Dataset):
        return _hdf5_dims(array)
    names = getattr(array.metadata, "dimension_names", None) or array.attrs.get("_ARRAY_DIMENSIONS") or ()
    return tuple(str(name or "") for name in names) if len(names) == len(array.shape) else ("",) * len(array.shape)


def _hdf5_dims(array: Any) -> tuple[str, ...]:
    """Names of HDF5 dimensions: those of the scales that list the array (NetCDF-4), else its labels.

    The array's own list of scales has a variable length, and HDF5 may not return from a damaged one: what the scales
    say has a fixed length.
    """
    names = [""] * len(array.shape)
    home = array.file
    for path, scale in arrays_of(home).items() if "DIMENSION_LIST" in array.attrs else ():
        if "REFERENCE_LIST" in scale.attrs:
            for reference, axis in np.ravel(scale.attrs["REFERENCE_LIST"]):
                if reference and 0 <= axis < len(names) and home[reference] == array:
                    names[axis] = path.rsplit("/", 1)[-1]
    if not all(names) and "DIMENSION_LABELS" in array.attrs:
        labels = list(array.attrs["DIMENSION_LABELS"])[: len(names)]
        named = [as_text(label) if isinstance(label, str | bytes) else "" for label in labels]
        names = [name or label for name, label in zip(names, named, strict=False)]
    return tuple(names)
