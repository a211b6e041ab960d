"""Chunks of HDF5 that unpack to more than they declare: HDF5 itself notices that when it has all of it."""

from __future__ import annotations

import math
import zlib
from typing import Any

import h5py

from hypermend.catalog.errors import Refused

_RATIOS = {h5py.h5z.FILTER_DEFLATE: 1032, h5py.h5z.FILTER_LZF: 88}
"""The most that a byte can unpack to: 258 bytes from 2 bits, 264 bytes from 3."""
_STEP_BYTES = 1 << 20


def check_packed_chunks(dataset: h5py.Dataset, what: str, max_bytes: int) -> None:
    """Refuse a dataset with a chunk that could unpack to more than `max_bytes`, and does.

    The index of the chunks is read, and of a chunk what cannot be told from its size.

    Raises:
        Refused: names the chunk.
    """
    plan = dataset.id.get_create_plist()
    packers = [code for code in (plan.get_filter(i)[0] for i in range(plan.get_nfilters())) if code in _RATIOS]
    if not packers:
        return
    if len(packers) > 1:
        raise Refused(f"{what} is packed {len(packers)} times, so its size in memory cannot be told; pack it once")
    suspects: list[Any] = []

    def collect(chunk: Any) -> None:
        if chunk.size * _RATIOS[packers[0]] > max_bytes:
            suspects.append(chunk)

    dataset.id.chunk_iter(collect)
    declared = math.prod(dataset.chunks) * dataset.dtype.itemsize
    room = declared + declared // 64 + 1024  # noise takes more bytes packed
    for chunk in suspects:
        is_lzf = packers[0] == h5py.h5z.FILTER_LZF
        if is_lzf or chunk.size > room or _unpacks_beyond(dataset, chunk.chunk_offset, room):
            raise Refused(
                f"{what}: its chunk at {tuple(chunk.chunk_offset)} may take more than the limit of {max_bytes} bytes, "
                f"and declares {declared}; write it with smaller chunks, packed with deflate (gzip)"
            )


def _unpacks_beyond(dataset: h5py.Dataset, offset: tuple[int, ...], limit: int) -> bool:
    """Whether a chunk of deflate unpacks to more; one that is damaged is left to HDF5."""
    _, data = dataset.id.read_direct_chunk(offset)
    stream, size = zlib.decompressobj(), 0
    try:
        while data and not stream.eof and size <= limit:
            size += len(stream.decompress(data, _STEP_BYTES))
            data = stream.unconsumed_tail
    except zlib.error:
        pass
    return size > limit
