"""Zarr arrays of which no chunk takes more memory than its metadata declare.

A chunk of 100 KB may unpack to 10 GB, and Zarr compares its size only then. Here unpacking stops at the limit, and a
codec without one is refused; that excludes those that run code (pickle), too.
"""

from __future__ import annotations

import asyncio
import bz2
import gzip
import io
import math
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import zarr
from zarr.abc.codec import ArrayArrayCodec, ArrayBytesCodec, BytesBytesCodec, Codec, SupportsSyncCodec
from zarr.abc.store import ByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.codecs import ShardingCodec
from zarr.codecs._v2 import V2Codec
from zarr.core.array_spec import ArraySpec
from zarr.core.buffer import Buffer, BufferPrototype, NDBuffer
from zarr.storage import LocalStore, StorePath, WrapperStore

TEXT_BYTES = 64 << 20
"""Limit of a chunk of texts, whose size no metadata declare."""
_LARGEST_NUMBER = 16
"""Bytes of a number under a filter, which may store another type than the array's."""
_FIXED = frozenset(
    {
        *("bytes", "transpose", "shuffle", "delta", "fixedscaleoffset", "quantize", "bitround", "astype", "packbits"),
        *("crc32", "crc32c", "adler32", "fletcher32", "jenkins_lookup3"),
    }
)
"""Codecs whose result is as long as their input and the array's type say."""
_TEXTS = frozenset({"vlen-utf8", "vlen-bytes"})
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


def bounded(array: zarr.Array[Any]) -> zarr.Array[Any]:
    """The array, for reading: a chunk that takes more than its metadata declare is a ValueError.

    Raises:
        ValueError: it has a codec that cannot be bounded.
    """
    inner = array.async_array
    codecs = tuple(cast("Iterable[Codec]", inner.codec_pipeline))
    chunk = _Chunk(math.prod(array.chunks), array.dtype, _filtered(codecs))
    whole = chunk.bytes
    if array.shards is not None:  # all of its chunks, and an index
        whole = (math.prod(array.shards) // max(chunk.count, 1)) * (chunk.bytes + 16)
    store = StorePath(_Limited(inner.store_path.store, whole), inner.store_path.path)
    copy = replace(inner, store_path=store)
    pipeline = type(inner.codec_pipeline).from_codecs(tuple(_all_bounded(codecs, chunk)))
    object.__setattr__(copy, "codec_pipeline", pipeline)
    return zarr.Array(copy)


@dataclass(frozen=True)
class _Chunk:
    """Size of a chunk as the metadata declare it."""

    count: int
    dtype: np.dtype[Any]
    filtered: bool

    @property
    def bytes(self) -> int:
        """The most that it takes, packed or not: compressors lengthen noise by less than a sixty-fourth."""
        if self.dtype.kind in "OT":
            return TEXT_BYTES
        size = self.count * (max(self.dtype.itemsize, _LARGEST_NUMBER) if self.filtered else self.dtype.itemsize)
        return size + size // 64 + 1024


def _filtered(codecs: Iterable[Codec]) -> bool:
    """Whether a chunk is stored as other numbers than its array has."""
    return any(
        isinstance(codec, ArrayArrayCodec)
        or (isinstance(codec, V2Codec) and bool(codec.filters))
        or (isinstance(codec, ShardingCodec) and _filtered(codec.codecs))
        for codec in codecs
    )


def _all_bounded(codecs: Iterable[Codec], chunk: _Chunk) -> Iterator[Codec]:
    for codec in codecs:
        if isinstance(codec, V2Codec):
            filters = tuple(_Numcodec(each, chunk) for each in codec.filters or ())
            compressor = None if codec.compressor is None else _Numcodec(codec.compressor, chunk)
            yield V2Codec(filters=cast("Any", filters), compressor=cast("Any", compressor))
        elif isinstance(codec, ShardingCodec):
            size = replace(chunk, count=math.prod(codec.chunk_shape))
            yield replace(codec, codecs=tuple(_all_bounded(codec.codecs, size)))
        else:
            name = _known(str(codec.to_dict()["name"]).removeprefix("numcodecs."))
            if isinstance(codec, BytesBytesCodec) and name not in _FIXED:
                yield (_PackedSync if isinstance(codec, SupportsSyncCodec) else _Packed)(codec, name, chunk)
            else:
                yield _Texts(codec, chunk) if isinstance(codec, ArrayBytesCodec) and name in _TEXTS else codec


def _known(name: str) -> str:
    """The name of a codec.

    Raises:
        ValueError: it cannot be bounded.
    """
    if name not in _FIXED | _TEXTS | _DECLARED.keys() | _STREAMS.keys():
        raise ValueError(f"codec {name!r} is not read; write the array with one of {', '.join(sorted(_STREAMS))}")
    return name


@dataclass(frozen=True)
class _Packed(BytesBytesCodec):
    """A compressor of Zarr 3."""

    codec: BytesBytesCodec
    name: str
    chunk: _Chunk
    is_fixed_size = False

    def to_dict(self) -> dict[str, Any]:
        return self.codec.to_dict()

    async def _decode_single(self, chunk_data: Buffer, chunk_spec: ArraySpec) -> Buffer:
        data, limit = chunk_data.to_bytes(), self.chunk.bytes
        if self.name in _DECLARED:
            unpacked = _unpacked(self.name, data, limit)
        else:
            unpacked = await asyncio.to_thread(_unpacked, self.name, data, limit)
        if unpacked is not None:
            return chunk_spec.prototype.buffer.from_bytes(unpacked)
        return await self.codec._decode_single(chunk_data, chunk_spec)

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: ArraySpec) -> int:
        return self.codec.compute_encoded_size(input_byte_length, chunk_spec)


class _PackedSync(_Packed):
    """A compressor that a worker calls in its own thread, see `codec_pipeline`."""

    def _decode_sync(self, chunk_data: Buffer, chunk_spec: ArraySpec) -> Buffer:
        unpacked = _unpacked(self.name, chunk_data.to_bytes(), self.chunk.bytes)
        if unpacked is not None:
            return chunk_spec.prototype.buffer.from_bytes(unpacked)
        return cast("Buffer", cast("SupportsSyncCodec", self.codec)._decode_sync(chunk_data, chunk_spec))


@dataclass(frozen=True)
class _Texts(ArrayBytesCodec):
    """A codec of texts of Zarr 3."""

    codec: ArrayBytesCodec
    chunk: _Chunk
    is_fixed_size = False

    def to_dict(self) -> dict[str, Any]:
        return self.codec.to_dict()

    async def _decode_single(self, chunk_data: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        _check_texts(chunk_data.to_bytes(), self.chunk.count)
        return await self.codec._decode_single(chunk_data, chunk_spec)

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: ArraySpec) -> int:
        return self.codec.compute_encoded_size(input_byte_length, chunk_spec)


class _Numcodec:
    """A compressor or filter of Zarr 2."""

    def __init__(self, codec: Any, chunk: _Chunk) -> None:
        self._codec, self._name, self._chunk = codec, _known(codec.codec_id), chunk

    def decode(self, data: Any) -> Any:
        if self._name in _TEXTS:
            _check_texts(bytes(data), self._chunk.count)
        unpacked = None if self._name in _FIXED | _TEXTS else _unpacked(self._name, bytes(data), self._chunk.bytes)
        return self._codec.decode(data) if unpacked is None else unpacked


def _unpacked(name: str, data: bytes, limit: int) -> bytes | None:
    """A chunk that does not say how long it is, unpacked; None for one that says so and is no longer than `limit`.

    Raises:
        ValueError: it is longer, or damaged.
    """
    unpacked = None
    try:
        size = _DECLARED[name](data) if name in _DECLARED else None
        if size is None:
            unpacked = _STREAMS[name](data, limit + 1)
    except (OSError, EOFError, struct.error, zlib.error) as e:
        raise ValueError(f"a chunk is no {name}: {e}") from e
    if (len(unpacked) if unpacked is not None else size or 0) > limit:
        raise ValueError(f"a chunk of {len(data)} bytes unpacks to more than {limit}, which its array allows")
    return unpacked


def _check_texts(data: bytes, count: int) -> None:
    """Raise ValueError for another number of texts than the array declares: room is made for all before they are."""
    if len(data) < 4 or struct.unpack_from("<I", data)[0] != count:
        raise ValueError(f"a chunk of {count} texts holds another number of them")


def _zstd_size(data: bytes) -> int | None:
    """Size in the header of a frame, None where it has none (RFC 8878, 3.1.1.1)."""
    if data[:4] != _ZSTD_MAGIC:
        return None
    flags = data[4]
    single, kind = flags >> 5 & 1, flags >> 6
    at = 6 - single + (0, 1, 2, 4)[flags & 3]
    if kind == 0 and not single:
        return None
    size = struct.unpack_from(("<B", "<H", "<I", "<Q")[kind], data, at)[0]
    return int(size) + 256 * (kind == 1)


def _blosc_size(data: bytes) -> int:
    size, _, packed = struct.unpack_from("<III", data, 4)
    if packed > len(data):  # Blosc itself would read on after the end
        raise EOFError(f"{len(data)} of {packed} bytes")
    return int(size)


def _lz4_size(data: bytes) -> int:
    return int(struct.unpack_from("<I", data)[0])


def _read_zlib(data: bytes, limit: int) -> bytes:
    stream = zlib.decompressobj()
    unpacked = stream.decompress(data, limit)
    if not stream.eof and len(unpacked) < limit:
        raise EOFError("it ends too early")
    return unpacked


def _read_zstd(data: bytes, limit: int) -> bytes:
    import pyarrow as pa  # slow to import, and such chunks are rare

    with pa.input_stream(pa.py_buffer(data), compression="zstd") as stream:
        return cast("bytes", stream.read(limit))


_DECLARED: Mapping[str, Callable[[bytes], int | None]] = {"zstd": _zstd_size, "blosc": _blosc_size, "lz4": _lz4_size}
_STREAMS: Mapping[str, Callable[[bytes, int], bytes]] = {
    "bz2": lambda data, limit: bz2.BZ2File(io.BytesIO(data)).read(limit),
    "gzip": lambda data, limit: gzip.GzipFile(fileobj=io.BytesIO(data)).read(limit),
    "zlib": _read_zlib,
    "zstd": _read_zstd,
}


class _Limited(WrapperStore[Store]):
    """The store of one array, none of whose objects may take more bytes than the array declares."""

    def __init__(self, store: Store, limit: int) -> None:
        super().__init__(store)
        self._limit = limit

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        size = 0
        if isinstance(byte_range, RangeByteRequest):
            size = byte_range.end - byte_range.start
        elif isinstance(byte_range, SuffixByteRequest):
            size = byte_range.suffix
        elif isinstance(self._local, LocalStore) and (path := self._local.root / key).is_file():
            size = path.stat().st_size
        if size > self._limit:
            raise ValueError(f"{key} has or names {size} bytes, and its array allows {self._limit}")
        return await self._store.get(key, prototype, byte_range)

    @property
    def _local(self) -> Store:
        """The innermost store."""
        store: Store = self._store
        while isinstance(store, WrapperStore):
            store = store._store
        return store
