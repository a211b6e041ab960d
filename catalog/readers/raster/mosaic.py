"""Several files on one grid: position of each in whole pixels, and cube band of each file band. Pure arithmetic.

A file is placed by a whole number of target pixels. A coarser file is repeated (nearest), a finer one averaged, both by
a whole ratio; anything else is an error that shows both transforms.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from affine import Affine
from rasterio.windows import Window

from hypermend.catalog.arrays import Stored
from hypermend.catalog.errors import BadAsset
from hypermend.catalog.grids import ALIGN_PX, crs_label, transform_point
from hypermend.catalog.readers.bands import Band
from hypermend.catalog.readers.raster.header import Header
from hypermend.catalog.storage.hrefs import shown

Box = tuple[int, int, int, int]
"""rows y0:y1 and columns x0:x1, as (y0, y1, x0, x1)"""
BandFiles = tuple[Band, Sequence[Header], int]
"""a band, the files that hold it, its 1-based number in them"""


@dataclass(frozen=True, kw_only=True)
class PlacedFile:
    """One file on the target grid, in target pixels."""

    header: Header
    top: int
    left: int
    height: int
    width: int
    up: int
    """target pixels per file pixel (coarser file), 1 or more"""
    down: int
    """file pixels per target pixel (finer file), 1 or more"""

    def part_of(self, box: Box) -> Box | None:
        """The part of a window of the target grid that the file covers; None for none."""
        y0, y1, x0, x1 = box
        top, bottom = max(y0, self.top), min(y1, self.top + self.height)
        left, right = max(x0, self.left), min(x1, self.left + self.width)
        return (top, bottom, left, right) if top < bottom and left < right else None

    def window(self, part: Box) -> tuple[Window, tuple[int, int]]:
        """The file's own pixels of a part, and by how many target pixels the part begins inside the first of them."""
        top, bottom, left, right = part
        row0, row1 = (top - self.top) * self.down // self.up, -(-(bottom - self.top) * self.down // self.up)
        col0, col1 = (left - self.left) * self.down // self.up, -(-(right - self.left) * self.down // self.up)
        inside = (top - self.top - row0 * self.up, left - self.left - col0 * self.up)
        return Window(col0, row0, col1 - col0, row1 - row0), inside


@dataclass(frozen=True, kw_only=True)
class Layer:
    """Files with the same bands, and the cube bands that these fill."""

    files: tuple[PlacedFile, ...]
    file_bands: tuple[int, ...]
    """1-based, in the file"""
    cube_bands: tuple[int, ...]
    """0-based, in the cube"""


def target_grid(
    found: Sequence[BandFiles], gsd_m: float | None, label: str
) -> tuple[Affine, tuple[int, int], str | None]:
    """The cube's grid: pixels of the wanted (else the finest) size over the extent of all files."""
    headers = {h.asset.key: h for _, group, _ in found for h in group}.values()
    crs = {h.crs for h in headers}
    if len(crs) > 1:
        raise BadAsset(f"{label}: files of {len(crs)} reference systems: {', '.join(crs_label(c) for c in crs)}")
    if any(h.transform.b or h.transform.d for h in headers) and len(headers) > 1:
        raise BadAsset(f"{label}: several files with rotated pixels; they cannot be put on one grid")
    first = min(headers, key=lambda h: h.pixel_size)
    if first.crs is not None and first.transform.e > 0:
        raise BadAsset(f"{label}: rows run from south to north ({first.transform.e:g} per row); turn the image first")
    size = first.pixel_size if gsd_m is None else gsd_m
    a = math.copysign(size, first.transform.a) if gsd_m is not None else first.transform.a
    e = math.copysign(size, first.transform.e) if gsd_m is not None else first.transform.e
    if len(headers) == 1 and gsd_m is None:
        return first.transform, first.size, first.crs
    edges = [transform_point(h.transform, *corner) for h in headers for corner in ((0, 0), (h.size[1], h.size[0]))]
    xs, ys = [p[0] for p in edges], [p[1] for p in edges]
    left, top = (min(xs) if a > 0 else max(xs)), (min(ys) if e > 0 else max(ys))
    width, height = (max(xs) - min(xs)) / abs(a), (max(ys) - min(ys)) / abs(e)
    # a coarser grid over a scene that is no multiple of it: the last, incomplete pixels are left out
    cut = math.floor if gsd_m is not None else round
    shape = cut(height + ALIGN_PX), cut(width + ALIGN_PX)
    if min(shape) < 1:
        raise BadAsset(
            f"{label}: no pixel of {size:g} fits; the files have pixels of {first.pixel_size:g} in {first.crs}"
        )
    return Affine(a, 0.0, left, 0.0, e, top), shape, first.crs


def place(header: Header, target: Affine, size: tuple[int, int], label: str) -> PlacedFile:
    """Position of a file on the target grid, in whole target pixels."""
    ratio = header.transform.a / target.a
    up, down = max(1, round(ratio)), max(1, round(1 / ratio))
    left, top = transform_point(~target, header.transform.c, header.transform.f)
    apart = max(abs(ratio - up / down) * max(header.size), abs(left - round(left)), abs(top - round(top)))
    if apart > max(ALIGN_PX, 1e-6 * max(header.size)) or abs(header.transform.e / target.e - ratio) > 1e-6:
        raise BadAsset(
            f"{label}: {shown(header.asset.href)} lies off the grid: its transform is "
            f"{tuple(header.transform[:6])}, the grid's {tuple(target[:6])}"
        )
    return PlacedFile(
        header=header,
        top=round(top),
        left=round(left),
        height=min(header.size[0] * up // down, size[0] - round(top)),
        width=min(header.size[1] * up // down, size[1] - round(left)),
        up=up,
        down=down,
    )


def layers_of(band_files: Sequence[BandFiles], target: Affine, size: tuple[int, int], label: str) -> list[Layer]:
    """One layer per group of files; `band_files` in cube order."""
    groups: dict[int, tuple[Sequence[Header], list[int], list[int]]] = {}
    for cube_band, (_, group, position) in enumerate(band_files):
        _, file_bands, cube_bands = groups.setdefault(id(group), (group, [], []))
        file_bands.append(position)
        cube_bands.append(cube_band)
    return [
        Layer(
            files=tuple(place(h, target, size, label) for h in group),
            file_bands=tuple(file_bands),
            cube_bands=tuple(cube_bands),
        )
        for group, file_bands, cube_bands in groups.values()
    ]


def has_holes(layers: Sequence[Layer], size: tuple[int, int]) -> bool:
    """Whether any layer leaves part of the grid without a file."""
    return any(not _covers(layer.files, size) for layer in layers)


def _covers(files: Sequence[PlacedFile], size: tuple[int, int]) -> bool:
    """Whether the files cover the whole grid, tested on the lattice of their edges: overlaps must not hide a hole."""
    ys = sorted({0, size[0], *(y for f in files for y in (f.top, f.top + f.height) if 0 < y < size[0])})
    xs = sorted({0, size[1], *(x for f in files for x in (f.left, f.left + f.width) if 0 < x < size[1])})
    covered = np.zeros((len(ys) - 1, len(xs) - 1), dtype=bool)
    top, left = np.array(ys[:-1])[:, None], np.array(xs[:-1])[None, :]
    for f in files:
        covered |= (f.top <= top) & (top < f.top + f.height) & (f.left <= left) & (left < f.left + f.width)
    return bool(covered.all())


def resampling(band_files: Sequence[BandFiles], target: Affine) -> list[str]:
    """For each band how its files were resampled; empty if they were not."""
    out = []
    for _, group, _ in band_files:
        ratio = group[0].transform.a / target.a
        out.append("" if abs(ratio - 1) < 1e-6 else f"nearest x{ratio:g}" if ratio > 1 else f"average /{1 / ratio:g}")
    return out


def block_mean(pixels: Stored, down: int, nodata: float | None) -> Stored:
    """Mean of down x down blocks, rounded to the stored type; a block with nodata becomes nodata.

    Args:
        nodata: NaN for files whose only nodata is NaN.
    """
    bands, height, width = pixels.shape
    blocks = pixels.reshape(bands, height // down, down, width // down, down)
    mean = blocks.mean(axis=(2, 4), dtype=np.float64)
    out: Stored = (np.rint(mean) if pixels.dtype.kind in "iu" else mean).astype(pixels.dtype)
    if nodata is not None:
        out[(blocks == nodata).any(axis=(2, 4))] = nodata
    return out
