"""GeoTIFF, COG and JPEG 2000: one file, one file per band, or the tiles of one acquisition as a mosaic.

Every band of the cube is a list of files on one target grid. A file is placed by a whole number of target pixels;
coarser files are repeated (nearest), finer ones averaged, both by a whole ratio that `attrs` records. A window opens
only the files that it touches.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
from affine import Affine
from rasterio.windows import Window

from hypermend.catalog.arrays import Flags, LonLat, Stored
from hypermend.catalog.band_names import match_band
from hypermend.catalog.cube.spec import CubeSpec
from hypermend.catalog.errors import BadAsset
from hypermend.catalog.readers import sentinel2
from hypermend.catalog.readers.bands import (
    Band,
    PixelFormat,
    by_count,
    by_name,
    by_wavelength,
    default_fill,
    flags_of,
    make_spec,
    mosaic_fill,
    select_bands,
)
from hypermend.catalog.readers.enmap_metadata import EnmapMetadata, find_metadata, read_metadata
from hypermend.catalog.readers.header import Header, check_against_item, read_header
from hypermend.catalog.readers.landsat_mtl import Calibration, calibration, find_mtl
from hypermend.catalog.readers.mosaic import (
    BandFiles,
    Layer,
    PlacedFile,
    block_mean,
    has_holes,
    layers_of,
    place,
    resampling,
    target_grid,
)
from hypermend.catalog.scene import Asset, Scene
from hypermend.catalog.sensors import Sensor
from hypermend.catalog.storage.fetch import AssetFetcher
from hypermend.catalog.storage.hrefs import is_remote, shown

THERMAL = "TIR"


def open_tiff(
    scene: Scene,
    assets: Sequence[Asset],
    table: Sensor,
    fetcher: AssetFetcher,
    *,
    bands: Sequence[str] | None = None,
    gsd_m: float | None = None,
) -> TiffSource:
    """A scene of raster files; see `scene_reader.open_scene`."""
    label = f"scene {scene.id}"
    is_sentinel2 = table.name.startswith("sentinel2")
    if is_sentinel2:
        assets = sentinel2.select_assets(assets, bands, gsd_m, label)
    elif bands is not None:
        assets = _assets_of_bands(assets, bands, table)
    metadata_files = [a for a in (find_mtl(scene.assets), find_metadata(scene.assets)) if a is not None]
    identity = fetcher.identity([*assets, *metadata_files])
    headers = _headers(assets, fetcher)
    if (xml := find_metadata(scene.assets)) is not None:
        headers = _with_metadata(headers, read_metadata(xml, fetcher), label)
    for header in headers:
        check_against_item(header, scene)
    band_files, class_bands, left_out = _classify_bands(_groups(headers), table, label)
    if not band_files:
        raise BadAsset(f"{label}: no band of sensor {table.name} in {', '.join(shown(a.href) for a in assets[:4])}")
    picked = select_bands([b for b, _, _ in band_files], bands, label)
    band_files = [band_files[i] for i in picked]
    target, size, crs = target_grid(band_files, gsd_m, label)
    pixels = _pixels(scene, table, band_files, fetcher, target, crs, left_out)
    cube_bands = [b for b, _, _ in band_files]
    spec, order = make_spec(cube_bands, size, pixels, sensor=table.name)
    layers = layers_of([band_files[i] for i in order], target, size, label)
    notes = {b.name: n for b, n in zip(cube_bands, resampling(band_files, target), strict=True) if n}
    if notes:
        spec = replace(spec, attrs={**spec.attrs, "hypermend:resampling": notes})
    if spec.fill is None and has_holes(layers, size):
        spec = replace(spec, fill=mosaic_fill(spec.dtype))
    classes = [
        Layer(files=tuple(place(h, target, size, label) for h in g), file_bands=(p,), cube_bands=(0,))
        for g, p in class_bands
    ]
    # room for two windows of a shard: interleaved bands must not be unpacked once for each band
    window_bytes = math.prod(spec.shard) * np.dtype(spec.dtype).itemsize
    fetcher.gdal_cache_bytes = max(fetcher.gdal_cache_bytes, 2 * window_bytes)
    return TiffSource(spec, identity, layers, classes, fetcher)


class TiffSource:
    """Windows of raster files on one grid."""

    windowed = True
    lonlat: LonLat | None = None

    def __init__(
        self, spec: CubeSpec, identity: str, layers: Sequence[Layer], classes: Sequence[Layer], fetcher: AssetFetcher
    ) -> None:
        self.spec = spec
        self.identity = identity
        self._layers = tuple(layers)
        self._classes = tuple(classes)
        self._fetcher = fetcher
        self._opened: dict[str, Any] = {}

    def read(self, y: slice, x: slice) -> tuple[Stored, Flags]:
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
            flags = sentinel2.add_class_flags(flags, classes[0])
        return stored, flags

    def _fill(self, out: Stored, layer: Layer, box: tuple[int, int, int, int]) -> None:
        y0, y1, x0, x1 = box
        for file in layer.files:
            top, bottom = max(y0, file.top), min(y1, file.top + file.height)
            left, right = max(x0, file.left), min(x1, file.left + file.width)
            if top >= bottom or left >= right:
                continue
            part = self._read_file(file, layer.file_bands, top, bottom, left, right)
            window = (slice(top - y0, bottom - y0), slice(left - x0, right - x0))
            if (nodata := file.header.nodata) is not None and len(layer.files) > 1:
                # where files overlap, one without data here keeps the data of another
                holes = np.isnan(part) if np.isnan(nodata) else part == nodata
                part = np.where(holes, out[(list(layer.cube_bands), *window)], part)
            out[(list(layer.cube_bands), *window)] = part

    def _read_file(
        self, file: PlacedFile, bands: tuple[int, ...], top: int, bottom: int, left: int, right: int
    ) -> Stored:
        """Rows top:bottom, columns left:right of the target grid, from one file."""
        up, down = file.up, file.down
        row0, row1 = (top - file.top) * down // up, -(-(bottom - file.top) * down // up)
        col0, col1 = (left - file.left) * down // up, -(-(right - file.left) * down // up)
        window = Window(col0, row0, col1 - col0, row1 - row0)
        pixels: Stored = self._fetcher.raster(
            file.header.asset.href, lambda d: d.read(list(bands), window=window), opened=self._opened
        )
        if down > 1:
            return block_mean(pixels, down, file.header.nodata)
        if up > 1:
            pixels = pixels.repeat(up, axis=1).repeat(up, axis=2)
            dy, dx = top - file.top - row0 * up, left - file.left - col0 * up
            pixels = pixels[:, dy : dy + bottom - top, dx : dx + right - left]
        return pixels

    def close(self) -> None:
        for dataset in self._opened.values():
            dataset.close()
        self._opened.clear()


def _classify_bands(
    groups: Sequence[list[Header]], table: Sensor, label: str
) -> tuple[list[BandFiles], list[tuple[list[Header], int]], list[str]]:
    """Bands of the cube, bands of classes (files, 1-based number in them), and names of the bands left out."""
    band_files: list[BandFiles] = []
    classes: list[tuple[list[Header], int]] = []
    left_out: list[str] = []
    for group in groups:
        for position, band in enumerate(_bands_of(group[0], table, label), start=1):
            if isinstance(band, Band):
                if band.detector == THERMAL:
                    left_out.append(band.name)
                else:
                    band_files.append((band, group, position))
            elif sentinel2.is_class_band(band):
                classes.append((group, position))
            else:
                left_out.append(band)
    return band_files, classes, left_out


def _assets_of_bands(assets: Sequence[Asset], bands: Sequence[str], table: Sensor) -> Sequence[Asset]:
    """Files of the requested bands in a one-file-per-band delivery; all files if a requested band has none."""
    wanted = {match_band(b, table) for b in bands}
    picked = [a for a in assets if len(a.bands) == 1 and a.bands[0] in wanted]
    return picked if {a.bands[0] for a in picked} == wanted else assets


def _headers(assets: Sequence[Asset], fetcher: AssetFetcher) -> list[Header]:
    """Headers of all files; remote ones in parallel, as each takes a round trip or two."""
    if not any(is_remote(a.href) for a in assets):
        return [read_header(a, fetcher) for a in assets]
    with ThreadPoolExecutor(max_workers=8) as pool:
        return list(pool.map(lambda a: read_header(a, fetcher), assets))


def _with_metadata(headers: Sequence[Header], metadata: EnmapMetadata, label: str) -> list[Header]:
    """Headers with the bands and scale of the delivery's metadata file, which the image's tags lack."""
    if wrong := [h for h in headers if h.count != len(metadata.wavelength_nm)]:
        where = shown(wrong[0].asset.href)
        raise BadAsset(f"{label}: {where} has {wrong[0].count} bands, its XML {len(metadata.wavelength_nm)}")
    return [
        replace(
            h,
            wavelength_nm=metadata.wavelength_nm,
            fwhm_nm=metadata.fwhm_nm,
            scale=metadata.scale,
            offset=metadata.offset,
        )
        for h in headers
    ]


def _groups(headers: Sequence[Header]) -> list[list[Header]]:
    """Groups of files with the same bands: each group is a mosaic."""
    groups: dict[Any, list[Header]] = {}
    for h in headers:
        key = (h.asset.bands or h.names, h.wavelength_nm, h.count)
        groups.setdefault(key if any(key[:2]) or h.count > 1 else (h.asset.key,), []).append(h)
    return list(groups.values())


def _bands_of(header: Header, table: Sensor, label: str) -> list[Band | str]:
    """A Band for each band of the file, or its bare name if the sensor table lacks it."""
    where = f"{label}, {shown(header.asset.href)}"
    if header.wavelength_nm is not None:
        return list(
            by_wavelength(
                table,
                header.wavelength_nm,
                where,
                fwhm_nm=header.fwhm_nm,
                good=header.good,
                names=header.asset.bands or None,
            )
        )
    names = header.asset.bands or header.names
    if names is None and header.count == 1:
        names = (header.asset.key,)
    if names is not None and any(match_band(n, table) or sentinel2.is_class_band(n) for n in names):
        return [by_name(table, [n], where)[0] if match_band(n, table) else n for n in names]
    if header.count == 1 and names is not None:
        return list(names)
    return list(by_count(table, header.count, where))


def _pixels(
    scene: Scene,
    table: Sensor,
    band_files: list[BandFiles],
    fetcher: AssetFetcher,
    target: Affine,
    crs: str | None,
    left_out: Sequence[str],
) -> PixelFormat:
    """Format of the stored numbers; all files of a cube must agree."""
    label = f"scene {scene.id}"
    dtypes = {group[0].dtypes[i - 1] for _, group, i in band_files}
    if len(dtypes) > 1:
        raise BadAsset(f"{label}: bands of types {', '.join(sorted(dtypes))}; one cube has one")
    dtype = dtypes.pop()
    headers = [h for _, group, _ in band_files for h in group]
    nodata = {h.nodata if h.nodata is not None else h.asset.nodata for h in headers}
    if len({str(n) for n in nodata}) > 1:
        raise BadAsset(f"{label}: files with nodata {', '.join(map(str, nodata))}; one cube has one")
    declared = _declared_scale(headers, label)
    facts: dict[str, Any] = {"hypermend:left_out": list(left_out)} if left_out else {}
    quantity = str(scene.properties.get("hypermend:quantity", table.quantity))
    scale, offset = declared if declared is not None else (1.0, 0.0)
    mtl: Calibration | None = calibration(scene, [b for b, _, _ in band_files], fetcher)
    if mtl is not None:
        quantity, scale, offset = mtl.quantity, mtl.scale_factor, mtl.add_offset
        facts |= mtl.attrs
    elif table.name.startswith("sentinel2"):
        scale, offset, note = sentinel2.scaling(scene, dtype, declared, headers[0].asset)
        facts["hypermend:s2_offset"] = note
    elif quantity == "radiance" and declared is None and np.dtype(dtype).kind in "iu":
        quantity = "counts"  # no file gives the factors from counts to radiance
    a, b, c, d, e, f = target[:6]
    return PixelFormat(
        dtype=dtype,
        fill=default_fill(dtype, nodata.pop()),
        scale_factor=scale,
        add_offset=offset,
        quantity=quantity,
        crs=crs,
        transform=(a, b, c, d, e, f) if crs is not None else None,
        attrs=facts,
    )


def _declared_scale(headers: Sequence[Header], label: str) -> tuple[float, float] | None:
    """(scale, offset) of the files, else of the item, else None."""
    declared = {(h.scale, h.offset) for h in headers}
    if declared == {(1.0, 0.0)}:
        item = {(h.asset.scale, h.asset.offset) for h in headers}
        if len(item) == 1:
            scale, offset = item.pop()
            return None if scale is None and offset is None else (scale or 1.0, offset or 0.0)
        declared = {(s or 1.0, o or 0.0) for s, o in item}
    if len(declared) > 1:
        raise BadAsset(f"{label}: files differ in (scale, offset): {sorted(declared)[:4]}")
    return declared.pop()
