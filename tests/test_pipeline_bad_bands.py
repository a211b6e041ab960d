"""`--fill-bands on`: isolated bad bands get the line between their neighbours, are marked, and tell their error."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import hypermend
from hypermend.catalog.cube.cube import Cube
from hypermend.catalog.cube.spec import NODATA, VALID, CubeSpec
from hypermend.catalog.storage.archive_store import ArchiveStore
from hypermend.pipeline.config import BadJob, RestoreJob, parse
from hypermend.pipeline.engine.serial import serial
from hypermend.pipeline.restore.driver import restore
from hypermend.pipeline.restore.plan import Plan
from hypermend.pipeline.tiling.bad_bands import FILLED_ATTR, isolated
from hypermend.pipeline.tiling.pixels import Stored
from tests.small_cubes import make_spec
from tests.test_models_denoise import SUBSPACE
from tests.test_pipeline_repair import put_stas
from tests.test_pipeline_restore_fuse import cube_spec, put_source
from tests.test_pipeline_restore_plan import plan_of

BANDS, HEIGHT, WIDTH = 20, 48, 40
BAD = 6


def spec_of(
    nm: list[float], bad: list[int], *, detector: list[str] | None = None, quantity: str = "reflectance"
) -> CubeSpec:
    return make_spec(
        (len(nm), 8, 8),
        wavelength_nm=nm,
        good=[i not in bad for i in range(len(nm))],
        detector=detector or ["a"] * len(nm),
        quantity=quantity,
        units="1" if quantity == "reflectance" else "W/m2/sr/um",
    )


@pytest.mark.parametrize(
    ("nm", "bad", "expected"),
    [
        ([500, 510, 520, 530, 540], [2], {2: (1, 3, 0.5)}),
        ([500, 510, 514, 530, 540], [2], {2: (1, 3, 0.2)}),
        ([500, 510, 520, 530, 540, 550], [2, 3], {2: (1, 4, 1 / 3), 3: (1, 4, 2 / 3)}),
        ([500, 510, 520, 530, 540, 550, 560], [2, 3, 4], {}),  # a run of three
        ([500, 510, 520, 530], [0, 3], {}),  # one neighbour alone
        ([500, 530, 556, 581, 600], [2], {}),  # 51 nm between the neighbours
        ([1300, 1310, 1320, 1331, 1340], [2], {}),  # beside water vapour
        ([1800, 1810, 1820, 1830, 1840], [2], {}),
        ([2380, 2390, 2400, 2410, 2420], [2], {2: (1, 3, 0.5)}),
    ],
)
def test_what_is_isolated(nm: list[float], bad: list[int], expected: dict[int, tuple[int, int, float]]) -> None:
    found = {b.band: (b.low, b.high, pytest.approx(b.share)) for b in isolated(spec_of(nm, bad)).bands}
    assert found == expected


def test_neighbours_are_of_the_same_detector() -> None:
    nm, detector = [900.0, 905, 910, 915, 920, 925, 930], list("vsvsvsv")
    (band,) = isolated(spec_of(nm, [2], detector=detector)).bands
    assert (band.low, band.high) == (0, 4)


def test_lines_of_gases_are_not_bridged_where_they_were_not_corrected() -> None:
    nm = [740.0, 750, 760, 770, 780]
    assert isolated(spec_of(nm, [2])).bands
    assert not isolated(spec_of(nm, [2], quantity="radiance")).bands


def make_archive(archive: Path) -> tuple[Path, np.ndarray]:
    """A smooth noisy scene with one bad band that holds nonsense; returns the truth of it too."""
    rng = np.random.default_rng(1)
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH] / 9
    at = np.linspace(0, 1, BANDS)
    spectra = np.stack([0.5 + at, 1.2 - at**2, 0.6 + np.sin(2 * at)])
    truth = np.einsum("kb,kyx->byx", spectra, np.stack([np.sin(y) + 1.2, np.cos(x) + 1.2, np.sin(x + y) + 1.2])) * 500
    stored = (truth + rng.normal(0, 60, truth.shape)).astype(np.float32)
    stored[BAD] = 30000
    flags = np.full((HEIGHT, WIDTH), VALID, np.uint8)
    flags[:5, :4] = NODATA
    stored[:, flags == NODATA] = -32768
    good, nm = [i != BAD for i in range(BANDS)], np.linspace(500, 690, BANDS)
    spec = cube_spec(stored.shape, px=30.0, guide=False, lab=True, good=good, wavelength_nm=nm)
    archive.mkdir()
    put_source(archive, "s", "hs", stored, flags, spec)
    torch.manual_seed(0)
    put_stas(ArchiveStore(archive), "small", SUBSPACE)
    return archive, truth


def run(archive: Path, **changes: Any) -> tuple[Stored, Cube, dict[str, Any]]:
    report = restore(RestoreJob(archive=str(archive), model="small", **changes), engine=serial).wait()
    assert report.exit_code == 0, report.scenes
    (item,) = hypermend.open(str(archive)).search(stage="restored", collection="hs-denoise")
    cube = Cube(ArchiveStore(archive), item.scene.properties["hypermend:cube"])
    return cube.read(slice(0, HEIGHT), slice(0, WIDTH))[0], cube, dict(report.scenes[0].figures)


def test_a_bad_band_is_filled_marked_and_its_error_told(tmp_path: Path) -> None:
    archive, truth = make_archive(tmp_path / "a")
    before, cube, figures = run(archive)
    assert (before[BAD][before[BAD] > -32768] == 30000).all() and FILLED_ATTR not in cube.spec.attrs
    assert "filled_bands" not in figures
    got, cube, figures = run(archive, fill_bands="on")
    known = got[0] != -32768
    np.testing.assert_array_equal(np.delete(got, BAD, axis=0), np.delete(before, BAD, axis=0))
    assert (got[BAD][~known] == before[BAD][~known]).all()
    np.testing.assert_allclose(got[BAD][known], (got[BAD - 1] + got[BAD + 1])[known] / 2, rtol=1e-6)
    error = np.sqrt(np.square(got[BAD] - truth[BAD])[known].mean()) * cube.spec.scale_factor
    told = figures["filled_bands"][str(BAD + 1)]
    assert 0.4 * told < error < 2 * told
    assert cube.spec.attrs[FILLED_ATTR] == [BAD + 1] and not cube.spec.good[BAD]
    (item,) = hypermend.open(str(archive)).search(stage="restored", collection="hs-denoise")
    assert item.scene.properties["hypermend:figures"]["filled_bands"] == figures["filled_bands"]
    tiled, _, again = run(archive, fill_bands="on", tile_px=16)
    np.testing.assert_allclose(tiled, got, atol=1e-2)
    assert again["filled_bands"][str(BAD + 1)] == pytest.approx(told, rel=1e-3)


def test_where_nothing_is_isolated_the_plan_says_so(tmp_path: Path) -> None:
    archive, _ = make_archive(tmp_path / "a")
    (source,) = hypermend.open(str(archive)).sources()
    key = source.properties["hypermend:cube"]
    spec = replace(Cube(ArchiveStore(archive), key).spec, good=tuple(i not in (6, 7, 8) for i in range(BANDS)))
    put_source(archive, "t", "hs", np.ones(spec.shape, np.float32), np.full((HEIGHT, WIDTH), VALID, np.uint8), spec)
    report = restore(RestoreJob(archive=str(archive), model="small", fill_bands="on", scenes=("t",)), engine=serial)
    (scene,) = report.wait().scenes
    assert any("none of the 3 bad bands is isolated" in w for w in scene.warnings)
    assert "filled_bands" not in scene.figures


def test_plans_and_tasks(tmp_path: Path) -> None:
    before, after = plan_of(), Plan.from_dict({k: v for k, v in plan_of().to_dict().items() if k != "fill_bands"})
    assert before == after and before.fill_bands == "off"
    with pytest.raises(BadJob, match="fill_bands belongs to task 'denoise'"):
        parse(RestoreJob, {"archive": str(tmp_path), "task": "sharpen", "fill_bands": "on"}, where="x")
