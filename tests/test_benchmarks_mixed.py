"""The mixed-noise benchmark: cases are as described, rivals keep a clean cube, and an oracle is no worse than ours."""

from __future__ import annotations

import json
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest

from benchmarks import clean_scenes, mixed
from benchmarks.lrtdtv import lrtdtv
from benchmarks.mixed_noise import CASES, REALISTIC, spoil
from hypermend.models.signal.metrics import psnr
from tests.test_models_denoise import noisy, scene

TRUTH = scene(12, 40, 40)


@pytest.mark.parametrize("case", [*CASES, *REALISTIC])
def test_a_case_strikes_a_third_of_the_bands_and_repeats(case: int) -> None:
    spoilt, again = spoil(TRUTH, case, 3), spoil(TRUTH, case, 3)
    np.testing.assert_array_equal(spoilt.image, again.image)
    struck = int(spoilt.missing.any(axis=(1, 2)).sum())
    assert struck == {3: 4, 4: 4, 5: 8, 6: 4, 7: 4}.get(case, 0)
    striped = int(spoilt.stripes.any(axis=(1, 2)).sum())
    assert striped == {2: 4, 5: 4, 8: 12, 9: 12, 10: 12}.get(case, 0)
    if case == 4:
        assert set(np.unique(spoilt.image[spoilt.missing])) == {0.0, 1.0}


def test_lrtdtv_removes_noise_and_impulses() -> None:
    smooth = np.kron(TRUTH[:, ::8, ::8], np.ones((1, 8, 8), np.float32))
    image = noisy(smooth, 0.1)
    image[3][np.random.default_rng(0).random((40, 40)) < 0.2] = 1
    assert psnr(smooth, lrtdtv(image)) > psnr(smooth, image) + 8


def test_offsets_of_columns_become_smaller() -> None:
    spoilt = spoil(np.full((3, 64, 60), 0.5, np.float32), 2, 0)
    error = mixed.column_l1(spoilt) - (spoilt.image - spoilt.stripes)
    assert np.sqrt(np.square(error).mean()) < 0.9 * np.sqrt(np.square(spoilt.stripes).mean())


def test_lines_of_a_folder_of_scenes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "cave" / "one_ms"
    folder.mkdir(parents=True)
    for b, band in enumerate(TRUTH):
        iio.imwrite(folder / f"one_ms_{b + 1:02}.png", (60000 * band).astype(np.uint16))
    argv = ["--data", str(tmp_path / "cave"), "--cases", "3", "--seeds", "2", "--methods", "noisy", "moment"]
    assert mixed.main(argv) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(v["scene"], v["case"], v["seed"], v["method"]) for v in lines] == [
        ("one", 3, seed, method) for seed in (0, 1) for method in ("noisy", "moment")
    ]
    assert {"psnr", "ssim", "sam_deg", "seconds"} <= set(lines[0])


def test_a_scene_with_a_dead_column_raises_the_alarm(tmp_path: Path) -> None:
    cube = noisy(TRUTH, 0.02)
    known = np.ones((40, 40), bool)
    model = mixed.shipped()
    assert clean_scenes.found(model, cube, known)["dead"] == 0
    cube[2][:, 7] = 0
    assert clean_scenes.found(model, cube, known)["dead"] == 1
