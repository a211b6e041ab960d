"""The demo's two single images: EnMAP-like with low noise, Hyperion-like with strong noise, and their comparison."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import xarray

from hypermend.catalog.archive import Item
from hypermend.catalog.cube.spec import VALID
from hypermend.catalog.sensors import sensor
from hypermend.models.arrays import F32
from hypermend.pipeline.demo.deliveries import Place, write_enmap_tiles, write_hyperion_files
from hypermend.pipeline.demo.scenes import DemoSize, Flaws, SyntheticScene, landscape, observed_scene
from hypermend.pipeline.demo.score import Comparison

PLACES = {
    "enmap": Place(crs="EPSG:32633", west=366000.0, north=5810010.0),
    "hyperion": Place(crs="EPSG:32631", west=445005.0, north=5420985.0),
}


def deliver_scenes(folder: Path, demo_size: DemoSize) -> dict[str, SyntheticScene]:
    """Make both scenes, write the files that are missing, and return the scenes by sensor."""
    enmap, hyperion = enmap_scene(*demo_size.enmap_px), hyperion_scene(*demo_size.hyperion_px)
    table = sensor("enmap")
    write_enmap_tiles(
        folder / "enmap",
        enmap.observed,
        enmap.valid,
        name=enmap.name,
        wavelength_nm=table.wavelength_nm,
        fwhm_nm=table.fwhm_nm,
        good=enmap.good,
        place=PLACES["enmap"],
        start_time="2022-07-24T10:45:26",
        tile_px=demo_size.delivery_px,
        missing=[(demo_size.enmap_px[0] // demo_size.delivery_px - 1, 0)],
    )
    write_hyperion_files(
        folder / "hyperion",
        hyperion.observed,
        hyperion.valid,
        name=hyperion.name,
        detector=sensor("hyperion").detector,
        good=hyperion.good,
        place=PLACES["hyperion"],
        date="2009-07-19",
    )
    return {"enmap": enmap, "hyperion": hyperion}


def enmap_scene(height: int, width: int) -> SyntheticScene:
    """Make reflectance with low noise: signal-to-noise ratio near 400 at 500 nm, near 150 at 2200 nm, and bad bands."""
    table = sensor("enmap")
    truth = landscape(table.wavelength_nm, height=height, width=width, seed=2022)
    wl_um = np.asarray(table.wavelength_nm, dtype=np.float32) / 1000
    noise = (0.0008 + 0.0008 * (wl_um - 0.4)).astype(np.float32)
    bad = tuple(b for b, usable in enumerate(table.usable) if not usable)
    flaws = Flaws(noise=noise, stripes=0.3 * noise, bad_bands=bad, nodata_corner=0.25)
    return observed_scene("DEMO", "reflectance", table.wavelength_nm, truth, flaws, seed=7)


def hyperion_scene(height: int, width: int) -> SyntheticScene:
    """Make radiance with strong noise and stripes, dead columns, uncalibrated bands without data, a tilted edge."""
    table = sensor("hyperion")
    truth = landscape(table.wavelength_nm, height=height, width=width, seed=2009, quantity="radiance")
    level = truth.mean(axis=(1, 2))
    noise = (0.35 + 0.04 * level).astype(np.float32)
    bad = tuple(b for b, usable in enumerate(table.usable) if not usable)
    flaws = Flaws(noise=noise, stripes=0.5 * noise, dead_columns=60, bad_bands=bad, nodata_corner=0.35)
    return observed_scene("EO1HDEMO2009200", "radiance", table.wavelength_nm, truth, flaws, seed=9)


def compare_scene(scene: SyntheticScene, before: Item, after: Item) -> Comparison:
    """Compare the source cube and the denoised cube of a scene with its truth."""
    source, restored = before.dataset().load(), after.dataset().load()
    return Comparison(
        scene=after.scene.id,
        sensor=after.scene.sensor,
        task="denoise",
        plan=str(after.scene.properties["hypermend:plan"]),
        title=f"{after.scene.id}\n(synthetic, {after.scene.sensor}-like)",
        wavelength_nm=source["wavelength"].values,
        good=source["good"].values.astype(bool),
        usable=(source["valid"].values & VALID) != 0,
        before=physical_values(source),
        after=physical_values(restored),
        # The cube is sorted by wavelength and keeps the product's band numbers: the truth is brought into its order.
        truth=scene.truth[source["band"].values.astype(int) - 1],
    )


def physical_values(cube: xarray.Dataset) -> F32:
    """Return a cube (band, y, x) in the unit of the truth: counts of a Hyperion product become radiance."""
    values = cube["reflectance"].values.astype(np.float32)
    factors = cube.attrs.get("hypermend:radiance_mult")
    return values if factors is None else values * np.asarray(factors, dtype=np.float32)[:, None, None]
