"""Files of a few bytes that would take gigabytes: every family of readers refuses them before it allocates.

One child process opens and reads them all under a limit on its address space. What each would take is more than that.
"""

from __future__ import annotations

import bz2
import json
import math
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import h5py
import numcodecs
import numpy as np
import pytest
import rasterio
import zarr
from scipy.io import savemat

from hypermend.catalog.storage.archive_store import ArchiveStore
from tests.conftest import ROOT
from tests.small_cubes import make_cube, make_spec

pytestmark = pytest.mark.fault
MIB = 1 << 20
MAX_BYTES = 32 * MIB
HEADROOM = 256 * MIB
"""Of address space, beyond what the imports take"""
BOMB = 640 * MIB
EDGE = 25600  # EDGE * EDGE = BOMB
WAVELENGTHS = [500.0, 600.0, 700.0]

CHILD = """
import json, resource, sys
from pathlib import Path
import h5py, imageio.v3, numpy, pyarrow, rasterio, scipy.io, xarray, zarr
from PIL import Image
from hypermend.catalog.cube.cube import Cube
from hypermend.catalog.cube.layout import open_cube
from hypermend.catalog.errors import ArchiveError, BadCube
from hypermend.catalog.storage.archive_store import ArchiveStore
from hypermend.catalog.readers.raster.xml import read_xml
from hypermend.catalog.readers.scene_reader import open_scene
from hypermend.catalog.scene import Asset, Scene
from hypermend.catalog.storage.fetch import AssetFetcher

xarray.backends.list_engines()
max_bytes, headroom = int(sys.argv[1]), int(sys.argv[2])
pages = int(Path("/proc/self/statm").read_text().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + headroom,) * 2)
for line in sys.stdin:
    name, files, properties = json.loads(line)
    assets = {f: Asset(key=Path(f).stem, href=f, roles=("data",)) for f in files}
    scene = Scene(id=name, collection="c", datetime=None, sensor="auto", assets=assets, properties=properties)
    try:
        if files[0].endswith(".xml"):
            read_xml(assets[files[0]], AssetFetcher(max_bytes=max_bytes))
        elif name.startswith("cube"):
            Cube(ArchiveStore(files[0]), "a.zarr").read(slice(0, 2), slice(0, 2))
        elif name.startswith("dataset"):
            try:
                open_cube(ArchiveStore(files[0]), "a.zarr")["reflectance"].values
            except ValueError as error:  # of Zarr, as for any chunk that is damaged
                raise BadCube(str(error))
        else:
            source = open_scene(scene, max_bytes=max_bytes)
            source.read(slice(0, 2), slice(0, 2))
        said = "read"
    except ArchiveError as error:
        said = f"{type(error).__name__}: {error}"
    except BaseException as error:
        said = f"escaped: {type(error).__name__}: {error}"
    print(json.dumps([name, said]), flush=True)
"""


@cache
def compressed(size: int, *, before: bytes = b"", gzip: bool = False) -> bytes:
    """`before` and then `size` zeros, in zlib or gzip; one piece of zeros is compressed and repeated."""
    stream = zlib.compressobj(1, wbits=-15)
    body = stream.compress(before) + stream.flush(zlib.Z_FULL_FLUSH)
    piece = stream.compress(bytes(MIB)) + stream.flush(zlib.Z_FULL_FLUSH)
    body += piece * (size // MIB) + stream.flush()
    digest = zlib.crc32 if gzip else zlib.adler32
    check = digest(before)
    for _ in range(size // MIB):
        check = digest(bytes(MIB), check)
    if gzip:
        return b"\x1f\x8b\x08" + bytes(6) + b"\xff" + body + struct.pack("<II", check, size)
    return b"\x78\x01" + body + struct.pack(">I", check)


def element(kind: int, data: bytes) -> bytes:
    return struct.pack("<II", kind, len(data)) + data + bytes(-len(data) % 8)


def matrix(name: str, kind: int, dims: tuple[int, ...], *parts: bytes) -> bytes:
    flags = element(6, struct.pack("<II", kind, 0))
    return element(
        14, flags + element(5, struct.pack(f"<{len(dims)}i", *dims)) + element(1, name.encode()) + b"".join(parts)
    )


def mat(path: Path, *elements: bytes) -> None:
    path.write_bytes(b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack("<H", 0x0100) + b"IM" + b"".join(elements))


def mat_inflates(folder: Path) -> None:
    values = struct.pack("<II", 2, BOMB)
    body = element(6, struct.pack("<II", 9, 0)) + element(5, struct.pack("<3i", 2, 2, 3)) + element(1, b"cube")
    packed = compressed(BOMB, before=struct.pack("<II", 14, BOMB) + body + values)
    mat(folder / "a.mat", struct.pack("<II", 15, len(packed)) + packed)


def mat_side_variable(folder: Path) -> None:
    """The list of wavelengths, which is read beside the cube."""
    savemat(folder / "a.mat", {"cube": np.ones((4, 4, 3))})
    with (folder / "a.mat").open("ab") as file:
        values = struct.pack("<II", 9, BOMB)
        head = (
            element(6, struct.pack("<II", 6, 0))
            + element(5, struct.pack("<2i", 1, BOMB // 8))
            + element(1, b"wavelength")
        )
        packed = compressed(BOMB, before=struct.pack("<II", 14, BOMB) + head + values)
        file.write(struct.pack("<II", 15, len(packed)) + packed)


def mat_cells(folder: Path) -> None:
    """A struct whose field declares cells that are not there."""
    names = element(5, struct.pack("<i", 8)) + element(1, b"field\0\0\0")
    mat(folder / "a.mat", matrix("s", 2, (1, 1), names, matrix("", 1, (BOMB // 8, 1))))


def mat_nested(folder: Path) -> None:
    cell = matrix("", 6, (1, 1), element(9, bytes(8)))
    for _ in range(20_000):
        cell = matrix("", 1, (1, 1), cell)
    names = element(5, struct.pack("<i", 8)) + element(1, b"field\0\0\0")
    mat(folder / "a.mat", matrix("s", 2, (1, 1), names, cell))


def mat73_side_variable(folder: Path) -> None:
    with h5py.File(folder / "a.mat", "w", userblock_size=512) as file:
        file["cube"] = np.ones((3, 4, 4))
        file.create_dataset("wavelength", (BOMB // 8, 1), "f8", chunks=(1024, 1))
        for array in file.values():
            array.attrs["MATLAB_class"] = np.bytes_("double")
    as_matlab(folder / "a.mat")


def as_matlab(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file".ljust(124) + struct.pack("<H", 0x0200) + b"IM")


def hdf_cube(path: Path, edge: int = 4, chunks: tuple[int, ...] | None = None) -> h5py.File:
    file = h5py.File(path, "w", userblock_size=512 if path.suffix == ".mat" else 0)
    cube = file.create_dataset("reflectance", (3, edge, edge), "u1", chunks=chunks, compression=chunks and 1)
    file["wavelength"] = WAVELENGTHS
    file["wavelength"].attrs["units"] = "nm"
    file["wavelength"].make_scale("wavelength")
    cube.dims[0].attach_scale(file["wavelength"])
    return file


def hdf_chunk(folder: Path) -> None:
    with hdf_cube(folder / "a.nc", EDGE, (1, EDGE, EDGE)) as file:
        packed = compressed(BOMB)
        file["reflectance"].id.write_direct_chunk((0, 0, 0), packed)


def hdf_inflates(folder: Path, suffix: str) -> None:
    """A chunk of 4 MB that unpacks to far more: in a NetCDF file, and in a MATLAB file of version 7.3."""
    with hdf_cube(folder / f"a{suffix}", 1200, (3, 1200, 1200)) as file:
        file["reflectance"].id.write_direct_chunk((0, 0, 0), compressed(BOMB))
        file["reflectance"].attrs["MATLAB_class"] = np.bytes_("uint8")
    if suffix == ".mat":
        as_matlab(folder / "a.mat")


def hdf_packed_twice(folder: Path) -> None:
    with hdf_cube(folder / "a.nc") as file:
        plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plan.set_chunk((3, 4, 4))
        plan.set_deflate(1)
        plan.set_deflate(1)
        space, kind = file["reflectance"].id.get_space(), file["reflectance"].id.get_type()
        del file["reflectance"]
        cube = h5py.Dataset(h5py.h5d.create(file.id, b"reflectance", kind, space, plan))
        cube.id.write_direct_chunk((0, 0, 0), zlib.compress(compressed(BOMB)))
        cube.dims[0].attach_scale(file["wavelength"])


def hdf_lonlat(folder: Path) -> None:
    with hdf_cube(folder / "a.h5", EDGE // 2, (1, 64, 64)) as file:
        for name in ("lon", "lat"):
            file.create_dataset(name, (EDGE // 2, EDGE // 2), "f4", chunks=(64, 64))


def hdf_coordinates(folder: Path) -> None:
    """Longitudes and latitudes that are not regular: they become planes."""
    with hdf_cube(folder / "a.h5", EDGE // 2, (1, 64, 64)) as file:
        for name in ("lon", "lat"):
            file[name] = np.arange(EDGE // 2) ** 1.5 / 1e6
            file[name].attrs["units"] = f"degrees_{'east' if name == 'lon' else 'north'}"


def zarr_chunk(folder: Path) -> None:
    group = zarr.open_group(folder / "a.zarr", mode="w")
    cube = group.create_array(
        "reflectance", shape=(3, EDGE, EDGE), chunks=(1, EDGE, EDGE), dtype="u1",
        dimension_names=("wavelength", "y", "x"), compressors=zarr.codecs.GzipCodec(level=1),
    )  # fmt: skip
    assert cube.nchunks == 3
    waves = group.create_array("wavelength", shape=(3,), dtype="f8", dimension_names=("wavelength",))
    waves[:] = WAVELENGTHS
    waves.attrs["units"] = "nm"
    chunk = folder / "a.zarr" / "reflectance" / "c" / "0" / "0" / "0"
    chunk.parent.mkdir(parents=True)
    chunk.write_bytes(compressed(BOMB, gzip=True))


def zstd_of_size() -> bytes:
    """A frame that says its size, of blocks that repeat a zero (RFC 8878)."""
    block = struct.pack("<I", 1 << 1 | (128 << 10) << 3)[:3] + b"\0"
    last = struct.pack("<I", 1 | 1 << 1 | (128 << 10) << 3)[:3] + b"\0"
    return b"\x28\xb5\x2f\xfd\xa0" + struct.pack("<I", BOMB) + block * (BOMB // (128 << 10) - 1) + last


def zstd_of_no_size() -> bytes:
    sized = zstd_of_size()
    return sized[:4] + b"\0\x38" + sized[9:]  # the size of the window in place of the content's


def blosc_of_size() -> bytes:
    return struct.pack("<BBBBIII", 2, 1, 0x13, 1, BOMB, 1 << 18, 64) + bytes(48)


BOMBS: dict[str, tuple[int, Any, Callable[[], bytes]]] = {
    "zstd with its size": (3, zarr.codecs.ZstdCodec(), zstd_of_size),
    "zstd without its size": (3, zarr.codecs.ZstdCodec(), zstd_of_no_size),
    "blosc": (3, zarr.codecs.BloscCodec(), blosc_of_size),
    "gzip": (3, zarr.codecs.GzipCodec(), lambda: compressed(BOMB, gzip=True)),
    "zstd in version 2": (2, numcodecs.Zstd(), zstd_of_no_size),
    "blosc in version 2": (2, numcodecs.Blosc(), blosc_of_size),
    "gzip in version 2": (2, numcodecs.GZip(), lambda: compressed(BOMB, gzip=True)),
    "zlib": (2, numcodecs.Zlib(), lambda: compressed(BOMB)),
    "bz2": (2, numcodecs.BZ2(), lambda: bz2.compress(bytes(MIB)) * (BOMB // MIB)),
    "lz4": (2, numcodecs.LZ4(), lambda: struct.pack("<I", BOMB) + bytes(60)),
}
"""What a Zarr chunk of 4 MB is packed with: format, codec, and a chunk that unpacks to far more."""


def zarr_inflates(folder: Path, name: str, *, sharded: bool = False) -> None:
    version, codec, bomb = BOMBS[name]
    group = zarr.open_group(folder / "a.zarr", mode="w", zarr_format=version)
    shape, dims = (3, 1200, 1200), ("wavelength", "y", "x")
    options: dict[str, Any] = {"dimension_names": dims} if version == 3 else {"attributes": {"_ARRAY_DIMENSIONS": dims}}
    group.create_array(
        "reflectance", shape=shape, chunks=shape, shards=shape if sharded else None, dtype="u1", compressors=codec,
        **options,
    )  # fmt: skip
    chunk = folder / "a.zarr" / "reflectance" / ("c/0/0/0" if version == 3 else "0.0.0")
    chunk.parent.mkdir(parents=True, exist_ok=True)
    chunk.write_bytes(shard_of(bomb(), 1) if sharded else bomb())


def with_crc32c(data: bytes) -> bytes:
    return bytes(numcodecs.CRC32C(location="end").encode(data))


def shard_of(chunk: bytes, chunks: int) -> bytes:
    """A shard with one chunk of so many."""
    index = np.full((chunks, 2), 2**64 - 1, "<u8")
    index[0] = 0, len(chunk)
    return chunk + with_crc32c(index.tobytes())


def zarr_object(folder: Path) -> None:
    """A chunk that is not packed, and a file with a hole."""
    zarr_inflates(folder, "gzip")
    metadata = folder / "a.zarr" / "reflectance" / "zarr.json"
    metadata.write_text(metadata.read_text().replace('"name": "gzip"', '"name": "crc32c"').replace('"level": 5', ""))
    with (folder / "a.zarr" / "reflectance" / "c" / "0" / "0" / "0").open("wb") as file:
        file.truncate(BOMB)


def cube_inflates(folder: Path, key: str) -> None:
    cube, _, _ = make_cube(ArchiveStore(folder), "a.zarr", make_spec((5, 256, 256), tile_px=256))
    chunk = with_crc32c(zstd_of_size())
    count = math.prod(cube.spec.shard) // math.prod(cube.spec.chunk)
    (folder / "a.zarr" / key).write_bytes(chunk if key.startswith("valid") else shard_of(chunk, count))


def tiff_block(folder: Path) -> None:
    options: dict[str, Any] = {
        "compress": "deflate",
        "sparse_ok": True,
        "interleave": "band",
        "tiled": True,
        "blockxsize": EDGE,
        "blockysize": EDGE,
    }
    with rasterio.open(
        folder / "a.tif", "w", driver="GTiff", count=3, height=EDGE, width=EDGE, dtype="uint8", **options
    ) as file:
        for i, nm in enumerate(WAVELENGTHS, 1):
            file.update_tags(i, wavelength=str(nm))


def envi_line(folder: Path) -> None:
    (folder / "a.hdr").write_text(
        f"ENVI\nsamples = {BOMB}\nlines = 1\nbands = 3\ndata type = 1\ninterleave = bip\nheader offset = 0\n"
        "wavelength = {500, 600, 700}\nwavelength units = Nanometers\n"
    )
    with (folder / "a.img").open("wb") as file:
        file.truncate(BOMB * 3)


def png_size(folder: Path) -> None:
    head = struct.pack(">IIBBBBB", EDGE, EDGE, 16, 0, 0, 0, 0)
    for number in (1, 2, 3):
        chunk = b"IHDR" + head
        body = struct.pack(">I", len(head)) + chunk + struct.pack(">I", zlib.crc32(chunk))
        (folder / f"a_{number}.png").write_bytes(b"\x89PNG\r\n\x1a\n" + body)


def xml_elements(folder: Path) -> None:
    (folder / "MTD_MSIL1C.xml").write_bytes(b"<r>" + b"<a/>" * (3 << 20) + b"</r>")


def xml_size(folder: Path) -> None:
    (folder / "MTD_MSIL1C.xml").write_bytes(b"<r>" + b" " * (17 << 20) + b"</r>")


CASES: dict[str, tuple[Callable[[Path], None], str]] = {
    "tiff: a block": (tiff_block, "its blocks of"),
    "envi: a line": (envi_line, "a line of it has"),
    "netcdf: a chunk": (hdf_chunk, "has chunks of"),
    "netcdf: a chunk that inflates": (partial(hdf_inflates, suffix=".nc"), "may take more than the limit"),
    "mat 7.3: a chunk that inflates": (partial(hdf_inflates, suffix=".mat"), "may take more than the limit"),
    "netcdf: a chunk that inflates twice": (hdf_packed_twice, "is packed 2 times"),
    "hdf5: planes of longitude and latitude": (hdf_lonlat, "doubles take"),
    "hdf5: coordinates that become planes": (hdf_coordinates, "doubles take"),
    "zarr: a chunk": (zarr_chunk, "has chunks of"),
    "zarr: an object": (zarr_object, "has or names"),
    "zarr: a chunk in a shard": (partial(zarr_inflates, name="gzip", sharded=True), "unpacks to more than"),
    **{f"zarr: {name}": (partial(zarr_inflates, name=name), "unpacks to more than") for name in BOMBS},
    "cube: flags": (partial(cube_inflates, key="valid/c/0/0"), "unpacks to more than"),
    "cube: pixels": (partial(cube_inflates, key="reflectance/c/0/0/0"), "unpacks to more than"),
    "dataset: pixels": (partial(cube_inflates, key="reflectance/c/0/0/0"), "unpacks to more than"),
    "mat: a variable that inflates": (mat_inflates, "a variable takes"),
    "mat: wavelengths": (mat_side_variable, "a variable takes"),
    "mat: cells": (mat_cells, "a variable takes"),
    "mat: nested cells": (mat_nested, "nest deeper than 32"),
    "mat 7.3: wavelengths": (mat73_side_variable, "wavelength holds"),
    "png: a header": (png_size, "the limit is"),
    "safe: elements": (xml_elements, "XML elements"),
    "safe: bytes": (xml_size, "the limit is"),
}


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the child says about each file."""
    lines = []
    for name, (make, _) in CASES.items():
        folder = tmp_path_factory.mktemp("bomb")
        make(folder)
        files = [str(folder)] if name.startswith(("cube", "dataset")) else sorted(str(p) for p in folder.iterdir())
        assert sum(p.stat().st_blocks * 512 for p in folder.rglob("*")) < MAX_BYTES  # small on the disk
        lines.append(json.dumps([name, files, {"hypermend:wavelengths": WAVELENGTHS}]) + "\n")
    child = subprocess.run(
        [sys.executable, "-c", CHILD, str(MAX_BYTES), str(HEADROOM)],
        input="".join(lines), capture_output=True, text=True, check=False, cwd=ROOT,
        env={**os.environ, "MALLOC_ARENA_MAX": "1"},
    )  # fmt: skip
    answers = dict(json.loads(line) for line in child.stdout.splitlines())
    assert child.returncode == 0, (child.returncode, answers, child.stderr[-3000:])
    return answers


@pytest.mark.parametrize("case", CASES)
def test_g4_no_file_takes_more_memory_than_the_limit(said: dict[str, str], case: str) -> None:
    assert said[case].startswith(("Refused: ", "BadAsset: ", "BadCube: ")), said[case]
    assert CASES[case][1] in said[case]
