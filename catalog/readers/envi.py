"""ENVI: a raw file and its .hdr (wavelength, fwhm, bbl, data ignore value, map info), bsq, bil or bip, read by GDAL.

A remote file is fetched whole, header and data, under the size limit.
"""

from __future__ import annotations

import io
import re
import shutil
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import rasterio
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.windows import Window

from hypermend.catalog.arrays import Flags, LonLat, Stored
from hypermend.catalog.band_names import match_band
from hypermend.catalog.cube.spec import CubeSpec
from hypermend.catalog.errors import BadAsset, Refused
from hypermend.catalog.readers.bands import (
    Band,
    PixelFormat,
    by_count,
    by_name,
    by_wavelength,
    default_fill,
    flags_of,
    make_spec,
    select_bands,
)
from hypermend.catalog.scene import Asset, Scene
from hypermend.catalog.sensors import Sensor
from hypermend.catalog.storage.fetch import AssetFetcher
from hypermend.catalog.storage.hrefs import is_remote, shown

# ENVI data type -> NumPy; complex types hold no image
DTYPES = {1: "uint8", 2: "int16", 3: "int32", 4: "float32", 5: "float64", 12: "uint16", 13: "uint32"}
_TO_NM = {"nanometers": 1.0, "nanometer": 1.0, "nm": 1.0, "micrometers": 1e3, "micrometer": 1e3, "um": 1e3, "µm": 1e3}
HEADER_BYTES = 16 << 20


def open_envi(
    scene: Scene, assets: Sequence[Asset], table: Sensor, fetcher: AssetFetcher, *, bands: Sequence[str] | None = None
) -> EnviSource:
    """An ENVI image; see `scene_reader.open_scene`."""
    data, header = _data_and_header(scene, assets)
    identity = fetcher.identity([data, header])
    fields = parse_header(_header_text(header, AssetFetcher(fetcher.sign, max_bytes=HEADER_BYTES)))
    where = shown(header.href)
    lines, columns, count = (_int_field(fields, k, where) for k in ("lines", "samples", "bands"))
    kind = _int_field(fields, "data type", where)
    if kind not in DTYPES:
        raise BadAsset(f"{where}: data type {kind}; {', '.join(f'{k} ({v})' for k, v in DTYPES.items())} are read")
    dtype = DTYPES[kind]
    _check_length(
        data, fetcher, lines * columns * count * np.dtype(dtype).itemsize + int(fields.get("header offset", 0))
    )
    file_bands = _bands(fields, table, count, where)
    picked = select_bands(file_bands, bands, f"scene {scene.id}")
    crs, transform = _georeference(data, header, fetcher)
    ignored = fields.get("data ignore value")
    scale = float(fields.get("reflectance scale factor", 0)) or None
    pixels = PixelFormat(
        dtype=dtype,
        fill=default_fill(dtype, float(ignored) if ignored is not None else data.nodata),
        scale_factor=1 / scale if scale is not None else data.scale or 1.0,
        add_offset=data.offset or 0.0,
        quantity=str(
            scene.properties.get("hypermend:quantity", "reflectance" if scale is not None else table.quantity)
        ),
        crs=crs,
        transform=transform,
    )
    spec, order = make_spec([file_bands[i] for i in picked], (lines, columns), pixels, sensor=table.name)
    return EnviSource(spec, identity, data, header, fetcher, [picked[i] + 1 for i in order])


class EnviSource:
    """Windows of an ENVI image; the first read fetches a remote one."""

    lonlat: LonLat | None = None

    def __init__(
        self,
        spec: CubeSpec,
        identity: str,
        data: Asset,
        header: Asset,
        fetcher: AssetFetcher,
        file_bands: Sequence[int],
    ) -> None:
        self.spec = spec
        self.identity = identity
        self.windowed = not is_remote(data.href)
        self._local = _LocalCopy(data, header, fetcher)
        self._file_bands = list(file_bands)
        self._dataset: Any = None

    def read(self, y: slice, x: slice) -> tuple[Stored, Flags]:
        """(bands, h, w) stored numbers and (h, w) flags."""
        y0, y1, _ = y.indices(self.spec.height)
        x0, x1, _ = x.indices(self.spec.width)
        try:
            if self._dataset is None:
                self._dataset = _open_dataset(self._local.path())
            stored: Stored = self._dataset.read(self._file_bands, window=Window(x0, y0, x1 - x0, y1 - y0))
        except RasterioError as e:
            raise BadAsset(f"{shown(self._local.data.href)}: cannot be read: {e}") from e
        stored = stored.astype(self.spec.dtype, copy=False)
        return stored, flags_of(stored, self.spec)

    def close(self) -> None:
        if self._dataset is not None:
            self._dataset.close()
            self._dataset = None
        self._local.close()


class _LocalCopy:
    """Header and data side by side on this machine, as GDAL requires."""

    def __init__(self, data: Asset, header: Asset, fetcher: AssetFetcher) -> None:
        self.data, self.header, self._fetcher = data, header, fetcher
        self._folder: Path | None = None

    def path(self) -> str:
        if not is_remote(self.data.href):
            return self.data.href
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="hypermend-envi-"))
            for asset, name in ((self.header, "image.hdr"), (self.data, "image.img")):
                body = self._fetcher.fetch(asset.href)
                (self._folder / name).write_bytes(
                    body.getvalue() if isinstance(body, io.BytesIO) else body.read_bytes()
                )
        return str(self._folder / "image.img")

    def close(self) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None


def parse_header(text: str) -> dict[str, str]:
    """`key = value` and `key = { ... }` of an ENVI header; keys in lower case.

    Raises:
        BadAsset: the text does not begin with ENVI.
    """
    if not text.lstrip("\ufeff").startswith("ENVI"):
        raise BadAsset("an ENVI header begins with the word ENVI; this one does not")
    pairs = re.findall(r"^\s*([^=;\n{}]+?)\s*=\s*(\{[^}]*\}|[^\n]*)", text, re.M)
    return {key.lower(): value.strip().strip("{}").strip() for key, value in pairs}


def _data_and_header(scene: Scene, assets: Sequence[Asset]) -> tuple[Asset, Asset]:
    """Data file and header of the scene."""
    headers = [a for a in scene.assets.values() if _path(a).lower().endswith(".hdr")]
    bodies = [a for a in assets if a not in headers]
    if len(headers) != 1 or len(bodies) != 1:
        names = ", ".join(shown(a.href) for a in (*bodies, *headers))
        raise BadAsset(f"scene {scene.id}: an ENVI image is one data file and its .hdr, both as assets; it has {names}")
    return bodies[0], headers[0]


def _path(asset: Asset) -> str:
    return urlsplit(asset.href).path if is_remote(asset.href) else asset.href


def _header_text(header: Asset, fetcher: AssetFetcher) -> str:
    body = fetcher.fetch(header.href)
    return body.getvalue().decode("latin-1") if isinstance(body, io.BytesIO) else body.read_text(encoding="latin-1")


def _int_field(fields: Mapping[str, str], key: str, where: str) -> int:
    try:
        return int(fields[key])
    except (KeyError, ValueError) as e:
        raise BadAsset(f"{where}: {key!r} is {fields.get(key, 'missing')!r}, a whole number is needed") from e


def _number_list(fields: Mapping[str, str], key: str, count: int, where: str) -> list[float] | None:
    if key not in fields:
        return None
    try:
        values = [float(v) for v in fields[key].replace("\n", " ").split(",") if v.strip()]
    except ValueError as e:
        raise BadAsset(f"{where}: {key!r} holds something that is no number: {e}") from e
    if len(values) != count:
        raise BadAsset(f"{where}: {key!r} has {len(values)} values, the image has {count} bands")
    return values


def _bands(fields: Mapping[str, str], table: Sensor, count: int, where: str) -> list[Band]:
    centres = _number_list(fields, "wavelength", count, where)
    names = [n.strip() for n in fields["band names"].split(",")] if "band names" in fields else None
    if centres is None:
        if names is not None and len(names) == count and all(match_band(n, table) for n in names):
            return by_name(table, names, where)
        return by_count(table, count, where)
    unit = fields.get("wavelength units", "unknown").lower()
    # many headers omit the unit; no optical band lies below 100 nm or above 100 um
    factor = _TO_NM.get(unit, 1e3 if max(centres) < 100 else 1.0)
    widths, bbl = _number_list(fields, "fwhm", count, where), _number_list(fields, "bbl", count, where)
    return by_wavelength(
        table,
        [c * factor for c in centres],
        where,
        fwhm_nm=None if widths is None else [w * factor for w in widths],
        good=None if bbl is None else [b != 0 for b in bbl],
    )


def _check_length(data: Asset, fetcher: AssetFetcher, declared: int) -> None:
    size = fetcher.stat(data.href).size
    if size is not None and size < declared:
        raise BadAsset(f"{shown(data.href)}: {size} bytes, its header declares {declared}; truncated or a wrong header")
    if is_remote(data.href) and declared > fetcher.max_bytes:
        raise Refused(f"{shown(data.href)}: {declared} bytes, fetched whole, the limit is {fetcher.max_bytes}")


def _open_dataset(path: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)  # a lab image has no place on Earth
        return rasterio.open(path, driver="ENVI")


def _georeference(
    data: Asset, header: Asset, fetcher: AssetFetcher
) -> tuple[str | None, tuple[float, float, float, float, float, float] | None]:
    """CRS and transform as GDAL reads them from the header's map info.

    Only the header matters: GDAL opens a copy of it beside a dummy data file.
    """
    with tempfile.TemporaryDirectory(prefix="hypermend-envi-") as folder:
        text = _header_text(header, AssetFetcher(fetcher.sign, max_bytes=HEADER_BYTES))
        sized = re.sub(r"(?mi)^\s*(bands|lines|samples)\s*=.*$", r"\1 = 1", text)
        sized = re.sub(r"(?mis)^\s*(wavelength|fwhm|bbl|band names)\s*=\s*\{[^}]*\}", "", sized)
        sized = re.sub(r"(?mi)^\s*header offset\s*=.*$", "header offset = 0", sized)
        (Path(folder) / "image.hdr").write_text(sized, encoding="latin-1")
        (Path(folder) / "image.img").write_bytes(bytes(16))
        try:
            with _open_dataset(str(Path(folder) / "image.img")) as dataset:
                if dataset.crs is None:
                    return None, None
                epsg = dataset.crs.to_epsg()
                a, b, c, d, e, f = dataset.transform[:6]
                return (f"EPSG:{epsg}" if epsg else dataset.crs.to_wkt()), (a, b, c, d, e, f)
        except RasterioError as error:
            raise BadAsset(f"{shown(header.href)}: its header cannot be read: {error}") from error
