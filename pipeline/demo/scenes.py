"""Synthetic scenes with known truth: spectra of a few materials, mixed over a plausible landscape, then degraded.

Nothing here is a measurement. The spectra follow the published shapes of solar-reflective materials (red edge and water
absorptions of leaves, clay and iron features of soil, dark water), tabulated by hand at a few wavelengths and joined
by a monotone cubic, so any instrument's bands can be asked for. Light is a 5778 K black body at one astronomical unit
seen through a simple atmosphere, enough to give radiance its true shape: bright blue-green, dark short-wave infrared,
and bands without any light near 1380 and 1900 nm.

The demo writes such scenes as deliveries (EnMAP-like tiles, Hyperion-like files per band); the tests use the same
generator through `tests/synthetic.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.interpolate import PchipInterpolator

from hypermend.models.arrays import F32, Mask
from hypermend.models.signal.degrade import gaussian

# Reflectance in percent at NODES_NM. Shapes after the USGS and ASTER/ECOSTRESS library entries of the same names.
# fmt: off
NODES_NM = (
    350, 420, 480, 550, 600, 640, 675, 700, 725, 760, 850, 970, 1070, 1200, 1280, 1400,
    1450, 1550, 1660, 1780, 1880, 1940, 2050, 2130, 2200, 2260, 2340, 2420, 2520,
)
MATERIALS: dict[str, tuple[float, ...]] = {
    "crop": (3, 3.2, 4, 9.5, 5.5, 4.2, 3.4, 12, 29, 44, 49, 47.5, 50, 42, 44, 22,
             13, 23, 29, 24, 9, 5.5, 10, 14.5, 16.5, 14, 9.5, 6.5, 5),
    "forest": (1.6, 1.8, 2.2, 5, 3, 2.5, 2.1, 6.5, 17, 27, 30, 28.5, 30.5, 24, 25.5, 12,
               6.5, 11.5, 15, 12, 4.5, 2.8, 4.8, 7, 8, 6.8, 4.5, 3, 2.4),
    "dry grass": (5, 7, 10, 15, 18.5, 21, 22, 25, 28, 31, 36, 38, 42, 41, 44, 39,
                  34, 40, 44, 40, 33, 26, 29, 31, 33, 31, 27, 25, 22),
    "soil": (4, 6, 8.5, 13, 17, 19, 20.5, 21.5, 22.5, 24, 26, 28, 31, 34, 36, 35,
             34, 38, 40, 40, 38, 34, 39, 41, 38.5, 40, 38, 36, 34),
    "pale soil": (8, 12, 17, 24, 29, 32, 34, 35, 36, 37, 39, 41, 44, 47, 49, 47,
                  46, 51, 53, 53, 50, 45, 51, 53, 48, 52, 49, 47, 45),
    "water": (4, 4.4, 4.8, 5.2, 3.6, 2.8, 2.4, 2.1, 1.5, 1.1, 0.8, 0.5, 0.5, 0.4, 0.4, 0.3,
              0.3, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3),
    "clay tile": (5, 6, 8, 12, 21, 25, 27, 28, 29, 30, 30, 32, 35, 37, 38.5, 38,
                  38, 40, 41, 41, 40, 38, 40, 40.5, 38, 40, 39, 38, 37),
    "asphalt": (5, 6, 7, 8.2, 9, 9.5, 9.8, 10, 10.3, 10.7, 11.5, 12.2, 12.8, 13.5, 14, 14.3,
                14.5, 15.2, 15.8, 16.2, 16.2, 16, 16.5, 16.8, 16.8, 16.5, 15.8, 15.6, 15.5),
    "concrete": (11, 15, 19, 24, 27, 28.5, 29.5, 30, 30.5, 31, 32, 33, 34, 35, 36, 34.5,
                 34, 36, 37, 37, 35, 32, 34, 34.5, 33.5, 33, 30, 30, 30),
    "metal roof": (30, 34, 38, 42, 44, 45, 46, 46.5, 47, 47, 46, 47, 49, 51, 52, 53,
                   53, 54, 55, 55, 55, 54, 54, 53, 52, 52, 51, 50, 49),
}
# fmt: on
WATER_IN_LEAVES = ((1200, 45, 0.3), (1460, 55, 1.0), (1950, 60, 1.2))
"""Absorptions of liquid water: centre_nm, width_nm, strength relative to the one at 1460 nm."""


@dataclass(frozen=True, kw_only=True)
class DemoSize:
    """Size of the scenes; the tests make them small."""

    enmap_px: tuple[int, int] = (192, 256)
    """height, width"""
    hyperion_px: tuple[int, int] = (192, 256)
    pair_px: tuple[int, int] = (48, 80)
    """Coarse image of the pair that is fused; its guide has PAIR_SCALE times as many pixels along each axis."""
    delivery_px: int = 64
    """Edge of an EnMAP-like GeoTIFF tile."""
    tile_px: int = 96
    """Edge of a tile of work, which is one shard."""


@dataclass(frozen=True, kw_only=True)
class Flaws:
    """Degradations by an instrument and its product, in the unit of the truth unless noted."""

    noise: F32
    """Standard deviation of the independent noise, one for each band (bands,)."""
    stripes: F32
    """Standard deviation of each detector column's constant offset, one for each band (bands,)."""
    dead_columns: int = 0
    """Columns, in bands drawn at random, that repeat one constant: a dead detector element."""
    bad_bands: tuple[int, ...] = ()
    """Zero-based bands with nothing but noise."""
    nodata_corner: float = 0.0
    """Fraction of the width and of the height that a triangular corner without data takes off."""


@dataclass(frozen=True, kw_only=True)
class SyntheticScene:
    """A scene with its truth. Arrays are (band, y, x), in the unit of `quantity`."""

    name: str
    quantity: str
    wavelength_nm: tuple[float, ...]
    truth: F32
    observed: F32
    """The degraded scene, unclipped and unrounded; undefined where `valid` is false."""
    valid: Mask
    """(y, x): false where the scene has no data."""
    good: tuple[bool, ...]
    """False for the bands that hold nothing but noise."""


def spectra(materials: Sequence[str], wavelength_nm: Sequence[float]) -> F32:
    """Return reflectance (material, band), between 0 and 1, of named materials at any wavelengths of 350 to 2520 nm."""
    at = np.clip(np.asarray(wavelength_nm, dtype=np.float64), NODES_NM[0], NODES_NM[-1])
    table = np.array([MATERIALS[name] for name in materials], dtype=np.float64) / 100
    return np.asarray(PchipInterpolator(np.array(NODES_NM, dtype=np.float64), table, axis=1)(at), dtype=np.float32)


def sunlight(wavelength_nm: Sequence[float]) -> F32:
    """Return radiance (band,) in W m-2 sr-1 um-1 of a white surface under a clear sky, sun 40 degrees from zenith.

    A black body of 5778 K at one astronomical unit, times a two-way transmittance with ozone-free Rayleigh scattering
    and Gaussian absorption bands of oxygen, water vapour and carbon dioxide.
    """
    wl_um = np.asarray(wavelength_nm, dtype=np.float64) / 1000
    planck = 1.191042e8 / (wl_um**5 * (np.exp(14387.77 / (wl_um * 5778.0)) - 1))  # W m-2 sr-1 um-1
    irradiance = planck * 6.807e-5  # solid angle of the sun's disc, sr
    depth = 0.0088 * wl_um**-4.1 + 0.05 * wl_um**-1.3
    for centre_um, width_um, strength in (
        (0.760, 0.004, 0.6),
        (0.820, 0.010, 0.12),
        (0.940, 0.018, 0.7),
        (1.130, 0.022, 0.9),
        (1.380, 0.032, 6.0),
        (1.880, 0.045, 7.0),
        (2.010, 0.018, 0.8),
        (2.580, 0.090, 4.0),
    ):
        depth = depth + strength * np.exp(-0.5 * ((wl_um - centre_um) / width_um) ** 2)
    air_masses = 1 + 1 / np.cos(np.deg2rad(40))
    radiance = irradiance * np.cos(np.deg2rad(40)) / np.pi * np.exp(-depth * air_masses)
    return np.asarray(radiance, dtype=np.float32)


def smooth_field(rng: np.random.Generator, height: int, width: int, scale_px: float) -> F32:
    """Return a random field (y, x) of mean 0 and standard deviation 1 whose details are about `scale_px` wide."""
    field = ndimage.gaussian_filter(rng.standard_normal((height, width)), scale_px, mode="reflect")
    return np.asarray((field - field.mean()) / max(float(field.std()), 1e-12), dtype=np.float32)


def abundances(height: int, width: int, seed: int) -> tuple[tuple[str, ...], F32]:
    """Return a landscape: the materials' names and their fractions (material, y, x), which sum to 1 in every pixel.

    Fields of one crop or soil each (nearest of random centres), woods, a town of roofs and streets on a turned grid, a
    river with banks and two roads; softened by a point spread of about one pixel, so that edges are mixed pixels.
    """
    rng = np.random.default_rng([seed, height, width])
    names = tuple(MATERIALS)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    size = float(max(height, width))

    parcels = max(6, height * width // 500)
    centres = rng.uniform(0, [[height], [width]], (2, parcels))
    bent_y, bent_x = (a + 2 * smooth_field(rng, height, width, 6) for a in (y, x))
    nearest = (
        (bent_y[None] - centres[0, :, None, None]) ** 2 + (bent_x[None] - centres[1, :, None, None]) ** 2
    ).argmin(0)
    crops = rng.choice(
        [names.index(n) for n in ("crop", "dry grass", "soil", "pale soil")], parcels, p=[0.5, 0.2, 0.2, 0.1]
    )
    cover = crops[nearest]
    # A field is never pure: the second material differs from field to field and in patches within it.
    second = rng.choice([names.index(n) for n in ("crop", "soil", "dry grass")], parcels)[nearest]
    purity = np.clip(rng.uniform(0.65, 0.98, parcels)[nearest] + 0.06 * smooth_field(rng, height, width, 3), 0, 1)

    woods = smooth_field(rng, height, width, size / 12) > 0.9
    cover[woods] = second[woods] = names.index("forest")

    town_y, town_x = rng.uniform(0.25, 0.75, 2) * (height, width)
    turned = rng.uniform(0.2, 1.3)
    u = (x - town_x) * np.cos(turned) + (y - town_y) * np.sin(turned)
    v = (y - town_y) * np.cos(turned) - (x - town_x) * np.sin(turned)
    town = np.hypot(u, v * 1.3) < size * (0.17 + 0.03 * smooth_field(rng, height, width, size / 10))
    streets = (np.mod(u, 9) < 2) | (np.mod(v, 7) < 1.5)
    block = (np.floor_divide(u, 9) * 37 + np.floor_divide(v, 7) * 101).astype(np.int64)
    roofs = np.array([names.index(n) for n in ("clay tile", "concrete", "metal roof", "clay tile", "crop")])
    cover[town] = np.where(streets, names.index("asphalt"), roofs[np.mod(block, len(roofs))])[town]
    second[town] = names.index("asphalt")

    bend = rng.uniform(0, 2 * np.pi)
    river = np.abs(x - width * 0.3 - size * 0.08 * np.sin(y / size * 5 + bend) - 0.25 * y) < max(2.0, size / 50)
    roads = np.minimum(np.abs(y - height * 0.4 - 0.35 * x), np.abs(x - width * 0.82 + 0.2 * y)) < 0.8
    cover[roads] = second[roads] = names.index("asphalt")
    cover[river] = second[river] = names.index("water")

    fractions = np.zeros((len(names), height, width), dtype=np.float32)
    np.put_along_axis(fractions, cover[None], purity[None].astype(np.float32), axis=0)
    rest = 1 - fractions.sum(axis=0, keepdims=True)
    fractions += rest * (np.arange(len(names))[:, None, None] == second[None])
    fractions = ndimage.gaussian_filter(fractions, (0, 0.7, 0.7), mode="reflect")
    return names, (fractions / fractions.sum(axis=0, keepdims=True)).astype(np.float32)


def landscape(
    wavelength_nm: Sequence[float], *, height: int, width: int, seed: int, quantity: str = "reflectance"
) -> F32:
    """Return the truth (band, y, x): reflectance between 0 and about 0.7, or radiance in W m-2 sr-1 um-1."""
    names, fractions = abundances(height, width, seed)
    rng = np.random.default_rng([seed, height, width, 1])
    light = 1 + 0.05 * smooth_field(rng, height, width, 5) + 0.02 * smooth_field(rng, height, width, 1)
    table = spectra(names, wavelength_nm)
    if quantity == "radiance":
        table = table * sunlight(wavelength_nm)[None]
    truth = np.einsum("mb,myx->byx", table, fractions * light[None], optimize=True)
    wl_nm = np.asarray(wavelength_nm, dtype=np.float64)
    water = sum(a * np.exp(-0.5 * ((wl_nm - c) / w) ** 2) for c, w, a in WATER_IN_LEAVES)
    moisture = 0.12 * smooth_field(rng, height, width, 7)
    truth *= np.exp(-np.asarray(water)[:, None, None] * moisture[None])
    return np.ascontiguousarray(truth, dtype=np.float32)


def degrade(truth: F32, flaws: Flaws, *, seed: int) -> tuple[F32, Mask, tuple[bool, ...]]:
    """Return what an instrument observes of a truth (band, y, x): the cube, its valid pixels (y, x) and good bands."""
    bands, height, width = truth.shape
    rng = np.random.default_rng([seed, bands, height, width])
    observed = gaussian(truth, flaws.noise, rng)
    observed += flaws.stripes[:, None, None] * rng.standard_normal((bands, 1, width), dtype=np.float32)
    for _ in range(flaws.dead_columns):
        band, column = int(rng.integers(bands)), int(rng.integers(width))
        observed[band, :, column] = truth[band].mean()
    good = tuple(b not in flaws.bad_bands for b in range(bands))
    for b in flaws.bad_bands:
        observed[b] = np.abs(truth).mean() * rng.standard_normal((height, width), dtype=np.float32)
    y, x = np.mgrid[:height, :width]
    valid = np.ones((height, width), dtype=np.bool_)
    if flaws.nodata_corner > 0:
        valid = (1 - y / height) + x / width < 2 - flaws.nodata_corner
    return observed.astype(np.float32), valid, good


def observed_scene(
    name: str, quantity: str, wavelength_nm: Sequence[float], truth: F32, flaws: Flaws, *, seed: int
) -> SyntheticScene:
    """Return the scene that an instrument with these flaws observes of a truth (band, y, x)."""
    observed, valid, good = degrade(truth, flaws, seed=seed)
    return SyntheticScene(
        name=name,
        quantity=quantity,
        wavelength_nm=tuple(float(w) for w in wavelength_nm),
        truth=truth,
        observed=observed,
        valid=valid,
        good=good,
    )
