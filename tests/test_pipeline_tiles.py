"""Tiles cover a scene once; a padded read is NumPy's reflection; spectral windows cover every good band."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypermend.pipeline.tiling.spectral_windows import band_runs, spectral_windows
from hypermend.pipeline.tiling.tiles import Tile, TileGrid, default_tile_px, padded_window, reflected, sample_windows

sizes = st.integers(1, 90)


@given(size=st.integers(1, 12), before=st.integers(0, 40), after=st.integers(0, 40))
def test_reflection_is_numpys(size: int, before: int, after: int) -> None:
    line = np.arange(size)
    np.testing.assert_array_equal(
        line[reflected(-before, size + after, size)], np.pad(line, (before, after), mode="reflect")
    )


@given(height=sizes, width=sizes, tile_px=st.integers(1, 40))
def test_tiles_cover_every_pixel_once(height: int, width: int, tile_px: int) -> None:
    grid = TileGrid(height=height, width=width, tile_px=tile_px)
    hits = np.zeros((height, width), int)
    tiles = list(grid)
    for tile in tiles:
        hits[tile.core.y, tile.core.x] += 1
        assert grid[tile.index] == tile
    assert len(tiles) == len(grid)
    assert (hits == 1).all()


@given(height=sizes, width=sizes, tile_px=st.integers(4, 40), halo=st.integers(0, 30))
def test_padded_reads_equal_the_padded_scene(height: int, width: int, tile_px: int, halo: int) -> None:
    grid = TileGrid(height=height, width=width, tile_px=tile_px)
    scene = np.random.default_rng(0).integers(0, 1000, (2, height, width))
    # reading the same shape everywhere continues the scene past its last tile, hence the larger pad
    whole = np.pad(scene, ((0, 0), (halo, halo + tile_px), (halo, halo + tile_px)), mode="reflect")
    rows, columns = grid.read_px
    for tile in grid:
        read = padded_window(height, width, grid.to_read(tile.index), halo)
        assert 0 <= read.window.y0 < read.window.y1 <= height
        assert 0 <= read.window.x0 < read.window.x1 <= width
        got = read.take(scene[:, read.window.y, read.window.x])
        y, x = tile.core.y0, tile.core.x0
        np.testing.assert_array_equal(got, whole[:, y : y + rows + 2 * halo, x : x + columns + 2 * halo])


def test_tile_outside_the_grid() -> None:
    grid = TileGrid(height=10, width=10, tile_px=8)
    assert isinstance(grid[1, 1], Tile)
    with pytest.raises(IndexError, match="2 x 2"):
        grid[2, 0]


@pytest.mark.parametrize(("halo", "tile_px"), [(0, 256), (10, 256), (36, 448), (64, 832)])
def test_default_tile_keeps_the_halo_cheap(halo: int, tile_px: int) -> None:
    assert default_tile_px(halo) == tile_px
    assert ((tile_px + 2 * halo) / tile_px) ** 2 <= 1.35


@given(height=st.integers(1, 3000), width=st.integers(1, 3000))
def test_sample_is_bounded_and_inside(height: int, width: int) -> None:
    windows = sample_windows(height, width)
    assert 1 <= len(windows) <= 36
    assert all(0 <= w.y0 < w.y1 <= height and 0 <= w.x0 < w.x1 <= width for w in windows)
    assert all(w.height <= 128 and w.width <= 128 for w in windows)
    if height <= 768 and width <= 768:
        assert sum(w.height * w.width for w in windows) == height * width


@given(bands=st.integers(1, 120), width=st.integers(1, 40), bad=st.sets(st.integers(0, 119), max_size=20))
def test_spectral_windows_blend_to_one(bands: int, width: int, bad: set[int]) -> None:
    good = [b not in bad for b in range(bands)]
    detector = ["a" if b < bands // 2 else "b" for b in range(bands)]
    total = np.zeros(bands)
    for window in spectral_windows([400.0 + 10 * b for b in range(bands)], detector, good, width):
        assert len(window.take) == len(window.weight) == width
        assert len({detector[b] for b in window.take}) == 1
        assert all(good[b] for b in window.take)
        np.add.at(total, list(window.take), window.weight)
    np.testing.assert_allclose(total, np.array(good, float), atol=1e-12)


def test_a_run_ends_at_a_wide_gap_and_at_a_detector() -> None:
    nm = [400.0, 410, 420, 430, 470, 480, 490]
    assert band_runs(nm, ["a"] * 7, [True] * 7) == [[0, 1, 2, 3], [4, 5, 6]]
    assert band_runs([400.0, 405, 410, 415], ["a", "b", "a", "b"], [True] * 4) == [[0, 2], [1, 3]]
