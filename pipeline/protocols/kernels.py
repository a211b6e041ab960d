"""Blur kernels that fusion is tested on: none of them Gaussian, none ever drawn in training."""

from __future__ import annotations

import numpy as np

from hypermend.models.arrays import F64

SIDE_PX = 21
SEED = 20200616


def built_in(seed: int = SEED) -> dict[str, F64]:
    """Five kernels (21, 21) of sum 1 by name: two paths of a shaken camera, a straight one, a lens out of focus with
    three lobes, and a ring sector. Seeded; centroids lie within two pixels of the centre.
    """
    rng = np.random.default_rng(seed)
    return {
        "shake-a": _drawn(_path(rng)),
        "shake-b": _drawn(_path(rng)),
        "streak": _drawn(np.linspace(-7, 7, 400)[:, None] * _direction(rng.uniform(0, np.pi))),
        "defocus": _lobes(rng.uniform(4, 6), rng.uniform(0, 2 * np.pi)),
        "arc": _arc(rng.uniform(5, 7), rng.uniform(0, 2 * np.pi)),
    }


def _direction(angle: float) -> F64:
    return np.array([np.sin(angle), np.cos(angle)])


def _path(rng: np.random.Generator) -> F64:
    """(400, 2) positions of a point whose direction drifts, centred, reaching 8 pixels."""
    turn = np.convolve(rng.normal(0, 0.15, 400), np.full(40, 1 / 6), mode="same")
    angle = rng.uniform(0, 2 * np.pi) + np.cumsum(turn)
    at = np.cumsum(np.stack((np.sin(angle), np.cos(angle)), axis=1), axis=0)
    at -= at.mean(axis=0)
    return np.asarray(at * 8 / np.abs(at).max())


def _drawn(path: F64) -> F64:
    """A path of points as an image, each point shared by the four pixels around it."""
    out = np.zeros((SIDE_PX, SIDE_PX))
    whole = np.floor(path).astype(int)
    part = path - whole
    for dy in (0, 1):
        for dx in (0, 1):
            weight = np.abs(1 - dy - part[:, 0]) * np.abs(1 - dx - part[:, 1])
            np.add.at(out, (whole[:, 0] + dy + SIDE_PX // 2, whole[:, 1] + dx + SIDE_PX // 2), weight)
    return np.asarray(out / out.sum())


def _polar() -> tuple[F64, F64]:
    y, x = np.mgrid[:SIDE_PX, :SIDE_PX] - SIDE_PX // 2
    return np.hypot(y, x), np.arctan2(y, x)


def _lobes(radius_px: float, angle: float) -> F64:
    """A disk with a soft rim, brighter in three directions."""
    r, at = _polar()
    out = np.clip(radius_px + 0.5 - r, 0, 1) * (1 + 0.6 * np.cos(3 * (at - angle)))
    return np.asarray(out / out.sum())


def _arc(radius_px: float, angle: float) -> F64:
    """A ring, one pixel and a half wide, twice as bright on one side."""
    r, at = _polar()
    out = np.clip(1.5 - np.abs(r - radius_px), 0, 1) * (1.2 + np.cos(at - angle)) + 0.3 * (r < radius_px)
    return np.asarray(out / out.sum())
