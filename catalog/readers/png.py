"""PNG stacks: one 16-bit gray PNG for each band, the 1-based band number last in the file name (CAVE)."""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from hypermend.catalog.arrays import Stored
from hypermend.catalog.errors import BadAsset, Refused
from hypermend.catalog.meaning.instrument import instrument
from hypermend.catalog.meaning.of_scene import item_statements, user_statements
from hypermend.catalog.meaning.resolve import Meaning, resolve
from hypermend.catalog.meaning.statement import Field, Source, Statements
from hypermend.catalog.readers.array_source import ArraySource
from hypermend.catalog.readers.bands import Band, by_number, by_wavelength, select_bands
from hypermend.catalog.readers.likely import likely_sensors
from hypermend.catalog.readers.pixel_format import make_spec, pixel_format
from hypermend.catalog.readers.profile import FormatRow
from hypermend.catalog.scene import Asset, Scene
from hypermend.catalog.sensors import SHIPPED, Sensor, SensorTables
from hypermend.catalog.storage.fetch import AssetFetcher
from hypermend.catalog.storage.hrefs import is_remote, shown

SCALE = 1 / 65535
HEADER_BYTES = 33
_MODES = {0: "gray", 2: "RGB", 3: "palette", 4: "gray with alpha", 6: "RGBA"}
_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def open_png(
    scene: Scene,
    assets: Sequence[Asset],
    fetcher: AssetFetcher,
    *,
    tables: SensorTables = SHIPPED,
    bands: Sequence[str] | None = None,
) -> Any:
    """A folder of PNGs as one cube of counts, scaled to 0..1; read whole."""
    label = f"scene {scene.id}"
    files = {band_number(a): a for a in assets}
    if len(files) < len(assets):
        raise BadAsset(f"{label}: {len(assets)} PNGs, but only {len(files)} different band numbers in their names")
    said = Statements([*user_statements(scene), *item_statements(scene)])
    said.add(Field.SCALE, SCALE, Source.PRODUCT, "16-bit PNG")
    said.add(Field.QUANTITY, "counts", Source.PRODUCT, "16-bit PNG")
    meaning = resolve(said, label=label)
    sensor, table = instrument(meaning, tables)
    file_bands = _bands(files, table, meaning, label, tables)
    picked = select_bands(file_bands, bands, label)
    chosen = [files[file_bands[i].number] for i in picked]
    packed = sum(s for s in (fetcher.stat(a.href).size for a in chosen) if s is not None)
    if packed > fetcher.max_bytes:
        raise Refused(f"{label}: its PNGs have {packed} bytes, read whole, and the limit is {fetcher.max_bytes}")
    sizes = [_size(a, fetcher) for a in chosen]
    if len(set(sizes)) > 1:
        odd = next(i for i, s in enumerate(sizes) if s != sizes[0])
        raise BadAsset(
            f"{label}: {shown(chosen[odd].href)} is {sizes[odd][0]} x {sizes[odd][1]} pixels, "
            f"{shown(chosen[0].href)} is {sizes[0][0]} x {sizes[0][1]}"
        )
    pixels, file_bands = pixel_format(meaning, file_bands, dtype="uint16")
    spec, order = make_spec([file_bands[i] for i in picked], sizes[0], pixels, sensor=sensor)
    declared = int(np.prod(spec.shape)) * 2
    if declared > fetcher.max_bytes:
        raise Refused(f"{label}: {spec.shape} = {declared} bytes, read whole, and the limit is {fetcher.max_bytes}")

    def load() -> Stored:
        return np.stack([_pixels(fetcher.fetch(a.href), a) for a in chosen])

    return ArraySource(spec, fetcher.identity(chosen), load, order, meaning=meaning)


def _bands(
    files: dict[int, Asset], table: Sensor | None, meaning: Meaning, label: str, tables: SensorTables
) -> list[Band]:
    """Bands by their number, which is that of the table, or that of the user's wavelengths."""
    count = table.bands if table is not None else len(files)
    if missing := [n for n in range(1, count + 1) if n not in files]:
        whose = f" ({table.name})" if table is not None else ""
        raise BadAsset(f"{label}: bands {', '.join(map(str, missing))} of {count}{whose} have no PNG")
    centres = meaning.get(Field.WAVELENGTH)
    if centres is not None:
        if len(centres) != len(files):
            raise BadAsset(f"{label}: {len(files)} PNGs, {len(centres)} wavelengths by --wavelengths")
        return by_wavelength(table, centres, label)
    if table is None:
        likely = ", ".join(likely_sensors(len(files), tables))
        which = f" (likely: {likely})" if likely else ""
        raise BadAsset(
            f"{label}: {len(files)} PNGs, which name neither their instrument nor their wavelengths; "
            f"give --sensor{which}, or --wavelengths"
        )
    return by_number(table, sorted(files), label)


def band_number(asset: Asset) -> int:
    """The last number in the file's name."""
    name = Path(urlsplit(asset.href).path if is_remote(asset.href) else asset.href).stem
    if not (digits := name[len(name.rstrip("0123456789")) :]):
        raise BadAsset(f"{shown(asset.href)}: no band number at the end of its name")
    return int(digits[-9:])


def _size(asset: Asset, fetcher: AssetFetcher) -> tuple[int, int]:
    """(y, x) from the PNG header.

    Raises:
        BadAsset: no PNG, or not 16-bit gray.
    """
    head = fetcher.head(asset.href, HEADER_BYTES)
    if len(head) < HEADER_BYTES or not head.startswith(_SIGNATURE):
        raise BadAsset(f"{shown(asset.href)}: is no PNG")
    width, height, depth, colour = struct.unpack(">IIBB", head[16:26])
    if (depth, colour) != (16, 0):
        raise BadAsset(
            f"{shown(asset.href)}: is {depth}-bit {_MODES.get(colour, colour)}, expected 16-bit gray as the other bands"
        )
    return height, width


def _pixels(body: io.BytesIO | Path, asset: Asset) -> Stored:
    import imageio.v3 as iio
    from PIL import Image

    try:
        image = iio.imread(body, extension=".png")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as e:
        raise BadAsset(f"{shown(asset.href)}: cannot be decoded: {e}") from e
    if image.dtype.itemsize < 2 or image.ndim != 2:
        raise BadAsset(f"{shown(asset.href)}: decoded to {image.dtype} {image.shape}, expected 16-bit gray")
    return np.asarray(image, dtype=np.uint16)


ROWS = (
    FormatRow(
        product="PNG stack",
        levels="numbered files",
        read="one gray PNG of 16 bits for each band, counts",
        masks="-",
        grid="none",
        refused="files of different sizes; bands that nothing identifies",
    ),
)
