"""A remote file with random access by ranges, for libraries that take a Python file (h5py).

Blocks are fetched through `AssetFetcher`, so that signing, retries and errors are the same as for every other read.
"""

from __future__ import annotations

import io
from collections.abc import Callable

from hypermend.catalog.recent import Recent

BLOCK_BYTES = 1 << 18
KEPT_BLOCKS = 64


class RangeFile(io.RawIOBase):
    """A read-only file of known size that keeps the last 16 MiB read."""

    def __init__(self, size: int, fetch: Callable[[int, int], bytes]) -> None:
        """`fetch(start, stop)` returns these bytes or raises."""
        self._size = size
        self._fetch = fetch
        self._at = 0
        self._blocks: Recent[int, bytes] = Recent(KEPT_BLOCKS)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        stop = min(self._at + len(buffer), self._size)
        done = 0
        while self._at < stop:
            number, skip = divmod(self._at, BLOCK_BYTES)
            part = self._block(number)[skip : skip + stop - self._at]
            buffer[done : done + len(part)] = part
            done += len(part)
            self._at += len(part)
        return done

    def _block(self, number: int) -> bytes:
        start = number * BLOCK_BYTES
        return self._blocks.get(number, lambda: self._fetch(start, min(start + BLOCK_BYTES, self._size)))
