"""The recipes of the shipped weights: training from files of lab scenes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from hypermend.catalog.scene import Scene
from hypermend.models.arrays import F32

VALIDATION = ("fake_and_real_peppers_ms", "paints_ms", "thread_spools_ms")
OTHERS = {"aviris": "aviris", "muufl": "muufl"}
"""Folder of --data -> sensor: airborne cubes, with noise of their own, so only strong noise is learnt from them."""


def read(folder: Path, sensor: str) -> Iterator[tuple[str, F32]]:
    """(id, cube divided by its brightest value) of each scene that can be read; the others are named."""
    # With every reader of files; a worker of `hypermend train` reads cubes.
    from hypermend.catalog.readers.scene_reader import open_scene
    from hypermend.catalog.stac.discover import from_folder

    for scene in from_folder(folder, sensor=sensor, collection="training"):
        if not isinstance(scene, Scene):
            print(f"skipped {scene.id}: {scene.reason}", file=sys.stderr)
            continue
        source = open_scene(scene)
        _, h, w = source.spec.shape
        values, _ = source.read(slice(0, h), slice(0, w))
        cube = values[np.array(source.spec.good)].astype(np.float32)
        source.close()
        yield scene.id, cube / cube.max()
