"""Degradations: the level asked for, one seed one result."""

from __future__ import annotations

import numpy as np
import pytest

from models import degrade


def test_gaussian_follows_the_protocols_generator() -> None:
    cube = np.full((3, 50, 60), 0.5, np.float32)
    noise = np.random.default_rng([0, 30]).normal(0, 30 / 255, cube.shape)
    out = degrade.gaussian(cube, 30 / 255, np.random.default_rng([0, 30]))
    np.testing.assert_allclose(out, cube + noise, atol=1e-6)
    np.testing.assert_array_equal(degrade.gaussian(cube, 0.0, np.random.default_rng(1)), cube)


def test_each_band_its_own_noise() -> None:
    std = degrade.varying(4, 0.1, 0.4, np.random.default_rng(0))
    assert std.shape == (4,) and (std >= 0.1).all() and (std <= 0.4).all()
    out = degrade.gaussian(np.zeros((4, 200, 200), np.float32), std, np.random.default_rng(0))
    np.testing.assert_allclose(out.std(axis=(1, 2)), std, rtol=0.02)
    with pytest.raises(ValueError, match=r"from 2 to 1"):
        degrade.varying(4, 2, 1, np.random.default_rng(0))


def test_stripes_are_constant_along_columns() -> None:
    cube = np.random.default_rng(3).random((5, 30, 40)).astype(np.float32)
    d = degrade.stripes(cube, 0.1, np.random.default_rng(0), bands=1.0, columns=0.5) - cube
    np.testing.assert_allclose(d, np.broadcast_to(d[:, :1], d.shape), atol=1e-6)
    assert 0.3 < (np.abs(d[:, 0]) > 1e-5).mean() < 0.7
    np.testing.assert_array_equal(degrade.stripes(cube, 0.0, np.random.default_rng(0)), cube)


def test_dead_lines_are_where_it_says() -> None:
    cube = np.ones((6, 10, 200), np.float32)
    out, dead = degrade.dead_lines(cube, np.random.default_rng(0), bands=1.0, lines=0.1)
    assert 0.02 < dead.mean() < 0.3
    np.testing.assert_array_equal(out == 0, np.broadcast_to(dead[:, None], cube.shape))
