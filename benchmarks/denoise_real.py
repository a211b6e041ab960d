"""Denoising of real scenes, which have no ground truth: how much noise is removed, and whether structure is lost.

For each scene one JSON line:

    noise            median over bands of the noise as estimated, in parts of the scene's bright value
    removed          median over bands of the root mean square of what was removed, in parts of the band's noise
    left             median over bands of the noise as estimated anew after, in parts of that before
    block_*          change of the mean of 8x8 pixels in a band, relative to that mean or to 1 % of the band's mean,
                     whichever is larger (darker blocks have no meaningful ratio): largest and 99th percentile over
                     blocks and bands, in %; the same on blocks that begin 4 pixels off the scene's grid
    spectrum_*       the same change, relative in length of the whole mean spectrum of the block
    correlation      of what was removed with the detail of the restored band (its waves shorter than 8 pixels): median
                     and largest absolute value over bands
    edges            energy of what was removed on the 5 % steepest pixels of the band, relative to elsewhere: median
                     and largest over bands; 1 if noise is the same everywhere
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from scipy.ndimage import binary_erosion

from hypermend.catalog.readers.scene_reader import open_scene
from hypermend.catalog.scene import Scene
from hypermend.catalog.stac.discover import from_folder
from hypermend.models.arrays import F32, F64, Mask
from hypermend.models.denoise.low_noise import CELL_PX, detail
from hypermend.models.denoise.model import StasModel
from hypermend.models.signal.subspace import Subspace, moments, subspace
from hypermend.pipeline.tiling.pixels import data_mask, fill_holes, physical

SCENES = {"enmap_potsdam": "enmap", "hyperion_paris": "hyperion", "pavia": "rosis"}
"""Folder of --data -> sensor."""
SHOWN, WIDE = 9, 3.0
"""Bands of a picture, and the removed part at its black and white, in units of the band's noise."""


def scenes(data: Path) -> Iterator[tuple[str, F32, Mask]]:
    """Read those of `SCENES` that are on this machine."""
    for folder, sensor in SCENES.items():
        if (data / folder).is_dir():
            yield from read(data / folder, sensor)


def read(folder: Path, sensor: str) -> Iterator[tuple[str, F32, Mask]]:
    """(id, physical values of the good bands with holes filled, where there is data) of each scene that can be read."""
    for scene in from_folder(folder, sensor=sensor, collection="real"):
        if not isinstance(scene, Scene):
            continue
        source = open_scene(scene)
        _, h, w = source.spec.shape
        stored, flags = source.read(slice(0, h), slice(0, w))
        values = physical(stored[np.array(source.spec.good)], source.spec)
        source.close()
        known = data_mask(values, flags)
        values[:, ~known] = 0
        fill_holes(values, known, values[:, known].mean(axis=1))
        yield scene.id, values, known


def measure(model: StasModel, name: str, before: F32, known: Mask, picture: Path | None) -> dict[str, Any]:
    """One line; with `picture` also a PNG of scene and removed part, side by side for `SHOWN` bands."""
    begin = time.perf_counter()
    facts = model.estimate([(before, known)])
    line = {"scene": name, "bands": len(before), "kind": facts["kind"]}
    if facts["kind"] == "untouched":
        return {**line, "noise": facts.get("noise_level"), "bands_restored": 0, "reason": facts["reason"]}
    assert facts["kind"] != "bands"  # a model on bands has no noise estimate
    h = model.halo
    padded = np.pad(before, ((0, 0), (h, h), (h, h)), mode="reflect")
    after = model.bind(facts)(torch.from_numpy(padded)[None])[0, :, h:-h, h:-h].numpy()
    seconds = time.perf_counter() - begin
    std = Subspace.from_json(facts).noise_std
    some = np.flatnonzero(facts["restored"])
    before, after, std = before[some], after[some], std[some]
    gone = before - after
    if picture is not None:
        picture.mkdir(parents=True, exist_ok=True)
        draw(before, gone / std[:, None, None], known, picture / f"{name}.png")
    return {
        **line,
        "noise": facts["noise_level"],
        "bands_restored": len(some),
        "removed": float(np.median(gone[:, known].std(axis=1) / std)),
        "left": _left(after, known, std),
        **_blocks(before, gone, known, 0),
        **{f"{key}_off_grid": v for key, v in _blocks(before, gone, known, CELL_PX // 2).items()},
        **_structure(after, gone, known),
        "seconds": round(seconds, 2),
    }


def _left(after: F32, known: Mask, std: F64) -> float | None:
    m = moments([(after, known)])
    s = subspace(m) if m else None
    return float(np.median(s.noise_std / std)) if s else None


def _blocks(before: F32, gone: F32, known: Mask, offset: int) -> dict[str, float]:
    """Change of the means of blocks that hold data in every pixel, in %."""

    def means(x: npt.NDArray[Any]) -> F64:
        rows, columns = ((n - offset) // CELL_PX for n in x.shape[-2:])
        x = x[..., offset : offset + CELL_PX * rows, offset : offset + CELL_PX * columns].astype(np.float64)
        return np.asarray(x.reshape(*x.shape[:-2], rows, CELL_PX, columns, CELL_PX).mean(axis=(-3, -1)))

    whole = means(known) == 1
    value, change = means(before)[:, whole], means(gone)[:, whole]  # (bands, blocks)
    least = 0.01 * np.abs(before[:, known].mean(axis=1))[:, None]
    share = 100 * np.abs(change) / np.maximum(np.abs(value), least)
    spectra = 100 * np.linalg.norm(change, axis=0) / np.linalg.norm(value, axis=0)
    return {
        "block_worst": float(share.max()),
        "block_p99": float(np.quantile(share, 0.99)),
        "spectrum_worst": float(spectra.max()),
        "spectrum_p99": float(np.quantile(spectra, 0.99)),
    }


def _structure(after: F32, gone: F32, known: Mask) -> dict[str, float]:
    h, w = (n // CELL_PX * CELL_PX for n in known.shape)
    inner = binary_erosion(known[:h, :w], iterations=2)
    fine = detail(torch.from_numpy(after[None, :, :h, :w]))[0].numpy()[:, inner]
    flat = gone[:, :h, :w][:, inner]
    correlation = [abs(float(np.corrcoef(a, b)[0, 1])) for a, b in zip(fine, flat, strict=True)]
    edges = []
    for band, removed in zip(after, flat, strict=True):
        slope = np.hypot(*np.gradient(band))[:h, :w][inner]
        steep = slope > np.quantile(slope, 0.95)
        edges.append(float(np.square(removed[steep]).mean() / np.square(removed[~steep]).mean()))
    return {
        "correlation_median": float(np.median(correlation)),
        "correlation_worst": max(correlation),
        "edges_median": float(np.median(edges)),
        "edges_worst": max(edges),
    }


def draw(before: F32, gone: F32, known: Mask, path: Path) -> None:
    """Scene (2nd to 98th percentile) and removed part of bands spread over the spectrum, one pair below the other."""
    rows = []
    for b in np.linspace(0, len(before) - 1, SHOWN).round().astype(int):
        low, high = np.quantile(before[b][known], (0.02, 0.98))
        scene = (before[b] - low) / max(float(high - low), 1e-12)
        removed = np.where(known, gone[b] / (2 * WIDE) + 0.5, 0.5)
        rows.append(np.concatenate((scene, removed), axis=1))
    sheet = np.concatenate([np.concatenate(rows[i::3], axis=0) for i in range(3)], axis=1)
    image = Image.fromarray((255 * np.clip(sheet, 0, 1)).astype(np.uint8))
    image.resize((2 * image.width, 2 * image.height), Image.Resampling.NEAREST).save(path)
