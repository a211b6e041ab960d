"""The sharpening benchmark: its fields, its protocol, and what it does with a folder that is not what it should be."""

from __future__ import annotations

import json
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest

from benchmarks import sharpen

FIELDS = {"scene", "scale", "method", "psnr", "ssim", "sam_deg", "seconds"}


def write_scene(folder: Path, *, size: int = 37, bands: int = 4, seed: int = 0) -> None:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for band in range(1, bands + 1):
        image = np.kron(rng.integers(0, 30000, (size // 4 + 1,) * 2), np.ones((4, 4)))[:size, :size]
        iio.imwrite(folder / f"{folder.name}_{band:02d}.png", image.astype(np.uint16))


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, list[dict[str, object]], str]:
    code = sharpen.main(argv)
    out, err = capsys.readouterr()
    return code, [json.loads(line) for line in out.splitlines()], err


def test_one_line_for_each_scene_and_scale(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_scene(tmp_path / "one_ms")
    write_scene(tmp_path / "two_ms", seed=1)
    (tmp_path / "notes.txt").write_text("loose files are ignored")
    code, lines, _ = run(capsys, "--data", str(tmp_path), "--methods", "bicubic", "--crop", "35")
    assert code == 0
    assert [(line["scene"], line["scale"]) for line in lines] == [(s, r) for s in ("one", "two") for r in (2, 3, 4)]
    assert all(line.keys() >= FIELDS and line["method"] == "bicubic" for line in lines)
    assert [line["shape"] for line in lines[:3]] == [[4, 34, 34], [4, 33, 33], [4, 32, 32]]
    assert lines[0]["psnr"] > lines[2]["psnr"]  # type: ignore[operator]


def test_what_cannot_be_read_is_named_and_the_rest_is_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_scene(tmp_path / "good")
    (tmp_path / "empty").mkdir()
    code, lines, err = run(capsys, "--data", str(tmp_path), "--methods", "bicubic", "--scale", "2")
    assert code == 1 and len(lines) == 1 and "empty: no PNG" in err
    code, lines, err = run(capsys, "--data", str(tmp_path), "--methods", "bicubic", "--scale", "2", "--scenes", "bad")
    assert code == 1 and not lines and "no such scene" in err


def test_a_folder_without_real_scenes_is_no_success(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, lines, err = run(capsys, "--real", "--data", str(tmp_path), "--methods", "bicubic")
    assert code == 1 and not lines and "none of the folders enmap_potsdam" in err


def test_full_scale_is_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Half the counts, 6 dB more: scenes are not divided by their own maximum."""
    write_scene(tmp_path / "bright")
    (tmp_path / "dark").mkdir()
    for file in (tmp_path / "bright").iterdir():
        iio.imwrite(tmp_path / "dark" / file.name, (iio.imread(file) // 2).astype(np.uint16))
    _, lines, _ = run(capsys, "--data", str(tmp_path), "--methods", "bicubic", "--scale", "2")
    bright, dark = (float(str(line["psnr"])) for line in lines)
    assert dark - bright == pytest.approx(6.02, abs=0.02)
