"""The elements of a .mat file (v5), walked before SciPy reads them: what they take in memory, and how deep they nest.

A few bytes can declare any number of cells, and a compressed element can hold any number of bytes; SciPy believes both,
and nested cells cost it the stack. Source: MathWorks, "MAT-File Format", level 5.
"""

from __future__ import annotations

import io
import math
import struct
import zlib
from typing import BinaryIO, Protocol

from hypermend.catalog.errors import BadAsset, Refused

MAX_DEPTH = 32
MAX_ELEMENTS = 1_000_000
_INT32, _MATRIX, _COMPRESSED = 5, 14, 15
_CHUNK_BYTES = 1 << 18
_HEADER_BYTES = 128
_ITEM_BYTES = {4: 4, 5: 0, 6: 8, 7: 4, 8: 1, 9: 1, 10: 2, 11: 2, 12: 4, 13: 4}
"""Bytes of a number or character, by class; a sparse matrix holds what it lists. 16 for a cell or a struct."""


def check_elements(file: BinaryIO, where: str, max_bytes: int) -> None:
    """Walk the elements of a file.

    Raises:
        Refused: one of them takes more than `max_bytes` in memory, they nest too deep, or are too many.
        BadAsset: it is no .mat file, or a compressed element is damaged.
    """
    head = file.read(_HEADER_BYTES)
    order = {b"IM": "<", b"MI": ">"}.get(head[126:128])
    if order is None:
        raise BadAsset(f"{where}: is no MATLAB v5 file: its header ends with {head[126:128]!r}")
    walk = _Walk(order, where, max_bytes)
    while len(tag := file.read(8)) == 8:
        kind, size = struct.unpack(f"{order}II", tag)
        start = file.tell()
        if kind == _COMPRESSED:
            walk.elements(_Inflated(file, size))
        else:
            file.seek(start - 8)
            walk.elements(_Plain(file, start + size))
        file.seek(start + size)


class _Stream(Protocol):
    at: int

    def read(self, count: int) -> bytes:
        """`count` bytes, fewer at the end."""
        ...

    def skip(self, count: int) -> None: ...


class _Plain:
    """An element as it stands in the file."""

    def __init__(self, file: BinaryIO, stop: int) -> None:
        self._file, self._stop, self.at = file, stop, 0

    def read(self, count: int) -> bytes:
        part = self._file.read(max(min(count, self._stop - self._file.tell()), 0))
        self.at += len(part)
        return part

    def skip(self, count: int) -> None:
        self._file.seek(count, io.SEEK_CUR)
        self.at += count


class _Inflated:
    """A compressed element, inflated piece by piece."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._left, self.at = file, size, 0
        self._zlib = zlib.decompressobj()

    def read(self, count: int) -> bytes:
        out = b""
        while len(out) < count:
            packed = self._zlib.unconsumed_tail
            if not packed and self._left:
                packed = self._file.read(min(self._left, _CHUNK_BYTES))
                self._left = self._left - len(packed) if packed else 0
            part = self._zlib.decompress(packed, count - len(out))
            if not part and not packed:
                break
            out += part
        self.at += len(out)
        return out

    def skip(self, count: int) -> None:
        while count and (part := self.read(min(count, _CHUNK_BYTES))):
            count -= len(part)


class _Walk:
    """The state of a walk through one file."""

    def __init__(self, order: str, where: str, max_bytes: int) -> None:
        self._order, self._where, self._max_bytes = order, where, max_bytes
        self._count = 0

    def elements(self, stream: _Stream) -> None:
        """Every element of a stream, those inside of matrices among them."""
        taken, ends = 0, [math.inf]
        part, item_bytes = 0, 16  # position in its matrix: flags, dimensions, name, values
        try:
            while len(tag := stream.read(8)) == 8:
                kind, size, inline = self._tag(tag)
                while stream.at > ends[-1]:
                    ends.pop()
                self._count += 1
                self._check(0 if kind == _MATRIX else size, len(ends))  # of a matrix its parts are checked
                if kind == _MATRIX:
                    ends.append(stream.at + size)
                    part = 0
                    continue
                value = inline
                if inline is None:
                    value = stream.read(size) if part < 2 and size <= 256 else b""
                    stream.skip(size - len(value) + -size % 8)
                if part == 0 and value:
                    item_bytes = _ITEM_BYTES.get(value[0 if self._order == "<" else 3], 16)
                elif part == 1 and kind == _INT32 and value:
                    sizes = struct.unpack(f"{self._order}{len(value) // 4}i", value[: len(value) // 4 * 4])
                    taken += math.prod(max(n, 0) for n in sizes) * item_bytes
                    self._check(max(taken, stream.at), len(ends))
                part += 1
                self._check(stream.at, len(ends))
        except zlib.error as e:
            raise BadAsset(f"{self._where}: a compressed element is damaged: {e}") from None

    def _tag(self, tag: bytes) -> tuple[int, int, bytes | None]:
        """(type, size, data of a small element)."""
        kind, size = struct.unpack(f"{self._order}II", tag)
        if kind >> 16:
            return kind & 0xFFFF, kind >> 16, tag[4 : 4 + (kind >> 16)]
        return kind, size, None

    def _check(self, size: int, depth: int) -> None:
        if size > self._max_bytes:
            raise Refused(f"{self._where}: a variable takes {size} bytes, read whole, the limit is {self._max_bytes}")
        if depth > MAX_DEPTH:
            raise Refused(f"{self._where}: its cells and structs nest deeper than {MAX_DEPTH}")
        if self._count > MAX_ELEMENTS:
            raise Refused(f"{self._where}: more than {MAX_ELEMENTS} elements; save the cube to a file of its own")
