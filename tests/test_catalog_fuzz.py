"""Mutated headers, metadata files and items end in a right cube or in an error of ours: never a traceback or a hang.

A hundred of each run in `make test`, two thousand in `make test-long`; the seed of a failing one is in its message.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio

from hypermend.catalog.cube.spec import VALID
from hypermend.catalog.errors import ArchiveError
from hypermend.catalog.readers.folder import Skipped, from_folder
from hypermend.catalog.readers.scene_reader import open_scene
from hypermend.catalog.scene import Scene
from hypermend.catalog.stac.discover import discover
from hypermend.catalog.stac.item import to_item
from tests.deliveries import desis_folder, enmap_folder, hls_folder, landsat_folder, safe_folder
from tests.test_catalog_readers_envi import write as write_envi

SHORT, LONG = 20, 400
"""Mutations of each kind: five kinds of text, five of items."""
SLOWEST_S = 20.0
LANDSAT = "LT05_L2SP_010067_19860424_20200918_02_T2"
WORDS = (
    "-1",
    "0",
    "1e999",
    "nan",
    "99999999999999999999",
    "x",
    "{",
    "}",
    "]]>",
    '"',
    "\x00",
    "é",
    "",
    "true",
    "1e-320",
)
ODD: tuple[Any, ...] = (None, True, -1, 0, 1e308, 2**70, "", "null", "nan", "é\x1b[31m", [], {}, [[]], {"a": 1}, [None])


@dataclass(frozen=True)
class Kind:
    """A delivery and the file of it that is mutated."""

    write: Callable[[Path], Any]
    victim: str
    pixels: str | None
    """Images whose numbers alone a cube may hold; None where the header says how bytes become numbers."""
    sensor: str = "auto"


KINDS = {
    "envi": Kind(write_envi, "*.hdr", None, "enmap"),
    "enmap": Kind(lambda folder: enmap_folder(folder, "L2A"), "*METADATA.XML", "*SPECTRAL_IMAGE*"),
    "landsat": Kind(lambda folder: landsat_folder(folder, LANDSAT, "LANDSAT_5", "TM"), "*_MTL.txt", "*_SR_B*"),
    "desis": Kind(lambda folder: desis_folder(folder, "L2A", bands=40), "*METADATA.xml", "*SPECTRAL_IMAGE*"),
    "sentinel2": Kind(lambda folder: safe_folder(folder, "2A", metadata=MTD, n=4), "*/MTD_MSIL2A.xml", "**/*_B*.jp2"),
}
MTD = """<n1><General_Info><Product_Info><PRODUCT_START_TIME>2024-06-07T10:15:59.024Z</PRODUCT_START_TIME>
<PROCESSING_BASELINE>05.10</PROCESSING_BASELINE><Datatake><SPACECRAFT_NAME>Sentinel-2B</SPACECRAFT_NAME></Datatake>
</Product_Info><Product_Image_Characteristics><QUANTIFICATION_VALUES_LIST>
<BOA_QUANTIFICATION_VALUE unit="none">10000</BOA_QUANTIFICATION_VALUE></QUANTIFICATION_VALUES_LIST>
<BOA_ADD_OFFSET_VALUES_LIST><BOA_ADD_OFFSET band_id="0">-1000</BOA_ADD_OFFSET></BOA_ADD_OFFSET_VALUES_LIST>
</Product_Image_Characteristics></General_Info></n1>"""

counts = pytest.mark.parametrize("count", [SHORT, pytest.param(LONG, marks=pytest.mark.long)])


def mutated(text: str, chance: random.Random) -> str:
    """The text as a careless editor, a broken writer or an attacker leaves it."""
    for _ in range(chance.choice((1, 1, 1, 2, 5))):
        lines = text.splitlines(keepends=True) or [""]
        at = chance.randrange(len(lines))
        how = chance.choice(("number", "number", "word", "drop", "twice", "cut", "swap", "byte"))
        if how == "number":
            parts = lines[at].replace("<", " <").replace(">", "> ").split(" ")
            digits = [i for i, part in enumerate(parts) if any(c.isdigit() for c in part)]
            if digits:
                parts[chance.choice(digits)] = chance.choice(WORDS)
            lines[at] = " ".join(parts)
        elif how == "word":
            parts = lines[at].split(" ")
            parts[chance.randrange(len(parts))] = chance.choice(WORDS)
            lines[at] = " ".join(parts)
        elif how == "drop":
            del lines[at]
        elif how == "twice":
            lines.insert(at, lines[chance.randrange(len(lines))])
        elif how == "cut":
            lines = [*lines[:at], lines[at][: chance.randrange(len(lines[at]) + 1)]]
        elif how == "swap":
            other = chance.randrange(len(lines))
            lines[at], lines[other] = lines[other], lines[at]
        else:
            i = chance.randrange(len(lines[at]) + 1)
            lines[at] = lines[at][:i] + chr(chance.randrange(256)) + lines[at][i + 1 :]
        text = "".join(lines)
    return text


def outcome(found: Scene | Skipped, allowed: np.ndarray | None) -> str:
    """Read a scene to its pixels and say how it ended."""
    if isinstance(found, Skipped):
        return "refused"
    try:
        source = open_scene(found)
        stored, flags = source.read(slice(0, source.spec.height), slice(0, source.spec.width))
        source.close()
    except ArchiveError:
        return "refused"
    valid = stored[:, flags & VALID > 0]
    if valid.dtype.kind == "f":
        good = np.array(source.spec.good)
        assert np.isfinite(valid[good]).all()
    elif allowed is not None:
        assert np.isin(valid, allowed).all(), "numbers that the images do not hold"
    return "read"


@counts
@pytest.mark.parametrize("name", KINDS)
def test_mutated_headers_and_metadata(tmp_path: Path, name: str, count: int) -> None:
    kind = KINDS[name]
    kind.write(tmp_path)
    (victim,) = tmp_path.glob(kind.victim)
    text = victim.read_text(encoding="latin-1")
    allowed = None
    if kind.pixels is not None:
        allowed = np.unique(np.concatenate([pixels_of(path) for path in tmp_path.glob(kind.pixels)]))
    ends = set()
    for seed in range(count):
        victim.write_text(mutated(text, random.Random(f"{name} {seed}")), encoding="latin-1", errors="replace")
        start = time.monotonic()
        try:
            ends |= {outcome(found, allowed) for found in from_folder(tmp_path, sensor=kind.sensor, collection="c")}
        except Exception as e:
            raise AssertionError(f"{name}, seed {seed}: {type(e).__name__}: {e}") from e
        assert time.monotonic() - start < SLOWEST_S, f"{name}, seed {seed}"
    assert ends == {"refused", "read"}


def pixels_of(path: Path) -> np.ndarray:
    with rasterio.open(path) as file:
        return np.unique(file.read())


def spoilt(value: Any, chance: random.Random) -> Any:
    """A JSON value with one part replaced, removed or nested deeply."""
    if isinstance(value, dict | list) and value and chance.random() < 0.8:
        copy: Any = dict(value) if isinstance(value, dict) else list(value)
        key = chance.choice(list(copy)) if isinstance(copy, dict) else chance.randrange(len(copy))
        if chance.random() < 0.1:
            del copy[key]
        else:
            copy[key] = spoilt(copy[key], chance)
        return copy
    if chance.random() < 0.1:
        return json.loads("[" * 200 + "]" * 200)
    return chance.choice(ODD)


@counts
@pytest.mark.parametrize("name", ["enmap", "landsat", "desis", "sentinel2", "hls"])
def test_mutated_items(tmp_path: Path, name: str, count: int) -> None:
    write, pixels = (hls_folder, "*.B*.tif") if name == "hls" else (KINDS[name].write, KINDS[name].pixels)
    write(tmp_path / "files")
    (scene,) = from_folder(tmp_path / "files", sensor="auto", collection="c")
    assert isinstance(scene, Scene), scene
    item = to_item(scene)
    allowed = np.unique(np.concatenate([pixels_of(path) for path in (tmp_path / "files").glob(str(pixels))]))
    document, ends = tmp_path / "item.json", set()
    for seed in range(count):
        chance = random.Random(f"{name} item {seed}")
        text = json.dumps(spoilt(item, chance)) if seed % 4 else mutated(json.dumps(item, indent=1), chance)
        document.write_text(text, encoding="utf-8", errors="replace")
        try:
            ends |= {outcome(found, allowed) for found in discover(document)}
        except ArchiveError:
            ends.add("refused")
        except Exception as e:
            raise AssertionError(f"{name} item, seed {seed}: {type(e).__name__}: {e}") from e
    assert ends == {"refused", "read"}
