"""Tiled equals whole, serial equals Ray, twice equals once: bad bands and holes stay what they are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hypermend.catalog.cube.cube import Cube
from hypermend.catalog.cube.layout import create
from hypermend.catalog.cube.spec import NEAR_FILL, NODATA, VALID, CubeSpec
from hypermend.catalog.errors import Refused
from hypermend.catalog.storage.archive_store import ArchiveStore
from hypermend.models.card import ModelCard
from hypermend.models.checkpoint import save
from hypermend.models.denoise.stas import Genotype, Stas
from hypermend.pipeline.config import RestoreJob
from hypermend.pipeline.registry.models import model_card, promote
from hypermend.pipeline.registry.tasks import TASKS
from hypermend.pipeline.restore.make_plan import RESULT_VERSION
from hypermend.pipeline.restore.messages import Prepare, RestoreTile
from hypermend.pipeline.restore.plan import Plan
from hypermend.pipeline.restore.request import SceneRequest
from hypermend.pipeline.restore.work_list import scene_requests
from hypermend.pipeline.restore.worker import RestoreWorker
from hypermend.pipeline.runs.run_log import SkippedScene
from hypermend.pipeline.tiling.pixels import Flags, Stored
from tests.small_cubes import make_scene
from tests.test_pipeline_restore_plan import make_spec, plan_of, request_of

HEIGHT, WIDTH, BANDS = 75, 58, 12
SOURCE = "source/s/i.zarr"
HOLE = (50, 30)


def make_pixels(height: int = HEIGHT, width: int = WIDTH) -> tuple[Stored, Flags]:
    """A smooth landscape of three materials with noise, float32; a corner without data, a hole of one pixel."""
    rng = np.random.default_rng(3)
    y, x = np.mgrid[0:height, 0:width] / 20
    materials = np.stack([np.sin(y) + 1, np.cos(x) + 1, np.sin(x + y) + 1])
    stored = np.einsum("bk,kyx->byx", rng.random((BANDS, 3)), materials) * 1000
    stored = (stored + rng.normal(0, 150, stored.shape)).astype(np.float32)
    flags = np.full((height, width), VALID, np.uint8)
    flags[: height // 4, : width // 4] = NODATA
    flags[HOLE[0] % height, HOLE[1] % width] = NODATA
    stored[:, flags == NODATA] = -32768
    return stored, flags


def make_source(root: ArchiveStore, stored: Stored, flags: Flags, **changes: Any) -> CubeSpec:
    """A source cube of these pixels, two detectors with six bands each."""
    chunk, shard = CubeSpec.layout(stored.shape, "float32", 32)
    spec = replace(
        make_spec(bands=BANDS), shape=stored.shape, dtype="float32", fill=-32768.0, chunk=chunk, shard=shard,
        detector=("VNIR",) * 6 + ("SWIR",) * 6,
    )  # fmt: skip
    spec = replace(spec, **changes)
    create(root, SOURCE, spec)
    cube = Cube(root, SOURCE)
    for iy in range(spec.tiles[0]):
        for ix in range(spec.tiles[1]):
            window = spec.window(iy, ix)
            cube.mark(iy, ix, cube.write(*window, stored[(slice(None), *window)], flags[window]))
    return spec


def put_model(root: ArchiveStore, card: ModelCard, state: dict[str, torch.Tensor]) -> None:
    folder = root.local_path(f"models/{card.name}")
    assert folder is not None
    save(folder, card, state)


def stas_card(name: str, *, window_bands: int) -> tuple[ModelCard, dict[str, torch.Tensor]]:
    """A small STAS of random weights on windows of ``window_bands`` bands."""
    genotype = Genotype(("conv3", "conv1", "conv3_dil", "conv5", "conv1_grouped", "sep3_dil", *("conv3",) * 4))
    torch.manual_seed(0)
    net = Stas(genotype, window_bands, width=2)
    card = ModelCard(
        name=name, architecture="stas", window_bands=window_bands, halo=net.halo,
        config={
            "domain": "bands", "genotype": genotype.to_dict(), "channels": window_bands, "width": 2, "activate": False
        },
    )  # fmt: skip
    return card, net.state_dict()


@pytest.fixture(params=["windows", TASKS["denoise"].builtins[0]])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A network in spectral windows of 5 bands, and the one that ships; both lie in the archive at ``tmp_path``."""
    if request.param == "windows":
        put_model(ArchiveStore(tmp_path), *stas_card("windows", window_bands=5))
    return str(request.param)


def restore_all(root: ArchiveStore, model: str, tile_px: int | None = None) -> tuple[Stored, Flags, Plan]:
    """Restore every tile of the source here; the restored cube and its plan."""
    worker = RestoreWorker(root.url)
    request = request_of(("denoise", model_card(root, model)), ingest_id="i", source=SOURCE, tile_px=tile_px)
    opened = worker(Prepare(unit="c/s", request=request))
    plan: Plan = opened.context.plan
    for tile in plan.grid:
        worker(RestoreTile(unit="c/s", plan=plan.key, index=tile.index))
    whole = slice(0, plan.spec.height), slice(0, plan.spec.width)
    return *Cube(root, plan.target).read(*whole), Plan.from_dict(root.get_json(plan.key))


def test_identity_gives_the_stored_numbers_bit_for_bit(tmp_path: Path) -> None:
    stored, flags = make_pixels()
    make_source(ArchiveStore(tmp_path), stored, flags)
    got, flags_out, _ = restore_all(ArchiveStore(tmp_path), "identity", 32)
    np.testing.assert_array_equal(got, stored)
    np.testing.assert_array_equal(flags_out, flags)


@pytest.mark.parametrize("sizes_px", [(48,), pytest.param((16, 32), marks=pytest.mark.long)])
def test_tiled_equals_whole(tmp_path: Path, model: str, sizes_px: tuple[int, ...]) -> None:
    stored, flags = make_pixels()
    root = ArchiveStore(tmp_path)
    make_source(root, stored, flags)
    whole, whole_flags, plan = restore_all(root, model)
    assert len(plan.grid) == 1
    assert np.abs(whole - stored).max() > 1  # it does something
    for tile_px in sizes_px:
        tiled, tiled_flags, plan = restore_all(root, model, tile_px)
        assert len(plan.grid) > 1
        assert np.abs(tiled - whole).max() * plan.spec.scale_factor <= 1e-5
        np.testing.assert_array_equal(tiled_flags, whole_flags)


def test_usable_pixels_stay_usable_and_holes_stay_holes(tmp_path: Path, model: str) -> None:
    stored, flags = make_pixels()
    make_source(ArchiveStore(tmp_path), stored, flags)
    got, flags_out, plan = restore_all(ArchiveStore(tmp_path), model)
    np.testing.assert_array_equal(flags_out & ~np.uint8(NEAR_FILL), flags)
    assert np.isfinite(got).all()
    assert (got[:, flags == NODATA] == -32768).all()
    ys, xs = np.nonzero(flags_out & NEAR_FILL)
    near_hole = np.maximum(abs(ys - HOLE[0]), abs(xs - HOLE[1])) <= plan.halo
    in_reach = (ys < HEIGHT // 4 + plan.halo) & (xs < WIDTH // 4 + plan.halo)
    assert (near_hole | in_reach).all()
    assert flags_out[HOLE[0] - 1, HOLE[1]] == VALID | NEAR_FILL


def test_a_hole_changes_nothing_beyond_the_receptive_field(tmp_path: Path, model: str) -> None:
    stored, flags = make_pixels()
    root = ArchiveStore(tmp_path)
    make_source(root, stored, flags)
    with_hole, _, plan = restore_all(root, model, 32)
    mended, mended_flags = stored.copy(), flags.copy()
    mended[:, *HOLE], mended_flags[HOLE] = 500, VALID
    root.delete_prefix(SOURCE)
    root.delete_prefix(f"{SOURCE}.done")
    root.delete_prefix(plan.target)
    make_source(root, mended, mended_flags)
    without, _, again = restore_all(root, model, 32)  # the plan, with its facts, is still there
    assert again == plan
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    beyond = np.maximum(abs(y - HOLE[0]), abs(x - HOLE[1])) > plan.halo
    if beyond.any():
        assert np.abs(with_hole - without)[:, beyond].max() * plan.spec.scale_factor <= 1e-5
    assert not np.array_equal(with_hole, without)


def test_bad_bands_are_neither_used_nor_invented(tmp_path: Path, model: str) -> None:
    stored, flags = make_pixels()
    good = tuple(b not in (2, 9) for b in range(BANDS))
    results = []
    for name, value in (("a", 0.0), ("b", 1e6)):
        root = ArchiveStore(tmp_path / name)
        if model == "windows":
            put_model(root, *stas_card("windows", window_bands=5))
        pixels = stored.copy()
        pixels[2] = value
        pixels[:, flags == NODATA] = -32768
        make_source(root, pixels, flags, good=good)
        got, _, _ = restore_all(root, model)
        np.testing.assert_array_equal(got[[2, 9]], pixels[[2, 9]])
        results.append(got[np.array(good)])
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize(("height", "width"), [(7, 9), (1, 40), (16, 16)])
def test_a_scene_smaller_than_the_halo_is_a_normal_scene(height: int, width: int, tmp_path: Path, model: str) -> None:
    stored, flags = make_pixels(height, width)
    make_source(ArchiveStore(tmp_path), stored, flags)
    got, _, plan = restore_all(ArchiveStore(tmp_path), model)
    assert got.shape == (BANDS, height, width)
    assert np.isfinite(got).all()
    assert len(plan.grid) in (1, 3)


def test_a_scene_without_data_is_refused(tmp_path: Path) -> None:
    stored, flags = make_pixels()
    make_source(ArchiveStore(tmp_path), np.full_like(stored, -32768), np.full_like(flags, NODATA))
    with pytest.raises(Refused, match="none of the sampled pixels holds data"):
        restore_all(ArchiveStore(tmp_path), "identity")


def test_integers_stay_integers(tmp_path: Path, model: str) -> None:
    stored, flags = make_pixels()
    root = ArchiveStore(tmp_path)
    make_source(root, stored, flags)
    as_float, _, _ = restore_all(root, model)
    for prefix in ("source", "restored"):
        root.delete_prefix(prefix)
    chunk, shard = CubeSpec.layout(stored.shape, "int16", 32)
    spec = replace(
        make_spec(bands=BANDS), shape=stored.shape, chunk=chunk, shard=shard, detector=("VNIR",) * 6 + ("SWIR",) * 6
    )
    create(root, SOURCE, spec)
    cube = Cube(root, SOURCE)
    for iy in range(spec.tiles[0]):
        for ix in range(spec.tiles[1]):
            window = spec.window(iy, ix)
            cube.write(*window, np.rint(stored).astype(np.int16)[(slice(None), *window)], flags[window])
    as_int, _, _ = restore_all(root, model)
    assert as_int.dtype == np.int16
    known = flags == VALID
    assert np.abs(as_int - as_float)[:, known].mean() < 3  # the input was rounded too


def test_the_id_of_a_plan_does_not_drift() -> None:
    """Golden: an unchanged archive must never be redone because of an upgrade (F15). Change it only on purpose."""
    card = ModelCard(name="m", architecture="identity", halo=3)
    plan = plan_of(card=card, source=SOURCE, ingest_id="i")
    assert (RESULT_VERSION, plan.id) == (4, "00b6dba07a2cc34c")


def test_what_is_wrong_with_the_first_scene_is_wrong_with_the_job(tmp_path: Path) -> None:
    """With a later one it is a refusal of its own, and the others go on."""
    root = ArchiveStore(tmp_path)
    promote(root, "cave", "denoise", "ssrnet-x2-small")  # a sharpener
    job = RestoreJob(archive=root.url)
    good, bad = make_scene("good"), make_scene("bad", sensor="cave", collection="lab-source")
    first, second, third = scene_requests(job, root, iter([good, bad, good]))
    assert isinstance(first, SceneRequest) and isinstance(third, SceneRequest)
    assert isinstance(second, SkippedScene) and (second.collection, second.scene) == ("lab", "bad")
    assert "makes pixels finer" in second.reason
    with pytest.raises(Refused, match="makes pixels finer"):
        next(scene_requests(job, root, iter([bad, good])))
