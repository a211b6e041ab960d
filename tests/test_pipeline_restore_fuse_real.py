"""Real pairs from files to a published item with the model that ships: Hyperion and ALI over Paris, CAVE and a camera.

The coarse images of the two pairs with a truth are made here: Paris degraded three times (Wald), CAVE eight times.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import imageio.v3 as imageio
import numpy as np
import numpy.typing as npt
import pytest
import scipy.io
import torch
import xarray as xr

import hypermend
from hypermend.catalog.cube.cube import Cube
from hypermend.catalog.cube.spec import NEAR_FILL, SATURATED, VALID
from hypermend.catalog.keys import cube_key
from hypermend.catalog.sensors import srf
from hypermend.models.fuse.kernel_estimate import Blur
from hypermend.models.signal.degrade import blur_down, gaussian, gaussian_kernel, snr_std, upsample
from hypermend.models.signal.metrics import psnr, sam
from hypermend.pipeline.config import IngestJob, RestoreJob
from hypermend.pipeline.engine.serial import serial
from hypermend.pipeline.ingest import catalog_folder, ingest
from hypermend.pipeline.restore.driver import restore
from hypermend.pipeline.restore.plan import Plan, plan_key
from hypermend.pipeline.runs.report import RunReport
from tests.test_pipeline_restore_fuse import fused

F32 = npt.NDArray[np.float32]


def delivered(archive: Path, *folders: tuple[Path, str, str]) -> None:
    """Folders of files, each of one sensor, as source cubes of a collection."""
    for folder, sensor, collection in folders:
        made = catalog_folder(str(archive), folder, sensor=sensor, collection=collection)
        assert made.scenes
        assert not made.skipped
    assert ingest(IngestJob(archive=str(archive)), engine=serial).wait().exit_code == 0


def fuse(archive: Path, **settings: Any) -> tuple[RunReport, xr.Dataset]:
    """Fuse what the archive holds, and open the result with nothing of ours."""
    report = restore(RestoreJob(archive=str(archive), task="fuse", **settings), engine=serial).wait()
    assert report.exit_code == 0, report.scenes
    query = [
        sys.executable,
        "-c",
        "from hypermend.pipeline.cli.main import main; main()",
        "query",
        "--archive",
        str(archive),
    ]
    found = subprocess.run([*query, "--stage", "restored", "--json"], capture_output=True, check=True)
    (item,) = json.loads(found.stdout)["features"]
    return report, xr.open_zarr(item["assets"]["cube"]["href"])


def smooth(coarse: F32, scale: int, at_px: float) -> F32:
    return upsample(torch.from_numpy(coarse)[None], scale, (at_px, at_px))[0].numpy()


def degraded(truth: F32, kernel: npt.NDArray[np.float64], scale: int, snr_db: float) -> F32:
    coarse = blur_down(torch.from_numpy(truth)[None], torch.from_numpy(kernel).float(), scale)[0].numpy()
    return gaussian(coarse, snr_std(coarse, snr_db), np.random.default_rng([0, int(snr_db)]))


def unit(cube: F32) -> F32:
    return np.asarray(cube / cube.max(), dtype=np.float32)


@pytest.fixture
def paris(shared_data: Path) -> dict[str, Any]:
    return dict(scipy.io.loadmat(shared_data / "hyperion_paris" / "paris_data_hs_ms.mat"))


@pytest.mark.slow
def test_paris_as_it_is(shared_data: Path, tmp_path: Path) -> None:
    """Both instruments at 30 m: the scale is 1. ALI is the sharper one, so what comes out is sharper than Hyperion, and
    blurred as Hyperion was found to be blurred it is what Hyperion measured.
    """
    folder = shared_data / "hyperion_paris"
    archive = tmp_path / "archive"
    delivered(archive, (folder, "hyperion", "hyperion"), (folder, "ali", "ali"))
    report, cube = fuse(archive, collections=("hyperion",), guide_collection="ali")
    (scene,) = report.scenes
    assert scene.figures["scale"] == 1
    assert scene.figures["guide"] == "ali/paris_data_hs_ms-ali"
    measured = hypermend.open(str(archive)).search(stage="source", collection="hyperion-source")[0].dataset()
    a, b = cube["reflectance"].values, measured["reflectance"].values
    assert a.shape == b.shape == (128, 72, 72)
    assert np.isfinite(a).all()
    (item,) = hypermend.open(str(archive)).search(stage="restored")
    plan = Plan.from_dict(item.root.get_json(plan_key(cube_key(item.scene))))
    assert plan.scene_facts is not None
    kernel = torch.from_numpy(Blur.from_json(plan.scene_facts["model"]["blur"]).kernel).float()
    seen = blur_down(torch.from_numpy(a.astype(np.float32))[None], kernel, 1)[0].numpy()
    assert np.abs(seen - b).mean() < 0.05 * b.mean()
    assert np.abs(np.diff(a, axis=2)).mean() > np.abs(np.diff(b, axis=2)).mean()


@pytest.mark.slow
def test_paris_by_walds_protocol(paris: dict[str, Any], tmp_path: Path) -> None:
    truth = unit(paris["HSim"].transpose(2, 0, 1).astype(np.float32))
    coarse = degraded(truth, gaussian_kernel(9, 1.2), 3, 40)
    folder = tmp_path / "files"
    folder.mkdir()
    scipy.io.savemat(
        folder / "wald.mat",
        {"HSim": coarse.transpose(1, 2, 0), "MSim": paris["MSim"], "non_del_bands": paris["non_del_bands"]},
    )
    archive = tmp_path / "archive"
    delivered(archive, (folder, "hyperion", "hyperion"), (folder, "ali", "ali"))
    report, cube = fuse(archive, collections=("hyperion",), guide_collection="ali")
    assert report.scenes[0].figures["scale"] == 3
    assert report.notes["model"] == "least-squares"
    order = [list(paris["non_del_bands"].ravel()).index(b) for b in cube["band"].values]
    answer, before = cube["reflectance"].values, smooth(coarse, 3, 0.0)[order]
    assert answer.shape == (128, 72, 72)
    assert psnr(truth[order], answer) > psnr(truth[order], before) + 1
    assert sam(truth[order], answer).degrees < sam(truth[order], before).degrees


def camera_pair(shared_data: Path, folder: Path, name: str, *, edge: int, scale: int) -> F32:
    """A CAVE scene's middle as the coarse camera and the Nikon see it, each a stack of PNGs; its truth (31, y, x)."""
    files = sorted((shared_data / "cave" / f"{name}_ms").glob("*.png"))
    cube = unit(np.stack([imageio.imread(f) for f in files]).astype(np.float32))
    first = (cube.shape[1] - edge) // 2
    truth = np.ascontiguousarray(cube[:, first : first + edge, first : first + edge])
    rng = np.random.default_rng(4)
    kernel = gaussian_kernel(15, 2.0) + np.diag(rng.random(15)) * 0.01
    coarse = degraded(truth, kernel / kernel.sum(), scale, 40)
    sharp = np.tensordot(srf("cave", "nikon-d700"), truth, axes=1).astype(np.float32)
    sharp = gaussian(sharp, snr_std(sharp, 40), rng)
    for kind, bands in (("coarse", coarse), ("sharp", sharp)):
        stack = folder / kind / f"{name}_ms"
        stack.mkdir(parents=True)
        for number, band in enumerate(bands, 1):
            imageio.imwrite(stack / f"{name}_{number:02d}.png", np.rint(np.clip(band, 0, 1) * 65535).astype(np.uint16))
    return truth


@pytest.mark.long
def test_a_cave_scene_and_a_camera(shared_data: Path, tmp_path: Path) -> None:
    truth = camera_pair(shared_data, tmp_path / "files", "balloons", edge=256, scale=8)
    archive = tmp_path / "archive"
    files = tmp_path / "files"
    delivered(archive, (files / "coarse", "cave", "cave"), (files / "sharp", "nikon-d700", "camera"))
    report, cube = fuse(archive, collections=("cave",), guide_collection="camera")
    (scene,) = report.scenes
    assert (scene.figures["scale"], scene.figures["guide"]) == (8, "camera/balloons_ms")
    assert report.notes["model"] == "cave-d700-filter"  # the pair of sensors that it is bound to
    assert scene.figures["pair"]["filter"]["used"]
    (block,) = scene.figures["blocks"]
    assert block["adapted"] or block["fell_back_to"] == "fusion"
    answer = cube["reflectance"].values
    source = hypermend.open(str(archive)).search(stage="source", collection="cave-source")[0].dataset()
    before = smooth(source["reflectance"].values.astype(np.float32), 8, 0.0)
    assert psnr(truth, answer) > psnr(truth, before) + 6
    assert sam(truth, answer).degrees < sam(truth, before).degrees
    again = restore(
        RestoreJob(archive=str(archive), task="fuse", collections=("cave",), guide_collection="camera"), engine=serial
    ).wait()
    assert again.bytes_written == 0


@pytest.mark.long
def test_three_tile_sizes_give_the_same_cube(shared_data: Path, tmp_path: Path) -> None:
    camera_pair(shared_data, tmp_path / "files", "feathers", edge=256, scale=4)
    archive, files = tmp_path / "archive", tmp_path / "files"
    delivered(archive, (files / "coarse", "cave", "cave"), (files / "sharp", "nikon-d700", "camera"))
    whole: F32 | None = None
    for tile_px in (256, 128, 96):
        cube, flags, plan, report = fused(
            archive,
            tile_px=tile_px,
            model="ual-fusion",
            collections=("cave",),
            guide_collection="camera",
            budget_steps=30,
        )
        assert len(report.scenes[0].figures["blocks"]) == 4
        values = cube * plan.spec.scale_factor
        whole = values if whole is None else whole
        assert np.abs(values - whole).max() <= 1e-5 + plan.spec.scale_factor  # stored as whole numbers
        assert (flags == VALID).all()


@pytest.mark.slow
def test_a_hole_in_the_camera_image_falls_back(shared_data: Path, tmp_path: Path) -> None:
    """Saturated and lost pixels of the guide: the coarse image made finer, no NaN, and the mask says so."""
    camera_pair(shared_data, tmp_path / "files", "flowers", edge=128, scale=4)
    files, archive = tmp_path / "files", tmp_path / "archive"
    delivered(archive, (files / "coarse", "cave", "cave"), (files / "sharp", "nikon-d700", "camera"))
    root = hypermend.open(str(archive)).root
    (item,) = hypermend.open(str(archive)).search(stage="source", collection="camera-source")
    guide = Cube(root, item.scene.properties["hypermend:cube"])
    stored, flags = guide.read(slice(0, 128), slice(0, 128))
    flags[40:60, 70:90] = SATURATED
    guide.mark(0, 0, guide.write(slice(0, 128), slice(0, 128), stored, flags))
    cube, out, plan, _ = fused(archive, tile_px=64, model=None, collections=("cave",), guide_collection="camera")
    assert (out & VALID).all()
    assert (out[40:60, 70:90] & NEAR_FILL).all()
    values = cube * plan.spec.scale_factor
    coarse, _ = Cube(root, plan.source).read(slice(0, 32), slice(0, 32))
    interpolated = smooth((coarse * plan.spec.scale_factor).astype(np.float32), 4, 0.0)[:, 40:60, 70:90]
    assert np.abs(values[:, 40:60, 70:90] - interpolated).mean() < 0.1 * interpolated.mean()  # but for the centroid
