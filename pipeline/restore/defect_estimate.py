"""Statistics of a scene and of its defects: the product's masks, what is found in the pixels, and the fit that repairs.

Defects are looked for over the whole width of the scene, in groups of columns and strips of rows: memory does not
depend on the size of the scene. Statistics come from the sampled windows, as without defects.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from hypermend.catalog.cube.cube import Cube
from hypermend.models.denoise.model import StasModel
from hypermend.models.restorer import SceneStatistics
from hypermend.models.signal.repair import PlacedWindow, Repair, masked
from hypermend.pipeline.tiling.pixels import data_mask, physical
from hypermend.pipeline.tiling.tiles import Window, sample_windows, spread

COLUMNS_PX, STRIP_PX = 256, 64
"""Columns in a group, and rows of a strip: whole chunks of a cube."""
MOST_STRIPS = 8
"""Strips of a scene, spread over its height, in which defects are looked for."""


def estimate_with_defects(
    size: tuple[int, int], good: Sequence[bool], source: Cube, model: StasModel
) -> tuple[SceneStatistics, Repair | None]:
    """Estimate the statistics of a scene of (rows, columns), and its repair; None where it has no defects."""
    height, width = size
    bands = np.flatnonzero(good)

    def read(window: Window) -> PlacedWindow:
        stored, flags = source.read(window.y, window.x)
        values = physical(stored[bands], source.spec)
        known = data_mask(values, flags)
        missing = np.zeros(values.shape, dtype=bool)
        if source.spec.defects:
            missing = source.read_defects(window.y, window.x)[bands]
        return np.where(known, values, np.float32(0)), known, missing & known, np.arange(window.x0, window.x1)

    def windows() -> Iterator[PlacedWindow]:
        return (w for w in map(read, sample_windows(height, width)) if w[1].any())

    def columns() -> Iterator[Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]]:
        for x0 in range(0, width, COLUMNS_PX):
            strips = (
                Window(y0=y0, y1=min(y0 + STRIP_PX, height), x0=x0, x1=min(x0 + COLUMNS_PX, width))
                for y0 in spread(height, STRIP_PX, MOST_STRIPS)
            )
            yield (read(strip)[:3] for strip in strips)

    defects, lacking = masked(windows, columns)
    statistics, fit = model.estimate_masked(lacking, defective=bool(defects) or source.spec.defects)
    return statistics, None if fit is None else Repair(defects=defects, fit=fit)
