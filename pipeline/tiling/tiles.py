"""Where things lie: windows, tiles and spectral windows. Plain numbers in, plain numbers out.

One tile of a restored cube is one output shard, one writer, one retry and one mark (decision 0002), so everything
about tiles follows from ``shape`` and ``tile_px`` alone and is never listed in a file.

    x ->   0        tile_px      2*tile_px   width
           |-----------|------------|--------|
           |  (0, 0)   |   (0, 1)   | (0, 2) |      the last column is narrower; its *read* is not:
           |-----------|------------|--------|      every tile of a scene reads the same shape,
           |  (1, 0)   |   (1, 1)   | (1, 2) |      out of the scene continued by reflection
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

P = TypeVar("P", bound=np.generic)
Index = tuple[int, int]
"""(iy, ix) of a tile: row first."""


@dataclass(frozen=True, kw_only=True)
class Window:
    """A half-open rectangle of pixels: rows y0..y1, columns x0..x1."""

    y0: int
    y1: int
    x0: int
    x1: int

    @property
    def height(self) -> int:
        return self.y1 - self.y0

    @property
    def width(self) -> int:
        return self.x1 - self.x0

    @property
    def y(self) -> slice:
        return slice(self.y0, self.y1)

    @property
    def x(self) -> slice:
        return slice(self.x0, self.x1)

    def grown(self, px: int) -> Window:
        """The window with ``px`` more pixels on each side; it may leave the scene."""
        return Window(y0=self.y0 - px, y1=self.y1 + px, x0=self.x0 - px, x1=self.x1 + px)

    def intersection(self, other: Window) -> Window:
        """The pixels that both windows hold."""
        return Window(
            y0=max(self.y0, other.y0), y1=min(self.y1, other.y1), x0=max(self.x0, other.x0), x1=min(self.x1, other.x1)
        )

    def finer(self, scale: int) -> Window:
        """The same place in pixels ``scale`` times finer."""
        return Window(y0=scale * self.y0, y1=scale * self.y1, x0=scale * self.x0, x1=scale * self.x1)

    def inside(self, outer: Window) -> tuple[slice, slice]:
        """Rows and columns of the window, counted in ``outer``."""
        return (
            slice(self.y0 - outer.y0, self.y1 - outer.y0),
            slice(self.x0 - outer.x0, self.x1 - outer.x0),
        )


@dataclass(frozen=True, kw_only=True)
class Tile:
    """The unit of work: ``core`` is what it writes, in source pixels."""

    index: Index
    core: Window


@dataclass(frozen=True, kw_only=True)
class TileGrid:
    """The regular lattice of tiles over a scene of ``height`` x ``width`` pixels."""

    height: int
    width: int
    tile_px: int

    def __post_init__(self) -> None:
        if min(self.height, self.width, self.tile_px) < 1:
            raise ValueError(f"a tile grid needs positive sizes, got {self}")

    @property
    def rows(self) -> int:
        return -(-self.height // self.tile_px)

    @property
    def columns(self) -> int:
        return -(-self.width // self.tile_px)

    def __len__(self) -> int:
        return self.rows * self.columns

    def __getitem__(self, index: Index) -> Tile:
        iy, ix = index
        if not (0 <= iy < self.rows and 0 <= ix < self.columns):
            raise IndexError(f"tile {index} lies outside the grid of {self.rows} x {self.columns} tiles")
        y0, x0 = iy * self.tile_px, ix * self.tile_px
        core = Window(y0=y0, y1=min(y0 + self.tile_px, self.height), x0=x0, x1=min(x0 + self.tile_px, self.width))
        return Tile(index=index, core=core)

    def __iter__(self) -> Iterator[Tile]:
        """Every tile, row by row. Lazy: a grid of a million tiles costs nothing until it is walked."""
        return (self[index] for index in self.indices())

    def indices(self) -> Iterator[Index]:
        """The indices of the tiles, row by row."""
        return ((iy, ix) for iy in range(self.rows) for ix in range(self.columns))

    @property
    def read_px(self) -> Index:
        """(rows, columns) of every tile's core as it is read: the tile, or the scene where that is smaller."""
        return min(self.tile_px, self.height), min(self.tile_px, self.width)

    def to_read(self, index: Index) -> Window:
        """The core of a tile in the one shape in which all are read: the last ones end beyond the scene."""
        at, (rows, columns) = self[index].core, self.read_px
        return Window(y0=at.y0, y1=at.y0 + rows, x0=at.x0, x1=at.x0 + columns)


def reflected(start: int, stop: int, size: int) -> NDArray[np.intp]:
    """Source index of each of start..stop in a line of ``size`` pixels continued on both sides.

    The continuation is NumPy's ``mode="reflect"``, repeated as often as needed, so that a scene smaller than the
    halo is a normal scene:

    >>> reflected(-3, 5, 3).tolist()
    [1, 2, 1, 0, 1, 2, 1, 0]
    """
    period = max(1, 2 * (size - 1))
    folded: NDArray[np.intp] = np.abs(np.arange(start, stop, dtype=np.intp)) % period
    return np.minimum(folded, np.abs(period - folded)) if size > 1 else np.zeros_like(folded)


@dataclass(frozen=True, kw_only=True)
class PaddedRead:
    """How to read a tile with its halo: one plain window of the source, then an index on each axis."""

    window: Window
    take_y: NDArray[np.intp]
    take_x: NDArray[np.intp]

    def take(self, pixels: NDArray[P]) -> NDArray[P]:
        """``pixels`` (..., window.height, window.width) -> (..., core + 2 halo, core + 2 halo)."""
        if self._is_plain:
            return pixels
        return pixels[..., self.take_y[:, None], self.take_x[None, :]]

    @property
    def _is_plain(self) -> bool:
        return all(
            len(take) == size and bool(np.all(take == np.arange(size)))
            for take, size in ((self.take_y, self.window.height), (self.take_x, self.window.width))
        )


def padded_window(height: int, width: int, core: Window, halo: int) -> PaddedRead:
    """The read of ``core``, which may end beyond a scene of ``height`` x ``width``, with ``halo`` pixels around."""
    ys = reflected(core.y0 - halo, core.y1 + halo, height)
    xs = reflected(core.x0 - halo, core.x1 + halo, width)
    window = Window(y0=int(ys.min()), y1=int(ys.max()) + 1, x0=int(xs.min()), x1=int(xs.max()) + 1)
    return PaddedRead(window=window, take_y=ys - window.y0, take_x=xs - window.x0)


def default_tile_px(halo: int, *, at_least: int = 256, step: int = 64) -> int:
    """Edge of a tile so that reading its halo costs at most 35 % more pixels than its core.

    ((tile + 2 halo) / tile)^2 <= 1.35, rounded up to a multiple of ``step``; it depends on the model alone.
    """
    needed = 2 * halo / (1.35**0.5 - 1)
    return max(at_least, step * int(np.ceil(needed / step)))


def sample_windows(height: int, width: int, *, edge_px: int = 128, at_most: int = 36) -> list[Window]:
    """Windows on a regular lattice that cover a small scene whole and sample a large one, in row order.

    What a model estimates once per scene (noise, subspace) is estimated from these, so its cost is bounded.
    """
    per_axis = max(1, int(at_most**0.5))
    ys, xs = (spread(size, edge_px, per_axis) for size in (height, width))
    return [Window(y0=y0, y1=min(y0 + edge_px, height), x0=x0, x1=min(x0 + edge_px, width)) for y0 in ys for x0 in xs]


def spread(size: int, edge_px: int, at_most: int) -> list[int]:
    """First pixels of stretches of ``edge_px`` over a line: all of it, or ``at_most`` of them at equal distances."""
    count = -(-size // edge_px)
    if count <= at_most:
        return [i * edge_px for i in range(count)]
    return [round(i * (size - edge_px) / (at_most - 1)) for i in range(at_most)]
