"""Tiled equals whole, serial equals Ray, twice equals once: on synthetic scenes, with networks of random weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from catalog.cube import Cube, create
from catalog.root import Root
from catalog.spec import NEAR_FILL, NODATA, VALID, CubeSpec
from models.card import ModelCard
from models.checkpoint import save

from pipeline.restore_worker import Prepare, RestoreTile, RestoreWorker
from tests.test_pipeline_plan import make_spec

HEIGHT, WIDTH, BANDS = 75, 58, 12


def make_source(root: Root, *, holes: bool = True, **changes: Any) -> tuple[CubeSpec, np.ndarray[Any, Any]]:
    """A source cube of float32 with a smooth landscape, noise, and (if wanted) holes and a corner without data."""
    rng = np.random.default_rng(3)
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH] / 20
    spectra = rng.random((BANDS, 3))
    stored = np.einsum("bk,kyx->byx", spectra, np.stack([np.sin(y) + 1, np.cos(x) + 1, np.sin(x + y) + 1]))
    stored = (stored * 1000 + rng.normal(0, 20, stored.shape)).astype(np.float32)
    flags = np.full((HEIGHT, WIDTH), VALID, np.uint8)
    if holes:
        flags[:20, :14] = NODATA
        flags[50, 30] = NODATA
        stored[:, flags == NODATA] = -32768
    shape = (BANDS, HEIGHT, WIDTH)
    chunk, shard = CubeSpec.layout(shape, "float32", 32)
    spec = replace(make_spec(bands=BANDS), shape=shape, dtype="float32", fill=-32768.0, chunk=chunk, shard=shard)
    spec = replace(spec, **changes)
    create(root, "source/s/i.zarr", spec)
    cube = Cube(root, "source/s/i.zarr")
    for iy in range(spec.tiles[0]):
        for ix in range(spec.tiles[1]):
            window = spec.window(iy, ix)
            cube.mark(iy, ix, cube.write(*window, stored[(slice(None), *window)], flags[window]))
    return spec, stored


def put_model(root: Root, card: ModelCard, state: dict[str, torch.Tensor]) -> None:
    folder = root.local_path(f"models/{card.name}")
    assert folder is not None
    save(folder, card, state)


def stas_card(bands: int) -> tuple[ModelCard, dict[str, torch.Tensor]]:
    """A small STAS of random weights that takes windows of ``bands`` bands."""
    raise NotImplementedError


def restore_all(root: Root, model: str, tile_px: int | None) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    worker = RestoreWorker(root.url)
    opened = worker(
        Prepare(
            unit="s", source="source/s/i.zarr", ingest_id="i", collection="c", task="denoise", model=model,
            tile_px=tile_px,
        )  # fmt: skip
    )
    for tile in opened.context.grid:
        worker(RestoreTile(unit="s", plan=opened.context.key, index=tile.index))
    return Cube(root, opened.context.target).read(slice(0, HEIGHT), slice(0, WIDTH))


def test_identity_gives_the_stored_numbers_bit_for_bit(tmp_path: Path) -> None:
    root = Root(tmp_path)
    _, stored = make_source(root)
    got, flags = restore_all(root, "identity", 32)
    np.testing.assert_array_equal(got, stored)
    assert not (flags & NEAR_FILL).any()
