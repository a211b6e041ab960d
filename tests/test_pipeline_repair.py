"""Defects in a restoration: the product's masks and the scene's own, tiled as whole, resumed, marked in the cube."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hypermend.catalog.cube.cube import Cube
from hypermend.catalog.cube.layout import create, open_cube
from hypermend.catalog.cube.spec import CubeSpec
from hypermend.catalog.storage.archive_store import ArchiveStore
from hypermend.models.card import ModelCard
from hypermend.models.denoise.model import network
from hypermend.models.denoise.subspace_denoiser import CONTEXT_PX
from hypermend.pipeline.registry.models import model_card
from hypermend.pipeline.restore.messages import Finish, Prepare, RestoreTile
from hypermend.pipeline.restore.plan import Plan
from hypermend.pipeline.restore.worker import RestoreWorker
from hypermend.pipeline.tiling.pixels import Stored
from tests.test_models_denoise import SUBSPACE
from tests.test_pipeline_restore import SOURCE, make_pixels, put_model
from tests.test_pipeline_restore_plan import make_spec, request_of

BANDS = 12
DEAD = {2: (20, 21, 40), 7: (33,)}
"""band: columns that measure nothing"""
MARKED = (9, slice(30, 40), slice(44, 50))
"""Numbers that the product calls defective."""
NEVER = {**SUBSPACE, "gate": {"of_scene": 9.0, "of_noisiest": 9.0, "of_band": 9.0}}
"""A model that leaves every scene as it is."""


def put_source(root: ArchiveStore) -> Stored:
    """A source cube with dead columns and defects of the product, in the tiles of 32 pixels; its numbers."""
    stored, flags = make_pixels(72, 56)
    for band, columns in DEAD.items():
        stored[band][:, columns] = np.where(flags[:, columns] == 2, -32768, 0)
    stored[MARKED] = 9000
    defects = np.zeros(stored.shape, bool)
    defects[MARKED] = True
    chunk, shard = CubeSpec.layout(stored.shape, "float32", 32)
    spec = replace(
        make_spec(bands=BANDS),
        shape=stored.shape,
        dtype="float32",
        fill=-32768.0,
        chunk=chunk,
        shard=shard,
        defects=True,
    )
    create(root, SOURCE, spec)
    cube = Cube(root, SOURCE)
    for iy in range(spec.tiles[0]):
        for ix in range(spec.tiles[1]):
            at = spec.window(iy, ix)
            cube.mark(iy, ix, cube.write(*at, stored[(slice(None), *at)], flags[at], defects[(slice(None), *at)]))
    return stored


def put_stas(root: ArchiveStore, name: str, config: dict[str, object]) -> None:
    net = network(config)
    halo = net.halo + CONTEXT_PX
    put_model(root, ModelCard(name=name, architecture="stas", config=config, halo=halo), net.state_dict())


def restore_tiles(root: ArchiveStore, model: str, tile_px: int, *, resumed: bool = False) -> tuple[Plan, RestoreWorker]:
    """Restore every tile; with `resumed` the last ones by a second worker, which reads plan and marks."""
    worker = RestoreWorker(root.url)
    request = request_of(("denoise", model_card(root, model)), ingest_id="i", source=SOURCE, tile_px=tile_px)
    plan: Plan = worker(Prepare(unit="c/s", request=request)).context.plan
    indices = [tile.index for tile in plan.grid]
    for n, index in enumerate(indices):
        if resumed and n == len(indices) // 2:
            worker = RestoreWorker(root.url)
            done = worker(Prepare(unit="c/s", request=request)).done
            assert len(done) == n
        worker(RestoreTile(unit="c/s", plan=plan.key, index=index))
    return plan, worker


def read_all(root: ArchiveStore, plan: Plan) -> tuple[Stored, np.ndarray]:
    whole = slice(0, plan.spec.height), slice(0, plan.spec.width)
    cube = Cube(root, plan.target)
    return cube.read(*whole)[0], cube.read_defects(*whole)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> tuple[ArchiveStore, Stored]:
    root = ArchiveStore(tmp_path_factory.mktemp("archive"))
    stored = put_source(root)
    put_stas(root, "small", SUBSPACE)
    put_stas(root, "never", NEVER)
    return root, stored


def test_tiled_equals_whole_and_what_was_repaired_is_marked(archive: tuple[ArchiveStore, Stored]) -> None:
    root, stored = archive
    whole_plan, worker = restore_tiles(root, "small", 80)
    whole, marked = read_all(root, whole_plan)
    plan, _ = restore_tiles(root, "small", 32, resumed=True)
    tiled, tiled_marks = read_all(root, plan)
    assert len(whole_plan.grid) == 1 and len(plan.grid) > 3
    np.testing.assert_array_equal(tiled_marks, marked)
    assert np.abs(tiled - whole).max() * plan.spec.scale_factor <= 1e-5
    valid = stored[0] != -32768
    expected = np.zeros(marked.shape, bool)
    for band, columns in DEAD.items():
        expected[band][:, columns] = True
    expected[MARKED] = True
    np.testing.assert_array_equal(marked, expected & valid)
    assert (whole[7][:, 33] > 100)[valid[:, 33]].mean() > 0.9 and whole[MARKED].max() < 8000
    ds = open_cube(root, plan.target)
    np.testing.assert_array_equal(ds["repaired"].values, marked.sum(axis=0))
    figures = worker(Finish(unit="c/s", plan=whole_plan.key)).figures
    assert figures["repaired"] == marked.sum()
    assert figures["defects"] == {"dead_columns": 4, "repeated_values": {}, "bands_with_spikes": []}


def test_a_scene_that_is_left_as_it_is_is_repaired_and_nothing_else(archive: tuple[ArchiveStore, Stored]) -> None:
    root, stored = archive
    plan, _ = restore_tiles(root, "never", 80)
    got, marked = read_all(root, plan)
    np.testing.assert_array_equal(got[~marked], stored[~marked])
    assert marked.any() and (got[marked] != stored[marked]).all()


def test_a_model_that_cannot_repair_leaves_defects(archive: tuple[ArchiveStore, Stored]) -> None:
    root, stored = archive
    plan, _ = restore_tiles(root, "identity", 80)
    np.testing.assert_array_equal(read_all(root, plan)[0], stored)
    assert "repair" not in (plan.scene_facts or {}) and not plan.spec.defects
