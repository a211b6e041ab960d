"""Masks of raster files: internal masks, `.msk` sidecars, alpha bands and the layers of products, as flags.

A coarser layer is repeated; of a finer one every reason in the pixel counts, as classes have no mean.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hypermend.catalog.arrays import Flags
from hypermend.catalog.cube.spec import NODATA
from hypermend.catalog.readers.masks import MaskRule
from hypermend.catalog.readers.raster.mosaic import PlacedFile

OWN = MaskRule(name="mask", values={0: NODATA})
"""Internal mask, `.msk` or alpha band: 0 is outside"""


@dataclass(frozen=True, kw_only=True)
class MaskFiles:
    """Files of one mask layer on the grid of the cube."""

    files: tuple[PlacedFile, ...]
    rule: MaskRule
    band: int
    """1-based; 0 for the file's internal mask"""


@dataclass(frozen=True, kw_only=True)
class DefectFiles:
    """A layer of defects: bands of its file, and the bands of the cube that they judge."""

    files: tuple[PlacedFile, ...]
    rule: MaskRule
    file_bands: tuple[int, ...]
    """1-based, in the file"""
    cube_bands: tuple[int, ...]
    """0-based, in the cube"""


def mask_at_pixels(flags: Flags, up: int, down: int, offset: tuple[int, int], shape: tuple[int, int]) -> Flags:
    """Flags (..., h, w) of a layer's own pixels at those of the cube.

    Args:
        up, down: as in `PlacedFile`.
        offset: cube pixels by which the window begins inside the layer's first pixel.
        shape: (y, x) of the window.
    """
    if down > 1:
        *lead, height, width = flags.shape
        blocks = flags.reshape(*lead, height // down, down, width // down, down)
        return np.asarray(np.bitwise_or.reduce(np.bitwise_or.reduce(blocks, axis=-1), axis=-2))
    if up > 1:
        flags = flags.repeat(up, axis=-2).repeat(up, axis=-1)
        dy, dx = offset
        flags = flags[..., dy : dy + shape[0], dx : dx + shape[1]]
    return flags
