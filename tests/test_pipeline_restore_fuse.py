"""The managed fusion with a model of a few lines: tiled equals whole, holes of either image, kills, and the plan."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import hypermend
from hypermend.catalog.cube.cube import Cube
from hypermend.catalog.cube.layout import create
from hypermend.catalog.cube.spec import CLOUD, NEAR_FILL, NODATA, SATURATED, VALID, CubeSpec
from hypermend.catalog.sensors import sensor, srf
from hypermend.catalog.stac.publish import put_item, source_item
from hypermend.catalog.storage.archive_store import ArchiveStore
from hypermend.models import checkpoint
from hypermend.models.arrays import F32
from hypermend.models.card import ModelCard
from hypermend.models.fuse import pair_filter
from hypermend.models.fuse.candidates import NAMES
from hypermend.models.fuse.sensor_pair import SensorPair
from hypermend.models.signal.degrade import blur_down, gaussian, gaussian_kernel, snr_std
from hypermend.pipeline.config import RestoreJob
from hypermend.pipeline.engine.serial import serial
from hypermend.pipeline.maintenance.verify import verify
from hypermend.pipeline.restore.driver import restore
from hypermend.pipeline.restore.dry_run import estimate_scenes
from hypermend.pipeline.restore.plan import Plan
from hypermend.pipeline.restore.worker import RestoreWorker
from hypermend.pipeline.runs.report import RunReport
from hypermend.pipeline.tiling.pixels import Flags, Stored
from tests.small_cubes import make_scene, make_spec, write_tiles
from tests.stub_fusion import CARD, StubFusion
from tests.test_models_least_squares import spectra

S, HEIGHT, WIDTH = 4, 72, 66  # LR pixels
BLOCKS = 4  # 2 x 2, of at least 32 pixels each
BANDS_NM = tuple(float(nm) for nm in range(400, 701, 25))
RGB = ("B", "G", "R")


@pytest.fixture(autouse=True)
def stub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        checkpoint.ARCHITECTURES, "stub-fusion", checkpoint.Architecture("fuse", StubFusion, of_pair=True)
    )


def scene_pixels(scale: int = S, height: int = HEIGHT, width: int = WIDTH) -> tuple[Stored, Stored]:
    """A scene (13, h, w) and its guide (3, s*h, s*w), stored numbers: three materials, the left half brighter."""
    rng = np.random.default_rng(5)
    y, x = np.mgrid[0 : scale * height, 0 : scale * width] / (scale * 9)
    materials = np.stack([np.sin(y) + 1.2, np.cos(1.3 * x) + 1.2, np.sin(x + 2 * y) + 1.2])
    materials *= np.where(x < x.max() / 2, 1.5, 0.8)
    sharp = np.einsum("bk,kyx->byx", rng.random((len(BANDS_NM), 3)), materials) * 1000
    coarse = sharp.reshape(len(BANDS_NM), height, scale, width, scale).mean(axis=(2, 4))
    return coarse.astype(np.float32), (sharp[[2, 6, 10]]).astype(np.float32)


def cube_spec(shape: tuple[int, ...], *, px: float, guide: bool, lab: bool, **changes: Any) -> CubeSpec:
    values: dict[str, Any] = {
        "dtype": "float32", "scale_factor": 1e-4, "fill": -32768.0, "quantity": "counts", "units": "1",
        "transform": (px, 0.0, 500000.0, 0.0, -px, 5000000.0), "gsd_m": [px] * shape[0], "sensor": "cave",
        "wavelength_nm": BANDS_NM, "detector": ["VIS"] * shape[0],
    }  # fmt: skip
    if guide:  # in shards that do not fall together with the tiles
        values |= {"tile_px": 112, "sensor": "nikon-d700", "band_name": RGB, "wavelength_nm": (467.6, 543.8, 632.0)}
    if lab:
        values |= {"crs": None, "transform": None, "gsd_m": [float("nan")] * shape[0]}
    return make_spec(tuple(shape), **(values | changes))  # type: ignore[arg-type]


def put_source(archive: Path, id: str, collection: str, stored: Stored, flags: Flags, spec: CubeSpec) -> None:
    root, key = ArchiveStore(archive), f"source/{id}/{collection}.zarr"
    create(root, key, spec)
    write_tiles(Cube(root, key), stored.astype(spec.dtype), flags)
    scene = make_scene(id, collection=collection, sensor=spec.sensor, grid=spec.grid)
    put_item(root, source_item(scene, spec, key=key, ingest_id=f"{id}-{collection}", valid_fraction=1.0), run="r")


def put_model(archive: Path, **config: Any) -> None:
    folder = archive / "models" / "stub"
    folder.mkdir(parents=True, exist_ok=True)
    replace(CARD, config=config).write(folder / "card.json")


def make_archive(
    archive: Path,
    *,
    y: Stored | None = None,
    y_flags: Flags | None = None,
    x: Stored | None = None,
    x_flags: Flags | None = None,
    scale: int = S,
    lab: bool = True,
    size: tuple[int, int] = (HEIGHT, WIDTH),
    **changes: Any,
) -> Path:
    """An archive with one ingested pair and the stub model."""
    first, second = scene_pixels(scale, *size)
    y, x = first if y is None else y, second if x is None else x
    y_flags = np.full(y.shape[1:], VALID, np.uint8) if y_flags is None else y_flags
    x_flags = np.full(x.shape[1:], VALID, np.uint8) if x_flags is None else x_flags
    archive.mkdir(exist_ok=True)
    put_source(archive, "s", "hs", y, y_flags, cube_spec(y.shape, px=10.0 * scale, guide=False, lab=lab, **changes))
    put_source(archive, "s", "rgb", x, x_flags, cube_spec(x.shape, px=10.0, guide=True, lab=lab))
    put_model(archive)
    return archive


def job_of(archive: Path, **changes: Any) -> RestoreJob:
    settings: dict[str, Any] = {"task": "fuse", "guide_collection": "rgb", "model": "stub", "tile_px": 128}
    return RestoreJob(archive=str(archive), **(settings | changes))


def fuse(archive: Path, **changes: Any) -> RunReport:
    return restore(job_of(archive, **changes), engine=serial).wait()


def fused(archive: Path, **changes: Any) -> tuple[Stored, Flags, Plan, RunReport]:
    report = fuse(archive, **changes)
    assert report.exit_code == 0, report.scenes
    (item,) = hypermend.open(str(archive)).search(stage="restored")
    root = ArchiveStore(archive)
    cube = Cube(root, item.scene.properties["hypermend:cube"])
    plan = Plan.from_dict(root.get_json(cube.path.removesuffix(".zarr") + ".plan.json"))
    return *cube.read(slice(0, plan.spec.height), slice(0, plan.spec.width)), plan, report


def snapshot(archive: Path) -> dict[str, bytes]:
    return {str(p.relative_to(archive)): p.read_bytes() for p in (archive / "restored").rglob("*") if p.is_file()}


# ----------------------------------------------------------------------------------------------- files to item


def test_a_pair_becomes_an_item_on_the_refined_grid(tmp_path: Path) -> None:
    archive = make_archive(tmp_path / "a", lab=False)
    stored, flags, plan, _ = fused(archive)
    assert stored.shape == (13, S * HEIGHT, S * WIDTH)
    assert (flags == VALID).all()
    assert np.isfinite(stored).all()
    (item,) = hypermend.open(str(archive)).search(stage="restored", collection="hs-fuse")
    scene = item.scene
    assert scene.properties["hypermend:task"] == "fuse"
    assert scene.properties["hypermend:overlap"] == 1
    document = json.loads((archive / "items/hs-fuse/2022-07-24/s.json").read_text())
    made_from = [link["href"] for link in document["links"] if link["rel"] == "derived_from"]
    assert made_from == ["../../hs-source/2022-07-24/s.json", "../../rgb-source/2022-07-24/s.json"]
    assert plan.spec.transform == (10.0, 0.0, 500000.0, 0.0, -10.0, 5000000.0)
    assert plan.spec.gsd_m == (10.0,) * 13
    assert plan.scene_facts is not None
    assert plan.scene_facts["model"]["expected"] == (S - 1) / 2
    ds = item.dataset()
    assert dict(ds.sizes) == {"band": 13, "y": S * HEIGHT, "x": S * WIDTH}
    assert verify(str(archive)).torn == ()


def test_the_report_tells_of_every_block(tmp_path: Path) -> None:
    _, _, plan, report = fused(make_archive(tmp_path / "a"), budget_steps=7)
    assert plan.blocks is not None
    (scene,) = json.loads(json.dumps(report.to_dict()))["scenes"]
    figures = scene["figures"]
    assert (figures["guide"], figures["scale"]) == ("rgb/s", S)
    assert len(figures["blocks"]) == len(plan.blocks) == BLOCKS
    assert {b["steps"] for b in figures["blocks"]} == {7}
    assert figures["blocks_adapted"] == sum(b["adapted"] for b in figures["blocks"]) == BLOCKS // 2
    assert [b["fell_back_to"] for b in figures["blocks"] if not b["adapted"]] == ["fusion"] * (BLOCKS // 2)
    assert "maps" not in figures["pair"]
    root = ArchiveStore(tmp_path / "a")
    lines = [json.loads(t) for e in root.list("runs") if "receipts" in e.key for t in root.get(e.key).splitlines()]
    assert sorted(line["block"] for line in lines if line["block"]) == [[iy, ix] for iy in range(2) for ix in range(2)]


def test_it_is_nearer_to_the_truth_than_the_coarse_image(tmp_path: Path) -> None:
    coarse, guide = scene_pixels()
    stored, _, _, _ = fused(make_archive(tmp_path / "a"), budget_steps=0)
    error, before = (np.abs(v[2] - guide[0]).mean() for v in (stored, coarse.repeat(S, 1).repeat(S, 2)))
    assert error < before / 20


# ------------------------------------------------------------------------------------------------ tiled equals whole


@pytest.mark.slow
def test_tiled_equals_whole_with_blocks(tmp_path: Path) -> None:
    archive = make_archive(tmp_path / "a")
    whole, whole_flags, plan, _ = fused(archive, tile_px=None)
    assert len(plan.grid) <= 4
    plain, *_ = fused(archive, tile_px=None, budget_steps=0)
    assert np.abs(whole - plain).max() > 30  # the blocks do something
    for tile_px in (48, 128):
        tiled, flags, plan, _ = fused(archive, tile_px=tile_px)
        assert len(plan.grid) > 8
        assert np.abs(tiled - whole).max() * plan.spec.scale_factor <= 1e-5
        np.testing.assert_array_equal(flags, whole_flags)


@pytest.mark.slow
def test_gradients_across_block_borders_are_those_inside(tmp_path: Path) -> None:
    """The blocks learn numbers that differ by thousands of stored units; the blend must not show it."""
    archive = make_archive(tmp_path / "a")
    adapted, _, plan, _ = fused(archive)
    assert plan.blocks is not None
    plain, *_ = fused(archive, budget_steps=0)
    learned = (adapted - plain)[0]
    border = S * (WIDTH // 2)
    step = np.abs(learned[:, border] - learned[:, border - 1]).mean()
    ramp = np.abs(np.diff(learned[:, border - 14 : border + 14], axis=1)).mean()
    assert step < 1.6 * ramp


@pytest.mark.parametrize(
    ("scale", "size"), [(1, (60, 70)), (3, (40, 33)), (8, (30, 9)), pytest.param(32, (10, 12), marks=pytest.mark.long)]
)
def test_any_whole_scale_and_small_scenes(tmp_path: Path, scale: int, size: tuple[int, int]) -> None:
    archive = make_archive(tmp_path / "a", scale=scale, size=size)
    whole, _, plan, _ = fused(archive, tile_px=None)
    assert plan.tile_px % scale == 0
    assert plan.tile_px % 16 == 0
    assert whole.shape == (13, scale * size[0], scale * size[1])
    tile_px = 48 if scale == 3 else 32
    tiled, _, plan, _ = fused(archive, tile_px=tile_px)
    assert np.abs(tiled - whole).max() * plan.spec.scale_factor <= 1e-5


def test_a_tile_that_cuts_source_pixels_is_refused(tmp_path: Path) -> None:
    archive = make_archive(tmp_path / "a", scale=3, size=(40, 40))
    (row,) = estimate_scenes(job_of(archive, tile_px=64))
    assert "a tile of 64 pixels is no multiple of 48, which the scale 3 needs; 48 and 96 are" in row.reason


# --------------------------------------------------------------------------------------------------------- holes


@pytest.mark.slow
def test_holes_of_the_guide_fall_back_to_the_coarse_image(tmp_path: Path) -> None:
    coarse, guide = scene_pixels()
    flags = np.full(guide.shape[1:], VALID, np.uint8)
    flags[100:160, 200:230] = NODATA
    flags[20:30, 20:30] = CLOUD
    flags[7, 9] = SATURATED
    holed = np.where(flags == NODATA, -32768, guide)
    archive = make_archive(tmp_path / "a", x=holed, x_flags=flags)
    whole, whole_flags, plan, _ = fused(archive, tile_px=None)
    assert np.isfinite(whole).all()
    expected = StubFusion(CARD, {}).bind(plan.scene_facts["model"]).without_guide(torch.from_numpy(coarse)[None])[0]  # type: ignore[index]
    lost = flags != VALID
    np.testing.assert_allclose(whole[:, lost], expected.numpy()[:, lost], rtol=1e-5)
    assert (whole_flags[lost] == VALID | NEAR_FILL).all()
    y, x = np.nonzero(whole_flags & NEAR_FILL)
    reach = S * plan.halo
    near = np.zeros_like(lost)
    for cy, cx in zip(*np.nonzero(lost), strict=True):
        near[max(0, cy - reach) : cy + reach + 1, max(0, cx - reach) : cx + reach + 1] = True
    assert near[y, x].all()
    assert near.sum() == len(y)
    tiled, tiled_flags, *_ = fused(archive, tile_px=80)
    assert np.abs(tiled - whole).max() * plan.spec.scale_factor <= 1e-5
    np.testing.assert_array_equal(tiled_flags, whole_flags)


@pytest.mark.slow
def test_a_guide_off_the_grid_that_covers_a_part(tmp_path: Path) -> None:
    coarse, guide = scene_pixels()
    archive = make_archive(tmp_path / "a", lab=False)
    part = np.ascontiguousarray(guide[:, :, : 3 * guide.shape[2] // 4])
    spec = cube_spec(part.shape, px=10.0, guide=True, lab=False, transform=(10.0, 0.0, 500003.3, 0.0, -10.0, 4999997.0))
    put_source(archive, "moved", "drone", part, np.full(part.shape[1:], VALID, np.uint8), spec)
    whole, flags, plan, report = fused(archive, collections=("hs",), guide_collection="drone", tile_px=None)
    assert "guide moved covers 75% of the scene; the rest keeps its own detail" in report.scenes[0].warnings
    assert np.isfinite(whole).all()
    beyond = flags[:, -60:]
    assert (beyond == VALID | NEAR_FILL).all()
    assert (flags[20:-20, 20:150] == VALID).all()
    plain, *_ = fused(archive, collections=("hs",), guide_collection="drone", tile_px=None, budget_steps=0)
    detail = np.abs(plain[2, 20:-20, 20:150] - guide[0, 20:-20, 20:150]).mean()
    assert detail < np.abs(coarse[2].repeat(S, 0).repeat(S, 1)[20:-20, 20:150] - guide[0, 20:-20, 20:150]).mean() / 3
    tiled, tiled_flags, *_ = fused(archive, collections=("hs",), guide_collection="drone", tile_px=80)
    assert np.abs(tiled - whole).max() * plan.spec.scale_factor <= 1e-5
    np.testing.assert_array_equal(tiled_flags, flags)


@pytest.mark.slow
def test_holes_of_the_scene_stay_holes(tmp_path: Path) -> None:
    coarse, _ = scene_pixels()
    flags = np.full(coarse.shape[1:], VALID, np.uint8)
    flags[40:70, 30:50] = NODATA
    flags[3, 3] = SATURATED
    coarse[:, flags == NODATA] = -32768
    archive = make_archive(tmp_path / "a", y=coarse, y_flags=flags)
    whole, whole_flags, plan, _ = fused(archive, tile_px=None)
    fine = flags.repeat(S, 0).repeat(S, 1)
    np.testing.assert_array_equal(whole_flags & ~np.uint8(NEAR_FILL), fine)
    assert (whole[:, fine == NODATA] == -32768).all()
    assert np.isfinite(whole).all()
    assert (whole_flags & NEAR_FILL != 0).any()
    tiled, tiled_flags, *_ = fused(archive, tile_px=80)
    assert np.abs(tiled - whole).max() * plan.spec.scale_factor <= 1e-5
    np.testing.assert_array_equal(tiled_flags, whole_flags)


def test_bad_bands_are_neither_used_nor_invented(tmp_path: Path) -> None:
    results = []
    for name, value in (("a", 0.0), ("b", 1e6)):
        coarse, _ = scene_pixels()
        coarse[4] = value
        good = tuple(b != 4 for b in range(13))
        stored, _, _, _ = fused(make_archive(tmp_path / name, y=coarse, good=good))
        assert (stored[4] == value).all()
        results.append(np.delete(stored, 4, axis=0))
    np.testing.assert_array_equal(*results)


def test_integers_stay_integers(tmp_path: Path) -> None:
    coarse, _ = scene_pixels()
    as_float, *_ = fused(make_archive(tmp_path / "a"))
    as_int, _, plan, _ = fused(make_archive(tmp_path / "b", y=np.rint(coarse), dtype="int16", fill=-32768))
    assert (as_int.dtype, plan.spec.dtype) == (np.int16, "int16")
    assert np.abs(as_int - as_float).mean() < 1


# ------------------------------------------------------------------------------------------------------- resume


class Killed(BaseException):
    """What a kill looks like from inside: nothing catches it."""


def killed_after(monkeypatch: pytest.MonkeyPatch, method: str, count: int) -> Iterator[None]:
    """Let a worker's step run ``count`` times, then die in it."""
    original, calls = getattr(RestoreWorker, method), [0]

    def step(self: RestoreWorker, task: Any) -> Any:
        calls[0] += 1
        if calls[0] > count:
            raise Killed
        return original(self, task)

    with monkeypatch.context() as patch:
        patch.setattr(RestoreWorker, method, step)
        yield


@pytest.mark.parametrize(("method", "count"), [("_adapt", 2), ("_restore", 5), ("_finish", 0)])
def test_a_killed_run_goes_on_and_leaves_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, count: int
) -> None:
    fuse(make_archive(tmp_path / "clean"))
    clean = snapshot(tmp_path / "clean")
    archive = make_archive(tmp_path / "a")
    for _ in killed_after(monkeypatch, method, count):
        with pytest.raises(Killed):
            fuse(archive)
    assert hypermend.open(str(archive)).search(stage="restored") == []
    before = {p: p.stat().st_mtime_ns for p in (archive / "restored").rglob("*") if ".adapt" in str(p) and p.is_file()}
    marks = [p for p in before if ".adapt.done" in str(p)]
    assert len(marks) == (2 if method == "_adapt" else BLOCKS)
    report = fuse(archive)
    assert report.exit_code == 0
    assert snapshot(archive) == clean
    states = [p for p in before if p.suffix == ".safetensors"]
    assert all(p.stat().st_mtime_ns == before[p] for p in states)  # what was adapted is not adapted again
    assert len(report.scenes[0].figures["blocks"]) == BLOCKS


def test_a_rerun_writes_nothing_and_another_budget_is_another_cube(tmp_path: Path) -> None:
    archive = make_archive(tmp_path / "a")
    _, _, plan, first = fused(archive)
    before = {p: p.stat().st_mtime_ns for p in archive.rglob("*")}
    again = fuse(archive)
    assert [s.status for s in again.scenes] == ["current"]
    assert again.bytes_written == 0
    assert {p: p.stat().st_mtime_ns for p in archive.rglob("*")} == before
    assert again.scenes[0].figures == first.scenes[0].figures
    _, _, other, _ = fused(archive, budget_steps=5)
    assert other.id != plan.id


def test_a_torn_block_is_found_and_only_it_is_done_again(tmp_path: Path) -> None:
    archive = make_archive(tmp_path / "a")
    fuse(archive)
    clean = snapshot(archive)
    state = sorted((archive / "restored").rglob("*.safetensors"))[0]
    shard = sorted((archive / "restored").rglob("reflectance/c/0/*/*"))[3]
    for path in (state, shard):
        data = bytearray(path.read_bytes())
        data[-1] ^= 0xFF
        path.write_bytes(data)
    torn = verify(str(archive)).torn
    assert sorted(t.cube.rsplit(".", 1)[1] for t in torn) == ["adapt", "zarr"]
    report = fuse(archive)
    assert (report.exit_code, report.tiles_written) == (0, 1)
    assert snapshot(archive) == clean
    assert verify(str(archive)).torn == ()


# ----------------------------------------------------------------------------------------- what is said and refused


def test_the_plan_shows_guide_scale_and_blocks(tmp_path: Path) -> None:
    archive = make_archive(tmp_path / "a")
    (row,) = estimate_scenes(job_of(archive))
    shown = json.loads(json.dumps(row.to_dict()))["plan"]
    assert (shown["scale"], shown["blocks"], shown["guide"]["scene_id"]) == (S, BLOCKS, "s")
    _, _, plan, _ = fused(archive)
    assert shown["id"] == plan.id
    (row,) = estimate_scenes(job_of(archive))
    assert row.tiles_to_do == 0


def test_without_a_guide_the_scene_is_skipped_with_its_reason(tmp_path: Path) -> None:
    archive = make_archive(tmp_path / "a")
    first, _ = scene_pixels()
    flags = np.full(first.shape[1:], VALID, np.uint8)
    put_source(archive, "alone", "hs", first, flags, cube_spec(first.shape, px=40.0, guide=False, lab=True))
    report = fuse(archive)
    ended = {s.scene: s for s in report.scenes}
    assert (ended["s"].status, ended["alone"].status, report.exit_code) == ("published", "skipped", 1)
    assert "collection rgb has no guide of this id" in ended["alone"].reason


def test_a_bad_pair_fails_with_the_models_reason(tmp_path: Path) -> None:
    report = fuse(make_archive(tmp_path / "a", size=(6, 7)))
    (scene,) = report.scenes
    assert scene.status == "failed"
    assert "scene s with guide s: 42 pixels are valid, at least 50 are needed" in scene.reason


def test_bands_beyond_the_guide_and_left_out_bands_are_said(tmp_path: Path) -> None:
    nm = tuple(np.linspace(600, 780, 13))
    _, _, _, report = fused(make_archive(tmp_path / "a", wavelength_nm=nm, sensor="enmap"))
    (scene,) = report.scenes
    said = " / ".join(scene.warnings)
    assert "guide bands B, G are left out" in said
    assert re.search(r"\d bands below 600 nm or above 690 nm lie outside the range of the guide", said)
    (item,) = hypermend.open(str(tmp_path / "a")).search(stage="restored")
    assert item.scene.properties["hypermend:notes"] == [*scene.warnings, "model stub: asked for"]


OWN = srf(BANDS_NM, sensor("nikon-d700"), bands=RGB).astype(np.float32)


def with_filter(archive: Path, response: F32, size: float) -> Path:
    """An archive with a pair that its response explains, and a filter bound to `response`, of random weights."""
    z = spectra(S * HEIGHT, len(BANDS_NM))[:, :, : S * WIDTH]
    kernel = torch.from_numpy(gaussian_kernel(9, 1.8)).float()
    y = blur_down(torch.from_numpy(z)[None], kernel, S)[0].numpy()
    y = gaussian(y, snr_std(y, 40), np.random.default_rng(0))
    make_archive(archive, y=1e4 * y, x=1e4 * np.tensordot(OWN, z, 1))
    b, rng = len(BANDS_NM), np.random.default_rng(3)
    checkpoint.save(
        archive / "models" / "mine",
        ModelCard(
            name="mine",
            architecture="pair-filter",
            config=SensorPair(scale=S, wavelength_nm=BANDS_NM, response=response).to_config(),
            halo=pair_filter.HALO,
            guide_halo=pair_filter.GUIDE_HALO,
        ),
        {
            "filter": torch.from_numpy(rng.normal(0, size, (b, len(NAMES) * b)).astype(np.float32)),
            "missed": torch.eye(b),
        },
    )
    return archive


def test_a_filter_of_other_sensors_is_not_used_and_plan_item_and_receipt_say_so(tmp_path: Path) -> None:
    wide = (OWN + 0.05) / (OWN + 0.05).sum(axis=1, keepdims=True)
    archive = with_filter(tmp_path / "a", wide, 0.02)
    cube, _, plan, report = fused(archive, model="mine")
    (scene,) = report.scenes
    (item,) = hypermend.open(str(archive)).search(stage="restored")
    said = "model mine was learned on other sensors (this pair has another response of the guide's band 1"
    for lines in (plan.warnings, scene.warnings, item.scene.properties["hypermend:notes"]):
        assert any(line.startswith(said) and line.endswith("fused without it") for line in lines)
    assert {(b["adapted"], b["fell_back_to"]) for b in scene.figures["blocks"]} == {(False, "start")}
    assert plan.scene_facts is not None
    for facts in (scene.figures["pair"], plan.scene_facts["model"]):
        assert not facts["filter"]["used"] and "another response" in facts["filter"]["reason"]
    start, _, _, _ = fused(with_filter(tmp_path / "b", wide, 0.02), model="least-squares")
    np.testing.assert_allclose(cube, start, rtol=1e-5, atol=0.01)  # windows differ by the halo


@pytest.mark.long
def test_a_filter_gives_the_same_cube_in_tiles_of_any_size(tmp_path: Path) -> None:
    whole: Stored | None = None
    for tile_px in (288, 128):
        cube, _, plan, report = fused(with_filter(tmp_path / str(tile_px), OWN, 0.02), model="mine", tile_px=tile_px)
        (scene,) = report.scenes
        assert scene.figures["blocks_adapted"] == BLOCKS
        assert scene.figures["pair"]["filter"]["used"] and not any("other sensors" in w for w in scene.warnings)
        values = cube * plan.spec.scale_factor
        whole = values if whole is None else whole
        assert np.abs(values - whole).max() <= 1e-5


def test_a_model_that_does_not_adapt_has_no_blocks(tmp_path: Path) -> None:
    archive = make_archive(tmp_path / "a")
    put_model(archive, adapts=False)
    _, _, plan, report = fused(archive)
    assert (plan.blocks, report.scenes[0].figures["blocks"]) == (None, [])
    with pytest.raises(Exception, match="model stub does not adapt"):
        fuse(archive, budget_steps=3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "identity"}, "model identity takes one image and cannot fuse two"),
        ({"task": "denoise", "guide_collection": None}, "model stub takes two images"),
        ({"guide_collection": "nowhere"}, "no source cube of guide collection 'nowhere'"),
    ],
)
def test_what_cannot_be_is_refused_before_it_starts(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    archive = make_archive(tmp_path / "a")
    with pytest.raises(Exception, match=message):
        fuse(archive, **changes)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"task": "fuse"}, "task 'fuse' needs guide_collection"),
        ({"guide_collection": "g"}, "guide_collection belongs to task 'fuse'"),
        ({"budget_steps": 4}, "budget_steps belongs to task 'fuse'"),
    ],
)
def test_jobs_that_make_no_sense(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RestoreJob(archive="a", **settings)
