"""Answers of `hypermend serve` on a large archive: `python -m benchmarks.browse [--items N]`.

One JSON line for each request, made over HTTP to a server in a process of its own: `seconds` is the median of the
turns, `first_s` the one that also lists the archive anew, as the first request after five seconds does. Both must take
less than `target` seconds. The items are those of restored scenes with 200 bands, 22 kB each, in an index that
`hypermend index` has compacted.

    footprints   the list of all items for the page's map
    first page   a search without a filter, 10 items
    sensor       a search by sensor, time and box, 100 items
    by id        the item of one scene
    one in ten   a search by a property that the index lacks, met by one item in ten
    none         the same, met by none: every item is read; without a target
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hypermend.catalog.stac.index import rebuild
from hypermend.catalog.storage.archive_store import ArchiveStore, to_json
from hypermend.pipeline.serve.listing import FRESH_S

TARGET_S = 1.0
BANDS = 200
REQUESTS = {
    "footprints": "/footprints",
    "first page": "/search",
    "sensor": "/search?limit=100&datetime=2024-06-01/2024-07-01&bbox=-90,-60,90,60&query="
    + urllib.parse.quote('{"hypermend:sensor": {"eq": "enmap"}}'),
    "by id": "/collections/hs-denoise/items/scene-05000",
    "one in ten": "/search?query=" + urllib.parse.quote('{"eo:cloud_cover": {"lt": 10}}'),
    "none": "/search?query=" + urllib.parse.quote('{"eo:cloud_cover": {"lt": 0}}'),
}


def make_archive(folder: Path, count: int) -> None:
    """Items of restored scenes all over the globe; there are no cubes."""
    root = ArchiveStore(folder)
    bands = [{"name": str(b), "eo:center_wavelength": 0.4 + 0.01 * b} for b in range(BANDS)]
    numbers = [round(400 + 9.7 * b, 2) for b in range(BANDS)]
    for i in range(count):
        when = datetime(2024, 1, 1, tzinfo=UTC) + timedelta(hours=i * 8000 / count)
        id, west, south = f"scene-{i:05d}", -180 + i * 37 % 359, -60 + i * 13 % 119
        box = [west, south, west + 0.3, south + 0.3]
        ring = [[west, south], [west + 0.3, south], [west + 0.3, south + 0.3], [west, south + 0.3], [west, south]]
        cube = f"restored/{id}/plan.zarr"
        item = {
            "type": "Feature", "stac_version": "1.1.0", "stac_extensions": [], "id": id, "collection": "hs-denoise",
            "geometry": {"type": "Polygon", "coordinates": [ring]}, "bbox": box, "links": [],
            "properties": {
                "datetime": f"{when:%Y-%m-%dT%H:%M:%SZ}", "hypermend:sensor": ("enmap", "prisma")[i % 2],
                "hypermend:stage": "restored", "hypermend:cube": cube, "eo:cloud_cover": i % 100,
                "hypermend:wavelength_nm": numbers, "hypermend:fwhm_nm": numbers,
                "hypermend:figures": {"noise_before": numbers, "noise_after": numbers},
            },
            "assets": {"cube": {"href": f"../../../{cube}", "roles": ["data"], "bands": bands}},
        }  # fmt: skip
        root.put(f"items/hs-denoise/{when:%Y-%m-%d}/{id}.json", to_json(item))
    rebuild(root)


def answers(url: str, turns: int) -> Iterator[dict[str, Any]]:
    """One line for each request."""
    for name, path in REQUESTS.items():
        times, size = [], 0
        time.sleep(FRESH_S + 0.5)
        for _ in range(turns):
            begun = time.perf_counter()
            with urllib.request.urlopen(url + path, timeout=120) as answer:
                size = len(answer.read())
            times.append(time.perf_counter() - begun)
        first, middle = times[0], statistics.median(times[1:])
        target = None if name == "none" else TARGET_S
        yield {
            "name": name, "seconds": round(middle, 4), "first_s": round(first, 4), "target": target,
            "met": target is None or max(first, middle) < target, "bytes": size,
        }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=10_000, help="items of the archive")
    parser.add_argument("--turns", type=int, default=6, help="times that each request is made")
    options = parser.parse_args()
    missed = 0
    with tempfile.TemporaryDirectory() as scratch:
        make_archive(Path(scratch) / "archive", options.items)
        command = [sys.executable, "-m", "hypermend", "serve", "--archive", f"{scratch}/archive", "--port", "0"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            url = server.stdout.readline().split()[0].rstrip("/")
            for result in answers(url, options.turns):
                missed += not result["met"]
                more = {"items": options.items, "versions": {p: version(p) for p in ("aiohttp", "pyarrow", "obstore")}}
                print(json.dumps({**result, **more, "date": f"{datetime.now(UTC):%Y-%m-%d}"}), flush=True)
            server.terminate()
    print(f"{missed} targets missed" if missed else "all targets met", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
