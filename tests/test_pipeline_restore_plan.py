"""Plans round-trip; their id hashes what changes pixels and nothing else."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from hypermend.catalog.cube.spec import CubeSpec
from hypermend.catalog.errors import Refused
from hypermend.models.card import ModelCard
from hypermend.pipeline.config import BadJob, IngestJob, RestoreJob, load_job, parse
from hypermend.pipeline.registry.selection import ModelChoice
from hypermend.pipeline.restore.make_plan import make_plan
from hypermend.pipeline.restore.plan import Plan, pending
from hypermend.pipeline.restore.request import SceneRequest
from tests.small_cubes import make_scene


def make_spec(bands: int = 40, size: int = 1000, dtype: str = "int16", **changes: Any) -> CubeSpec:
    shape = (bands, size, size)
    chunk, shard = CubeSpec.layout(shape, dtype)
    values: dict[str, Any] = {
        "shape": shape, "dtype": dtype, "scale_factor": 1e-4, "fill": -32768 if dtype == "int16" else None,
        "band": tuple(range(1, bands + 1)), "band_name": tuple(f"B{b}" for b in range(1, bands + 1)),
        "wavelength_nm": tuple(400.0 + 10 * b for b in range(bands)), "fwhm_nm": (8.0,) * bands,
        "detector": ("VNIR",) * bands, "good": (True,) * bands, "gsd_m": (30.0,) * bands,
        "quantity": "reflectance", "units": "1", "sensor": "enmap", "stage": "source",
        "chunk": chunk, "shard": shard,
    }  # fmt: skip
    return CubeSpec(**(values | changes))


def request_of(
    *cards: tuple[str, ModelCard], ingest_id: str = "1", source: str = "source/s/1.zarr", tile_px: int | None = None
) -> SceneRequest:
    """A scene `s` of EnMAP and a model for each task."""
    properties = {"hypermend:cube": source, "hypermend:ingest": ingest_id}
    scene = make_scene("s", collection="enmap-source", properties=properties)
    choices = tuple(ModelChoice(task=task, card=card, why="") for task, card in cards)
    return SceneRequest(scene=scene, choices=choices, tile_px=tile_px)


def plan_of(spec: CubeSpec | None = None, card: ModelCard | None = None, **changes: Any) -> Plan:
    request = request_of(("denoise", card or ModelCard(name="m", architecture="identity", halo=36)), **changes)
    return make_plan(request, [spec or make_spec()], request.cards)


def test_round_trip_with_facts() -> None:
    plan = plan_of().with_facts({"mean": [1.0]})
    assert Plan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan


def test_default_tile_and_layout() -> None:
    plan = plan_of()
    assert (plan.tile_px, len(plan.grid)) == (448, 9)
    assert plan.spec.shard[1:] == (448, 448)
    assert plan.spec.stage == "restored"
    assert plan.key == f"restored/s/{plan.id}.plan.json"
    small = plan_of(spec=make_spec(size=72))
    assert (small.tile_px, len(small.grid)) == (80, 1)


@pytest.mark.parametrize(
    "change",
    [
        {"ingest_id": "2"},
        {"tile_px": 64},
        {"card": ModelCard(name="m", architecture="identity", halo=35)},
        {"card": ModelCard(name="m", architecture="identity", halo=36, weights_sha256="ab")},
        {"card": ModelCard(name="m", architecture="identity", halo=36, config={"a": 1})},
    ],
)
@pytest.mark.fault
def test_f15_what_changes_pixels_changes_the_id(change: dict[str, Any]) -> None:
    assert plan_of(**change).id != plan_of().id


@pytest.mark.parametrize(
    "change",
    [
        {"card": ModelCard(name="m", architecture="identity", halo=36, code_version="9", licence="MIT")},
        {"source": "elsewhere/1.zarr"},
    ],
)
@pytest.mark.fault
def test_f15_provenance_and_paths_do_not(change: dict[str, Any]) -> None:
    assert plan_of(**change).id == plan_of().id


def test_eight_bits_become_float() -> None:
    assert plan_of(spec=make_spec(dtype="uint8")).spec.dtype == "float32"


def test_pending_skips_what_is_done() -> None:
    plan = plan_of()
    assert list(pending(plan, {(0, 0), (2, 2)}))[:2] == [(0, 1), (0, 2)]
    assert len(list(pending(plan, {(0, 0), (2, 2)}))) == 7


@pytest.mark.parametrize(
    ("card", "message"),
    [
        ({"quantity": ("radiance",)}, "holds reflectance, model m accepts radiance"),
        ({"accepts_range_nm": (400.0, 700.0)}, "spans 400-790 nm, model m accepts 400-700 nm"),
        ({"accepts_spacing_nm": (1.0, 5.0)}, "a band every 10.0 nm, model m accepts 1.0-5.0 nm"),
    ],
)
def test_refused_at_plan_time(card: dict[str, Any], message: str) -> None:
    with pytest.raises(Refused, match=message):
        plan_of(card=ModelCard(name="m", architecture="identity", **card))


def test_no_good_band_is_refused() -> None:
    with pytest.raises(Refused, match="all 40 bands are marked bad"):
        plan_of(spec=make_spec(good=(False,) * 40))


def test_few_bands_are_reflected_and_said() -> None:
    plan = plan_of(spec=make_spec(bands=6), card=ModelCard(name="m", architecture="identity", window_bands=31))
    assert "6 good bands are fewer than the 31" in plan.warnings[0]
    windows = plan.windows(plan.steps[0])
    assert windows is not None
    assert len(windows) == 1


def test_memory_figure_counts_the_halo() -> None:
    with_halo = plan_of().tile_bytes
    without = plan_of(card=ModelCard(name="m", architecture="identity"), tile_px=448).tile_bytes
    assert with_halo / without == pytest.approx(((448 + 88) / (448 + 16)) ** 2)


# ------------------------------------------------------------------------------------------------------------ jobs


def test_a_job_file_and_its_overrides(tmp_path: Any) -> None:
    file = tmp_path / "job.toml"
    file.write_text('archive = "a"\nscenes = ["x"]\ntile_px = 64\n')
    job = load_job(file, RestoreJob, tile_px=128)
    assert (job.archive, job.scenes, job.tile_px, job.task) == ("a", ("x",), 128, "denoise")
    with pytest.raises(ValidationError, match="frozen"):
        job.tile_px = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('archive = "a"\ntile_pix = 64', "unknown key 'tile_pix'; did you mean 'tile_px'?"),
        ("tile_px = 64", "key 'archive' is missing"),
        ('archive = "a"\ntile_px = 65', "65 is not a multiple of 16"),
        ('archive = "a"\nworkers = 0', "workers: Input should be greater than or equal to 1"),
        ('archive = "a"\nbbox = [10, 5, 20, 1]', "is not west, south, east, north"),
        ('archive = "a"\ntask = "polish"', "'polish' is no task; there are denoise, sharpen, fuse"),
        ("archive = ", "not a TOML file"),
    ],
)
def test_bad_jobs(tmp_path: Any, text: str, message: str) -> None:
    file = tmp_path / "job.toml"
    file.write_text(text)
    with pytest.raises(BadJob, match=message.replace("?", r"\?")):
        load_job(file, RestoreJob)


def test_a_missing_job_file(tmp_path: Any) -> None:
    with pytest.raises(BadJob, match="there is no such job file"):
        load_job(tmp_path / "none.toml", IngestJob)


def test_options_are_checked_the_same_way() -> None:
    with pytest.raises(BadJob, match="unknown key 'bboxx'; did you mean 'bbox'"):
        parse(IngestJob, {"archive": "a", "bboxx": 1}, where="options")
