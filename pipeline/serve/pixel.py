"""Spectra of one pixel, before and after, read from the cubes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hypermend.catalog.arrays import F32
from hypermend.catalog.cube.cube import Cube
from hypermend.catalog.cube.spec import FLAGS, VALID
from hypermend.catalog.errors import ArchiveError, BadAsset
from hypermend.catalog.keys import cube_key
from hypermend.catalog.scene import Scene
from hypermend.catalog.storage.archive_store import ArchiveStore
from hypermend.pipeline.restore.plan import plan_key, read_plan


def spectra(root: ArchiveStore, scene: Scene, row: int | None, column: int | None) -> dict[str, Any]:
    """Spectra of a pixel of a scene's cube and, for a restored one, of its source: JSON values in physical units.

    Values of a pixel that is not usable, and of bands that are not good, are null.

    Args:
        root: the archive.
        scene: of a source or restored cube.
        row, column: of the pixel in the scene's cube; None for its middle.

    Raises:
        NotFound: the cube is gone.
        BadAsset: no such pixel.
        Refused: the scene is raw.
        BadCube: an object is damaged.
    """
    cube = Cube(root, cube_key(scene))
    spec = cube.spec
    y, x = (size // 2 if place is None else place for place, size in ((row, spec.height), (column, spec.width)))
    if not (0 <= y < spec.height and 0 <= x < spec.width):
        raise BadAsset(f"row {y}, column {x} is not in a cube of {spec.height} rows and {spec.width} columns")
    after, flags = _pixel(cube, y, x)
    sides: dict[str, dict[str, Any]] = {"after": {"values": _numbers(after), "flags": flags}}
    if (source := _source(root, scene, cube)) is not None:
        scale = spec.height // source.spec.height
        before, flags = _pixel(source, y // scale, x // scale)
        sides = {"before": {"values": _numbers(before), "flags": flags}, **sides}
    detectors = list(dict.fromkeys(spec.detector))
    return {
        "row": y,
        "column": x,
        "height": spec.height,
        "width": spec.width,
        "quantity": spec.quantity,
        "nm": [round(nm, 2) for nm in spec.wavelength_nm],
        "detector": [detectors.index(name) for name in spec.detector],
        **sides,
    }


def _source(root: ArchiveStore, scene: Scene, cube: Cube) -> Cube | None:
    """The source cube of a restored one; None where it is another's, or gone."""
    if scene.stage != "restored":
        return None
    try:
        source = Cube(root, read_plan(root, plan_key(cube.path)).source)
    except ArchiveError as e:
        if e.transient:
            raise
        return None
    divides = source.spec.height and cube.spec.height % source.spec.height == 0
    return source if divides and source.spec.wavelength_nm == cube.spec.wavelength_nm else None


def _pixel(cube: Cube, y: int, x: int) -> tuple[F32, list[str]]:
    """Physical values (band,) of one pixel, NaN where they cannot be used, and the names of its flags."""
    stored, flags = cube.read(slice(y, y + 1), slice(x, x + 1))
    spec, flag = cube.spec, int(flags[0, 0])
    values = stored[:, 0, 0].astype(np.float32) * np.float32(spec.scale_factor) + np.float32(spec.add_offset)
    usable = np.array(spec.good) & bool(flag & VALID)
    return np.where(usable, values, np.float32(np.nan)), [name for name, bit in FLAGS.items() if flag & bit]


def _numbers(values: F32) -> Sequence[float | None]:
    return [float(f"{value:.7g}") if np.isfinite(value) else None for value in values]
