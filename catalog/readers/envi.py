"""ENVI: a raw file and its .hdr (wavelength, fwhm, bbl, data ignore value, map info), bsq, bil or bip, read by GDAL.

GDAL gets a header that holds only the layout, beside a link to the data: which file it reads, and how, is decided here.
A remote file is fetched whole, header and data, under the size limit.
"""

from __future__ import annotations

import io
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.windows import Window

from hypermend.catalog.arrays import F32, Flags, LonLat, Mask, Stored
from hypermend.catalog.band_names import match_band
from hypermend.catalog.cube.spec import CubeSpec
from hypermend.catalog.errors import BadAsset, Refused
from hypermend.catalog.meaning.instrument import instrument
from hypermend.catalog.meaning.of_scene import item_statements, stac_statements, user_statements
from hypermend.catalog.meaning.resolve import Meaning, resolve
from hypermend.catalog.meaning.statement import Field, Source, Statements
from hypermend.catalog.readers.bands import Band, by_count, by_name, by_wavelength, select_bands
from hypermend.catalog.readers.decode import decoded
from hypermend.catalog.readers.masks import flags_of
from hypermend.catalog.readers.pixel_format import make_spec, pixel_format
from hypermend.catalog.readers.profile import FormatRow, file_name
from hypermend.catalog.readers.raster.companions import declared_layout
from hypermend.catalog.readers.raster.envi_header import header_statements, parse_header
from hypermend.catalog.readers.raster.groups import unidentified
from hypermend.catalog.readers.raster.sidecar import header_text
from hypermend.catalog.scene import Asset, Scene
from hypermend.catalog.sensors import SHIPPED, Sensor, SensorTables
from hypermend.catalog.storage.fetch import AssetFetcher
from hypermend.catalog.storage.gdal import local_gdal
from hypermend.catalog.storage.hrefs import is_remote, shown

_LAYOUT = ("samples", "lines", "bands", "header offset", "data type", "interleave", "byte order")
_PLACE = ("map info", "coordinate system string", "projection info")


def open_envi(
    scene: Scene,
    assets: Sequence[Asset],
    fetcher: AssetFetcher,
    *,
    tables: SensorTables = SHIPPED,
    bands: Sequence[str] | None = None,
) -> Any:
    """An ENVI image; see `scene_reader.open_scene`."""
    label = f"scene {scene.id}"
    data, header = _data_and_header(scene, assets)
    identity = fetcher.identity([data, header])
    where = file_name(header)
    fields = parse_header(header_text(header, fetcher))
    (count, lines, columns), dtype, declared = declared_layout(fields, where)
    _check_length(data, fetcher, declared, columns * count * np.dtype(dtype).itemsize)
    said = Statements([*user_statements(scene), *item_statements(scene), *stac_statements(scene, [data])])
    said.extend(header_statements(fields, count, Source.FILE, where))
    meaning = resolve(said, label=label)
    sensor, table = instrument(meaning, tables)
    file_bands = _bands(meaning, fields, table, count, f"{label}, {where}", tables)
    picked = select_bands(file_bands, bands, label)
    crs, transform = _georeference(fields, header)
    if crs is None and meaning.get(Field.CRS) is None:
        transform = None
    pixels, file_bands = pixel_format(meaning, file_bands, dtype=dtype, crs=crs, transform=transform)
    spec, order = make_spec([file_bands[i] for i in picked], (lines, columns), pixels, sensor=sensor)
    order = [picked[i] for i in order]
    local = _LocalCopy(data, fields, fetcher)
    source = EnviSource(spec, identity, meaning, local, [i + 1 for i in order])
    return decoded(source, [file_bands[i] for i in order])


class EnviSource:
    """Windows of an ENVI image; the first read fetches a remote one."""

    lonlat: LonLat | None = None

    def __init__(
        self, spec: CubeSpec, identity: str, meaning: Meaning, local: _LocalCopy, file_bands: Sequence[int]
    ) -> None:
        self.spec = spec
        self.identity = identity
        self.meaning = meaning
        self.windowed = not is_remote(local.data.href)
        self._local = local
        self._file_bands = list(file_bands)
        self._dataset: Any = None

    def read(self, y: slice, x: slice) -> tuple[Stored, Flags]:
        """(bands, h, w) stored numbers and (h, w) flags."""
        y0, y1, _ = y.indices(self.spec.height)
        x0, x1, _ = x.indices(self.spec.width)
        try:
            if self._dataset is None:
                self._dataset = self._local.open()
            stored: Stored = self._dataset.read(self._file_bands, window=Window(x0, y0, x1 - x0, y1 - y0))
        except RasterioError as e:
            raise BadAsset(f"{shown(self._local.data.href)}: cannot be read: {e}") from e
        stored = stored.astype(self.spec.dtype, copy=False)
        return stored, flags_of(stored, self.spec)

    def defects(self, y: slice, x: slice) -> Mask | None:
        """None: an ENVI image marks none."""
        return None

    def uncertainty(self, y: slice, x: slice) -> F32 | None:
        """None: see `Source.uncertainty`."""
        return None

    def close(self) -> None:
        if self._dataset is not None:
            self._dataset.close()
            self._dataset = None


class _LocalCopy:
    """Header and data side by side on this machine, as GDAL requires: a local file is linked."""

    def __init__(self, data: Asset, fields: Mapping[str, str], fetcher: AssetFetcher) -> None:
        self.data, self._fields, self._fetcher = data, fields, fetcher

    def open(self) -> Any:
        """GDAL's dataset; the folder goes at once, since a killed worker removes none and an open file needs none."""
        local = None if is_remote(self.data.href) else self._fetcher.seekable(self.data.href)
        # a local file is read by windows, whatever its size
        body = Path(local) if isinstance(local, str) else self._fetcher.fetch(self.data.href)
        with tempfile.TemporaryDirectory(prefix="hypermend-envi-") as folder:
            image = Path(folder) / "image.img"
            image.with_suffix(".hdr").write_text(_header_of(self._fields, _LAYOUT), encoding="latin-1")
            if isinstance(body, io.BytesIO):
                image.write_bytes(body.getbuffer())
            else:
                image.symlink_to(body.resolve())
            return _open_dataset(str(image))


def _header_of(fields: Mapping[str, str], keys: Sequence[str], **others: object) -> str:
    """Text of an ENVI header with some of the fields."""
    lists = {"map info", "coordinate system string", "projection info"}
    kept = {k: f"{{{fields[k]}}}" if k in lists else fields[k] for k in keys if k in fields}
    return "ENVI\n" + "".join(f"{k} = {v}\n" for k, v in {**kept, **others}.items())


def _data_and_header(scene: Scene, assets: Sequence[Asset]) -> tuple[Asset, Asset]:
    """Data file and header of the scene."""
    headers = [a for a in scene.assets.values() if file_name(a).lower().endswith(".hdr")]
    bodies = [a for a in assets if a not in headers]
    if len(headers) != 1 or len(bodies) != 1:
        names = ", ".join(shown(a.href) for a in (*bodies, *headers))
        raise BadAsset(f"scene {scene.id}: an ENVI image is one data file and its .hdr, both as assets; it has {names}")
    return bodies[0], headers[0]


def _bands(
    meaning: Meaning, fields: Mapping[str, str], table: Sensor | None, count: int, where: str, tables: SensorTables
) -> list[Band]:
    """Bands of the image, in its order."""
    names = [n.strip() for n in fields["band names"].split(",")] if "band names" in fields else None
    if names is not None and (len(names) != count or not all(names)):
        names = None
    centres = meaning.get(Field.WAVELENGTH)
    if centres is not None:
        if len(centres) != count:
            told = meaning.resolved[Field.WAVELENGTH]
            raise BadAsset(f"{where}: {len(centres)} wavelengths by {told}, the image has {count} bands")
        return by_wavelength(table, centres, where, fwhm_nm=meaning.get(Field.FWHM), good=meaning.get(Field.GOOD))
    unit = fields.get("wavelength units", "")
    hint = f"; its 'wavelength units' are {unit!r}, which are no lengths" if unit and "wavelength" in fields else ""
    if table is None:
        raise BadAsset(f"{where}: {unidentified(count, names, meaning.get(Field.SENSOR), tables)}{hint}")
    if names is not None and all(match_band(n, table) for n in names):
        return by_name(table, names, where)
    return by_count(table, count, where)


def _check_length(data: Asset, fetcher: AssetFetcher, declared: int, line_bytes: int) -> None:
    """GDAL holds a line in memory, and a file with holes can be of any length."""
    size = fetcher.stat(data.href).size
    if size is not None and size != declared:
        raise BadAsset(
            f"{shown(data.href)}: {size} bytes, its header declares {declared}; truncated, or a header of another file"
        )
    if line_bytes > fetcher.max_bytes:
        raise Refused(f"{shown(data.href)}: a line of it has {line_bytes} bytes, the limit is {fetcher.max_bytes}")
    if is_remote(data.href) and declared > fetcher.max_bytes:
        raise Refused(f"{shown(data.href)}: {declared} bytes, fetched whole, the limit is {fetcher.max_bytes}")


def _open_dataset(path: str) -> Any:
    with local_gdal(), warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)  # a lab image has no place on Earth
        return rasterio.open(path, driver="ENVI")


def _georeference(
    fields: Mapping[str, str], header: Asset
) -> tuple[str | None, tuple[float, float, float, float, float, float] | None]:
    """CRS and transform as GDAL reads them from the header's map info, beside a dummy of one pixel."""
    size = {"samples": 1, "lines": 1, "bands": 1, "data type": 1, "interleave": "bsq", "header offset": 0}
    with tempfile.TemporaryDirectory(prefix="hypermend-envi-") as folder:
        (Path(folder) / "image.hdr").write_text(_header_of(fields, _PLACE, **size), encoding="latin-1")
        (Path(folder) / "image.img").write_bytes(bytes(16))
        try:
            with _open_dataset(str(Path(folder) / "image.img")) as dataset:
                transform = dataset.transform
                a, b, c, d, e, f = transform[:6]
                place = None if transform.is_identity else (a, b, c, d, e, f)
                if dataset.crs is None:
                    return None, place
                epsg = dataset.crs.to_epsg()
                return (f"EPSG:{epsg}" if epsg else dataset.crs.to_wkt()), place
        except RasterioError as error:
            raise BadAsset(f"{shown(header.href)}: its header cannot be read: {error}") from error


ROWS = (
    FormatRow(
        product="ENVI",
        levels="any",
        read="header and its raw image of exact size; BSQ, BIL, BIP; data gain and offset, reflectance scale "
        "factor, `bbl`",
        masks="`data ignore value`",
        grid="map info, or none",
        refused="an image of another size, a quicklook in its place, libraries",
    ),
)
