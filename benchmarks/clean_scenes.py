"""False alarms: `python -m benchmarks.clean_scenes --data DIR`. Real scenes as they are have no defect to be found.

One JSON line for each scene and orientation (four turns, each also mirrored): `dead` (columns, over all bands),
`values` (repeated values that would mark defects) and `spiky` (bands that would be searched for spikes). CAVE's scenes
and those of satellites and aircraft. Exit code 1 where anything is found.

With --destripe also `stripes` (columns, over all bands, from which `--destripe on` would subtract an offset) and
`largest` (offset, in parts of the largest value); sensors may have some, so they raise no alarm.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from benchmarks import denoise_real
from benchmarks.scenes import Scenes, crop
from hypermend.models import checkpoint
from hypermend.models.arrays import F32, Mask
from hypermend.models.denoise.model import StasModel
from hypermend.models.signal.repair import masked
from hypermend.models.signal.stripes import PlacedWindow
from hypermend.pipeline.evaluate.scores import STRIP_ROWS
from hypermend.pipeline.tiling.tiles import sample_windows

SENSORS = {**denoise_real.SCENES, "aviris": "aviris", "muufl": "muufl"}
"""Folder of --data -> sensor."""
BRIGHT = 0.9999
"""Quantile of a cube of a real sensor that it is divided by."""
TURNS, MIRRORED = range(4), (False, True)


def real(data: Path) -> Iterator[tuple[str, F32, Mask]]:
    """(name, values (b, h, w), known (h, w)) of the scenes of satellites and aircraft that are here."""
    for folder, sensor in SENSORS.items():
        if (data / folder).is_dir():
            yield from denoise_real.read(data / folder, sensor)


def scaled(data: Path, size: int) -> Iterator[tuple[str, F32]]:
    """(name, centre of the cube, 0 to 1) of the same."""
    for name, cube, _ in real(data):
        cut = crop(cube, size)
        yield name, np.clip(cut / np.quantile(cut, BRIGHT), 0, 1).astype(np.float32)


def scenes(data: Path) -> Iterator[tuple[str, F32, Mask]]:
    """The same, and CAVE's."""
    yield from real(data)
    if (data / "cave").is_dir():
        for name, cube in Scenes(data / "cave"):
            yield name, cube, np.ones(cube.shape[1:], dtype=bool)


def turned(image: np.ndarray, turn: int, mirrored: bool) -> np.ndarray:
    """An image (..., h, w) turned by 90 degrees `turn` times, then mirrored."""
    out = np.rot90(image, turn, axes=(-2, -1))
    return np.ascontiguousarray(out[..., ::-1] if mirrored else out)


def found(model: StasModel, cube: F32, known: Mask, *, destripe: bool = False) -> dict[str, object]:
    """Count what is taken for a defect in a scene, and for a stripe."""
    nothing = np.zeros(cube.shape, dtype=bool)

    def windows() -> Iterator[PlacedWindow]:
        for w in sample_windows(*known.shape):
            yield cube[:, w.y, w.x], known[w.y, w.x], nothing[:, w.y, w.x], np.arange(w.x0, w.x1)

    rows = [slice(y, y + STRIP_ROWS) for y in range(0, known.shape[0], STRIP_ROWS)]
    defects, stripes, lacking = masked(
        windows, lambda: [((cube[:, y], known[y], nothing[:, y]) for y in rows)], destripe=destripe
    )
    statistics, fit = model.estimate_masked(lacking, defective=bool(defects))
    offsets = np.zeros(1) if stripes is None else stripes.offsets
    striped = {"stripes": int(np.count_nonzero(offsets)), "largest": float(np.abs(offsets).max() / cube.max())}
    return {
        "kind": statistics["kind"],
        "dead": int(defects.columns.sum()),
        "values": {b: v for b, v in enumerate(defects.values) if v},
        "spiky": [] if fit is None else np.flatnonzero(fit.spiky).tolist(),
        **(striped if destripe else {}),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; 1 where a defect was found, or no scene is there."""
    ap = argparse.ArgumentParser(prog="python -m benchmarks.clean_scenes", description=__doc__.split("\n")[0])
    ap.add_argument("--data", type=Path, required=True, help="folder of folders of scenes")
    ap.add_argument("--crop", type=int, default=512, help="central pixels")
    ap.add_argument("--scenes", nargs="+", help="only scenes whose names begin so")
    ap.add_argument("--destripe", action="store_true", help="also count stripes")
    a = ap.parse_args(argv)
    model = checkpoint.load(checkpoint.builtin("stas-subspace"))
    assert isinstance(model, StasModel)
    seen, alarms = 0, 0
    for name, cube, known in scenes(a.data):
        if a.scenes and not name.startswith(tuple(a.scenes)):
            continue
        cube, known = crop(cube, a.crop), crop(known[None], a.crop)[0]
        for turn in TURNS:
            for mirrored in MIRRORED:
                line = found(model, turned(cube, turn, mirrored), turned(known, turn, mirrored), destripe=a.destripe)
                alarm = bool(line["dead"] or line["values"] or line["spiky"])
                seen, alarms = seen + 1, alarms + alarm
                print(json.dumps({"scene": name, "turn": 90 * turn, "mirrored": mirrored, **line}), flush=True)
    return 0 if seen and not alarms else 1


if __name__ == "__main__":
    sys.exit(main())
