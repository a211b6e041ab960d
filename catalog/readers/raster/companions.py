"""Which file beside an ENVI header holds its image: known suffixes only, and exactly as many bytes as it declares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from hypermend.catalog.errors import BadAsset
from hypermend.catalog.readers.raster.envi_header import parse_header
from hypermend.catalog.storage.fetch import AssetFetcher

# ENVI data type -> NumPy; complex types and 64-bit integers hold no image
DTYPES = {1: "uint8", 2: "int16", 3: "int32", 4: "float32", 5: "float64", 12: "uint16", 13: "uint32"}
SUFFIXES = ("", ".img", ".dat", ".raw", ".bsq", ".bil", ".bip", ".rfl", ".rdn", ".ref", ".rad", ".cub", ".cube", ".hsi")
"""Suffixes of raw images, in lower case; "" for a file without one, or for <name>.img of <name>.img.hdr"""
HEADER_BYTES = 16 << 20
_NO_IMAGE = ("library", "classification", "virtual mosaic", "meta file")


def int_field(fields: Mapping[str, str], key: str, where: str) -> int:
    """A whole number of a header.

    Raises:
        BadAsset: it is missing, negative or no number.
    """
    try:
        value = int(fields[key])
    except (KeyError, ValueError) as e:
        raise BadAsset(f"{where}: {key!r} is {fields.get(key, 'missing')!r}, a whole number is needed") from e
    if value < 0:
        raise BadAsset(f"{where}: {key!r} is {value}")
    return value


def declared_layout(fields: Mapping[str, str], where: str) -> tuple[tuple[int, int, int], str, int]:
    """((bands, lines, columns), type, bytes of the file) that a header declares.

    Raises:
        BadAsset: a field is missing or wrong, or the file holds no image.
    """
    kind_of_file = fields.get("file type", "").lower()
    if any(word in kind_of_file for word in _NO_IMAGE):
        raise BadAsset(f"{where}: is an {fields['file type']}, no image of measurements")
    lines, columns, count = (int_field(fields, k, where) for k in ("lines", "samples", "bands"))
    kind = int_field(fields, "data type", where)
    if kind not in DTYPES:
        raise BadAsset(f"{where}: data type {kind}; {', '.join(f'{k} ({v})' for k, v in DTYPES.items())} are read")
    if fields.get("file compression", "0").strip() not in ("", "0"):
        raise BadAsset(f"{where}: its data file is compressed (file compression); decompress it and remove the field")
    if min(lines, columns, count) < 1:
        raise BadAsset(f"{where}: declares {lines} lines, {columns} samples, {count} bands; each is at least 1")
    offset = int_field(fields, "header offset", where) if "header offset" in fields else 0
    return (count, lines, columns), DTYPES[kind], offset + lines * columns * count * np.dtype(DTYPES[kind]).itemsize


def data_file(header: Path, names: Sequence[str]) -> str:
    """Name of the data file of an ENVI header.

    Args:
        names: of the files in its folder.

    Raises:
        BadAsset: no file fits, or several do; the error lists the files and their sizes.
    """
    fields = parse_header(AssetFetcher(max_bytes=HEADER_BYTES).read(str(header)).decode("latin-1"))
    _, _, declared = declared_layout(fields, header.name)
    stem = header.name[: -len(header.suffix)].lower()
    known = [n for n in names if n != header.name and n.lower() in {stem + suffix for suffix in SUFFIXES}]
    sizes = {n: (header.parent / n).stat().st_size for n in known}
    fitting = [n for n, size in sizes.items() if size == declared]
    if len(fitting) == 1:
        return fitting[0]
    listed = ", ".join(f"{n} has {size}" for n, size in sizes.items())
    if fitting:
        raise BadAsset(f"{header}: {' and '.join(fitting)} both fit its {declared} bytes; leave only its own beside it")
    others = [n for n in names if n != header.name and n.lower().partition(".")[0] == stem.partition(".")[0]]
    told = f"; {listed}" if listed else f"; beside it are {', '.join(others[:5])}" if others else ""
    what = "no file beside it has that size" if known else "its data file is not beside it"
    raise BadAsset(
        f"{header}: declares an image of {declared} bytes, and {what}{told}; a data file is named like it, "
        f"with no suffix or {', '.join(SUFFIXES[1:8])} ..."
    )


def is_header_of_tiff(name: str, names: Sequence[str]) -> bool:
    """Whether an ENVI header lies beside a GeoTIFF of its name and no raw image, so that it describes the GeoTIFF."""
    stem = name[: -len(Path(name).suffix)].lower()
    lower = {n.lower() for n in names}
    tiff = bool(lower & {f"{stem}{s}" for s in (".tif", ".tiff")}) or stem.endswith((".tif", ".tiff"))
    return tiff and not lower & {stem + suffix for suffix in SUFFIXES if suffix or not stem.endswith((".tif", ".tiff"))}
