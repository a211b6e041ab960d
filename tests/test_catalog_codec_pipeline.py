"""The codecs of a worker: the same bytes as Zarr's own pipeline, and the same errors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import zarr

from hypermend.catalog.cube.codec_pipeline import SerialCodecPipeline, use_one_cpu
from hypermend.catalog.cube.cube import Cube
from hypermend.catalog.cube.layout import create
from hypermend.catalog.errors import BadCube
from hypermend.catalog.storage.archive_store import ArchiveStore
from tests.small_cubes import make_pixels, make_spec, write_tiles

SHAPE = (40, 100, 70)


@pytest.fixture(params=["zarr's", "a worker's"])
def pipeline(request: pytest.FixtureRequest) -> Iterator[str]:
    with zarr.config.set({"codec_pipeline.path": "zarr.core.codec_pipeline.BatchedCodecPipeline"}):
        if request.param == "a worker's":
            use_one_cpu()
        yield request.param


def written(folder: Path) -> dict[str, bytes]:
    root, spec = ArchiveStore(folder), make_spec(SHAPE).with_overviews()
    create(root, "c.zarr", spec)
    write_tiles(Cube(root, "c.zarr"), *make_pixels(spec))
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_worker_writes_what_zarr_writes(tmp_path: Path) -> None:
    with zarr.config.set({"codec_pipeline.path": "zarr.core.codec_pipeline.BatchedCodecPipeline"}):
        expected = written(tmp_path / "zarr")
        use_one_cpu()
        assert zarr.registry.get_pipeline_class() is SerialCodecPipeline
        assert written(tmp_path / "worker") == expected
    assert any("/c/0/" in key for key in expected)


def test_each_reads_what_was_written(tmp_path: Path, pipeline: str) -> None:
    written(tmp_path)
    stored, flags = make_pixels(make_spec(SHAPE))
    cube = Cube(ArchiveStore(tmp_path), "c.zarr")
    for window in ((slice(0, 100), slice(0, 70)), (slice(30, 61), slice(5, 52)), (slice(99, 100), slice(69, 70))):
        got, got_flags = cube.read(*window)
        np.testing.assert_array_equal(got, stored[(slice(None), *window)])
        np.testing.assert_array_equal(got_flags, flags[window])


def test_each_finds_a_flipped_byte(tmp_path: Path, pipeline: str) -> None:
    written(tmp_path)
    shard = tmp_path / "c.zarr/reflectance/c/0/1/0"
    data = bytearray(shard.read_bytes())
    data[100] ^= 1
    shard.write_bytes(data)
    cube = Cube(ArchiveStore(tmp_path), "c.zarr")
    with pytest.raises(BadCube, match="reflectance/c/0/1/0"):
        cube.read(slice(48, 96), slice(0, 48))
    cube.read(slice(0, 48), slice(0, 48))
