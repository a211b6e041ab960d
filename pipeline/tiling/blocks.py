r"""Adaptation blocks: where a model adapts, and how the blocks' outputs are blended. Plain numbers in and out.

The lattice is a function of the scene's size and of the scale alone. A block's weight is 1 inside, falls smoothly to 0
over a ramp around its border, and the weights of all blocks sum to 1 everywhere, so every pixel is a function of its
place: any tile size, any worker, the same result (docs/concepts.md).

    core     |<------ 0 ------->|<------ 1 ------->|
    weight   -----------------.  _________________      ramp: a quarter of the smallest edge, centred on the border
                               \/
                               /\
             _________________/  '----------------
    support  |<-------- 0 ------->|
                            |<-------- 1 -------->|
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hypermend.pipeline.tiling.tiles import Index, Window

MIN_EDGE_HR_PX = 128
MIN_EDGE_LR_PX = 24


@dataclass(frozen=True, kw_only=True)
class Block:
    """The unit of adaptation; all in LR pixels."""

    index: Index
    support: Window
    """Pixels where its weight is not 0 and its output is used."""


@dataclass(frozen=True, kw_only=True)
class BlockGrid:
    """The lattice of blocks over a scene of ``height`` x ``width`` LR pixels."""

    height: int
    width: int
    scale: int

    @property
    def edge_px(self) -> int:
        """Smallest edge of a block in LR pixels; the edge of a scene that is smaller."""
        return max(MIN_EDGE_LR_PX, -(-MIN_EDGE_HR_PX // self.scale))

    @property
    def rows(self) -> int:
        return max(1, self.height // self.edge_px)

    @property
    def columns(self) -> int:
        return max(1, self.width // self.edge_px)

    def __len__(self) -> int:
        return self.rows * self.columns

    def __iter__(self) -> Iterator[Block]:
        for iy in range(self.rows):
            for ix in range(self.columns):
                yield self[iy, ix]

    def __getitem__(self, index: Index) -> Block:
        iy, ix = index
        if not (0 <= iy < self.rows and 0 <= ix < self.columns):
            raise IndexError(f"block {index} lies outside the lattice of {self.rows} x {self.columns} blocks")
        (y0, y1), (x0, x1) = self._support(iy, self.height, self.rows), self._support(ix, self.width, self.columns)
        return Block(index=index, support=Window(y0=y0, y1=y1, x0=x0, x1=x1))

    def over(self, window: Window) -> Iterator[Block]:
        """Blocks whose weight is not 0 in a window of LR pixels."""
        rows = [i for i in range(self.rows) if _meet(self._support(i, self.height, self.rows), window.y0, window.y1)]
        columns = [
            i for i in range(self.columns) if _meet(self._support(i, self.width, self.columns), window.x0, window.x1)
        ]
        yield from (self[iy, ix] for iy in rows for ix in columns)

    def weight(self, index: Index, window: Window) -> NDArray[np.float32]:
        """Weight of a block at every HR pixel of a window of LR pixels: (s * height, s * width)."""
        iy, ix = index
        rows = self._line(iy, window.y0, window.y1, self.height, self.rows)
        columns = self._line(ix, window.x0, window.x1, self.width, self.columns)
        return np.outer(rows, columns).astype(np.float32)

    @property
    def _ramp_px(self) -> int:
        """Half of the ramp, in LR pixels: the ramps of a block never meet."""
        return self.edge_px // 8

    def _border(self, i: int, size: int, count: int) -> int:
        return i * size // count

    def _support(self, i: int, size: int, count: int) -> tuple[int, int]:
        start, stop = self._border(i, size, count), self._border(i + 1, size, count)
        return max(0, start - self._ramp_px) if i else 0, min(size, stop + self._ramp_px) if i + 1 < count else size

    def _line(self, i: int, start: int, stop: int, size: int, count: int) -> NDArray[np.float64]:
        """Weight along one axis at the HR pixels of LR pixels start..stop."""
        centre = (np.arange(self.scale * start, self.scale * stop) + 0.5) / self.scale

        def after(border: int) -> NDArray[np.float64]:
            """0 before a border, 1 behind it, in between a cubic without a kink."""
            t = np.clip((centre - border + self._ramp_px) / (2 * self._ramp_px), 0.0, 1.0)
            return np.asarray(t * t * (3 - 2 * t))

        weight = np.ones_like(centre)
        if i > 0:
            weight = after(self._border(i, size, count))
        if i + 1 < count:
            weight = weight - after(self._border(i + 1, size, count))
        return weight


def _meet(support: tuple[int, int], start: int, stop: int) -> bool:
    return support[0] < stop and start < support[1]
