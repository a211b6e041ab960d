"""Source cubes of any size for benchmarks, as ingest would write them: noisy landscapes, repeated."""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt
from affine import Affine

from hypermend.catalog.cube.cube import Cube
from hypermend.catalog.cube.layout import create
from hypermend.catalog.cube.spec import VALID, CubeSpec
from hypermend.catalog.scene import Scene
from hypermend.catalog.stac.publish import put_item, source_item
from hypermend.catalog.storage.archive_store import ArchiveStore
from hypermend.models.card import ModelCard
from hypermend.models.checkpoint import builtin
from hypermend.pipeline.demo.scenes import landscape

TRANSFORM = Affine(30, 0, 500000, 0, -30, 5800020)
WORTH_RESTORING = 300
"""Standard deviation of the noise, on a scale of 10000: large enough that the shipped model denoises it."""
Numbers = npt.NDArray[np.int16]


def noisy_numbers(bands: int, edge_px: int, seed: int, noise: float = 20) -> Numbers:
    """(bands, edge, edge) reflectance x 10000 with noise, so that a codec has real work to do."""
    truth = landscape(np.linspace(420, 2450, bands).tolist(), height=edge_px, width=edge_px, seed=seed)
    added = np.random.default_rng(seed).normal(0, noise, truth.shape)
    return np.asarray(np.clip(np.rint(truth * 10000 + added), 1, 32000), dtype=np.int16)


def make_source(archive: Path, scene_id: str, *, bands: int, edge_px: int, noise: float = 20) -> None:
    """Publish a source cube of (bands, edge, edge) int16, as if it had been ingested; tiles repeat four landscapes."""
    root = ArchiveStore(str(archive))
    shape = (bands, edge_px, edge_px)
    chunk, shard = CubeSpec.layout(shape, "int16")
    spec = CubeSpec(
        shape=shape,
        dtype="int16",
        scale_factor=1e-4,
        fill=-32768,
        band=tuple(range(1, bands + 1)),
        band_name=tuple(f"B{b}" for b in range(1, bands + 1)),
        wavelength_nm=tuple(np.linspace(420, 2450, bands).tolist()),
        fwhm_nm=(8.0,) * bands,
        detector=("VNIR",) * bands,
        good=(True,) * bands,
        gsd_m=(30.0,) * bands,
        crs="EPSG:32633",
        transform=tuple(TRANSFORM)[:6],
        quantity="reflectance",
        units="1",
        sensor="enmap",
        stage="source",
        chunk=chunk,
        shard=shard,
    )
    key = f"source/{scene_id}/benchmark.zarr"
    create(root, key, spec)
    cube = Cube(root, key)
    parts = [noisy_numbers(bands, shard[1], seed, noise) for seed in range(4)]
    rows, columns = spec.tiles
    for iy in range(rows):
        for ix in range(columns):
            y, x = spec.window(iy, ix)
            part = np.ascontiguousarray(parts[(iy + ix) % 4][:, : y.stop - y.start, : x.stop - x.start])
            flags = np.full(part.shape[1:], VALID, dtype=np.uint8)
            cube.mark(iy, ix, cube.write(y, x, part, flags))
    cube.marks.fold()
    scene = Scene(
        id=scene_id, collection="bench", datetime=datetime(2026, 1, 1, tzinfo=UTC), sensor="enmap", assets={},
        stage="raw", properties={},
    )  # fmt: skip
    put_item(root, source_item(scene, spec, key=key, ingest_id="benchmark", valid_fraction=1.0), run="benchmark")


def make_identity(archive: Path, halo: int) -> str:
    """A model of the archive that changes nothing and asks for a halo; its name."""
    card = replace(ModelCard.read(builtin("identity") / "card.json"), name=f"identity-halo-{halo}", halo=halo)
    folder = archive / "models" / card.name
    folder.mkdir(parents=True, exist_ok=True)
    card.write(folder / "card.json")
    return card.name


def forget_restored(archive: Path) -> None:
    """Reset the archive to its state before any restoration."""
    for stale in (archive / "restored", archive / "items" / "bench-denoise", archive / "index" / "bench-denoise"):
        shutil.rmtree(stale, ignore_errors=True)
