"""Codecs of a worker with one CPU: chunk after chunk, with no thread and no task of asyncio for each.

Zarr's own pipeline hands every chunk, and every codec of it, to another thread. A worker that has one CPU gains nothing
by that, and it takes a quarter of the time of reading and writing. The bytes are the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import zarr
from zarr.core.array_spec import ArraySpec
from zarr.core.buffer import Buffer, NDBuffer
from zarr.core.codec_pipeline import BatchedCodecPipeline, fill_value_or_default
from zarr.core.indexing import SelectorTuple
from zarr.registry import register_pipeline
from zarr.storage import StorePath

Chunk = tuple[Any, ArraySpec, SelectorTuple, SelectorTuple, bool]
"""Where its bytes are, its spec, the part that is asked for, where that lies in the array, whether it is all."""


class SerialCodecPipeline(BatchedCodecPipeline):
    """The codecs of the chunks of one shard; the shards themselves are read and written as Zarr does, at once."""

    async def read(self, batch_info: Iterable[Chunk], out: NDBuffer, drop_axes: tuple[int, ...] = ()) -> None:
        chunks = list(batch_info)
        if not self._takes(chunks, "_decode_sync"):
            await super().read(chunks, out, drop_axes)
            return
        for getter, spec, selection, out_selection, _ in chunks:
            data = self._decoded(await getter.get(spec.prototype), spec)
            if data is None:
                out[out_selection] = fill_value_or_default(spec)
            else:
                part = data[selection]
                out[out_selection] = part.squeeze(axis=drop_axes) if drop_axes else part

    async def write(self, batch_info: Iterable[Chunk], value: NDBuffer, drop_axes: tuple[int, ...] = ()) -> None:
        chunks = list(batch_info)
        if not self._takes(chunks, "_encode_sync"):
            await super().write(chunks, value, drop_axes)
            return
        for setter, spec, selection, out_selection, whole in chunks:
            old = None if whole else self._decoded(await setter.get(spec.prototype), spec)
            data = self._merge_chunk_array(old, value, out_selection, spec, selection, whole, drop_axes)
            if not spec.config.write_empty_chunks and data.all_equal(fill_value_or_default(spec)):
                await setter.delete()
            else:
                await setter.set(self._encoded(data, spec))

    def _takes(self, chunks: list[Chunk], method: str) -> bool:
        """Whether these are parts of an object in memory, and each codec has the method of `SupportsSyncCodec`."""
        in_memory = bool(chunks) and not isinstance(chunks[0][0], StorePath)
        return in_memory and all(hasattr(codec, method) for codec in self)

    def _decoded(self, data: Buffer | None, spec: ArraySpec) -> NDBuffer | None:
        if data is None:
            return None
        value: Any = data
        for codec, codec_spec in reversed(list(self._with_specs(spec))):
            value = codec._decode_sync(value, codec_spec)
        decoded: NDBuffer = value
        return decoded

    def _encoded(self, data: NDBuffer, spec: ArraySpec) -> Buffer:
        value: Any = data
        for codec, codec_spec in self._with_specs(spec):
            value = codec._encode_sync(value, codec_spec)
        encoded: Buffer = value
        return encoded

    def _with_specs(self, spec: ArraySpec) -> Iterator[tuple[Any, ArraySpec]]:
        for codec in self:
            yield codec, spec
            spec = codec.resolve_metadata(spec)


register_pipeline(SerialCodecPipeline)


def use_one_cpu() -> None:
    """Let every array of this process, a worker, be coded this way."""
    zarr.config.set({"codec_pipeline.path": f"{SerialCodecPipeline.__module__}.{SerialCodecPipeline.__qualname__}"})
