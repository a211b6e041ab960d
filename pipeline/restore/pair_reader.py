"""Fusion in the worker: windows of a scene and its guide, side by side.

Physical values on pixels that belong together, holes filled. Windows are cut at the scene's edge, not reflected beyond
it: the model knows how blurred and sharp pixels continue there (``models/signal/degrade.py``: edges of the sharp scene
replicated), and a reflected pair would contradict it. A tile at the edge sees the same edge as the whole scene, so
tiled equals whole all the same.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from hypermend.catalog.cube.cube import Cube
from hypermend.catalog.cube.spec import VALID
from hypermend.catalog.pairs.guide import GuideOnGrid
from hypermend.catalog.pairs.pairing import spectral_overlap
from hypermend.catalog.storage.archive_store import ArchiveStore
from hypermend.models.fuse.interface import Pair, PairGeometry
from hypermend.pipeline.registry.compatibility import good_nm
from hypermend.pipeline.restore.plan import Plan
from hypermend.pipeline.tiling.pixels import FILL_REACH_PX, Flags, ImageWindow, Physical, Stored, data_mask, physical
from hypermend.pipeline.tiling.tiles import Window


@dataclass(frozen=True, kw_only=True)
class PairWindow:
    """One window of a scene and its guide."""

    stored: Stored
    """(bands, h, w) as the source cube stores them."""
    flags: Flags
    y: ImageWindow
    """(b, h, w) the good bands, on LR pixels; a cloud is data."""
    x: ImageWindow
    """(m, s*h, s*w) the guide, on HR pixels; known where it can be trusted."""

    @property
    def pair(self) -> Pair:
        """The window as the model learns from it: only pixels that are usable in the source, too."""
        y_valid = self.y.known & (self.flags & VALID != 0)
        return Pair(y=self.y.values, y_valid=y_valid, x=self.x.values, x_valid=self.x.known)


class PairReader:
    """Reads windows of a scene and of its guide on the refined grid."""

    def __init__(self, plan: Plan, root: ArchiveStore) -> None:
        (matched,) = plan.guides
        self._source = Cube(root, plan.source)
        guide = Cube(root, matched.source)
        overlap = spectral_overlap(self._source.spec, guide.spec)
        self._guide = GuideOnGrid(guide, overlap.bands, plan.spec)
        self._good = np.flatnonzero(plan.spec.good)
        self._scale = plan.scale
        height, width = plan.source_px
        self._scene = Window(y0=0, y1=height, x0=0, x1=width)
        placed = plan.spec.grid is not None
        self.setup = PairGeometry(
            scale=plan.scale,
            response=overlap.response.astype(np.float32),
            # On the ground an LR pixel covers its HR pixels; in a laboratory its centre lies on the first of them.
            expected_centroid_px=(plan.scale - 1) / 2 if placed else 0.0,
            wavelength_nm=tuple(good_nm(self._source.spec)),
        )
        self._means: tuple[Physical, Physical] | None = None

    def fill_with(self, y_mean: Physical, x_mean: Physical) -> None:
        """Set the mean spectra, for holes that are deeper than their neighbours reach."""
        self._means = y_mean, x_mean

    def around(self, window: Window, px: int) -> Window:
        """``window`` with ``px`` LR pixels around it, inside the scene."""
        return window.grown(px).intersection(self._scene)

    def read(self, window: Window) -> PairWindow:
        """Read a window of LR pixels, without holes."""
        pair = self.read_with_holes(window)
        if pair.y.known.all() and pair.x.known.all():
            return pair
        assert self._means is not None
        y_mean, x_mean = self._means
        wide = self.read_with_holes(self.around(window, FILL_REACH_PX))
        return replace(pair, y=pair.y.filled(wide.y, y_mean), x=pair.x.filled(wide.x, x_mean))

    def read_with_holes(self, window: Window) -> PairWindow:
        """Read a window of LR pixels with its holes, whatever numbers they hold."""
        stored, flags = self._source.read(window.y, window.x)
        values = physical(stored[self._good], self._source.spec)
        y = ImageWindow(window=window, values=values, known=data_mask(values, flags))
        fine = window.finer(self._scale)
        guide, trusted = self._guide.read(fine.y, fine.x)
        values = physical(guide, self._guide.spec)
        x = ImageWindow(window=fine, values=values, known=trusted & np.isfinite(values).all(axis=0))
        return PairWindow(stored=stored, flags=flags, y=y, x=x)
