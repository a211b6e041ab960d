"""Quicklooks: a cube as PNG pictures beside it, made from its overviews when it is published.

    overview       its longest edge has 129 to 512 pixels, or all those of a smaller cube
    thumbnail      its longest edge has at most 256 pixels
    false_colour   near infrared, red and green as red, green and blue, as large as the overview; each band on a stretch
                   of its own; only where the cube has these bands
    removed        of a restored cube on its source's pixels: source minus result, grey where they are equal

Colours are those of the bands nearest to red, green and blue, or grey where there are none. A restored cube is shown on
the stretch of its source cube, so that the two compare. Pixels without data are transparent.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from hypermend.catalog.arrays import F32
from hypermend.catalog.cube.cube import Cube
from hypermend.catalog.cube.spec import CubeSpec
from hypermend.catalog.keys import quicklook_keys

OVERVIEW_PX, THUMBNAIL_PX = 512, 256
"""Longest edges of the pictures."""
COLOURS_NM = (650.0, 550.0, 450.0)
INFRARED_NM = 850.0
NEAR_NM = 50.0
"""A band farther from a colour does not show it."""
REMOVED_PERCENT = 99
"""Percentile of the change that is black or white in its picture."""
LARGEST_CHANGE = "largest change"
"""Text chunk of that picture: the change that is black or white, physical units."""
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


def infrared_band(spec: CubeSpec) -> int | None:
    """Position of the good band nearest to the near infrared; None where the spec has none near it, or no colours."""
    good = [i for i, g in enumerate(spec.good) if g]
    nearest = min(good, key=lambda i: abs(spec.wavelength_nm[i] - INFRARED_NM), default=None)
    if nearest is None or len(colour_bands(spec)) != len(COLOURS_NM):
        return None
    return nearest if abs(spec.wavelength_nm[nearest] - INFRARED_NM) <= NEAR_NM else None


def picture_of(cube: Cube) -> F32 | None:
    """Physical values (bands, h, w) for the pictures; None for a large cube without overviews.

    Bands are red, green, blue, or one for grey; then near infrared, where the cube has it.

    Raises:
        BadCube: a shard is damaged.
    """
    longest = max(cube.spec.height, cube.spec.width)
    level = next((n for n in (1, *cube.spec.levels) if -(-longest // n) <= OVERVIEW_PX), None)
    infrared = infrared_band(cube.spec)
    bands = colour_bands(cube.spec) + ([] if infrared is None else [infrared])
    return None if level is None else cube.overview(level, bands)


def write_quicklooks(cube: Cube, *, source: Cube | None = None) -> tuple[str, ...]:
    """Write the pictures of a whole cube, where they are not there already; return their names.

    Args:
        source: the cube that it was restored from, whose stretch it gets.

    Raises:
        BadCube: a shard is damaged.
    """
    image = picture_of(cube)
    if image is None:
        return ()
    before = None if source is None else picture_of(source)
    reference = image if before is None or len(before) != len(image) else before
    pictures = {"overview": _picture(_colours(reference), _colours(image), cube.spec.quantity)}
    pictures["thumbnail"] = pictures["overview"].copy()
    pictures["thumbnail"].thumbnail((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.BOX)
    if len(image) == len(COLOURS_NM) + 1:
        pictures["false_colour"] = _picture(reference[[3, 0, 1]], image[[3, 0, 1]], "")
    if before is not None and (removed := _removed(_colours(before), _colours(image))) is not None:
        pictures["removed"] = removed
    keys = quicklook_keys(cube.path)
    for name, picture in pictures.items():
        file, texts = io.BytesIO(), PngInfo()
        for key, value in picture.info.items():
            texts.add_text(str(key), str(value))
        picture.save(file, format="PNG", compress_level=1, pnginfo=texts)  # the fastest; they are small
        cube.root.put_if_changed(keys[name], file.getvalue())
    return tuple(pictures)


def _colours(image: F32) -> F32:
    return image[: len(COLOURS_NM)] if len(image) > len(COLOURS_NM) else image


def _removed(before: F32, after: F32) -> Image.Image | None:
    """A picture of before minus after, grey where nothing was removed; None where there is no pixel to compare."""
    if before.shape != after.shape:  # a finer result
        return None
    change = before - after
    known = np.isfinite(change).all(axis=0)
    largest = float(np.percentile(np.abs(change[:, known]), REMOVED_PERCENT)) if known.any() else 0.0
    if not largest > 0:
        return None
    picture = _image(np.where(known, 0.5 + 0.5 * change / np.float32(largest), np.nan).clip(0, 1))
    picture.info[LARGEST_CHANGE] = f"{largest:.3g}"
    return picture


def _picture(reference: F32, image: F32, quantity: str) -> Image.Image:
    """A picture of an image (3 or 1, h, w) on the stretch of another."""
    return _image(stretch_of(reference, quantity).to_unit(image))


def _image(values: F32) -> Image.Image:
    """A picture of values (3 or 1, h, w) from 0 to 1, with an alpha channel where some are NaN."""
    usable = np.isfinite(values).all(axis=0)
    pixels = np.rint(np.where(usable, values, 0) * 255).astype(np.uint8)
    bands = [*pixels] if usable.all() else [*pixels, usable.astype(np.uint8) * 255]
    mode = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[len(bands)]
    return Image.merge(mode, [Image.fromarray(band) for band in bands])
