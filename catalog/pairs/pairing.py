"""Pairing of a scene with its guide, and the geometry of their pixels: decided before any pixel is read.

A guide is a sharper image of the same ground (or of the same laboratory table) in fewer bands. Scenes with a grid are
paired by footprint, then by time; scenes without one by their id.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from odc.geo.geom import Geometry

from hypermend.catalog.arrays import F64
from hypermend.catalog.cube.spec import CubeSpec
from hypermend.catalog.errors import Refused
from hypermend.catalog.grids import ALIGN_PX, transform_point
from hypermend.catalog.scene import Scene
from hypermend.catalog.sensors import SHIPPED, Sensor, band_coverage, srf

MIN_OVERLAP = 0.5
"""Least share of a scene that its guide must cover. The rest keeps its own resolution and is flagged."""
OVERLAP_TOLERANCE = 0.01
"""Guides whose overlaps differ by less are equally good; the nearer in time is taken."""
RATIO_TOLERANCE = 0.01
"""Largest departure of the ratio of pixel sizes from a whole number, as a share of it."""
MIN_COVERAGE = 0.8
"""Least share of a guide band's response that must lie where the scene has bands; otherwise the band is left out."""
MIN_RESPONSE = 0.01
"""A scene band whose weight is a smaller share of the strongest lies outside the range of the guide."""


@dataclass(frozen=True, kw_only=True)
class GuideMatch:
    """The guide of a scene."""

    guide: Scene
    overlap: float
    """Share of the scene that it covers; 1 for a laboratory image."""
    days_apart: float | None
    """None where the time of one of the two is not known"""
    others: int
    """Number of other guides that were equally good."""


class GuideScenes:
    """The candidate guides: source scenes of one collection."""

    def __init__(self, scenes: Iterable[Scene], *, collection: str) -> None:
        self._scenes = sorted(scenes, key=lambda s: s.id)
        self._collection = collection
        # A box across the date line, or none, passes this filter: the exact outlines decide.
        whole_earth = (-180.0, -90.0, 180.0, 90.0)
        boxes = [s.bbox if s.bbox is not None and s.bbox[0] <= s.bbox[2] else whole_earth for s in self._scenes]
        self._boxes = np.array(boxes, dtype=np.float64).reshape(-1, 4)

    def find(self, scene: Scene) -> GuideMatch:
        """The guide of `scene`: the same choice every time.

        Raises:
            Refused: no guide, or none that covers enough of the scene.
        """
        candidates = self._by_id(scene) if scene.grid is None else self._by_footprint(scene)
        candidates = [(share, guide) for share, guide in candidates if guide != scene]
        if not candidates:
            how = "of this id" if scene.grid is None else "that meets its footprint"
            raise Refused(f"scene {scene.id}: collection {self._collection} has no guide {how}; ingest one")
        most = max(share for share, _ in candidates)
        if most < MIN_OVERLAP:
            raise Refused(
                f"scene {scene.id}: the best guide of {self._collection} covers {most:.0%} of it, "
                f"at least {MIN_OVERLAP:.0%} are needed"
            )
        good = [(share, guide) for share, guide in candidates if share > most - OVERLAP_TOLERANCE]
        # Time, then id, break ties.
        share, guide = min(good, key=lambda f: _nearness(scene, f[1]))
        days = days_apart(scene, guide)
        return GuideMatch(guide=guide, overlap=share, days_apart=days, others=len(good) - 1)

    def _by_id(self, scene: Scene) -> list[tuple[float, Scene]]:
        plain = [s for s in self._scenes if s.grid is None]
        same = [s for s in plain if s.id == scene.id and s.collection != scene.collection]
        return [(1.0, s) for s in same or plain if stem(s) == stem(scene)]

    def _by_footprint(self, scene: Scene) -> list[tuple[float, Scene]]:
        assert scene.grid is not None
        extent = scene.grid.extent
        near: Sequence[int] = range(len(self._scenes))
        if scene.bbox is not None and scene.bbox[0] <= scene.bbox[2]:
            w, s, e, n = scene.bbox
            b = self._boxes
            near = np.flatnonzero((b[:, 0] <= e) & (b[:, 2] >= w) & (b[:, 1] <= n) & (b[:, 3] >= s)).tolist()
        candidates = []
        for guide in (self._scenes[i] for i in near):
            if guide.grid is None:
                continue
            shared = extent & outline_in(guide.grid, scene.grid)
            if not shared.is_empty:
                candidates.append((float(shared.area / extent.area), guide))
        return candidates


def days_apart(scene: Scene, guide: Scene) -> float | None:
    """Days between two scenes; None where the time of one is unknown, or only that of a file's last change."""
    if scene.trusted_datetime is None or guide.trusted_datetime is None:
        return None
    return abs(guide.trusted_datetime - scene.trusted_datetime).total_seconds() / 86400


def _nearness(scene: Scene, guide: Scene) -> tuple[float, float, str]:
    """Order of equally good guides: the nearer in time, the earlier, by id; one without a time comes last."""
    days, when = days_apart(scene, guide), guide.trusted_datetime
    return math.inf if days is None else days, math.inf if when is None else when.timestamp(), guide.id


def stem(scene: Scene) -> str:
    """The id without the sensor's name at its end: the images of two instruments may come from one file."""
    return re.sub(rf"[-_.]{re.escape(scene.sensor)}$", "", scene.id, flags=re.IGNORECASE)


def scale_between(hyper: CubeSpec, guide: CubeSpec) -> int:
    """Number of guide pixels along the edge of a scene pixel.

    Raises:
        Refused: the ratio is no whole number (within `RATIO_TOLERANCE`), or only one of the two is georeferenced.
    """
    if (hyper.grid is None) != (guide.grid is None):
        placed, other = ("the guide", "the scene") if hyper.grid is None else ("the scene", "the guide")
        raise Refused(f"{placed} has a place on the ground and {other} has none; they cannot be laid on each other")
    if hyper.grid is None or guide.grid is None:
        scale = guide.width // hyper.width
        if (guide.height, guide.width) != (scale * hyper.height, scale * hyper.width) or scale < 1:
            raise Refused(
                f"the guide has {guide.height} x {guide.width} pixels, the scene {hyper.height} x {hyper.width}: "
                "without a place on the ground the guide must be finer by one whole number along both axes"
            )
        return scale
    ratios = _pixel_ratios(hyper.grid, guide.grid)
    scale = round(ratios[0])
    if scale < 1 or any(abs(r / scale - 1) > RATIO_TOLERANCE for r in ratios):
        wide = math.sqrt(abs(hyper.grid.affine.determinant))
        raise Refused(
            f"the scene has pixels of {wide:g}, the guide of {wide / ratios[0]:g} (units of {hyper.grid.crs}): "
            f"a ratio of {ratios[0]:.3f}, no whole number within {RATIO_TOLERANCE:.0%}; ingest the guide with a --gsd "
            "that divides the scene's"
        )
    return scale


def _pixel_ratios(hyper: GeoBox, guide: GeoBox) -> tuple[float, ...]:
    """Edge of a scene pixel in guide pixels: along both axes, or their mean if the reference systems differ."""
    if hyper.crs == guide.crs:
        a, b = hyper.affine, guide.affine
        return math.hypot(a.a, a.d) / math.hypot(b.a, b.d), math.hypot(a.b, a.e) / math.hypot(b.b, b.e)
    pixel = outline_in(guide, hyper).area / (guide.shape[0] * guide.shape[1])
    return (math.sqrt(abs(hyper.affine.determinant) / pixel),)


def outline_in(grid: GeoBox, other: GeoBox) -> Geometry:
    """Outline of `grid` in the reference system of `other`."""
    assert other.crs is not None
    return grid.footprint(other.crs, npoints=16)


def finer_spec(spec: CubeSpec, scale: int) -> CubeSpec:
    """Spec of the same scene with pixels `scale` times finer, and the chunks of a source cube."""
    shape = spec.bands, scale * spec.height, scale * spec.width
    transform = spec.transform
    if transform is not None:
        finer = GeoBox(spec.shape[1:], Affine(*transform), spec.crs).zoom_to(shape[1:])
        transform = tuple(finer.affine[:6])
    chunk, shard = CubeSpec.layout(shape, spec.dtype)
    gsd_m = tuple(gsd / scale for gsd in spec.gsd_m)
    return replace(spec, shape=shape, transform=transform, gsd_m=gsd_m, chunk=chunk, shard=shard)


def finer_lonlat(
    lon: NDArray[np.floating], lat: NDArray[np.floating], scale: int
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Degrees of the pixel centres, (h, w) each, on pixels `scale` times finer.

    Interpolated between neighbours, and extrapolated by half a pixel at the edges, on the unit sphere: the date line
    and the poles need no special case.
    """
    if scale == 1:
        return lon, lat
    across, up = np.radians(np.asarray(lon, np.float64)), np.radians(np.asarray(lat, np.float64))
    at = np.stack([np.cos(up) * np.cos(across), np.cos(up) * np.sin(across), np.sin(up)])  # (3, h, w)
    for axis in (1, 2):
        n = at.shape[axis]
        centre = (np.arange(scale * n) + 0.5) / scale - 0.5
        first = np.clip(np.floor(centre).astype(int), 0, max(0, n - 2))
        part = (centre - first if n > 1 else 0 * centre)[:, None] if axis == 1 else centre - first
        low, high = at.take(first, axis), at.take(np.minimum(first + 1, n - 1), axis)
        at = low + part * (high - low)
    return (
        np.degrees(np.arctan2(at[1], at[0])).astype(lon.dtype),
        np.degrees(np.arctan2(at[2], np.hypot(at[0], at[1]))).astype(lat.dtype),
    )


def offset_on(grid: GeoBox, guide: GeoBox) -> tuple[int, int] | None:
    """Row and column of `grid` on which the guide's first pixel lies; None if their pixels do not coincide."""
    if grid.crs != guide.crs:
        return None
    height, width = guide.shape
    corners = [(0, 0), (width, 0), (0, height), (width, height)]
    corners_on_grid = np.array(
        [transform_point(~grid.affine, *transform_point(guide.affine, *corner)) for corner in corners]
    )
    first = np.rint(corners_on_grid[0])
    if np.abs(corners_on_grid - first - corners).max() > ALIGN_PX:
        return None
    return int(first[1]), int(first[0])


@dataclass(frozen=True, kw_only=True)
class SpectralOverlap:
    """The spectral relation of a guide to its scene."""

    bands: tuple[int, ...]
    """0-based bands of the guide's cube that are used: good, and covered by the scene's bands."""
    response: F64
    """(m, b): each of these bands as a weighted sum of the scene's b good bands; rows sum to 1."""
    left_out: tuple[str, ...]
    """Names of the guide's good bands that the scene's bands do not cover."""
    range_nm: tuple[float, float]
    """First and last of the scene's good bands to which the guide responds."""
    beyond: tuple[float, ...]
    """Wavelengths in nm of the scene's good bands outside that range."""


def guide_table(guide: CubeSpec) -> Sensor:
    """The bands of a guide: the shipped table of its sensor, else those of its cube, with Gaussian responses."""
    shipped = SHIPPED.get(guide.sensor)
    if shipped is not None and set(guide.band_name) <= set(shipped.band_name):
        return shipped
    return Sensor(
        name=guide.sensor,
        band_name=guide.band_name,
        wavelength_nm=guide.wavelength_nm,
        fwhm_nm=guide.fwhm_nm,
        detector=guide.detector,
        usable=guide.good,
        gsd_m=guide.gsd_m,
        quantity=guide.quantity,
        source="the guide's cube",
    )


def spectral_overlap(hyper: CubeSpec, guide: CubeSpec) -> SpectralOverlap:
    """Spectral overlap of two instruments, from their tables and the bands of both cubes.

    Raises:
        Refused: the scene's bands cover none of the guide's.
        BadSensor: a band of the guide has no width.
    """
    nm = [w for w, good in zip(hyper.wavelength_nm, hyper.good, strict=True) if good]
    good = [i for i in range(guide.bands) if guide.good[i]]
    table = guide_table(guide)
    share = dict(zip(good, band_coverage(nm, table, [guide.band_name[i] for i in good]), strict=True))
    bands = tuple(i for i in good if share[i] >= MIN_COVERAGE)
    if not bands:
        names = ", ".join(guide.band_name[i] for i in good) or "none that is good"
        raise Refused(
            f"no band of the guide ({guide.sensor}: {names}) lies where the scene has bands "
            f"({', '.join(f'{w:.0f}' for w in (*nm[:1], *nm[-1:]))} nm); choose another --guide-collection"
        )
    response = srf(nm, table, bands=[guide.band_name[i] for i in bands])
    responding = np.flatnonzero((response > MIN_RESPONSE * response.max(axis=1, keepdims=True)).any(axis=0))
    return SpectralOverlap(
        bands=bands,
        response=response,
        left_out=tuple(guide.band_name[i] for i in good if i not in bands),
        range_nm=(nm[responding[0]], nm[responding[-1]]),
        beyond=tuple(nm[: responding[0]] + nm[responding[-1] + 1 :]),
    )
