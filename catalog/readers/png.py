"""PNG stacks: one 16-bit gray PNG for each band, the 1-based band number last in the file name (CAVE)."""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

from hypermend.catalog.arrays import Stored
from hypermend.catalog.errors import BadAsset, Refused
from hypermend.catalog.readers.bands import ArraySource, PixelFormat, by_number, make_spec, select_bands
from hypermend.catalog.scene import Asset, Scene
from hypermend.catalog.sensors import Sensor
from hypermend.catalog.storage.fetch import AssetFetcher
from hypermend.catalog.storage.hrefs import is_remote, shown

SCALE = 1 / 65535
HEADER_BYTES = 33
_MODES = {0: "gray", 2: "RGB", 3: "palette", 4: "gray with alpha", 6: "RGBA"}
_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def open_png(
    scene: Scene, assets: Sequence[Asset], table: Sensor, fetcher: AssetFetcher, *, bands: Sequence[str] | None = None
) -> ArraySource:
    """A folder of PNGs as one cube of counts, scaled to 0..1; read whole."""
    label = f"scene {scene.id}"
    files = {band_number(a): a for a in assets}
    if len(files) < len(assets):
        raise BadAsset(f"{label}: {len(assets)} PNGs, but only {len(files)} different band numbers in their names")
    expected = range(1, table.bands + 1)
    if missing := [n for n in expected if n not in files]:
        raise BadAsset(f"{label}: bands {', '.join(map(str, missing))} of {table.bands} ({table.name}) have no PNG")
    numbers = sorted(files)
    file_bands = by_number(table, numbers, label)
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
    pixels = PixelFormat(dtype="uint16", scale_factor=SCALE, quantity="counts")
    spec, order = make_spec([file_bands[i] for i in picked], sizes[0], pixels, sensor=table.name)
    declared = int(np.prod(spec.shape)) * 2
    if declared > fetcher.max_bytes:
        raise Refused(f"{label}: {spec.shape} = {declared} bytes, read whole, and the limit is {fetcher.max_bytes}")

    def load() -> Stored:
        return np.stack([_pixels(fetcher.fetch(a.href), a) for a in chosen])

    return ArraySource(spec, fetcher.identity(chosen), load, order)


def band_number(asset: Asset) -> int:
    """The last number in the file's name."""
    name = Path(urlsplit(asset.href).path if is_remote(asset.href) else asset.href).stem
    if (match := re.search(r"(\d+)$", name)) is None:
        raise BadAsset(f"{shown(asset.href)}: no band number at the end of its name")
    return int(match[1])


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

    try:
        image = iio.imread(body, extension=".png")
    except (OSError, ValueError, SyntaxError) as e:
        raise BadAsset(f"{shown(asset.href)}: cannot be decoded: {e}") from e
    if image.dtype.itemsize < 2 or image.ndim != 2:
        raise BadAsset(f"{shown(asset.href)}: decoded to {image.dtype} {image.shape}, expected 16-bit gray")
    return np.asarray(image, dtype=np.uint16)
