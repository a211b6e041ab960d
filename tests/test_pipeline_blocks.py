"""The lattice of adaptation blocks: weights sum to 1, are smooth, and are a function of the pixel's place alone."""

from __future__ import annotations

import numpy as np
import pytest

from hypermend.pipeline.tiling.blocks import BlockGrid
from hypermend.pipeline.tiling.tiles import Window


@pytest.mark.parametrize(
    ("size", "scale", "blocks"),
    [
        ((20, 300), 1, (1, 2)),  # smaller than a block along y
        ((64, 64), 8, (2, 2)),  # CAVE at 8: 24 LR pixels would be 192, two blocks of 256
        ((16, 16), 32, (1, 1)),
        ((86, 130), 3, (2, 3)),  # 43 LR pixels are 129
        ((512, 512), 4, (16, 16)),
    ],
)
def test_blocks_cover_the_scene(size: tuple[int, int], scale: int, blocks: tuple[int, int]) -> None:
    grid = BlockGrid(height=size[0], width=size[1], scale=scale)
    assert (grid.rows, grid.columns) == blocks
    assert len(list(grid)) == len(grid) == blocks[0] * blocks[1]
    for block in grid:
        s = block.support
        assert 0 <= s.y0 < s.y1 <= size[0]
        assert s.height * scale >= min(128, size[0] * scale)
    if size[0] > 300:
        return
    whole = Window(y0=0, y1=size[0], x0=0, x1=size[1])
    total = sum(grid.weight(block.index, whole) for block in grid)
    np.testing.assert_allclose(total, 1.0, atol=1e-6)


def test_weights_are_smooth_and_zero_outside_the_support() -> None:
    grid = BlockGrid(height=64, width=64, scale=8)
    whole = Window(y0=0, y1=64, x0=0, x1=64)
    for block in grid:
        weight = grid.weight(block.index, whole)
        s = block.support
        inside = np.zeros_like(weight, bool)
        inside[s.y0 * 8 : s.y1 * 8, s.x0 * 8 : s.x1 * 8] = True
        assert (weight[~inside] == 0).all()
        assert weight.max() == 1
        assert np.abs(np.diff(weight, axis=0)).max() < 1.6 / (2 * 3 * 8)  # a ramp of 6 LR pixels, no step in it


def test_the_weight_of_a_pixel_does_not_depend_on_the_window() -> None:
    grid = BlockGrid(height=100, width=90, scale=4)
    whole = Window(y0=0, y1=100, x0=0, x1=90)
    part = Window(y0=13, y1=61, x0=30, x1=71)
    used = {block.index for block in grid.over(part)}
    for block in grid:
        expected = grid.weight(block.index, whole)[13 * 4 : 61 * 4, 30 * 4 : 71 * 4]
        np.testing.assert_array_equal(grid.weight(block.index, part), expected)
        assert (block.index in used) == bool(expected.any())


def test_a_block_outside_the_lattice_is_an_error() -> None:
    with pytest.raises(IndexError, match=r"block \(1, 0\) lies outside the lattice of 1 x 1"):
        BlockGrid(height=10, width=10, scale=8)[1, 0]
