"""The fusion benchmark on made scenes: protocol, output, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest

from benchmarks import fusion, fusion_real
from hypermend.models.signal import degrade
from hypermend.pipeline.protocols import kernels
from tests.test_models_kernel_estimate import bent
from tests.test_models_least_squares import spectra

FIELDS = {"scene", "kernel", "scale", "snr_db", "method", "psnr", "ssim", "sam_deg", "ergas", "seconds"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One scene of 31 bands, 150 x 130 pixels, and one of 5 bands."""
    root = tmp_path_factory.mktemp("scenes")
    for name, bands in (("chips", 31), ("few", 5)):
        cube = spectra(150, bands)[:, :, :130]
        (root / f"{name}_ms").mkdir()
        for i, band in enumerate(cube, 1):
            iio.imwrite(root / f"{name}_ms" / f"{name}_{i:02d}.png", (band * 60000).astype(np.uint16))
    return root


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, object]]:
    assert fusion.main(arguments) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_a_folder_and_a_file_of_kernels(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "two.npy", np.stack((bent(9), degrade.gaussian_kernel(9, 1.5))))
    options = ["--data", str(folder), "--max-scenes", "1", "--kernels", str(tmp_path / "two.npy"), "--scale", "4"]
    lines = run(capsys, *options, "--methods", "bicubic", "gauss-ls", "floor", "--crop", "129", "--snr-db", "35")
    assert all(set(line) >= FIELDS for line in lines)
    assert [(line["scene"], line["kernel"], line["method"]) for line in lines[::3]] == [
        ("chips", "two-1", "bicubic"),
        ("chips", "two-2", "bicubic"),
    ]
    assert {(line["scale"], line["snr_db"]) for line in lines} == {(4, 35)} and lines[0]["shape"] == [31, 128, 128]
    psnr = {(line["kernel"], line["method"]): float(str(line["psnr"])) for line in lines}
    assert psnr["two-1", "floor"] > psnr["two-1", "gauss-ls"] + 1 > psnr["two-1", "bicubic"] + 1


def test_the_problem_follows_the_protocol() -> None:
    truth, k = spectra(64, 31), bent(9)
    p = fusion.problem(truth, k, fusion.laboratory(31, 8), 40)
    np.testing.assert_allclose(p.pair.x, np.tensordot(p.setup.response, truth, 1), atol=1e-6)
    clean = fusion.problem(truth, k, fusion.laboratory(31, 8), 300).pair.y
    std = np.sqrt(np.square(clean).mean() / 1e4)
    noise = np.random.default_rng([0, 40]).standard_normal(clean.shape) * std
    np.testing.assert_allclose(p.pair.y - clean, noise, atol=1e-6)
    np.testing.assert_allclose(p.setup.response.sum(axis=1), 1, rtol=1e-6)


def test_built_in_kernels_are_no_gaussians_and_stay() -> None:
    built = kernels.built_in()
    assert len(built) >= 4
    for name, k in built.items():
        assert k.min() >= 0 and k.sum() == pytest.approx(1)
        np.testing.assert_array_equal(k, kernels.built_in()[name])
        nearest = min(np.linalg.norm(k - degrade.gaussian_kernel(len(k), s)) for s in np.arange(0.5, 8, 0.1))
        assert nearest > 0.2 * np.linalg.norm(k), name


def test_what_is_refused(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "k.npy", np.ones((2, 5, 5)))
    with pytest.raises(SystemExit, match=r"sum to \[25\.0, 25\.0\]"):
        fusion.main(["--data", str(folder), "--kernels", str(tmp_path / "k.npy")])
    with pytest.raises(SystemExit, match=r"nothing\.npy"):
        fusion.main(["--data", str(folder), "--kernels", str(tmp_path / "nothing.npy")])
    with pytest.raises(SystemExit, match="5 bands"):
        fusion.main(["--data", str(folder), "--scenes", "few", "--methods", "bicubic"])
    np.save(tmp_path / "k.npy", bent(9))
    arguments = ["--data", str(folder), "--kernels", str(tmp_path / "k.npy"), "--max-scenes", "1"]
    assert fusion.main([*arguments, "--methods", "floor", "--crop", "40"]) == 1  # too few pixels for the kernel
    assert "LR pixels have a valid footprint" in capsys.readouterr().err


def test_paris_by_walds_protocol(shared_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    methods = ["bicubic", "floor", "least-squares"]
    assert fusion_real.main(["--data", str(shared_data), "--pairs", "paris", "--methods", *methods]) == 0
    bicubic, floor, ours = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert floor["psnr"] > bicubic["psnr"] + 2 and floor["sam_deg"] < bicubic["sam_deg"]
    assert ours["psnr"] > floor["psnr"] + 0.3 and ours["sam_deg"] < floor["sam_deg"]
