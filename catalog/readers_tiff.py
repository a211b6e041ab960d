"""GeoTIFF, COG and JPEG 2000: one file, one file per band, or the tiles of one acquisition as a mosaic.

Every band of the cube is a list of files on one target grid. A file is placed by a whole number of target pixels;
coarser files are repeated (nearest), finer ones averaged, both by a whole ratio and both said in `attrs`. A window
opens only the files that it touches.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio.windows import Window

from catalog import readers_s2
from catalog.errors import BadAsset
from catalog.readers_bands import (
    Band,
    Pixels,
    by_count,
    by_name,
    by_wavelength,
    choose,
    default_fill,
    flags_of,
    make_spec,
    spare_number,
)
from catalog.readers_fetch import Reach
from catalog.readers_mtl import Calibration, calibration
from catalog.scene import Asset, Scene, match_band, shown
from catalog.sensors import Sensor
from catalog.spec import CubeSpec

ALIGN_PX = 0.01
"""Files may be off the target grid by this part of a pixel (rounding of degrees), not more."""
_WAVELENGTH_NM = {"nanometers": 1.0, "nanometer": 1.0, "nm": 1.0, "micrometers": 1e3, "micrometer": 1e3, "um": 1e3}
THERMAL = "TIR"


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a raster file says of itself."""

    asset: Asset
    size: tuple[int, int]
    """(y, x)"""
    dtypes: tuple[str, ...]
    nodata: float | None
    scale: float
    offset: float
    crs: str | None
    transform: Affine
    names: tuple[str, ...] | None
    """band names, when every band has one"""
    wavelength_nm: tuple[float, ...] | None
    fwhm_nm: tuple[float, ...] | None
    good: tuple[bool, ...] | None
    tags: Mapping[str, str]
    """of the whole file"""

    @property
    def count(self) -> int:
        return len(self.dtypes)

    @property
    def pixel(self) -> float:
        return abs(self.transform.a)


@dataclass(frozen=True, kw_only=True)
class Placed:
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


@dataclass(frozen=True, kw_only=True)
class Layer:
    """Files that hold the same bands, and which of their bands go where in the cube."""

    files: tuple[Placed, ...]
    file_bands: tuple[int, ...]
    """1-based, in the file"""
    cube_bands: tuple[int, ...]
    """0-based, in the cube"""


def open_tiff(
    scene: Scene,
    assets: Sequence[Asset],
    table: Sensor,
    reach: Reach,
    *,
    bands: Sequence[str] | None = None,
    gsd_m: float | None = None,
) -> TiffSource:
    """A scene of raster files; see `readers.open_scene`."""
    what = f"scene {scene.id}"
    sentinel2 = table.name.startswith("sentinel2")
    if sentinel2:
        assets = readers_s2.pick(assets, bands, gsd_m, what)
    identity = reach.identity(assets)
    headers = [read_header(a, reach) for a in assets]
    for header in headers:
        check_against_item(header, scene)
    groups = _groups(headers)
    flag_groups: list[tuple[list[Header], int]] = []
    found: list[tuple[Band, list[Header], int]] = []  # band, its files, its 1-based number in them
    left_out: list[str] = []
    for group in groups:
        for position, band in enumerate(_bands_of(group[0], table, what), start=1):
            if isinstance(band, str):
                if readers_s2.is_classes(band):
                    flag_groups.append((group, position))
                else:
                    left_out.append(band)
            elif band.detector == THERMAL:
                left_out.append(band.name)
            else:
                found.append((band, group, position))
    if not found:
        raise BadAsset(f"{what}: no band of sensor {table.name} in {', '.join(shown(a.href) for a in assets[:4])}")
    picked = choose([b for b, _, _ in found], bands, what)
    found = [found[i] for i in picked]
    target, size, crs = _target(found, gsd_m, what)
    pixels = _pixels(scene, table, found, reach, target, crs, left_out)
    cube_bands = [b for b, _, _ in found]
    spec, order = make_spec(cube_bands, size, pixels, sensor=table.name)
    layers = _layers([found[i] for i in order], target, size, what)
    notes = {b.name: n for b, n in zip(cube_bands, _resampling(found, target), strict=True) if n}
    if notes:
        spec = replace(spec, attrs={**spec.attrs, "hypermend:resampling": notes})
    if spec.fill is None and _holes(layers, size):
        spec = replace(spec, fill=spare_number(spec.dtype))
    classes = [
        Layer(files=tuple(place(h, target, size, what) for h in g), file_bands=(p,), cube_bands=(0,))
        for g, p in flag_groups
    ]
    return TiffSource(spec, identity, layers, classes, reach)


class TiffSource:
    """Windows of raster files on one grid."""

    windowed = True
    lonlat = None

    def __init__(
        self, spec: CubeSpec, identity: str, layers: Sequence[Layer], classes: Sequence[Layer], reach: Reach
    ) -> None:
        self.spec = spec
        self.identity = identity
        self._layers = tuple(layers)
        self._classes = tuple(classes)
        self._reach = reach
        self._opened: dict[str, Any] = {}

    def read(self, y: slice, x: slice) -> tuple[NDArray[Any], NDArray[np.uint8]]:
        """(bands, h, w) stored numbers, (h, w) flags; only files under the window are opened."""
        y0, y1, _ = y.indices(self.spec.height)
        x0, x1, _ = x.indices(self.spec.width)
        box = (y0, y1, x0, x1)
        empty = 0 if self.spec.fill is None else self.spec.fill
        stored = np.full((self.spec.bands, y1 - y0, x1 - x0), empty, dtype=self.spec.dtype)
        for layer in self._layers:
            self._fill(stored, layer, box)
        flags = flags_of(stored, self.spec)
        for layer in self._classes:
            classes = np.zeros((1, y1 - y0, x1 - x0), dtype=np.uint8)
            self._fill(classes, layer, box)
            flags = readers_s2.flagged(flags, classes[0])
        return stored, flags

    def _fill(self, out: NDArray[Any], layer: Layer, box: tuple[int, int, int, int]) -> None:
        y0, y1, x0, x1 = box
        for file in layer.files:
            top, bottom = max(y0, file.top), min(y1, file.top + file.height)
            left, right = max(x0, file.left), min(x1, file.left + file.width)
            if top >= bottom or left >= right:
                continue
            part = self._read_file(file, layer.file_bands, top, bottom, left, right)
            out[list(layer.cube_bands), top - y0 : bottom - y0, left - x0 : right - x0] = part

    def _read_file(
        self, file: Placed, bands: tuple[int, ...], top: int, bottom: int, left: int, right: int
    ) -> NDArray[Any]:
        """Rows top:bottom, columns left:right of the target grid, from one file."""
        up, down = file.up, file.down
        row0, row1 = (top - file.top) * down // up, -(-(bottom - file.top) * down // up)
        col0, col1 = (left - file.left) * down // up, -(-(right - file.left) * down // up)
        window = Window(col0, row0, col1 - col0, row1 - row0)
        pixels: NDArray[Any] = self._reach.raster(
            file.header.asset.href, lambda d: d.read(list(bands), window=window), opened=self._opened
        )
        if down > 1:
            return _averaged(pixels, down, file.header.nodata)
        if up > 1:
            pixels = pixels.repeat(up, axis=1).repeat(up, axis=2)
            dy, dx = top - file.top - row0 * up, left - file.left - col0 * up
            pixels = pixels[:, dy : dy + bottom - top, dx : dx + right - left]
        return pixels

    def close(self) -> None:
        for dataset in self._opened.values():
            dataset.close()
        self._opened.clear()


def read_header(asset: Asset, reach: Reach) -> Header:
    """Open, look, close."""

    def look(dataset: Any) -> Header:
        tags = [{k.lower(): v for k, v in dataset.tags(i).items()} for i in dataset.indexes]
        scales, offsets = set(dataset.scales), set(dataset.offsets)
        if len(scales) > 1 or len(offsets) > 1:
            raise BadAsset(f"{shown(asset.href)}: bands differ in scale {sorted(scales)} or offset {sorted(offsets)}")
        georeferenced = dataset.crs is not None and not dataset.transform.is_identity
        return Header(
            asset=asset,
            size=(dataset.height, dataset.width),
            dtypes=tuple(dataset.dtypes),
            nodata=dataset.nodata,
            scale=scales.pop(),
            offset=offsets.pop(),
            crs=_crs_text(dataset.crs) if georeferenced else None,
            transform=dataset.transform,
            names=_names(dataset.descriptions, tags),
            wavelength_nm=_wavelengths(tags),
            fwhm_nm=_tag_numbers(tags, "fwhm"),
            good=_good(tags),
            tags=dict(dataset.tags()),
        )

    return reach.raster(asset.href, look)


def _crs_text(crs: Any) -> str:
    epsg = crs.to_epsg()
    return f"EPSG:{epsg}" if epsg else str(crs.to_wkt())


def _names(descriptions: Sequence[str | None], tags: Sequence[dict[str, str]]) -> tuple[str, ...] | None:
    names = [t.get("description") or d for t, d in zip(tags, descriptions, strict=True)]
    return tuple(str(n) for n in names) if all(names) else None


def _tag_numbers(tags: Sequence[dict[str, str]], key: str) -> tuple[float, ...] | None:
    if not all(key in t for t in tags):
        return None
    unit = _WAVELENGTH_NM.get(tags[0].get("wavelength_units", "nanometers").lower(), 1.0)
    return tuple(float(t[key]) * unit for t in tags)


def _good(tags: Sequence[dict[str, str]]) -> tuple[bool, ...] | None:
    if not any("bbl" in t for t in tags):
        return None
    return tuple(t.get("bbl", "1").strip() not in ("0", "0.0") for t in tags)


def _wavelengths(tags: Sequence[dict[str, str]]) -> tuple[float, ...] | None:
    return _tag_numbers(tags, "wavelength")


def check_against_item(header: Header, scene: Scene) -> None:
    """The file's own header wins: where the item says otherwise, an error names both."""
    asset = header.asset
    grid = asset.grid or (scene.grid if sum(a.href == asset.href for a in scene.assets.values()) else None)
    several = len(scene.assets) > 1 and asset.grid is None  # the item's grid is that of the mosaic
    where = f"asset {asset.key} ({shown(asset.href)})"
    if asset.bands and len(asset.bands) != header.count:
        raise BadAsset(f"{where}: the item lists {len(asset.bands)} bands, the file has {header.count}")
    if grid is None or several:
        return
    if tuple(grid.shape) != header.size:
        raise BadAsset(f"{where}: the item says shape {tuple(grid.shape)}, the file {header.size}")
    if header.crs is None or grid.crs != header.crs:
        raise BadAsset(f"{where}: the item says CRS {_short(grid.crs)}, the file {_short(header.crs)}")
    if not np.allclose(grid.affine[:6], header.transform[:6], rtol=1e-9, atol=header.pixel * ALIGN_PX):
        raise BadAsset(
            f"{where}: the item says transform {tuple(grid.affine[:6])}, the file {tuple(header.transform[:6])}"
        )


def _short(crs: Any) -> str:
    epsg = crs.to_epsg() if hasattr(crs, "to_epsg") else None
    return f"EPSG:{epsg}" if epsg else str(crs)[:60]


def _groups(headers: Sequence[Header]) -> list[list[Header]]:
    """Files with the same bands belong together as a mosaic."""
    groups: dict[Any, list[Header]] = {}
    for h in headers:
        key = (h.asset.bands or h.names, h.wavelength_nm, h.count)
        groups.setdefault(key if any(key[:2]) else (h.asset.key,), []).append(h)
    return list(groups.values())


def _bands_of(header: Header, table: Sensor, what: str) -> list[Band | str]:
    """A Band for each band of the file, or its bare name when the sensor table does not know it."""
    where = f"{what}, {shown(header.asset.href)}"
    if header.wavelength_nm is not None:
        found = by_wavelength(
            table,
            header.wavelength_nm,
            where,
            fwhm_nm=header.fwhm_nm,
            good=header.good,
            names=header.asset.bands or None,
        )
        return list(found)
    names = header.asset.bands or header.names
    if names is None and header.count == 1:
        names = (header.asset.key,)
    if names is not None and any(match_band(n, table) or readers_s2.is_classes(n) for n in names):
        return [by_name(table, [n], where)[0] if match_band(n, table) else n for n in names]
    if header.count == 1 and names is not None:
        return list(names)
    return list(by_count(table, header.count, where))


def _target(
    found: Sequence[tuple[Band, list[Header], int]], gsd_m: float | None, what: str
) -> tuple[Affine, tuple[int, int], str | None]:
    """The cube's grid: pixels of the wanted (else the finest) size over the extent of all files."""
    headers = {h.asset.key: h for _, group, _ in found for h in group}.values()
    crs = {h.crs for h in headers}
    if len(crs) > 1:
        raise BadAsset(f"{what}: files of {len(crs)} reference systems: {', '.join(_short(c) for c in crs)}")
    if any(h.transform.b or h.transform.d for h in headers) and len(headers) > 1:
        raise BadAsset(f"{what}: several files with rotated pixels; they cannot be put on one grid")
    first = min(headers, key=lambda h: h.pixel)
    size = first.pixel if gsd_m is None else gsd_m
    a = math.copysign(size, first.transform.a) if gsd_m is not None else first.transform.a
    e = math.copysign(size, first.transform.e) if gsd_m is not None else first.transform.e
    if len(headers) == 1 and gsd_m is None:
        return first.transform, first.size, first.crs
    edges = [h.transform * corner for h in headers for corner in ((0, 0), (h.size[1], h.size[0]))]
    xs, ys = [p[0] for p in edges], [p[1] for p in edges]
    left, top = (min(xs) if a > 0 else max(xs)), (min(ys) if e > 0 else max(ys))
    width, height = (max(xs) - min(xs)) / abs(a), (max(ys) - min(ys)) / abs(e)
    # a coarser grid over a scene that is no multiple of it: the last, incomplete pixels are left out
    cut = math.floor if gsd_m is not None else round
    return Affine(a, 0.0, left, 0.0, e, top), (cut(height + ALIGN_PX), cut(width + ALIGN_PX)), first.crs


def place(header: Header, target: Affine, size: tuple[int, int], what: str) -> Placed:
    """Where a file lies on the target grid, in whole target pixels."""
    ratio = header.transform.a / target.a
    up, down = max(1, round(ratio)), max(1, round(1 / ratio))
    left, top = ~target * (header.transform.c, header.transform.f)
    apart = max(abs(ratio - up / down) * max(header.size), abs(left - round(left)), abs(top - round(top)))
    if apart > max(ALIGN_PX, 1e-6 * max(header.size)) or abs(header.transform.e / target.e - ratio) > 1e-6:
        raise BadAsset(
            f"{what}: {shown(header.asset.href)} lies off the grid: its transform is "
            f"{tuple(header.transform[:6])}, the grid's {tuple(target[:6])}"
        )
    return Placed(
        header=header,
        top=round(top),
        left=round(left),
        height=min(header.size[0] * up // down, size[0] - round(top)),
        width=min(header.size[1] * up // down, size[1] - round(left)),
        up=up,
        down=down,
    )


def _pixels(
    scene: Scene,
    table: Sensor,
    found: list[tuple[Band, list[Header], int]],
    reach: Reach,
    target: Affine,
    crs: str | None,
    left_out: Sequence[str],
) -> Pixels:
    """What the stored numbers are; all files of a cube must agree."""
    what = f"scene {scene.id}"
    dtypes = {group[0].dtypes[i - 1] for _, group, i in found}
    if len(dtypes) > 1:
        raise BadAsset(f"{what}: bands of types {', '.join(sorted(dtypes))}; one cube has one")
    dtype = dtypes.pop()
    headers = [h for _, group, _ in found for h in group]
    nodata = {h.nodata if h.nodata is not None else h.asset.nodata for h in headers}
    if len({str(n) for n in nodata}) > 1:
        raise BadAsset(f"{what}: files with nodata {', '.join(map(str, nodata))}; one cube has one")
    told = _told_scale(headers, what)
    facts: dict[str, Any] = {"hypermend:left_out": list(left_out)} if left_out else {}
    quantity = str(scene.properties.get("hypermend:quantity", table.quantity))
    scale, offset = told if told is not None else (1.0, 0.0)
    mtl: Calibration | None = calibration(scene, [b for b, _, _ in found], reach)
    if mtl is not None:
        quantity, scale, offset = mtl.quantity, mtl.scale_factor, mtl.add_offset
        facts |= mtl.attrs
    elif table.name.startswith("sentinel2"):
        scale, offset, note = readers_s2.scaling(scene, dtype, told, headers[0].asset)
        facts["hypermend:s2_offset"] = note
    elif quantity == "radiance" and told is None and np.dtype(dtype).kind in "iu":
        quantity = "counts"  # nothing says how counts become radiance
    a, b, c, d, e, f = target[:6]
    return Pixels(
        dtype=dtype,
        fill=default_fill(dtype, nodata.pop()),
        scale_factor=scale,
        add_offset=offset,
        quantity=quantity,
        crs=crs,
        transform=(a, b, c, d, e, f) if crs is not None else None,
        attrs=facts,
    )


def _told_scale(headers: Sequence[Header], what: str) -> tuple[float, float] | None:
    """(scale, offset) of the files, else of the item, else None when nobody says."""
    told = {(h.scale, h.offset) for h in headers}
    if told == {(1.0, 0.0)}:
        item = {(h.asset.scale, h.asset.offset) for h in headers}
        if len(item) == 1:
            scale, offset = item.pop()
            return None if scale is None and offset is None else (scale or 1.0, offset or 0.0)
        told = {(s or 1.0, o or 0.0) for s, o in item}
    if len(told) > 1:
        raise BadAsset(f"{what}: files differ in (scale, offset): {sorted(told)[:4]}")
    return told.pop()


def _layers(
    found: Sequence[tuple[Band, list[Header], int]], target: Affine, size: tuple[int, int], what: str
) -> list[Layer]:
    """One layer per group of files; `found` in cube order."""
    groups: dict[int, tuple[list[Header], list[int], list[int]]] = {}
    for cube_band, (_, group, position) in enumerate(found):
        _, file_bands, cube_bands = groups.setdefault(id(group), (group, [], []))
        file_bands.append(position)
        cube_bands.append(cube_band)
    return [
        Layer(
            files=tuple(place(h, target, size, what) for h in group),
            file_bands=tuple(file_bands),
            cube_bands=tuple(cube_bands),
        )
        for group, file_bands, cube_bands in groups.values()
    ]


def _holes(layers: Sequence[Layer], size: tuple[int, int]) -> bool:
    """Whether any layer leaves part of the grid without a file."""
    return any(sum(f.height * f.width for f in layer.files) < size[0] * size[1] for layer in layers)


def _resampling(found: Sequence[tuple[Band, list[Header], int]], target: Affine) -> list[str]:
    out = []
    for _, group, _ in found:
        ratio = group[0].transform.a / target.a
        out.append("" if abs(ratio - 1) < 1e-6 else f"nearest x{ratio:g}" if ratio > 1 else f"average /{1 / ratio:g}")
    return out


def _averaged(pixels: NDArray[Any], down: int, nodata: float | None) -> NDArray[Any]:
    """Mean of down x down blocks, rounded to the stored type; a block with nodata becomes nodata."""
    bands, height, width = pixels.shape
    blocks = pixels.reshape(bands, height // down, down, width // down, down)
    mean = blocks.mean(axis=(2, 4), dtype=np.float64)
    out = (np.rint(mean) if pixels.dtype.kind in "iu" else mean).astype(pixels.dtype)
    if nodata is not None:
        out[(blocks == nodata).any(axis=(2, 4))] = nodata
    return out
