"""Real scenes as they are: noise goes, spectra of blocks stay, and what goes does not look like the scene."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import denoise, denoise_real
from hypermend.models import checkpoint
from hypermend.models.denoise.model import StasModel


@pytest.fixture(scope="module")
def shipped() -> StasModel:
    model = checkpoint.load(checkpoint.builtin(denoise.MODEL))
    assert isinstance(model, StasModel)
    return model


@pytest.mark.parametrize(
    "name",
    [
        *(pytest.param(name, marks=pytest.mark.long) for name in ("enmap_potsdam", "paris_data_hs_ms-hyperion")),
        "pavia_centre_crop",
    ],
)
def test_real_scenes_lose_noise_and_nothing_else(name: str, shipped: StasModel, shared_data: Path) -> None:
    cube, known = next((c, k) for found, c, k in denoise_real.scenes(shared_data) if found.startswith(name))
    line = denoise_real.measure(shipped, name, cube, known, None)
    assert line["kind"] == "careful" and line["bands_restored"] == len(cube)
    assert line["left"] < 0.6  # of the noise
    assert line["block_worst"] < 1.0 and line["spectrum_worst"] < 1.0  # %
    assert line["correlation_median"] < 0.05 and line["correlation_worst"] < 0.3
    assert line["edges_median"] < 1.4


def test_a_picture_shows_scene_and_removed_part(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    before, gone = (rng.random((12, 16, 24)).astype(np.float32) for _ in range(2))
    denoise_real.draw(before, gone, np.ones((16, 24), dtype=bool), tmp_path / "p.png")
    with Image.open(tmp_path / "p.png") as image:
        assert image.size == (2 * 3 * 2 * 24, 2 * 3 * 16)


def test_no_real_scene_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert denoise.main(["--real", "--data", str(tmp_path)]) == 1
    assert "enmap_potsdam" in capsys.readouterr().err
