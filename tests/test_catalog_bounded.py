"""A Zarr array whose chunks are bounded reads as Zarr reads it, and fails where Zarr would fail or worse."""

from __future__ import annotations

import json
import pickle
import struct
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pytest
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec, GzipCodec, ZstdCodec

from hypermend.catalog.cube.bounded import bounded

pytestmark = pytest.mark.fault
PIXELS = np.random.default_rng(0).integers(0, 65535, (4, 60, 70)).astype("u2")
PACKED: dict[str, tuple[int, dict[str, Any]]] = {
    "plain": (3, {"compressors": None}),
    "zstd": (3, {"compressors": (ZstdCodec(), Crc32cCodec())}),
    "gzip": (3, {"compressors": GzipCodec()}),
    "blosc": (3, {"compressors": BloscCodec()}),
    "gzip in zstd": (3, {"compressors": (GzipCodec(), ZstdCodec())}),
    "a shard of zstd": (3, {"compressors": (ZstdCodec(), Crc32cCodec()), "shards": (4, 50, 50)}),
    "version 2, zlib and delta": (2, {"compressors": numcodecs.Zlib(), "filters": [numcodecs.Delta("u2")]}),
    "version 2, wider": (2, {"compressors": numcodecs.BZ2(), "filters": [numcodecs.AsType("f8", "u2")]}),
    "version 2, lz4": (2, {"compressors": numcodecs.LZ4()}),
    "version 2, blosc": (2, {"compressors": numcodecs.Blosc()}),
}


def made(folder: Path, name: str) -> zarr.Array[Any]:
    version, options = PACKED[name]
    array = zarr.create_array(
        folder / "a.zarr", shape=PIXELS.shape, chunks=(2, 25, 25), dtype="u2", zarr_format=version, **options
    )
    array[...] = PIXELS
    return zarr.open_array(folder / "a.zarr", mode="r")


@pytest.mark.parametrize("name", PACKED)
def test_bounded_chunks_read_as_they_are(tmp_path: Path, name: str) -> None:
    array = bounded(made(tmp_path, name))
    assert np.array_equal(array[...], PIXELS)
    assert np.array_equal(array[1:3, 20:55, 7], PIXELS[1:3, 20:55, 7])
    assert np.array_equal(pickle.loads(pickle.dumps(array))[:, :5], PIXELS[:, :5])


@pytest.mark.parametrize("name", sorted(set(PACKED) - {"plain"}))
def test_g3_a_chunk_that_is_cut_is_an_error_of_value(tmp_path: Path, name: str) -> None:
    """zlib's own error is of no class that the readers know; Blosc reads on after the end."""
    array = bounded(made(tmp_path, name))
    chunk = tmp_path / "a.zarr" / ("c/0/0/0" if PACKED[name][0] == 3 else "0.0.0")
    whole = chunk.read_bytes()
    for size in (1, 3, 7, 15, len(whole) // 2, len(whole) - 1):
        chunk.write_bytes(whole[:size])
        with pytest.raises((ValueError, RuntimeError)):
            array[...]


@pytest.mark.parametrize("version", [2, 3])
def test_g4_texts_are_as_many_as_their_array_declares(tmp_path: Path, version: Any) -> None:
    texts = np.array(["a", "é", "", "b"], dtype=object)
    array = zarr.create_array(
        tmp_path / "a.zarr", shape=(4,), chunks=(4,), dtype=str, zarr_format=version, compressors=None
    )
    array[...] = texts
    assert list(bounded(array)[...]) == list(texts)
    chunk = tmp_path / "a.zarr" / ("c/0" if version == 3 else "0")
    chunk.write_bytes(struct.pack("<I", 2**32 - 1) + chunk.read_bytes()[4:])
    with pytest.raises(ValueError, match="another number of them"):
        bounded(array)[...]


@pytest.mark.parametrize("codec", [{"id": "pickle", "protocol": 5}, {"id": "lzma"}, {"id": "json2"}])
@pytest.mark.parametrize("key", ["compressor", "filters"])
def test_g4_a_codec_without_a_limit_is_refused(tmp_path: Path, codec: dict[str, Any], key: str) -> None:
    zarr.create_array(tmp_path / "a.zarr", shape=(4,), chunks=(4,), dtype=str, zarr_format=2)
    path = tmp_path / "a.zarr" / ".zarray"
    metadata = json.loads(path.read_text())
    metadata[key] = codec if key == "compressor" else [*metadata["filters"], codec]
    path.write_text(json.dumps(metadata))
    with pytest.raises(ValueError, match=f"codec '{codec['id']}' is not read; write the array with one of"):
        bounded(zarr.open_array(tmp_path / "a.zarr", mode="r"))
