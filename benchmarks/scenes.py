"""CAVE-style scenes for benchmarks: a folder for each scene, one 16-bit gray PNG for each band."""

from __future__ import annotations

import importlib.metadata
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import imageio.v3 as iio
import numpy as np
import numpy.typing as npt
import torch

from hypermend.models.arrays import F32
from hypermend.pipeline.evaluate.scores import scores

C = TypeVar("C", bound=np.generic)


class Unreadable(ValueError):
    """A scene that cannot be read; the message names the file and the reason."""


def read_scene(folder: Path, *, peak: float | None = None) -> F32:
    """(bands, h, w), the whole scene divided by `peak` or its maximum; bands by the last number in the file name.

    PNGs may lie one folder deeper, as CAVE's archive unpacks.

    Raises:
        Unreadable: no PNG, a name without a number, not 16-bit gray, or of another size than the first.
    """
    files = list(folder.glob("*.png")) or list(folder.glob("*/*.png"))
    if not files:
        raise Unreadable(f"{folder}: no PNG in it")
    bands: dict[int, Path] = {}
    for f in files:
        number = re.search(r"(\d+)$", f.stem)
        if number is None or int(number[1]) in bands:
            raise Unreadable(f"{f}: no band number of its own at the end of its name")
        bands[int(number[1])] = f
    images: list[npt.NDArray[np.generic]] = []
    for _, f in sorted(bands.items()):
        try:
            image = np.asarray(iio.imread(f, plugin="pillow"))  # the legacy plugins die of a short file
        except (OSError, ValueError, SyntaxError) as e:
            raise Unreadable(f"{f}: {e}") from e
        if image.ndim != 2 or image.dtype.itemsize < 2:
            raise Unreadable(f"{f}: {image.dtype} {image.shape}, expected 16-bit gray")
        if images and image.shape != images[0].shape:
            raise Unreadable(f"{f}: {image.shape} pixels, the first band has {images[0].shape}")
        images.append(image)
    cube = np.stack(images).astype(np.float32)
    if cube.max() <= 0:
        raise Unreadable(f"{folder}: all zero")
    return np.asarray(cube / (cube.max() if peak is None else peak), dtype=np.float32)


def crop(cube: npt.NDArray[C], size: int) -> npt.NDArray[C]:
    """The central size x size pixels; the whole image where it is smaller."""
    _, h, w = cube.shape
    top, left = max(0, (h - size) // 2), max(0, (w - size) // 2)
    return cube[:, top : top + size, left : left + size]


def quality(truth: F32, estimate: F32) -> dict[str, object]:
    """Make the fields that every image benchmark reports; the estimate is clipped to 0..1."""
    found = scores(truth, estimate)
    names = ("psnr", "ssim", "sam_deg", "psnr_bands", "sam_left_out")
    return {**{name: found[name] for name in names}, "shape": list(truth.shape), **versions()}


def versions() -> dict[str, object]:
    """Versions and machine that made a line."""
    return {
        "threads": torch.get_num_threads(),
        "hypermend": importlib.metadata.version("hypermend"),
        "torch": torch.__version__,
    }


class Scenes:
    """Scenes of a folder, in order of name. `failed` counts those that were named on stderr and left out."""

    def __init__(
        self, data: Path, *, names: Sequence[str] | None = None, peak: float | None = None, most: int | None = None
    ) -> None:
        """Loose files are ignored. Scenes are divided by `peak`, or each by its own maximum.

        Args:
            names: only these scenes; one that is not there counts as failed.
            peak: what scenes are divided by.
            most: only the first so many.

        Raises:
            SystemExit: no such folder, or no scene folder in it.
        """
        self.failed, self.peak, self.most = 0, peak, most
        self.folders = sorted(p for p in data.iterdir() if p.is_dir()) if data.is_dir() else []
        if not self.folders:
            raise SystemExit(f"{data}: no folder with scene folders in it")
        if names is not None:
            self.folders = [p for p in self.folders if _name(p) in names]
            if missing := sorted(set(names) - {_name(p) for p in self.folders}):
                self.failed += len(missing)
                print(f"no such scene in {data}: {', '.join(missing)}", file=sys.stderr)

    def __iter__(self) -> Iterator[tuple[str, F32]]:
        """(name without `_ms`, cube)."""
        for folder in self.folders[: self.most]:
            try:
                cube = read_scene(folder, peak=self.peak)
            except Unreadable as e:
                self.failed += 1
                print(f"skipped: {e}", file=sys.stderr)
                continue
            yield _name(folder), cube


def _name(folder: Path) -> str:
    return folder.name.removesuffix("_ms")
