"""Zarr stores as files of groups and arrays, version 2 and 3: local, and remote object by object.

Zarr's own remote stores know neither our signers nor our errors; this one asks `AssetFetcher`.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import re
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import zarr
from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype

from hypermend.catalog.cube.bounded import bounded
from hypermend.catalog.cube.stores import LocalFiles
from hypermend.catalog.errors import BadAsset, NotFound
from hypermend.catalog.scene import Asset
from hypermend.catalog.storage.fetch import AssetFetcher
from hypermend.catalog.storage.hrefs import is_remote, shown
from hypermend.catalog.storage.transport import check_href

_MEDIA = re.compile(r"application/(vnd[.+])?zarr", re.I)
DOCUMENT_BYTES = 64 << 20
_METADATA = ("zarr.json", ".zmetadata", ".zgroup", ".zarray")
_ERRORS = (OSError, KeyError, ValueError, TypeError, RuntimeError, IndexError, AttributeError)


def is_zarr(asset: Asset) -> bool:
    """Whether an asset is a Zarr store, or a group or array in one."""
    path = urlsplit(asset.href).path if is_remote(asset.href) else asset.href
    return bool(_split(path) or (asset.media_type and _MEDIA.match(asset.media_type)))


def split_href(href: str) -> tuple[str, str]:
    """Root of the store and path in it. The root has the consolidated metadata, which lists the arrays."""
    parts = urlsplit(href) if is_remote(href) else None
    found = _split(parts.path if parts else href)
    if found is None:
        return href, ""
    return parts._replace(path=found[0]).geturl() if parts else found[0], found[1]


def _split(path: str) -> tuple[str, str] | None:
    """A path up to its first part that ends in .zarr, and what follows; None without one."""
    names = path.split("/")
    for i, name in enumerate(names, 1):
        if name.lower().endswith(".zarr") and (i > 1 or len(name) > len(".zarr")):
            return "/".join(names[:i]), "/".join(names[i:]).rstrip("/")
    return None


@contextmanager
def zarr_group(asset: Asset, fetcher: AssetFetcher) -> Iterator[Any]:
    """The group that an asset names, or the group of the array that it names.

    Raises:
        BadAsset: no Zarr store, or a damaged one.
    """
    root, path = split_href(check_href(asset.href))
    where = shown(asset.href)
    if not is_remote(root) and not Path(root).is_dir():
        raise NotFound(f"{where}: no such Zarr store")
    store: Store = FetcherStore(root, fetcher) if is_remote(root) else LocalFiles(root, read_only=True)
    try:
        group: Any = zarr.open_group(store, mode="r")
        if is_remote(root) and group.metadata.consolidated_metadata is None:
            raise BadAsset(
                f"{where}: has no consolidated metadata, so its arrays cannot be listed from here; add them with "
                "zarr.consolidate_metadata, or copy the store to a local folder"
            )
        if path:
            if path not in group:
                raise BadAsset(f"{where}: its store has no {path!r}")
            member = group[path]
            group = member if isinstance(member, zarr.Group) else group[path.rpartition("/")[0]]
        yield group
    except _ERRORS as e:
        raise BadAsset(f"{where}: is no Zarr store that can be read: {e}") from e


def zarr_array(array: zarr.Array[Any], what: str) -> zarr.Array[Any]:
    """The array, for reading; its chunks take no more memory than it declares.

    Raises:
        BadAsset: one of its codecs is not read.
    """
    try:
        return bounded(array)
    except ValueError as e:
        raise BadAsset(f"{what}: {e}") from e


def zarr_identity(href: str, fetcher: AssetFetcher) -> str:
    """Changes with the metadata of the store, and where it is local with every object."""
    root, _ = split_href(check_href(href))
    digest = hashlib.sha256()
    if not is_remote(root):
        for file in sorted(p for p in Path(root).rglob("*") if p.is_file()):
            status = file.stat()
            digest.update(f"{file.relative_to(root)}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
        return digest.hexdigest()
    for name in _METADATA:
        try:
            stat = fetcher.stat(_joined(root, name))
        except NotFound:
            continue
        digest.update(f"{name}\0{stat.version}\0{stat.size}\n".encode())
    return digest.hexdigest()


class FetcherStore(Store):
    """A remote store that is only read; its listing is the consolidated metadata."""

    supports_writes = False
    supports_deletes = False
    supports_listing = False

    def __init__(self, root: str, fetcher: AssetFetcher) -> None:
        super().__init__(read_only=True)
        self._root, self._fetcher = root, fetcher
        self._documents = AssetFetcher(fetcher.sign, max_bytes=DOCUMENT_BYTES)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FetcherStore) and other._root == self._root

    def __hash__(self) -> int:
        return hash(self._root)

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        body = await asyncio.to_thread(self._get, key, byte_range)
        return None if body is None else prototype.buffer.from_bytes(body)

    def _get(self, key: str, byte_range: ByteRequest | None) -> bytes | None:
        href = _joined(self._root, key)
        try:
            if byte_range is None:
                return self._fetcher.read(href) if self._is_chunk(key) else self._documents.read(href)
            file = self._fetcher.seekable(href)
        except NotFound:
            return None  # a chunk that was never written; Zarr takes its fill value
        assert not isinstance(file, str)
        size = file.seek(0, io.SEEK_END)
        start, stop = _bounds(byte_range, size)
        file.seek(start)
        return file.read(max(stop - start, 0))

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        return [await self.get(key, prototype, byte_range) for key, byte_range in key_ranges]

    @staticmethod
    def _is_chunk(key: str) -> bool:
        return key.rpartition("/")[2] not in (*_METADATA, ".zattrs")

    async def exists(self, key: str) -> bool:
        return await asyncio.to_thread(self._exists, key)

    def _exists(self, key: str) -> bool:
        try:
            self._fetcher.stat(_joined(self._root, key))
        except NotFound:
            return False
        return True

    async def set(self, key: str, value: Buffer) -> None:
        raise NotImplementedError

    async def delete(self, key: str) -> None:
        raise NotImplementedError

    async def list(self) -> AsyncIterator[str]:
        raise NotImplementedError
        yield ""

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        raise NotImplementedError
        yield ""

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        raise NotImplementedError
        yield ""


def _joined(root: str, key: str) -> str:
    """The href of an object; a signature in the query stays."""
    parts = urlsplit(root)
    return parts._replace(path=f"{parts.path}/{quote(key)}").geturl()


def _bounds(byte_range: ByteRequest, size: int) -> tuple[int, int]:
    if isinstance(byte_range, RangeByteRequest):
        return byte_range.start, min(byte_range.end, size)
    if isinstance(byte_range, OffsetByteRequest):
        return byte_range.offset, size
    assert isinstance(byte_range, SuffixByteRequest)
    return max(size - byte_range.suffix, 0), size
