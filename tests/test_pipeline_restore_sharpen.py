"""Sharpening and chains: finer grids, tiled equals whole, holes, resume, one cube for two models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import hypermend
from hypermend.catalog.cube.cube import Cube
from hypermend.catalog.cube.spec import NEAR_FILL, NODATA, VALID
from hypermend.catalog.pairs.pairing import finer_lonlat
from hypermend.catalog.storage.archive_store import ArchiveStore
from hypermend.models.card import ModelCard
from hypermend.models.sharpen.model import SsrnetModel, network
from hypermend.pipeline.config import BadJob, RestoreJob, parse
from hypermend.pipeline.engine.ray_actors import on_ray
from hypermend.pipeline.engine.serial import serial
from hypermend.pipeline.registry.tasks import TASKS
from hypermend.pipeline.restore.driver import restore
from hypermend.pipeline.restore.dry_run import estimate_scenes, usual_seconds_per_sample
from hypermend.pipeline.restore.plan import Plan
from hypermend.pipeline.restore.steps import Step, margins
from hypermend.pipeline.runs.report import RunReport
from hypermend.pipeline.tiling.pixels import Flags, Stored, repeated
from tests.test_pipeline_restore import put_model, stas_card
from tests.test_pipeline_restore_fuse import Killed, cube_spec, killed_after, put_source, snapshot

HEIGHT, WIDTH, BANDS = 42, 27, 13
CHAIN = {"task": "denoise,sharpen", "model": "windows,up"}


def sharpener(name: str, scale: int = 2) -> tuple[ModelCard, dict[str, torch.Tensor]]:
    """A small SSRNet of random weights on top of bicubic."""
    config = {"scale": scale, "filters": 3, "modules": 1, "separable": True, "residual": True}
    torch.manual_seed(scale)
    net = network(config)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return ModelCard(name=name, architecture="ssrnet", config=config, scale=scale, halo=net.halo), net.state_dict()


def make_archive(archive: Path, *, lab: bool = True, **changes: Any) -> Path:
    """A scene with a corner and one pixel without data, a noisy landscape of three materials; small models."""
    rng = np.random.default_rng(2)
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH] / 9
    materials = np.stack([np.sin(y) + 1.2, np.cos(1.3 * x) + 1.2, np.sin(x + 2 * y) + 1.2])
    stored = np.einsum("bk,kyx->byx", rng.random((BANDS, 3)), materials) * 1000
    stored = (stored + rng.normal(0, 100, stored.shape)).astype(np.float32)
    flags = np.full((HEIGHT, WIDTH), VALID, np.uint8)
    flags[:6, :4] = flags[20, 14] = NODATA
    stored[:, flags == NODATA] = -32768
    archive.mkdir()
    put_source(archive, "s", "hs", stored, flags, cube_spec(stored.shape, px=30.0, guide=False, lab=lab, **changes))
    for scale, name in ((2, "up"), (3, "up3")):
        put_model(ArchiveStore(archive), *sharpener(name, scale))
    put_model(ArchiveStore(archive), *stas_card("windows", window_bands=5))
    return archive


def run(archive: Path, engine: Any = serial, **changes: Any) -> RunReport:
    settings = {"task": "sharpen", "model": "up", **changes}
    return restore(RestoreJob(archive=str(archive), **settings), engine=engine).wait()


def restored(archive: Path, **changes: Any) -> tuple[Stored, Flags, Plan]:
    report = run(archive, **changes)
    assert report.exit_code == 0, report.scenes
    task = "-".join(str(changes.get("task", "sharpen")).split(","))
    (item,) = hypermend.open(str(archive)).search(stage="restored", collection=f"hs-{task}")
    root = ArchiveStore(archive)
    cube = Cube(root, item.scene.properties["hypermend:cube"])
    plan = Plan.from_dict(root.get_json(cube.path.removesuffix(".zarr") + ".plan.json"))
    return *cube.read(slice(0, plan.spec.height), slice(0, plan.spec.width)), plan


def test_a_scene_becomes_finer_and_its_mask_with_it(tmp_path: Path) -> None:
    archive = make_archive(tmp_path / "a", lab=False)
    stored, flags, plan = restored(archive)
    assert stored.shape == (BANDS, 2 * HEIGHT, 2 * WIDTH)
    assert plan.spec.transform == (15.0, 0.0, 500000.0, 0.0, -15.0, 5000000.0)
    assert plan.spec.gsd_m == (15.0,) * BANDS
    source, before = Cube(ArchiveStore(archive), plan.source).read(slice(0, HEIGHT), slice(0, WIDTH))
    np.testing.assert_array_equal(flags & ~np.uint8(NEAR_FILL), repeated(before, 2))
    assert (stored[:, flags & NODATA != 0] == -32768).all()
    known = before == VALID
    assert np.isfinite(stored).all()
    assert (stored[:, repeated(known, 2)] > -3000).all()
    assert not np.array_equal(stored, repeated(source, 2))
    (item,) = hypermend.open(str(archive)).search(collection="hs-sharpen")
    ds = item.dataset()
    assert dict(ds.sizes) == {"band": BANDS, "y": 2 * HEIGHT, "x": 2 * WIDTH}
    assert ds.x.values[:2].tolist() == [500007.5, 500022.5]
    assert item.scene.properties["hypermend:notes"] == ["model up: asked for"]


@pytest.mark.parametrize(
    ("changes", "tiles"),
    [({}, (16, 32, 48)), ({"model": "up3"}, (48, 96)), (CHAIN, (16, 32, 64))],
    ids=["x2", "x3", "chain"],
)
def test_tiled_equals_whole(tmp_path: Path, changes: dict[str, Any], tiles: tuple[int, ...]) -> None:
    archive = make_archive(tmp_path / "a")
    whole, whole_flags, plan = restored(archive, **changes)
    assert len(plan.grid) == 1
    for tile_px in tiles:
        tiled, flags, plan = restored(archive, tile_px=tile_px, **changes)
        assert len(plan.grid) > 1
        assert np.abs(tiled - whole).max() * plan.spec.scale_factor <= 1e-5
        np.testing.assert_array_equal(flags, whole_flags)


def test_a_chain_is_one_after_the_other_in_one_cube(tmp_path: Path) -> None:
    """Away from the edges, where the chain continues the scene before it denoises, not after."""
    archive = make_archive(tmp_path / "a")
    chained, _, plan = restored(archive, **CHAIN)
    assert [step.task for step in plan.steps] == ["denoise", "sharpen"]
    assert (plan.model, plan.task, plan.scale) == ("windows,up", "denoise-sharpen", 2)
    (item,) = hypermend.open(str(archive)).search(stage="restored")
    assert item.scene.properties["hypermend:model"] == "windows,up"
    facts = plan.scene_facts
    assert facts is not None
    denoised, _, _ = restored(archive, task="denoise", model="windows")
    assert [len(step) for step in facts["steps"]] == [len(plan.windows(plan.steps[0]) or ()), 1]
    # What the second model was told is of what it sees, not of the noisy scene.
    alone = restored(archive)[2].scene_facts
    assert alone is not None
    assert facts["steps"][1][0]["mean"] != alone["steps"][0][0]["mean"]
    restorer = SsrnetModel(*sharpener("up")).bind(facts["steps"][1][0])
    physical = torch.from_numpy(denoised * np.float32(1e-4))[None]
    expected = restorer(physical)[0].numpy() / 1e-4
    inner = slice(2 * 31, -2 * 10), slice(2 * 16, -2 * 10)  # beyond the holes' and the edges' reach
    assert np.abs(chained[(..., *inner)] - expected[(..., *inner)]).max() * 1e-4 <= 1e-5


def test_halos_add_up_in_source_pixels() -> None:
    def step(halo: int, scale: int = 1) -> Step:
        return Step(task="", model="", weights_sha256="", window_bands=None, halo=halo, scale=scale)

    assert margins([step(3)]) == (3,)
    assert margins([step(56), step(9, 2)]) == (72, 9)
    assert margins([step(9, 2), step(5)]) == (17, 5)


@pytest.mark.parametrize("method", ["_restore", "_finish"])
def test_a_killed_chain_goes_on_and_twice_is_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    run(make_archive(tmp_path / "clean"), tile_px=32, **CHAIN)
    clean = snapshot(tmp_path / "clean")
    archive = make_archive(tmp_path / "a")
    for _ in killed_after(monkeypatch, method, 3 if method == "_restore" else 0):
        with pytest.raises(Killed):
            run(archive, tile_px=32, **CHAIN)
    assert run(archive, tile_px=32, **CHAIN).exit_code == 0
    assert snapshot(archive) == clean
    again = run(archive, tile_px=32, **CHAIN)
    assert (again.bytes_written, again.scenes[0].status) == (0, "current")


@pytest.mark.long
def test_ray_gives_what_serial_gives(tmp_path: Path, ray_session: None) -> None:
    run(make_archive(tmp_path / "serial"), tile_px=32, **CHAIN)
    run(make_archive(tmp_path / "ray"), on_ray, tile_px=32, workers=2, **CHAIN)
    assert snapshot(tmp_path / "ray") == snapshot(tmp_path / "serial")


def test_integers_stay_integers(tmp_path: Path) -> None:
    stored, _, plan = restored(make_archive(tmp_path / "a", dtype="int16", fill=-32768))
    as_float, _, _ = restored(make_archive(tmp_path / "b"))
    assert (stored.dtype, plan.spec.dtype) == (np.int16, "int16")
    assert np.abs(stored - as_float).mean() < 1


def test_longitudes_are_interpolated_over_the_date_line() -> None:
    lon, lat = np.meshgrid(np.array([179.7, 179.9, -179.9]), np.array([10.0, 9.8]))
    fine_lon, fine_lat = finer_lonlat(lon, lat, 2)
    np.testing.assert_allclose(fine_lon[0], [179.65, 179.75, 179.85, 179.95, -179.95, -179.85], atol=1e-3)
    np.testing.assert_allclose(fine_lat[:, 0], [10.05, 9.95, 9.85, 9.75], atol=1e-3)
    one = finer_lonlat(np.array([[5.0]]), np.array([[1.0]]), 3)
    np.testing.assert_allclose(one, [np.full((3, 3), 5.0), np.full((3, 3), 1.0)], atol=1e-9)


def test_the_forecast_counts_the_halo_of_every_tile(tmp_path: Path) -> None:
    archive = make_archive(tmp_path / "a")
    per_sample = [
        usual_seconds_per_sample(row.plan)
        for tile_px in (32, 64)
        for row in estimate_scenes(RestoreJob(archive=str(archive), tile_px=tile_px, **CHAIN))
        if row.plan is not None
    ]
    (row,) = estimate_scenes(RestoreJob(archive=str(archive), tile_px=32, **CHAIN))
    assert row.plan is not None and row.seconds is not None
    margin = 2 * row.plan.halo * row.plan.scale
    bare = sum(TASKS[name].seconds_per_sample for name in ("denoise", "sharpen"))
    assert per_sample[0] == pytest.approx(bare * ((32 + margin) / 32) ** 2)
    assert row.seconds == pytest.approx(per_sample[0] * row.plan.samples) and per_sample[1] < per_sample[0]


def test_the_plan_shows_the_chain(tmp_path: Path) -> None:
    archive = make_archive(tmp_path / "a")
    (row,) = estimate_scenes(RestoreJob(archive=str(archive), tile_px=32, **CHAIN))
    shown = json.loads(json.dumps(row.to_dict()))["plan"]
    assert [(m["task"], m["model"], m["why"]) for m in shown["models"]] == [
        ("denoise", "windows", "asked for"), ("sharpen", "up", "asked for"),
    ]  # fmt: skip
    assert (shown["task"], shown["scale"], shown["tiles"]) == ("denoise-sharpen", 2, 6)
    report = run(archive, tile_px=32, **CHAIN)
    assert report.scenes[0].figures["models"] == shown["models"]
    (row,) = estimate_scenes(RestoreJob(archive=str(archive), tile_px=32, **CHAIN))
    assert row.plan is not None
    assert (row.plan.id, row.tiles_to_do) == (shown["id"], 0)


def test_a_plan_from_before_chains_is_still_read(tmp_path: Path) -> None:
    archive = make_archive(tmp_path / "a")
    restored(archive, task="denoise", model="windows")
    (path,) = (archive / "restored").rglob("*.plan.json")
    new = json.loads(path.read_text())
    (step,) = new.pop("steps")
    for key in ("model", "weights_sha256", "window_bands", "halo", "scale"):
        new[key] = step[key]
    del new["network_bytes"]
    new |= {"activation_bytes_per_px": 7, "scene_facts": {"mean": new["scene_facts"]["mean"]} | {
        "model": new["scene_facts"]["steps"][0]
    }}  # fmt: skip
    path.write_text(json.dumps(new))
    again = run(archive, task="denoise", model="windows")
    assert (again.scenes[0].status, again.tiles_written) == ("published", 0)  # the item's reason is gone


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"task": "sharpen,denoise"}, "is no chain, there is denoise,sharpen"),
        ({"task": "denoise,fuse"}, "'denoise,fuse' is no chain.* a fusion runs by itself"),
        ({"task": "denoise,polish"}, "'polish' is no task"),
        ({"task": "denoise,sharpen", "model": "a"}, "takes 2 of --model"),
        ({"task": "denoise", "scale": 2}, "scale belongs to task 'sharpen'"),
    ],
)
def test_jobs_that_make_no_sense(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(BadJob, match=message):
        parse(RestoreJob, {"archive": "a", **settings}, where="options")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "windows"}, "leaves pixels as large as they are"),
        ({"model": "up", "scale": 3}, "model up makes pixels 2 times finer, and --scale asks for 3"),
        ({"task": "denoise", "model": "up"}, "it is for task 'sharpen'"),
        ({"model": None, "scale": 7}, "no built-in model 'ssrnet-x7-small'"),
    ],
)
def test_models_that_do_not_fit_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(Exception, match=message):
        run(make_archive(tmp_path / "a"), **changes)


def test_a_tile_that_cuts_source_pixels_is_refused(tmp_path: Path) -> None:
    (row,) = estimate_scenes(
        RestoreJob(archive=str(make_archive(tmp_path / "a")), task="sharpen", model="up3", tile_px=64)
    )
    assert "a tile of 64 pixels is no multiple of 48, which the scale 3 needs; 48 and 96 are" in row.reason


def test_memory_does_not_grow_with_the_scene(tmp_path: Path) -> None:
    """A window of a tile is all that is ever held: reads of the source are no larger than tile and halo."""
    archive = make_archive(tmp_path / "a")
    seen: list[tuple[int, int]] = []
    read = Cube.read

    def watched(self: Cube, y: slice, x: slice) -> Any:
        seen.append((y.stop - y.start, x.stop - x.start))
        return read(self, y, x)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Cube, "read", watched)
        run(archive, tile_px=16)
    tiles = [size for size in seen if size != (HEIGHT, WIDTH)]
    assert tiles
    assert max(max(size) for size in tiles) <= 8 + 2 * (9 + 8)
