"""The Zarr stores under a cube: one notes missing objects, one measures written objects. Zarr itself does neither."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock

from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import LocalStore, ObjectStore, WrapperStore

from hypermend.catalog.cube.marks import Shard, crc32_hex
from hypermend.catalog.errors import BadAsset
from hypermend.catalog.storage.archive_store import ArchiveStore
from hypermend.catalog.storage.regular_file import refuse_links


def zarr_store(root: ArchiveStore, path: str, *, read_only: bool) -> Store:
    """The Zarr store whose root is the cube."""
    local = root.local_path(path)
    if local is not None:
        return ArchiveFiles(local, read_only=read_only)
    return ObjectStore(root.at(path), read_only=read_only)


class LocalFiles(LocalStore):
    """A folder of regular files: a FIFO is refused in place of a wait."""

    async def get(
        self, key: str, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        self._check(key)
        return await super().get(key, prototype, byte_range)

    def get_sync(
        self, key: str, *, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        self._check(key)
        return super().get_sync(key, prototype=prototype, byte_range=byte_range)

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        return [await self.get(key, prototype, byte_range) for key, byte_range in key_ranges]

    def _check(self, key: str) -> None:
        with suppress(OSError):  # who opens it sees the error
            self._refuse_special(key, os.stat(f"{self.root}/{key}"))  # noqa: PTH116 (one call for each chunk)

    def _refuse_special(self, key: str, status: os.stat_result) -> None:
        if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
            raise BadAsset(f"{self.root}/{key}: is no file")


class ArchiveFiles(LocalFiles):
    """The folder of a cube in an archive: a link is refused, too."""

    def __init__(self, root: Path, *, read_only: bool = False) -> None:
        super().__init__(root, read_only=read_only)
        self._folders: set[str] = set()
        """Keys of folders found without a link; each is looked at once, as a cube has many chunks in a folder."""

    async def set(self, key: str, value: Buffer) -> None:
        self._check(key)
        await super().set(key, value)

    def set_sync(self, key: str, value: Buffer) -> None:
        self._check(key)
        super().set_sync(key, value)

    async def delete(self, key: str) -> None:
        self._check(key)
        await super().delete(key)

    def delete_sync(self, key: str) -> None:
        self._check(key)
        super().delete_sync(key)

    def _check(self, key: str) -> None:
        folder, _, name = key.rpartition("/")
        if folder and folder not in self._folders:
            if refuse_links(self.root, folder) is None:
                return
            self._folders.add(folder)
        status = refuse_links(self.root / folder, name)
        if status is not None:
            self._refuse_special(key, status)


class ReadStore(WrapperStore[Store]):
    """Remembers which requested objects are missing: Zarr itself reads them as fill."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.missing: set[str] = set()

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        data = await self._store.get(key, prototype, byte_range)
        if data is None or len(data) == 0:  # a shard truncated to nothing counts as missing, too
            self.missing.add(key)
        else:
            self.missing.discard(key)  # another process has written it since
        return data


class WriteStore(WrapperStore[Store]):
    """Measures the objects written, and never reads a chunk.

    Zarr reads the old shard when a write omits the part of the last shard outside the scene. A write here covers all
    of the shard inside the scene, so its old content, which may be torn, is not needed.
    """

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self._written: list[Shard] = []
        self._lock = Lock()

    @contextmanager
    def recording(self) -> Iterator[list[Shard]]:
        with self._lock:  # keeps the writes of two threads apart
            self._written = []
            yield self._written

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        return None if "/c/" in key else await self._store.get(key, prototype, byte_range)

    async def set(self, key: str, value: Buffer) -> None:
        await self._store.set(key, value)
        data = value.as_numpy_array()
        self._written.append(Shard(key=key, size=data.nbytes, crc32=crc32_hex(data)))
