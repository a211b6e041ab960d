"""Files with flipped, lost and zeroed bytes: every reader says what is wrong in an error of ours, or reads on."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import scipy.io

from hypermend.catalog.errors import ArchiveError
from hypermend.catalog.readers.folder import Skipped, from_folder
from hypermend.catalog.readers.scene_reader import open_scene
from hypermend.catalog.scene import AUTO
from tests.hierarchical import cf_file, emit_file, emit_mask, prisma_file
from tests.test_catalog_readers_envi import write as write_envi
from tests.test_catalog_readers_hdf import emit, prisma
from tests.test_catalog_readers_png import stack
from tests.test_catalog_readers_products_hdf import neon, tanager
from tests.test_catalog_readers_zarr import cf_store

RNG = np.random.default_rng(0)
WORDS = (b"-1", b"x", b"1e999", b"nan", b"99999999999", b"{", b"}", b'"', b"0", b"\xff\xfe")


def matlab(folder: Path) -> None:
    cube = RNG.integers(0, 8000, (12, 10, 103), dtype=np.uint16)
    scipy.io.savemat(folder / "a.mat", {"paviaU": cube}, do_compression=True)


def geotiff(folder: Path) -> None:
    with rasterio.open(
        folder / "a.tif", "w", driver="GTiff", height=32, width=32, count=224, dtype="int16", compress="deflate",
        tiled=True, blockxsize=16, blockysize=16, nodata=-32768, crs="EPSG:32633",
        transform=rasterio.transform.from_origin(366000, 5810000, 30, 30),
    ) as file:  # fmt: skip
        file.write(RNG.integers(0, 8000, (224, 32, 32)).astype("int16"))


def matlab_struct(folder: Path) -> None:
    cube = RNG.integers(0, 8000, (12, 10, 31), dtype=np.uint16)
    scipy.io.savemat(folder / "a.mat", {"hsi": {"Data": cube, "wavelength": np.linspace(405, 695, 31)}})


def benchmark(folder: Path) -> None:
    scipy.io.savemat(folder / "a.mat", {"KSC": RNG.integers(0, 8000, (9, 8, 176), dtype=np.uint16)})


def granule(folder: Path) -> None:
    emit_file(folder / "EMIT_L2A_RFL_001_20240724T200145_2420613_013.nc")
    emit_mask(folder / "EMIT_L2A_MASK_001_20240724T200145_2420613_013.nc")


WRITERS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "matlab": ("rosis", matlab),
    "geotiff": ("enmap", geotiff),
    "envi": ("enmap", write_envi),
    "png": ("cave", stack),
    "prisma": ("prisma", lambda folder: prisma(folder / "a.he5")),
    "emit": ("emit", lambda folder: emit(folder / "a.nc")),
    "matlab struct": (AUTO, matlab_struct),
    "benchmark": (AUTO, benchmark),
    "prisma l1": (AUTO, lambda folder: prisma_file(folder / "a.he5", "L1")),
    "prisma l2d": (AUTO, lambda folder: prisma_file(folder / "a.he5", scale=(1.2, 0.9))),
    "emit granule": (AUTO, granule),
    "emit l1b": (AUTO, lambda folder: emit_file(folder / "a.nc", "radiance", unit="uW/cm^2/SR/nm")),
    "tanager": (AUTO, lambda folder: tanager(folder / "a.h5", ortho=True)),
    "neon": (AUTO, lambda folder: neon(folder / "a.h5")),
    "cf": (AUTO, lambda folder: cf_file(folder / "a.nc", attrs={"scale_factor": 1e-4, "_FillValue": np.int16(7)})),
    "zarr": (AUTO, lambda folder: cf_store(folder / "a.zarr", 3)),
}


def damaged(data: bytes, chance: random.Random, *, text: bool) -> bytes:
    """One way in which a disk, a network or a careless editor leaves a file."""
    at = chance.randrange(len(data))
    how = chance.choice(("cut", "zero", "word" if text else "flip", "flip"))
    if how == "cut":
        return data[:at]
    if how == "zero":
        return data[:at] + bytes(40) + data[at + 40 :]
    if how == "word":
        words = data.split(b" ")
        words[chance.randrange(len(words))] = chance.choice(WORDS)
        return b" ".join(words)
    flipped = bytearray(data)
    end = min(len(data), chance.choice((800, len(data))))  # where the headers are, or anywhere
    for _ in range(chance.choice((1, 3, 20))):
        flipped[chance.randrange(end)] ^= 1 << chance.randrange(8)
    return bytes(flipped)


@pytest.mark.parametrize("kind", WRITERS)
def test_a_damaged_file_is_an_error_of_ours(tmp_path: Path, kind: str) -> None:
    sensor, write = WRITERS[kind]
    (tmp_path / "whole").mkdir()
    write(tmp_path / "whole")
    chance = random.Random(3)
    refused = 0
    for number in range(40):
        folder = tmp_path / f"{number}"
        shutil.copytree(tmp_path / "whole", folder)
        victims = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".img")
        victim = chance.choice(victims)
        victim.write_bytes(damaged(victim.read_bytes(), chance, text=victim.suffix == ".hdr"))
        for scene in from_folder(folder, sensor=sensor, collection="c"):
            if isinstance(scene, Skipped):
                refused += 1
                continue
            try:
                source = open_scene(scene)
                source.read(slice(0, min(16, source.spec.height)), slice(0, min(16, source.spec.width)))
                source.close()
            except ArchiveError:
                refused += 1
    assert refused >= 10
