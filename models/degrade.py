"""What goes wrong with an image: noise, stripes, dead lines. Pure functions of cube and generator."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]


def gaussian(cube: F32, std: float | npt.ArrayLike, rng: np.random.Generator) -> F32:
    """Add white Gaussian noise, unclipped.

    Args:
        cube: (bands, h, w).
        std: one standard deviation or one for each band, in the cube's units.
        rng: drawn from in C order of the cube, in float64, so that one seed means one noise.
    """
    s = np.broadcast_to(np.asarray(std, dtype=np.float64), (cube.shape[0],))
    noise = rng.standard_normal(cube.shape) * s[:, None, None]
    return (cube + noise).astype(np.float32)


def varying(bands: int, low: float, high: float, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """A standard deviation for each band, uniform in [low, high]: (bands,)."""
    if not 0 <= low <= high:
        raise ValueError(f"noise from {low} to {high}: must be 0 <= low <= high")
    return rng.uniform(low, high, bands)


def stripes(cube: F32, std: float, rng: np.random.Generator, *, bands: float = 0.5, columns: float = 0.2) -> F32:
    """Add a constant to some columns of some bands, as a push-broom sensor's uneven detectors do.

    Args:
        cube: (bands, h, w).
        std: standard deviation of the constants.
        rng: source of randomness.
        bands: share of bands touched.
        columns: share of columns touched in each of them.
    """
    b, _, w = cube.shape
    offset = rng.normal(0.0, std, (b, w)) if std > 0 else np.zeros((b, w))
    offset *= (rng.random((b, 1)) < bands) & (rng.random((b, w)) < columns)
    return (cube + offset[:, None, :]).astype(np.float32)


def dead_lines(
    cube: F32, rng: np.random.Generator, *, bands: float = 0.1, lines: float = 0.01
) -> tuple[F32, npt.NDArray[np.bool_]]:
    """Set some columns of some bands to zero.

    Returns:
        The cube, and (bands, w) True where a column is dead.
    """
    b, _, w = cube.shape
    dead = (rng.random((b, 1)) < bands) & (rng.random((b, w)) < lines)
    return np.where(dead[:, None, :], np.float32(0), cube), dead
