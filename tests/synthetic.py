"""Small scenes with their clean truth, and folders of files as instruments deliver them.

The landscape, the spectra and the flaws are the demo's (`pipeline/demo_scenes.py`); here they are small and quick.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import numpy.typing as npt

from hypermend.catalog.sensors import sensor
from hypermend.pipeline.demo.deliveries import Place, write_enmap_tiles, write_hyperion_files
from hypermend.pipeline.demo.scenes import DemoSize, Flaws, SyntheticScene, landscape, observed_scene

BERLIN = Place(crs="EPSG:32633", west=366000.0, north=5810000.0)
SMALL_DEMO = DemoSize(enmap_px=(64, 96), hyperion_px=(48, 80), pair_px=(32, 48), delivery_px=32, tile_px=48)
CAVE_NM = tuple(range(400, 701, 10))


def flaws(bands: int, *, noise: float = 0.0, stripes: float = 0.0, **others: object) -> Flaws:
    """The same noise and stripes in every band, in the truth's unit; `others` are fields of Flaws."""
    level = np.ones(bands, dtype=np.float32)
    return Flaws(noise=noise * level, stripes=stripes * level, **others)  # type: ignore[arg-type]


def small_scene(
    *,
    wavelength_nm: Sequence[float] = tuple(np.linspace(420, 2400, 24)),
    height: int = 48,
    width: int = 64,
    noise: float = 0.01,
    stripes: float = 0.0,
    dead_columns: int = 0,
    bad_bands: tuple[int, ...] = (),
    nodata_corner: float = 0.0,
    quantity: str = "reflectance",
    seed: int = 1,
) -> SyntheticScene:
    """A scene with its truth: reflectance of 24 bands over 48 x 64 pixels unless told otherwise."""
    degradation = flaws(
        len(wavelength_nm),
        noise=noise,
        stripes=stripes,
        dead_columns=dead_columns,
        bad_bands=bad_bands,
        nodata_corner=nodata_corner,
    )
    truth = landscape(wavelength_nm, height=height, width=width, seed=seed, quantity=quantity)
    return observed_scene("small", quantity, wavelength_nm, truth, degradation, seed=seed)


def enmap_folder(
    folder: Path, *, height: int = 64, width: int = 96, tile_px: int = 32, noise: float = 0.002, seed: int = 1
) -> tuple[SyntheticScene, list[Path]]:
    """An EnMAP-like acquisition of 224 bands: tiles, one missing, a corner without data. The scene, the files."""
    table = sensor("enmap")
    truth = landscape(table.wavelength_nm, height=height, width=width, seed=seed)
    degradation = flaws(len(table.wavelength_nm), noise=noise, nodata_corner=0.2)
    scene = observed_scene("enmap_synthetic", "reflectance", table.wavelength_nm, truth, degradation, seed=seed)
    files = write_enmap_tiles(
        folder,
        scene.observed,
        scene.valid,
        name=scene.name,
        wavelength_nm=table.wavelength_nm,
        fwhm_nm=table.fwhm_nm,
        good=table.usable,
        place=BERLIN,
        start_time="2022-07-24T10:45:26",
        tile_px=tile_px,
        missing=[(height // tile_px - 1, 0)],
    )
    return scene, files


def hyperion_folder(
    folder: Path, *, height: int = 48, width: int = 40, seed: int = 1
) -> tuple[SyntheticScene, list[Path]]:
    """A Hyperion-like delivery: 242 one-band files of radiance and a metadata text. The scene, the files."""
    table = sensor("hyperion")
    truth = landscape(table.wavelength_nm, height=height, width=width, seed=seed, quantity="radiance")
    degradation = flaws(len(table.wavelength_nm), noise=0.5, stripes=0.5, nodata_corner=0.2)
    scene = observed_scene("EO1H1930232009200110KF", "radiance", table.wavelength_nm, truth, degradation, seed=seed)
    files = write_hyperion_files(
        folder,
        scene.observed,
        scene.valid,
        name=scene.name,
        detector=table.detector,
        good=table.usable,
        place=BERLIN,
        date="2009-07-19",
    )
    return scene, files


def cave_folder(
    folder: Path, *, name: str = "small", height: int = 64, width: int = 64, seed: int = 1
) -> tuple[npt.NDArray[np.uint16], list[Path]]:
    """A CAVE-like scene: `<name>_ms/<name>_ms_01.png` to `_31.png`, 16 bits. The numbers (31, y, x), the files."""
    cube = landscape(CAVE_NM, height=height, width=width, seed=seed)
    stored = np.rint(cube / cube.max() * 60000).astype(np.uint16)
    scene = folder / f"{name}_ms"
    scene.mkdir(parents=True)
    files = [scene / f"{name}_ms_{b:02d}.png" for b in range(1, len(CAVE_NM) + 1)]
    for path, band in zip(files, stored, strict=True):
        imageio.imwrite(path, band)
    return stored, files
