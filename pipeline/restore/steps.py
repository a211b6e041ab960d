"""Chains: models one after the other as one read and one write. A single model is a chain of one. Pure values.

    source --read core + margin 1--> step 1 --trim--> core + margin 2 --> step 2 --trim--> core

All a step knows is its own halo; how far the tile's window reaches follows from all of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hypermend.pipeline.tiling.pixels import FILL_REACH_PX
from hypermend.pipeline.tiling.tiles import default_tile_px

LATTICE_PX = 8
"""A model may see the scene in cells of 2, 4 or 8 pixels, counted from where its window begins. Tiles and windows are
laid such that these fall on the same pixels for every tile, and in a chain on the same as alone."""
LEAST_TILE_PX = 256
MOST_WINDOW_BYTES = 256 * 2**20
"""Bytes of one float32 window of a finer cube with its halo, where no tile size is given: a worker holds several."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One model of a chain."""

    task: str
    model: str
    """Name, in the archive or built in."""
    weights_sha256: str
    window_bands: int | None
    """Bands that one call takes; None for all at once."""
    halo: int
    """Pixels of its input around a pixel that it depends on."""
    scale: int = 1
    """Pixels that it makes along the edge of one of its input's."""
    why: str = ""
    """Why this model; no part of a plan's id."""


def scale_of(steps: Sequence[Step]) -> int:
    """Target pixels along the edge of a source pixel."""
    scale = 1
    for step in steps:
        scale *= step.scale
    return scale


def margins(steps: Sequence[Step]) -> tuple[int, ...]:
    """How many pixels of its own input each step gets around the core: its halo, and what the steps after it need.

    >>> denoise = Step(task="denoise", model="a", weights_sha256="", window_bands=None, halo=56)
    >>> sharpen = Step(task="sharpen", model="b", weights_sha256="", window_bands=None, halo=9, scale=2)
    >>> margins([denoise, sharpen]), margins([sharpen])
    ((72, 9), (9,))
    """
    out: list[int] = []
    later = 0
    for step in reversed(steps):
        asked = -(-later // step.scale)
        later = step.halo + -(-asked // LATTICE_PX) * LATTICE_PX
        out.append(later)
    return tuple(reversed(out))


def windows_px(steps: Sequence[Step], core_px: tuple[int, int]) -> Iterator[tuple[int, ...]]:
    """(rows, columns) of the source window of a tile, then of what each step makes of its own, before it is trimmed.

    Args:
        core_px: of the tile, in target pixels.
    """
    scale, done = scale_of(steps), 1
    reach = margins(steps)
    yield tuple(px // scale + 2 * (reach[0] + FILL_REACH_PX) for px in core_px)
    for step, margin in zip(steps, reach, strict=True):
        done *= step.scale
        yield tuple(px * done // scale + 2 * step.scale * (margin + FILL_REACH_PX) for px in core_px)


def chain_tile_px(bands: int, steps: Sequence[Step], *, step_px: int, bounded: bool) -> int:
    """Default edge of a tile in target pixels: large enough for the halo.

    Args:
        step_px: the edge is a multiple of it.
        bounded: whether a window may take no more than ``MOST_WINDOW_BYTES``.
    """
    scale, reach = scale_of(steps), margins(steps)
    wanted = default_tile_px(reach[0] * scale)
    if bounded:
        edge = math.isqrt(MOST_WINDOW_BYTES // (4 * bands))
        first = scale * (edge - 2 * (reach[0] + FILL_REACH_PX))
        last = edge - 2 * steps[-1].scale * (reach[-1] + FILL_REACH_PX)
        wanted = min(wanted, max(LEAST_TILE_PX, min(first, last) // step_px * step_px))
    return -(-wanted // step_px) * step_px
