"""Windows of a scene and its guide, side by side: physical values on pixels that belong together, holes filled."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from hypermend.catalog.cube.cube import Cube
from hypermend.catalog.cube.spec import VALID
from hypermend.catalog.pairs.guide import GuideOnGrid
from hypermend.catalog.pairs.pairing import spectral_overlap
from hypermend.catalog.storage.archive_store import ArchiveStore
from hypermend.models.fuse.protocol import Pair, PairGeometry
from hypermend.pipeline.restore.plan import Plan
from hypermend.pipeline.tiling.pixels import (
    FILL_REACH_PX,
    Flags,
    Mask,
    Physical,
    Stored,
    data_mask,
    fill_holes,
    physical,
)
from hypermend.pipeline.tiling.tiles import Window


@dataclass(frozen=True, kw_only=True)
class PairWindow:
    """One window of a scene and its guide, without holes."""

    window: Window
    """LR pixels."""
    stored: Stored
    """(bands, h, w) as the source cube stores them."""
    flags: Flags
    y: Physical
    """(b, h, w) the good bands."""
    y_known: Mask
    """Holds data; a cloud is data."""
    x: Physical
    """(m, s*h, s*w)"""
    x_known: Mask
    """The guide can be trusted."""

    @property
    def pair(self) -> Pair:
        """As the model learns from it: only pixels that are usable in the source, too."""
        return Pair(y=self.y, y_valid=self.y_known & (self.flags & VALID != 0), x=self.x, x_valid=self.x_known)


class PairReader:
    """Windows of a scene and of its guide on the refined grid."""

    def __init__(self, plan: Plan, root: ArchiveStore) -> None:
        assert plan.guide is not None
        self._source = Cube(root, plan.source)
        guide = Cube(root, plan.guide.source)
        seen = spectral_overlap(self._source.spec, guide.spec)
        self._guide = GuideOnGrid(guide, seen.bands, plan.spec)
        self._good = np.flatnonzero(plan.spec.good)
        self._scale = plan.scale
        self._size = plan.source_px
        placed = plan.spec.grid is not None
        self.setup = PairGeometry(
            scale=plan.scale,
            response=seen.response.astype(np.float32),
            # On the ground an LR pixel covers its HR pixels; in a laboratory its centre lies on the first of them.
            expected_centroid_px=(plan.scale - 1) / 2 if placed else 0.0,
        )
        self._means: tuple[Physical, Physical] | None = None

    def fill_with(self, y_mean: Physical, x_mean: Physical) -> None:
        """The scene's mean spectra, for holes that are deeper than their neighbours reach."""
        self._means = y_mean, x_mean

    def grown(self, window: Window, by: int) -> Window:
        """``window`` with ``by`` LR pixels around it, inside the scene."""
        height, width = self._size
        return Window(
            y0=max(0, window.y0 - by),
            y1=min(height, window.y1 + by),
            x0=max(0, window.x0 - by),
            x1=min(width, window.x1 + by),
        )

    def read(self, window: Window) -> PairWindow:
        """A window of LR pixels; its holes are filled."""
        found = self.raw(window)
        if found.y_known.all() and found.x_known.all():
            return found
        assert self._means is not None
        # A hole takes its values from up to FILL_REACH_PX farther than the model looks.
        wide = self.raw(self.grown(window, FILL_REACH_PX))
        fill_holes(wide.y, wide.y_known, self._means[0])
        fill_holes(wide.x, wide.x_known, self._means[1])
        y, x = inside(window, wide.window)
        fine = scaled(y, self._scale), scaled(x, self._scale)
        return replace(
            found, y=np.ascontiguousarray(wide.y[:, y, x]), x=np.ascontiguousarray(wide.x[(slice(None), *fine)])
        )

    def raw(self, window: Window) -> PairWindow:
        """A window of LR pixels with its holes, whatever numbers they hold."""
        stored, flags = self._source.read(window.y, window.x)
        y = physical(stored[self._good], self._source.spec)
        y_known = data_mask(y, flags)
        guide, trusted = self._guide.read(scaled(window.y, self._scale), scaled(window.x, self._scale))
        x = physical(guide, self._guide.spec)
        x_known = trusted & np.isfinite(x).all(axis=0)
        return PairWindow(window=window, stored=stored, flags=flags, y=y, y_known=y_known, x=x, x_known=x_known)


def scaled(pixels: slice, scale: int) -> slice:
    """HR pixels of LR pixels."""
    return slice(scale * pixels.start, scale * pixels.stop)


def inside(window: Window, outer: Window) -> tuple[slice, slice]:
    """Rows and columns of ``window`` counted in ``outer``."""
    return (
        slice(window.y0 - outer.y0, window.y1 - outer.y0),
        slice(window.x0 - outer.x0, window.x1 - outer.x0),
    )
