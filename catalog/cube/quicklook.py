"""Quicklooks: a cube as two PNG pictures beside it, made from its overviews when it is published.

    overview    its longest edge has 129 to 512 pixels, or all those of a smaller cube
    thumbnail   its longest edge has at most 256 pixels

Colours are those of the bands nearest to red, green and blue, or grey where there are none. A restored cube is shown on
the stretch of its source cube, so that the two compare. Pixels without data are transparent.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from hypermend.catalog.arrays import F32
from hypermend.catalog.cube.cube import Cube
from hypermend.catalog.cube.spec import CubeSpec
from hypermend.catalog.keys import quicklook_keys

OVERVIEW_PX, THUMBNAIL_PX = 512, 256
"""Longest edges of the pictures."""
COLOURS_NM = (650.0, 550.0, 450.0)
NEAR_NM = 50.0
"""A band farther from a colour does not show it."""
LOW_PERCENT, HIGH_PERCENT = 2, 98


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """Physical values that are black and white, for each band of a picture."""

    low: tuple[float, ...]
    high: tuple[float, ...]

    def to_unit(self, image: F32) -> F32:
        """Values (bands, h, w) as 0 to 1; NaN stays."""
        low, high = (np.array(v, dtype=np.float32)[:, None, None] for v in (self.low, self.high))
        out: F32 = np.clip((image - low) / np.maximum(high - low, np.float32(1e-12)), 0, 1)
        return out


def colour_bands(spec: CubeSpec) -> list[int]:
    """Positions of the bands that look red, green and blue, or of the first good band where there are none."""
    good = [i for i, g in enumerate(spec.good) if g] or list(range(spec.bands))
    nm = np.array([spec.wavelength_nm[i] for i in good])
    nearest = [int(np.argmin(np.abs(nm - colour))) for colour in COLOURS_NM]
    far = max(abs(nm[i] - colour) for i, colour in zip(nearest, COLOURS_NM, strict=True))
    return [good[i] for i in nearest] if far <= NEAR_NM and len(set(nearest)) == len(nearest) else good[:1]


def stretch_of(image: F32, quantity: str) -> Stretch:
    """The stretch from the 2nd to the 98th percentile of a picture (bands, h, w).

    Reflectance has one for all bands, so that grey stays grey. The sun's light colours a radiance, and counts do not
    compare: their bands have one each.
    """
    count = len(image)
    groups = [list(range(count))] if quantity == "reflectance" else [[i] for i in range(count)]
    low, high = np.zeros(count), np.ones(count)
    for bands in groups:
        known = image[bands][np.isfinite(image[bands])]
        if known.size:
            low[bands], high[bands] = np.percentile(known, (LOW_PERCENT, HIGH_PERCENT))
    return Stretch(low=tuple(map(float, low)), high=tuple(map(float, high)))


def picture_of(cube: Cube) -> F32 | None:
    """Physical values (3 or 1, h, w) for the overview picture; None for a large cube without overviews.

    Raises:
        BadCube: a shard is damaged.
    """
    longest = max(cube.spec.height, cube.spec.width)
    level = next((n for n in (1, *cube.spec.levels) if -(-longest // n) <= OVERVIEW_PX), None)
    return None if level is None else cube.overview(level, colour_bands(cube.spec))


def write_quicklooks(cube: Cube, *, source: Cube | None = None) -> bool:
    """Write the pictures of a whole cube, where they are not there already. False: there are none.

    Args:
        source: the cube that it was restored from, whose stretch it gets.

    Raises:
        BadCube: a shard is damaged.
    """
    image = picture_of(cube)
    if image is None:
        return False
    reference = None if source is None else picture_of(source)
    stretch = stretch_of(image if reference is None or len(reference) != len(image) else reference, cube.spec.quantity)
    overview = _picture(stretch.to_unit(image))
    thumbnail = overview.copy()
    thumbnail.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.BOX)
    for picture, key in zip((overview, thumbnail), quicklook_keys(cube.path).values(), strict=True):
        file = io.BytesIO()
        picture.save(file, format="PNG", compress_level=1)  # the fastest; they are small
        cube.root.put_if_changed(key, file.getvalue())
    return True


def _picture(values: F32) -> Image.Image:
    """A picture of values (3 or 1, h, w) from 0 to 1, with an alpha channel where some are NaN."""
    usable = np.isfinite(values).all(axis=0)
    pixels = np.rint(np.where(usable, values, 0) * 255).astype(np.uint8)
    bands = [*pixels] if usable.all() else [*pixels, usable.astype(np.uint8) * 255]
    mode = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[len(bands)]
    return Image.merge(mode, [Image.fromarray(band) for band in bands])
