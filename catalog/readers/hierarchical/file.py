"""Files of groups and arrays: opened safely, asked for what a layout needs.

HDF5 and NetCDF-4 are opened by h5py, over http and s3 by ranges; a member that lies in another file is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import h5py
import numpy as np

from hypermend.catalog.arrays import F64, Stored
from hypermend.catalog.errors import BadAsset
from hypermend.catalog.scene import Asset
from hypermend.catalog.storage.fetch import AssetFetcher
from hypermend.catalog.storage.hrefs import shown

READ_ERRORS = (OSError, KeyError, RuntimeError, ValueError, TypeError, IndexError, OverflowError, AttributeError)
"""Errors of h5py for a damaged file, and those that follow from the wrong numbers it may return."""
_OTHER_FORMATS = (
    (b"CDF", "is NetCDF-3; convert it to NetCDF-4 (nccopy -k nc4 IN OUT)"),
    (b"\x0e\x03\x13\x01", "is HDF4, which is not read; convert it to HDF5 (h4toh5) or NetCDF-4"),
)
_MAX_LIST_BYTES = 64 << 20
"""Lists of bands and coordinates are read whole; a larger one is no list."""


@contextmanager
def open_file(asset: Asset, fetcher: AssetFetcher) -> Iterator[Any]:
    """The open HDF5 file, local or by ranges.

    Raises:
        BadAsset: another format, which is named; or a damaged file.
    """
    where = shown(asset.href)
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

    def __init__(self, group: Any, where: str) -> None:
        self.group, self.where = group, where

    def __contains__(self, path: str) -> bool:
        return path in self.group

    @property
    def attrs(self) -> Any:
        return self.group.attrs

    def array(self, path: str) -> Any:
        """The array at `path`.

        Raises:
            BadAsset: nothing there, a group, or an array in another file.
        """
        return require(self.group, path, self.where)

    def values(self, path: str) -> Stored:
        """A small array, whole."""
        array = self.array(path)
        if array.size * array.dtype.itemsize > _MAX_LIST_BYTES:
            raise BadAsset(f"{self.where}: {path!r} is {array.shape}; a list of bands or coordinates is expected")
        return np.asarray(array[()])

    def numbers(self, path: str) -> list[float]:
        """A list of numbers."""
        return [float(v) for v in np.ravel(self.values(path))]

    def plane(self, path: str) -> F64:
        """A whole (y, x) array of doubles."""
        return np.asarray(self.array(path)[()], dtype=np.float64)

    def text(self, path: str) -> str | None:
        """A text in an array; None where there is none."""
        return as_text(self.array(path)[()]) if path in self.group else None

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


def require(group: Any, path: str, where: str, kind: type[Any] = h5py.Dataset) -> Any:
    """The member of a group, which must lie in the same file.

    Raises:
        BadAsset: no such member; the error lists what there is.
    """
    if path not in group:
        raise BadAsset(f"{where}: no {path!r}; it holds {', '.join(contents(group)) or 'nothing'}")
    member = group[path]
    if not isinstance(member, kind):
        raise BadAsset(f"{where}: {path!r} is no {kind.__name__.lower()}")
    linked = member.file.id != group.file.id
    if linked or (kind is h5py.Dataset and (member.external or member.is_virtual)):
        raise BadAsset(f"{where}: {path!r} lies in another file; an asset must hold its own pixels")
    return member


def contents(group: Any, limit: int = 20) -> list[str]:
    """Arrays with their shapes."""
    out: list[str] = []

    def collect(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and len(out) < limit:
            out.append(f"{name} {item.shape}")

    group.visititems(collect)
    return out
