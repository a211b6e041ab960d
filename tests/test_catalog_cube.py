"""Cubes: what is written is read back, by us and by bare xarray; a race, a loss or a torn byte is an error."""

from __future__ import annotations

import math
import os
import pickle
import re
import resource
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rioxarray  # noqa: F401 (ds.rio)
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from odc.geo.xr import xr_coords  # noqa: F401 (ds.odc)

from hypermend.catalog.cube.cube import Cube
from hypermend.catalog.cube.layout import create, open_cube, read_spec
from hypermend.catalog.cube.spec import NODATA, VALID, CubeSpec
from hypermend.catalog.errors import ArchiveError, BadCube, NotFound
from hypermend.catalog.storage.archive_store import ArchiveStore
from tests.small_cubes import FILL, assert_cube, make_cube, make_pixels, make_spec, write_tiles

PATH = "restored/scene/plan.zarr"
DOCUMENT = Path(__file__).parents[1] / "docs" / "opening-cubes.md"


@pytest.fixture(params=["folder", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> ArchiveStore:
    if request.param == "folder":
        return ArchiveStore(tmp_path / "my-archive")
    return ArchiveStore(f"s3://{request.getfixturevalue('s3_bucket')}/my-archive")


def everything(root: ArchiveStore) -> dict[str, bytes]:
    return {e.key: root.get(e.key) for e in root.list("")}


# ----------------------------------------------------------------------------------------------------------- spec


@given(
    bands=st.integers(1, 300),
    height=st.integers(1, 3000),
    width=st.integers(1, 3000),
    tile_px=st.none() | st.integers(1, 40).map(lambda n: 16 * n),
)
def test_a_layout_holds_all_bands_and_divides(bands: int, height: int, width: int, tile_px: int | None) -> None:
    chunk, shard = CubeSpec.layout((bands, height, width), "uint16", tile_px)
    assert all(s % c == 0 for s, c in zip(shard, chunk, strict=True))
    assert bands <= shard[0] < bands + 32 and chunk[0] <= 32 and chunk[1] == chunk[2] <= 64
    assert shard[1] == shard[2] == (tile_px or shard[1]) and shard[1] % 16 == 0
    if tile_px is None:
        assert shard[1] == min(256, math.ceil(max(height, width) / 16) * 16)


def test_a_layout_takes_whole_sixteens() -> None:
    with pytest.raises(BadCube, match="tile_px 100"):
        CubeSpec.layout((3, 300, 300), "uint16", 100)


@pytest.mark.parametrize("fill", [None, 0, -32768])
@pytest.mark.parametrize("dtype", ["int16", ">i2", "float32"])
def test_a_spec_survives_json_and_pickle(fill: float | None, dtype: str) -> None:
    spec = make_spec(dtype=dtype, fill=fill, fwhm_nm=[math.nan] * 5, gsd_m=[math.nan] * 5, attrs={"k": (1, None)})
    assert CubeSpec.from_json(spec.to_json()) == spec == pickle.loads(pickle.dumps(spec))
    assert hash(CubeSpec.from_json(spec.to_json())) == hash(spec)
    assert spec != make_spec(dtype=dtype, fill=7, fwhm_nm=[math.nan] * 5, gsd_m=[math.nan] * 5, attrs={"k": (1, None)})


def test_a_spec_with_nan_as_fill_survives_json() -> None:
    spec = make_spec(dtype="float32", fill=math.nan)
    twin = CubeSpec.from_json(spec.to_json())
    assert twin == spec and isinstance(twin.fill, float) and math.isnan(twin.fill)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"wavelength_nm": [400, 500, 450, 600, 700]}, "decrease at position 2: 500.0 nm, then 450.0"),
        ({"wavelength_nm": [400, 400, 450, 600, 700]}, "bands 1 and 2 both lie at 400.0 nm"),
        ({"wavelength_nm": [400, math.nan, 450, 600, 700]}, "every band needs a positive one"),
        ({"fwhm_nm": [1, 2]}, "fwhm_nm has 2 values"),
        ({"fill": 70000}, "fill 70000 is no int16"),
        ({"fill": 0.5}, "fill 0.5 is no int16"),
        ({"dtype": "complex64", "fill": 0}, "integers or floats"),
        ({"quantity": "colour"}, "quantity 'colour'"),
        ({"stage": "raw"}, "stage 'raw'"),
        ({"scale_factor": 0}, "scale not 0"),
        ({"transform": (1, 2, 3)}, "3 numbers"),
        ({"shard": (5, 48, 50)}, "no multiple of chunk"),
        ({"shard": (4, 48, 48), "chunk": (4, 48, 48)}, "holds 4 of 5 bands"),
        ({"attrs": {"x": object()}}, "no JSON"),
    ],
)
def test_a_wrong_spec_says_what_is_wrong(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(BadCube, match=re.escape(words)):
        make_spec(**changes)


# ------------------------------------------------------------------------------------------------- read and write


def test_what_is_written_is_read_on_folder_and_s3(root: ArchiveStore) -> None:
    cube, stored, flags = make_cube(root, PATH, make_spec())
    got, got_flags = cube.read(slice(0, 100), slice(0, 70))
    assert np.array_equal(got, stored) and np.array_equal(got_flags, flags)
    assert got.dtype == stored.dtype and got_flags.dtype == np.uint8
    got, _ = pickle.loads(pickle.dumps(cube)).read(slice(30, 60), slice(40, 70))
    assert np.array_equal(got, stored[:, 30:60, 40:70])
    assert read_spec(root, PATH) == cube.spec
    ds = open_cube(root, PATH)
    assert_cube(ds)
    assert float(ds.reflectance[2, 60, 3]) == pytest.approx(stored[2, 60, 3] * 1e-4)


@given(st.data())
def test_any_window_is_what_was_written(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.getbasetemp() / "any-window"
    spec = make_spec((3, 61, 45), tile_px=16)
    stored, flags = make_pixels(spec)
    if not folder.exists():
        make_cube(ArchiveStore(folder), PATH, spec)
    y0 = data.draw(st.integers(0, 60))
    x0 = data.draw(st.integers(0, 44))
    y = slice(y0, data.draw(st.integers(y0 + 1, 61)))
    x = slice(x0, data.draw(st.integers(x0 + 1, 45)))
    got, got_flags = Cube(ArchiveStore(folder), PATH).read(y, x)
    assert np.array_equal(got, stored[:, y, x]) and np.array_equal(got_flags, flags[y, x])


@pytest.mark.parametrize("fill", [None, 0, math.nan])
def test_float_cubes_keep_every_bit(tmp_path: Path, fill: float | None) -> None:
    spec = make_spec((3, 40, 40), tile_px=32, dtype="float32", fill=fill, scale_factor=1.0, crs=None, transform=None)
    cube, stored, flags = make_cube(ArchiveStore(tmp_path), PATH, spec)
    got, _ = cube.read(slice(0, 40), slice(0, 40))
    assert np.array_equal(got.view("u4"), stored.view("u4"))
    ds = xr.open_zarr(tmp_path / PATH)
    assert ds.reflectance.dtype == np.float32
    if fill is not None:
        nan = np.isnan(ds.reflectance.values)
        assert np.array_equal(nan, ((flags & NODATA) != 0) | (stored == fill))


def test_data_that_equal_the_fill_throughout_are_data(tmp_path: Path) -> None:
    """A dark tile of zeros without a fill value: its shard is written, so that its loss can be seen."""
    root = ArchiveStore(tmp_path)
    spec = make_spec((3, 32, 32), tile_px=32, fill=None)
    create(root, PATH, spec)
    cube = Cube(root, PATH)
    everywhere = slice(0, 32), slice(0, 32)
    shards = cube.write(*everywhere, np.zeros(spec.shape, "int16"), np.full((32, 32), VALID, np.uint8))
    assert [s.key for s in shards] == ["reflectance/c/0/0/0", "valid/c/0/0"]
    assert not cube.read(*everywhere)[0].any()
    root.delete(f"{PATH}/reflectance/c/0/0/0")
    with pytest.raises(BadCube, match="lost"):
        Cube(root, PATH).read(*everywhere)


def test_twice_is_once(root: ArchiveStore) -> None:
    cube, stored, flags = make_cube(root, PATH, make_spec())
    before = everything(root)
    versions = {e.key: e.version for e in root.list("") if "/c/" not in e.key}
    create(root, PATH, make_spec())
    write_tiles(cube, stored, flags)
    assert everything(root) == before
    assert {e.key: e.version for e in root.list("") if "/c/" not in e.key} == versions  # not even rewritten
    assert cube.marks.fold() == cube.marks.done()
    folded = everything(root), {e.key: e.version for e in root.list("")}
    cube.marks.fold()
    assert (everything(root), {e.key: e.version for e in root.list("")}) == folded


def test_a_different_cube_at_the_same_path_is_refused(tmp_path: Path) -> None:
    root = ArchiveStore(tmp_path)
    create(root, PATH, make_spec())
    with pytest.raises(BadCube, match="fill, units differ"):
        create(root, PATH, make_spec(fill=0, units="percent"))
    with pytest.raises(NotFound):
        Cube(root, "source/none.zarr")
    with pytest.raises(NotFound):
        open_cube(root, "source/none.zarr")
    root.put("other.zarr/zarr.json", b'{"attributes": {}}')
    with pytest.raises(BadCube, match="no Hypermend cube"):
        read_spec(root, "other.zarr")


@pytest.mark.parametrize(
    ("y", "x"),
    [((0, 40), (0, 48)), ((0, 48), (10, 70)), ((48, 100), (0, 60)), ((16, 64), (0, 48))],
)
def test_a_write_that_shares_a_shard_is_refused(tmp_path: Path, y: tuple[int, int], x: tuple[int, int]) -> None:
    root = ArchiveStore(tmp_path)
    create(root, PATH, make_spec())
    stored, flags = make_pixels(make_spec())
    window = slice(*y), slice(*x)
    with pytest.raises(BadCube, match="another writer of the same shard would race"):
        Cube(root, PATH).write(*window, stored[:, *window], flags[window])


def test_wrong_pixels_are_refused(tmp_path: Path) -> None:
    root = ArchiveStore(tmp_path)
    create(root, PATH, make_spec())
    cube = Cube(root, PATH)
    stored, flags = make_pixels(make_spec())
    everywhere = slice(0, 100), slice(0, 70)
    with pytest.raises(BadCube, match=r"shape|window is"):
        cube.write(*everywhere, stored[:4], flags)
    with pytest.raises(BadCube, match="float64"):
        cube.write(*everywhere, stored.astype("f8"), flags)
    with pytest.raises(BadCube, match="7000 pixels have no flag"):
        cube.write(*everywhere, stored, np.zeros_like(flags))
    for outside in (slice(0, 101), slice(-1, 10), slice(50, 50), slice(0, 100, 2)):
        with pytest.raises(BadCube, match="not inside"):
            cube.read(outside, slice(0, 70))
    with pytest.raises(BadCube, match="does not exist"):
        cube.mark(3, 0, ())


def test_writing_never_reads_the_old_shard(tmp_path: Path) -> None:
    """Also at the edge, where part of the shard lies outside the scene: an old torn shard is of no interest."""
    root = ArchiveStore(tmp_path)
    cube, stored, flags = make_cube(root, PATH, make_spec())
    for name in ("reflectance/c/0/2/1", "reflectance/c/0/0/0", "valid/c/2/1"):
        (tmp_path / PATH / name).write_bytes(b"torn")
    write_tiles(cube, stored, flags)
    assert cube.marks.verify() == [] and np.array_equal(cube.read(slice(0, 100), slice(0, 70))[0], stored)


# ------------------------------------------------------------------------------------------------------- defects


def make_defects(spec: CubeSpec) -> np.ndarray[Any, Any]:
    """Single pixels of single bands and a whole column of one band; the first tile of the second row has none."""
    defects = np.random.default_rng(2).random(spec.shape) < 0.01
    defects[spec.bands - 1, :, 5] = True
    y, x = spec.window(1, 0)
    defects[:, y, x] = False
    return defects


@pytest.mark.parametrize("bands", [1, 8, 11])
def test_defects_are_read_as_they_were_written(root: ArchiveStore, bands: int) -> None:
    spec = make_spec((bands, 100, 70), defects=True)
    assert CubeSpec.from_json(spec.to_json()) == spec
    create(root, PATH, spec)
    cube = Cube(root, PATH)
    (stored, flags), defects = make_pixels(spec), make_defects(spec)
    for index in [(iy, ix) for iy in range(3) for ix in range(2)]:
        y, x = spec.window(*index)
        cube.mark(*index, cube.write(y, x, stored[:, y, x], flags[y, x], defects[:, y, x]))
    for y, x in ((slice(0, 100), slice(0, 70)), (slice(30, 60), slice(4, 50))):
        got = pickle.loads(pickle.dumps(cube)).read_defects(y, x)
        assert got.dtype == bool and np.array_equal(got, defects[:, y, x])
    shards = {index: [s.key for s in mark.shards] for index, mark in cube.marks.done().items()}
    assert shards[0, 0] == ["defect/c/0/0/0", "reflectance/c/0/0/0", "valid/c/0/0"]
    assert shards[1, 0] == ["reflectance/c/0/1/0", "valid/c/1/0"]  # nothing is defective there
    ds = open_cube(root, PATH)
    assert ds.defect.dims == ("defect_byte", "y", "x") and ds.defect.dtype == np.uint8
    unpacked = np.unpackbits(ds.defect.values, axis=0, count=bands, bitorder="little")
    assert np.array_equal(unpacked, defects)
    assert ds.defect.attrs["flag_masks"] == [1, 2, 4, 8, 16, 32, 64, 128]


def test_standard_deviations_lie_beside_the_pixels(root: ArchiveStore) -> None:
    spec = make_spec((3, 100, 70), uncertainty=True)
    assert CubeSpec.from_json(spec.to_json()) == spec
    create(root, PATH, spec)
    cube = Cube(root, PATH)
    stored, flags = make_pixels(spec)
    std = np.random.default_rng(0).random(spec.shape, np.float32)
    std[:, 10, 10] = np.nan
    for index in [(iy, ix) for iy in range(3) for ix in range(2)]:
        y, x = spec.window(*index)
        cube.mark(*index, cube.write(y, x, stored[:, y, x], flags[y, x], uncertainty=std[:, y, x]))
    shards = {s.key for s in cube.marks.done()[0, 0].shards}
    assert shards == {"reflectance/c/0/0/0", "reflectance_std/c/0/0/0", "valid/c/0/0"}
    ds = open_cube(root, PATH)
    assert np.array_equal(ds.reflectance_std.values, std, equal_nan=True)
    assert ds.reflectance_std.attrs["units"] == spec.units
    assert ds.reflectance.attrs["ancillary_variables"] == "reflectance_std"
    y, x = spec.window(0, 0)
    with pytest.raises(BadCube, match="need float32"):
        cube.write(y, x, stored[:, y, x], flags[y, x], uncertainty=std[:, y, x].astype("f8"))  # type: ignore[arg-type]
    damage(root, f"{PATH}/reflectance_std/c/0/0/0", "lost")
    assert cube.marks.verify() == [(0, 0)]


def test_a_repaired_tile_without_defects_loses_the_old_ones(tmp_path: Path) -> None:
    root, spec = ArchiveStore(tmp_path), make_spec(defects=True)
    create(root, PATH, spec)
    cube = Cube(root, PATH)
    y, x = spec.window(0, 0)
    (stored, flags), defects = make_pixels(spec), make_defects(spec)
    assert len(cube.write(y, x, stored[:, y, x], flags[y, x], defects[:, y, x])) == 3
    assert len(cube.write(y, x, stored[:, y, x], flags[y, x])) == 2
    assert not cube.read_defects(y, x).any() and not root.exists(f"{PATH}/defect/c/0/0/0")


@pytest.mark.fault
@pytest.mark.parametrize("how", ["flipped pixel", "cut in half", "cut to nothing", "lost"])
def test_f11_damaged_defects_are_an_error_found_by_verify(root: ArchiveStore, how: str) -> None:
    spec = make_spec(defects=True)
    create(root, PATH, spec)
    cube = Cube(root, PATH)
    (stored, flags), defects = make_pixels(spec), make_defects(spec)
    y, x = spec.window(0, 0)
    cube.mark(0, 0, cube.write(y, x, stored[:, y, x], flags[y, x], defects[:, y, x]))
    cube.marks.fold()
    damage(root, f"{PATH}/defect/c/0/0/0", how)
    with pytest.raises(BadCube, match=r"defect/c/0/0/0.*hypermend verify"):
        Cube(root, PATH).read_defects(y, x)
    assert cube.marks.verify() == [(0, 0)]


def test_a_cube_without_defects_is_that_of_0_1(tmp_path: Path) -> None:
    root, spec = ArchiveStore(tmp_path), make_spec()
    assert "defects" not in spec.to_dict()
    cube, stored, flags = make_cube(root, PATH, spec)
    y, x = spec.window(0, 0)
    assert not cube.read_defects(y, x).any() and cube.read_defects(y, x).shape == stored[:, y, x].shape
    with pytest.raises(BadCube, match="spec has uncertainty=False"):
        cube.write(y, x, stored[:, y, x], flags[y, x], uncertainty=np.zeros_like(stored[:, y, x], np.float32))
    with pytest.raises(BadCube, match="spec has defects=False"):
        cube.write(y, x, stored[:, y, x], flags[y, x], np.zeros_like(stored[:, y, x], bool))
    with pytest.raises(BadCube, match="defects differ"):
        create(root, PATH, make_spec(defects=True))
    create(root, "second.zarr", make_spec(defects=True))
    for wrong in (np.zeros((1, 48, 48), bool), np.zeros_like(stored[:, y, x])):
        with pytest.raises(BadCube, match="need bool"):
            Cube(root, "second.zarr").write(y, x, stored[:, y, x], flags[y, x], wrong)


# ------------------------------------------------------------------------------------------------ marks and faults


def test_an_empty_tile_has_no_shard_and_its_mark_says_so(root: ArchiveStore) -> None:
    cube, _, _ = make_cube(root, PATH, make_spec())
    done = cube.marks.done()
    assert list(done) == [(iy, ix) for iy in range(3) for ix in range(2)]
    assert [s.key for s in done[0, 1].shards] == ["valid/c/0/1"]
    assert [s.key for s in done[2, 0].shards] == ["reflectance/c/0/2/0", "valid/c/2/0"]
    assert cube.marks.verify() == []
    assert cube.marks.tiles() == (frozenset(done), False)
    assert cube.marks.fold() == done and cube.marks.done() == done and cube.marks.verify() == []
    assert cube.marks.tiles() == (frozenset(done), True)
    assert not list(root.list(f"{PATH}.done"))
    if root.is_local:
        assert not (Path(root.url) / f"{PATH}.done").exists()


def damage(root: ArchiveStore, key: str, how: str) -> None:
    data = bytearray(root.get(key))
    if how == "lost":
        root.delete(key)
    elif how in ("flipped pixel", "flipped index"):
        data[100 if how == "flipped pixel" else -10] ^= 1
        root.put(key, bytes(data))
    else:
        root.put(key, bytes(data[: {"cut in half": len(data) // 2, "cut to five": 5, "cut to nothing": 0}[how]]))


@pytest.mark.fault
@pytest.mark.parametrize(
    "how", ["flipped pixel", "flipped index", "cut in half", "cut to five", "cut to nothing", "lost"]
)
def test_f11_a_damaged_shard_is_an_error_found_and_repaired(root: ArchiveStore, how: str) -> None:
    cube, stored, flags = make_cube(root, PATH, make_spec())
    cube.marks.fold()
    clean = everything(root)
    key = f"{PATH}/reflectance/c/0/1/0"
    damage(root, key, how)
    for window in ((slice(0, 100), slice(0, 70)), (slice(50, 60), slice(3, 6))):
        with pytest.raises(BadCube, match=re.escape(key)) as error:
            Cube(root, PATH).read(*window)
        assert "hypermend verify" in str(error.value)
    assert np.array_equal(Cube(root, PATH).read(slice(0, 48), slice(0, 48))[0], stored[:, :48, :48])  # others unharmed
    assert cube.marks.verify() == [(1, 0)]
    cube.marks.unmark((1, 0))
    assert (1, 0) not in cube.marks.done() and len(cube.marks.done()) == 5
    y, x = cube.spec.window(1, 0)
    cube.mark(1, 0, cube.write(y, x, stored[:, y, x], flags[y, x]))
    assert cube.marks.verify() == [] and len(cube.marks.done()) == 6
    cube.marks.fold()
    assert everything(root) == clean
    assert np.array_equal(cube.read(slice(0, 100), slice(0, 70))[0], stored)


@pytest.mark.fault
@pytest.mark.parametrize("how", ["flipped pixel", "cut to nothing", "lost"])
def test_f11_damaged_flags_are_an_error(tmp_path: Path, how: str) -> None:
    root = ArchiveStore(tmp_path)
    spec = make_spec()
    create(root, PATH, spec)
    cube = Cube(root, PATH)
    stored, flags = make_pixels(spec)
    flags = np.where(flags == VALID, np.random.default_rng(0).choice([1, 65], flags.shape), flags).astype("u1")
    write_tiles(cube, stored, flags)
    damage(root, f"{PATH}/valid/c/1/0", how)
    with pytest.raises(BadCube, match=r"valid/c/1/0|tile \(1, 0\) was never written or is lost"):
        Cube(root, PATH).read(slice(0, 100), slice(0, 70))
    assert cube.marks.verify() == [(1, 0)]


def test_a_swapped_shard_of_the_same_size_is_found(tmp_path: Path) -> None:
    """crc32c over chunks that end with their own crc32c is the same for all of them: the marks must not use it."""
    root = ArchiveStore(tmp_path)
    spec = make_spec((2, 32, 64), tile_px=32, dtype="uint8", fill=None)
    create(root, PATH, spec)
    cube = Cube(root, PATH)
    rng = np.random.default_rng(0)
    write_tiles(cube, rng.integers(0, 256, spec.shape, "u1"), np.full((32, 64), VALID, np.uint8))  # incompressible
    first, second = (f"{PATH}/reflectance/c/0/0/{i}" for i in (0, 1))
    assert len(root.get(first)) == len(root.get(second))
    root.put(first, root.get(second))
    assert cube.marks.verify() == [(0, 0)]


def test_a_mark_of_other_bytes_replaces_the_first(tmp_path: Path) -> None:
    root = ArchiveStore(tmp_path)
    cube, stored, flags = make_cube(root, PATH, make_spec())
    y, x = cube.spec.window(0, 0)
    shards = cube.marks.done()[0, 0].shards
    assert not cube.mark(0, 0, shards, {"seconds": 3})  # the same bytes: the first mark stays
    assert cube.marks.done()[0, 0].extra == {}
    other = cube.write(y, x, stored[:, y, x] + np.int16(1), flags[y, x])
    assert cube.mark(0, 0, other, {"seconds": 3})
    assert cube.marks.done()[0, 0].shards == other and cube.marks.done()[0, 0].extra == {"seconds": 3}


@pytest.mark.fault
@pytest.mark.parametrize("torn", [b"", b"{torn"], ids=["cut to nothing", "cut"])
def test_f11_a_torn_mark_is_none_and_nothing_is_folded_over_it(root: ArchiveStore, torn: bytes) -> None:
    cube, stored, flags = make_cube(root, PATH, make_spec())
    mark = f"{PATH}.done/1-1.json"
    root.put(mark, torn)
    assert ((1, 1) in cube.marks.tiles()[0]) == bool(torn)  # the names tell only of one cut to nothing
    assert (1, 1) not in cube.marks.done() and cube.marks.verify() == [(1, 1)]
    with pytest.raises(BadCube, match=r"1 marks were damaged, such as that of tile \(1, 1\).*the same command"):
        cube.marks.fold()
    assert not root.exists(mark) and not root.exists(f"{PATH}.done.json")
    assert (1, 1) not in cube.marks.tiles()[0] and len(cube.marks.done()) == 5
    y, x = cube.spec.window(1, 1)
    cube.mark(1, 1, cube.write(y, x, stored[:, y, x], flags[y, x]))
    assert len(cube.marks.fold()) == 6 and cube.marks.verify() == []


def test_a_kill_between_fold_and_cleaning_up_loses_nothing(tmp_path: Path) -> None:
    root = ArchiveStore(tmp_path)
    cube, _, _ = make_cube(root, PATH, make_spec())
    marks = {e.key: root.get(e.key) for e in root.list(f"{PATH}.done")}
    done = cube.marks.done()
    cube.marks.fold()
    for key, data in marks.items():
        root.put(key, data)
    assert cube.marks.done() == done and cube.marks.tiles() == (frozenset(done), False)
    assert cube.marks.fold() == done and not list(root.list(f"{PATH}.done"))
    root.put(f"{PATH}.done.json", b"{")
    for read in (cube.marks.done, cube.marks.tiles):
        with pytest.raises(BadCube, match="is damaged"):
            read()


KILLED = """
import sys, numpy as np
from hypermend.catalog.cube.cube import Cube
from hypermend.catalog.storage.archive_store import ArchiveStore
from tests.small_cubes import make_pixels, write_tiles
cube = Cube(ArchiveStore(sys.argv[1]), sys.argv[2])
stored, flags = make_pixels(cube.spec)
print("go", flush=True)
while True:
    write_tiles(cube, stored, flags)
"""


@pytest.mark.fault
def test_f01_a_killed_writer_leaves_no_half_shard(tmp_path: Path) -> None:
    root = ArchiveStore(tmp_path)
    spec = make_spec((20, 200, 200), tile_px=96)
    create(root, PATH, spec)
    stored, flags = make_pixels(spec)
    for attempt in range(4):
        writer = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path), PATH], stdout=subprocess.PIPE)
        assert writer.stdout is not None and writer.stdout.readline() == b"go\n"
        time.sleep(0.05 + 0.07 * attempt)
        os.kill(writer.pid, signal.SIGKILL)
        writer.communicate()
        cube = Cube(root, PATH)
        assert cube.marks.verify() == []  # what is marked is whole
        for index in cube.marks.done():
            y, x = spec.window(*index)
            assert np.array_equal(cube.read(y, x)[0], stored[:, y, x])
        xr.open_zarr(tmp_path / PATH).reflectance.load()  # no leftover disturbs bare xarray
    write_tiles(cube, stored, flags)
    assert np.array_equal(cube.read(slice(0, 200), slice(0, 200))[0], stored) and cube.marks.verify() == []


@pytest.mark.fault
def test_f12_a_full_disk_leaves_what_was_there(tmp_path: Path) -> None:
    """A limit on the size of files stands in for the disk: the write fails in the middle."""
    root = ArchiveStore(tmp_path)
    cube, stored, flags = make_cube(root, PATH, make_spec())
    clean = everything(root)
    y, x = cube.spec.window(0, 0)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, limits[1]))
    try:
        with pytest.raises(ArchiveError, match="too large") as full:
            cube.write(y, x, stored[:, y, x][:, ::-1], flags[y, x])
        with pytest.raises(ArchiveError, match="too large"):
            root.put("big", bytes(6000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not full.value.transient
    assert everything(root) == clean and cube.marks.verify() == []


# ------------------------------------------------------------------------------------------------- bare xarray


def run_document(replace: dict[str, str]) -> list[dict[str, Any]]:
    """The names that each block of docs/opening-cubes.md makes, with its example addresses replaced by real ones."""
    made, names = [], {}
    for block in re.findall(r"^```python\n(.*?)^```$", DOCUMENT.read_text(), re.DOTALL | re.MULTILINE):
        for example, real in replace.items():
            block = block.replace(example, real)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            exec(block, names)
        made.append(dict(names))
    return made


def test_the_document_opens_cubes_from_disk_http_and_s3(
    tmp_path: Path, s3_bucket: str, http_server: Callable[[Path], str]
) -> None:
    spec = make_spec()
    _, stored, flags = make_cube(ArchiveStore(tmp_path / "my-archive"), PATH, spec)
    make_cube(ArchiveStore(f"s3://{s3_bucket}/my-archive"), PATH, spec)
    disk, web, cloud, last = run_document(
        {
            '"my-archive/': f'"{tmp_path}/my-archive/',
            "https://example.org": http_server(tmp_path),
            "s3://bucket": f"s3://{s3_bucket}",
            '{"anon": True}': f'{{"endpoint_url": "{os.environ["AWS_ENDPOINT_URL"]}"}}',
        }
    )
    for names in (disk, web, cloud):
        ds = names["ds"]
        assert_cube(ds)
        expected = np.where(flags & NODATA, np.nan, stored * np.float64(1e-4))
        np.testing.assert_allclose(ds.reflectance.values, expected, rtol=1e-12)
        assert np.array_equal(ds.valid.values, flags)
        assert ds.odc.geobox == spec.grid
    assert last["crs"].to_epsg() == 32632
    assert last["red"].sizes == {"y": 100, "x": 70} and int(last["red"].isnull().sum()) == int((flags != VALID).sum())


def test_a_cube_says_what_it_is(tmp_path: Path) -> None:
    spec = make_spec()
    create(ArchiveStore(tmp_path), PATH, spec)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ds = xr.open_zarr(tmp_path / PATH, mask_and_scale=False).load()
    assert ds.attrs["Conventions"] == "CF-1.11" and ds.attrs["hypermend:ingest"] == "abc"
    assert {c["name"] for c in ds.attrs["zarr_conventions"]} == {"proj", "spatial"}
    assert ds.attrs["proj:code"] == "EPSG:32632" and ds.attrs["spatial:shape"] == [100, 70]
    assert ds.attrs["spatial:transform"] == [30.0, 0.0, 500000.0, 0.0, -30.0, 5000000.0]
    assert ds.attrs["spatial:bbox"] == [500000.0, 4997000.0, 502100.0, 5000000.0]
    assert ds.attrs["spatial:dimensions"] == ["y", "x"]
    attrs = ds.reflectance.attrs
    assert (attrs["quantity"], attrs["units"], attrs["_FillValue"]) == ("reflectance", "1", FILL)
    assert "add_offset" not in attrs and attrs["scale_factor"] == 1e-4
    assert ds.valid.attrs["flag_masks"] == [1, 2, 4, 8, 16, 32, 64]
    assert ds.y.values[:2].tolist() == [4999985.0, 4999955.0] and ds.x.values[0] == 500015.0
    assert ds.detector.attrs["flag_meanings"] == "swir vnir" and ds.detector.values.tolist() == [1, 1, 0, 0, 0]
    assert ds.wavelength.attrs["units"] == "nm" and ds.band.values.tolist() == [1, 2, 3, 4, 5]
    assert not ds.valid.values.any()  # never written


def test_a_laboratory_image_has_pixel_coordinates(tmp_path: Path) -> None:
    spec = make_spec(crs=None, transform=None, gsd_m=[math.nan] * 5, quantity="counts")
    cube, _, _ = make_cube(ArchiveStore(tmp_path), PATH, spec)
    ds = xr.open_zarr(tmp_path / PATH)
    assert_cube(ds)
    assert ds.y.values[:2].tolist() == [0.5, 1.5] and ds.rio.crs is None and cube.spec.grid is None
    assert "proj:code" not in ds.attrs and ds.attrs["spatial:transform"] == [1, 0, 0, 0, 1, 0]


def test_sensor_geometry_keeps_longitude_and_latitude(tmp_path: Path) -> None:
    root, spec = ArchiveStore(tmp_path), make_spec(crs=None, transform=None)
    lat, lon = np.mgrid[50:40:100j, 8:10:70j]
    create(root, PATH, spec, lonlat=(lon, lat))
    ds = xr.open_zarr(tmp_path / PATH)
    assert np.array_equal(ds.lon.values, lon) and np.array_equal(ds.lat.values, lat)
    assert ds.reflectance.coords["lon"].attrs["units"] == "degrees_east"
    with pytest.raises(BadCube, match="the scene is"):
        create(root, "other.zarr", spec, lonlat=(lon[1:], lat))


def test_a_system_without_a_code_is_kept_as_wkt(tmp_path: Path) -> None:
    from odc.geo.crs import CRS

    proj4 = "+proj=laea +lat_0=10 +lon_0=20 +datum=WGS84 +units=m"
    create(ArchiveStore(tmp_path), PATH, make_spec(crs=CRS(proj4).wkt))
    ds = xr.open_zarr(tmp_path / PATH)
    assert "proj:code" not in ds.attrs and ds.attrs["proj:wkt2"].startswith("PROJCRS")
    assert ds.odc.geobox.crs == CRS(proj4) and CRS(ds.rio.crs.to_wkt()) == CRS(proj4)
