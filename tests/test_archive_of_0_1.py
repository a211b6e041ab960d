"""An archive written by 0.1 (commit cb6d63a): what came later opens it, queries it, verifies it, and goes on with it.

`data/archive-0.1.tar.xz` was made by the commands of that commit, from synthetic scenes of ten EnMAP-like bands:

    catalog deliveries/{field,plot,pair,near,sharp,fine}; ingest --tile-px 32   TORN was cut in half before, and fails
    train on ALPHA, validate on BRAVO, 4 steps                                  models/tiny
    the same with 12 steps, killed -9 at its second checkpoint                  training/: to be gone on with
    restore ALPHA (stas-subspace), BRAVO (identity)                             denoise
    restore PAIR (identity, then stas-subspace)                                 denoise: the second replaces the first
    restore PAIR (stas-subspace,tiny)                                           denoise,sharpen
    restore PAIR with SHARP, refused for its bands; NEAR with FINE (ual-fusion) fuse
    restore HALF (identity, 16 px), killed -9 in mid run                        marks and a lease, no item
    search --sensor enmap --budget smoke --trials 1                             genotypes/ (its picture made smaller)

The original files lie inside the archive, so that its hrefs are relative, and have whole seconds as their mtimes, which
are part of what an ingest identity: tar keeps them. Leases and half-written files are as the kills left them.

What must hold forever is asserted always. What only the same code can do without repeating work (`0 bytes
written`) holds while its version is that of 0.1, and is skipped, with the reason, once the version was raised.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import xarray as xr
from typer.testing import CliRunner

# All that depends on where things are in Python.
from hypermend import open as open_archive
from hypermend.catalog.readers.scene_reader import READER_VERSION
from hypermend.pipeline.cli.main import app
from hypermend.pipeline.restore.make_plan import RESULT_VERSION
from hypermend.pipeline.train.plan import TRAIN_VERSION
from tests.conftest import unpack

pytestmark = pytest.mark.slow

FIXTURE = Path(__file__).parent / "data" / "archive-0.1.tar.xz"
same_reader = pytest.mark.skipif(READER_VERSION != 1, reason=f"READER_VERSION is {READER_VERSION}, of 0.1 it was 1")
same_pixels = pytest.mark.skipif(RESULT_VERSION != 2, reason=f"RESULT_VERSION is {RESULT_VERSION}, of 0.1 it was 2")
same_training = pytest.mark.skipif(TRAIN_VERSION != 1, reason=f"TRAIN_VERSION is {TRAIN_VERSION}, of 0.1 it was 1")

RAW = [
    "field/ALPHA", "field/BRAVO", "field/HALF", "field/TORN", "fine/FINE", "near/NEAR",
    "pair/PAIR", "plot/PLOT", "sharp/SHARP",
]  # fmt: skip
CUBES = {
    "field-source/ALPHA": ("source/ALPHA/4a8582d701703011.zarr", "f3ef690fb668ad19"),
    "field-source/BRAVO": ("source/BRAVO/fae3e5d64ff0819b.zarr", "9da216432d8cca21"),
    "field-source/HALF": ("source/HALF/89ba264e9195cd22.zarr", "015f2b96ccfb904b"),
    "sharp-source/SHARP": ("source/SHARP/5b7dda19c1b5c889.zarr", "85050efb5dc0c596"),
    "pair-source/PAIR": ("source/PAIR/8f07d6c8d4b6329a.zarr", "ce6cd4fb632fd9d5"),
    "fine-source/FINE": ("source/FINE/ffeafaf53cf4bb63.zarr", "51431061f96f33ca"),
    "near-source/NEAR": ("source/NEAR/2a44eeec4c6016ac.zarr", "a63be5bb8e1b9fc0"),
    "plot-source/PLOT": ("source/PLOT/379e99964793e585.zarr", "5d2ab57cb6ee4d6f"),
    "field-denoise/ALPHA": ("restored/ALPHA/70ea9642b0a6b3b3.zarr", "d3f760b2d61d9420"),
    "field-denoise/BRAVO": ("restored/BRAVO/5af49a7f71477ed6.zarr", "9da216432d8cca21"),
    "pair-denoise/PAIR": ("restored/PAIR/59a98b50a3409a85.zarr", "ce6cd4fb632fd9d5"),
    "pair-denoise-sharpen/PAIR": ("restored/PAIR/3421cc3bb1889b92.zarr", "efb209d034716f82"),
    "near-fuse/NEAR": ("restored/NEAR/f1b5c48912ecbf1b.zarr", "63f1c61f65d9f7c1"),
}
"""Collection and scene -> key of the cube, and a hash of its stored numbers and flags."""
VERIFIED = (13, 43)
"""Cubes and tiles."""
TRAINED, UNFINISHED = "sharpen-5961c44013bf", "sharpen-4deb92c9b7bd"
"""Ids of the trainings."""
CHECKPOINT_STEP = 6
GENOTYPE = "enmap-b18f81b43a6f"
REPLACED = "restored/PAIR/eab77dbf8d01b97d.zarr"
HALF = "restored/HALF/6c303ea7820891eb.zarr"
HALF_TILES, HALF_DONE = 20, 9
HALF_SHARDS = "1001d1a9c29ae58b"
"""Of an undisturbed restoration by 0.1."""

KINDS = (("reflectance", "<f4"), ("valid", "u1"))

RESTORATIONS = {
    "field-denoise/ALPHA": ("--scene", "ALPHA", "--tile-px", 32, "--model", "stas-subspace"),
    "field-denoise/BRAVO": ("--scene", "BRAVO", "--tile-px", 32, "--model", "identity"),
    "pair-denoise/PAIR": ("--scene", "PAIR", "--model", "stas-subspace"),
    "pair-denoise-sharpen/PAIR": (
        "--scene", "PAIR", "--task", "denoise,sharpen", "--model", "stas-subspace,tiny",
    ),
    "near-fuse/NEAR": (
        "--scene", "NEAR", "--task", "fuse", "--guide-collection", "fine", "--model", "ual-fusion",
        "--budget-steps", 2,
    ),
}  # fmt: skip
INTERRUPTED = ("--scene", "HALF", "--tile-px", 16, "--model", "identity")
TRAINING = (
    "--task", "sharpen", "--scene", "ALPHA", "--validation-scene", "BRAVO", "--filters", 4, "--patch-px", 16,
    "--batch", 2, "--workers", 1, "--no-bf16",
)  # fmt: skip
FINISHED_TRAINING = (*TRAINING, "--name", "tiny", "--steps", 4, "--check-every", 2)
KILLED_TRAINING = (*TRAINING, "--name", "unfinished", "--steps", 12, "--check-every", 3)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """The archive, at a path of its own, with the times of its files."""
    unpack(FIXTURE, tmp_path)
    return tmp_path / "archive"


def hypermend(archive: Path, *words: object, ends: int = 0) -> Any:
    """What a command prints as JSON."""
    result = CliRunner().invoke(app, [*map(str, words), "--archive", str(archive), "--json"], catch_exceptions=False)
    assert result.exit_code == ends, result.output
    return json.loads(result.stdout)


def features(archive: Path, stage: str) -> dict[str, Any]:
    found = hypermend(archive, "query", "--stage", stage)["features"]
    return {f"{item['collection']}/{item['id']}": item for item in found}


def short_hash(*parts: bytes) -> str:
    return hashlib.sha256(b"".join(parts)).hexdigest()[:16]


def hash_of_cube(path: str | Path) -> str:
    """Of the stored numbers and the flags, as xarray alone opens them."""
    with xr.open_zarr(path, mask_and_scale=False) as cube:
        return short_hash(*(cube[name].values.astype(kind).tobytes() for name, kind in KINDS))


def shards(cube: Path) -> dict[str, bytes]:
    """Every shard of a cube, by its place in it."""
    return {
        path.relative_to(cube).as_posix(): path.read_bytes()
        for name, _ in KINDS
        for path in sorted((cube / name / "c").rglob("*"))
        if path.is_file()
    }


def hash_of_shards(cube: Path) -> str:
    return short_hash(*(part for name, data in sorted(shards(cube).items()) for part in (name.encode(), data)))


def snapshot(archive: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of every cube's files: what is written again changes its own."""
    files = (p for top in ("source", "restored") for p in (archive / top).rglob("*") if p.is_file())
    return {str(p.relative_to(archive)): ((s := p.stat()).st_ino, s.st_mtime_ns) for p in files}


def statuses(report: dict[str, Any]) -> dict[str, str]:
    return {scene["scene"]: scene["status"] for scene in report["scenes"]}


# ------------------------------------------------------------------------------------------------- holds for ever


def test_it_is_found_and_opened(archive: Path) -> None:
    assert sorted(features(archive, "raw")) == RAW
    found = features(archive, "source") | features(archive, "restored")
    assert {
        name: (str(Path(href).relative_to(archive)), hash_of_cube(href))
        for name, item in found.items()
        for href in [item["assets"]["cube"]["href"]]
    } == CUBES
    asked = ("query", "--collection", "field-denoise")
    assert hypermend(archive, *asked, "--bbox", 0, 0, 1, 1)["features"] == []
    (bravo,) = hypermend(archive, *asked, "--datetime", "2022-07-22")["features"]
    assert bravo["id"] == "BRAVO"


def test_python_opens_every_cube(archive: Path) -> None:
    opened = [item for stage in ("source", "restored") for item in open_archive(archive).search(stage=stage)]
    assert {f"{item.scene.collection}/{item.scene.id}" for item in opened} == set(CUBES)
    for item in opened:
        cube = item.dataset()
        assert cube["reflectance"].dims == ("band", "y", "x")
        assert float(cube["wavelength"][0]) > 400 and cube["reflectance"].attrs["units"] == "1"
        assert 0 < float(cube["reflectance"].mean()) < 1


def test_it_is_whole_and_everything_beside_the_cubes_is_listed(archive: Path) -> None:
    before = snapshot(archive)
    report = hypermend(archive, "verify")
    assert (report["cubes"], report["tiles"], report["torn"]) == (*VERIFIED, [])
    assert snapshot(archive) == before

    listed = {row["name"]: row for row in hypermend(archive, "models")["models"]}
    assert listed["tiny"]["task"] == "sharpen"
    assert hypermend(archive, "models", "show", "tiny")["trained_on"] == ["ALPHA"]
    assert [found["id"] for found in hypermend(archive, "genotypes")["genotypes"]] == [GENOTYPE]
    (answer,) = hypermend(archive, "search", "--sensor", "enmap", "--budget", "smoke", "--trials", 1)["genotypes"]
    assert (answer["genotype"]["id"], answer["reused"]) == (GENOTYPE, True)
    failed = [(one["collection"], one["scene"], one["step"]) for one in hypermend(archive, "failures")["failures"]]
    assert failed == [("field", "TORN", "prepare"), ("pair", "PAIR", "prepare")]
    pruned = hypermend(archive, "prune", "--dry-run", "--older-than", 0)["removed"]
    assert [(one["cube"], one["replaced_by"]) for one in pruned] == [(REPLACED, CUBES["pair-denoise/PAIR"][0])]


def test_its_index_is_made_anew(archive: Path) -> None:
    before = features(archive, "restored")
    result = CliRunner().invoke(app, ["index", "--archive", str(archive)])
    assert (result.exit_code, f"{len(RAW) + len(CUBES)} items indexed" in result.stdout) == (0, True), result.output
    assert features(archive, "restored") == before


# ------------------------------------------------------------------------- holds while the versions are those of 0.1


@same_reader
def test_ingesting_again_writes_nothing(archive: Path, ray_session: None) -> None:
    before = snapshot(archive)
    report = hypermend(archive, "ingest", "--tile-px", 32, "--workers", 1, ends=1)
    current = dict.fromkeys((name.split("/")[1] for name in RAW), "current")
    assert (statuses(report), report["bytes_written"]) == (current | {"TORN": "failed"}, 0)
    assert snapshot(archive) == before
    assert [failed["scene"] for failed in hypermend(archive, "failures")["failures"]] == ["TORN", "PAIR", "TORN"]


@same_pixels
def test_restoring_again_writes_nothing(archive: Path, ray_session: None) -> None:
    before = snapshot(archive)
    for name, options in RESTORATIONS.items():
        report = hypermend(archive, "restore", *options, "--workers", 1)
        assert (list(statuses(report).values()), report["bytes_written"]) == (["current"], 0), name
    assert snapshot(archive) == before


@same_pixels
def test_an_interrupted_restoration_does_the_missing_tiles_only(archive: Path, ray_session: None) -> None:
    (planned,) = hypermend(archive, "plan", *INTERRUPTED)["scenes"]
    assert (planned["plan"]["target"], planned["tiles_to_do"]) == (HALF, HALF_TILES - HALF_DONE)
    marked = [
        f"{HALF}/{shard['key']}"
        for mark in (archive / f"{HALF}.done").glob("*.json")
        for shard in json.loads(mark.read_text())["shards"]
    ]
    before = snapshot(archive)
    report = hypermend(archive, "restore", *INTERRUPTED, "--workers", 1)
    assert (statuses(report), report["tiles_written"]) == ({"HALF": "published"}, HALF_TILES - HALF_DONE)
    after = snapshot(archive)
    assert marked and {key: after[key] for key in marked} == {key: before[key] for key in marked}
    assert hash_of_shards(archive / HALF) == HALF_SHARDS
    assert hypermend(archive, "verify")["cubes"] == VERIFIED[0] + 1


@same_pixels
def test_damaged_shards_are_found_and_repaired(archive: Path, ray_session: None) -> None:
    """The bytes are those of 0.1 where no network is in between; with one, another CPU may round a number otherwise."""
    damaged = {name: CUBES[name][0] for name in ("field-denoise/ALPHA", "field-denoise/BRAVO")}
    before = {name: (shards(archive / key), stored(archive / key)) for name, key in damaged.items()}
    for key in damaged.values():
        shard = archive / key / "reflectance" / "c" / "0" / "1" / "0"
        data = bytearray(shard.read_bytes())
        data[len(data) // 2] ^= 1
        shard.write_bytes(data)
    torn = hypermend(archive, "verify", ends=1)["torn"]
    assert sorted((one["cube"], one["index"], one["repair_with"]) for one in torn) == sorted(
        (key, [1, 0], "restore") for key in damaged.values()
    )
    for name in damaged:
        report = hypermend(archive, "restore", *RESTORATIONS[name], "--workers", 1)
        assert (list(statuses(report).values()), report["tiles_written"]) == (["published"], 1)
    assert hypermend(archive, "verify")["torn"] == []
    after = {name: (shards(archive / key), stored(archive / key)) for name, key in damaged.items()}
    assert after["field-denoise/BRAVO"][0] == before["field-denoise/BRAVO"][0]
    assert abs(after["field-denoise/ALPHA"][1] - before["field-denoise/ALPHA"][1]).max() <= 1
    changed = {k for k, v in after["field-denoise/ALPHA"][0].items() if v != before["field-denoise/ALPHA"][0][k]}
    assert changed <= {"reflectance/c/0/1/0"}


def stored(path: Path) -> Any:
    with xr.open_zarr(path, mask_and_scale=False) as cube:
        return cube["reflectance"].values


@same_training
def test_trainings_are_found_again_by_their_commands(archive: Path) -> None:
    asked = (FINISHED_TRAINING, KILLED_TRAINING)
    ids = [hypermend(archive, "train", *options, "--dry-run")["training"] for options in asked]
    assert ids == [TRAINED, UNFINISHED]


@pytest.mark.long
@same_training
def test_a_finished_training_is_there_and_an_unfinished_one_goes_on(archive: Path, ray_session: None) -> None:
    before = (archive / "models" / "tiny" / "weights.safetensors").read_bytes()
    report = hypermend(archive, "train", *FINISHED_TRAINING)
    assert (report["state"], report["training"], report["model"]) == ("current", TRAINED, "models/tiny")
    assert (archive / "models" / "tiny" / "weights.safetensors").read_bytes() == before

    metrics = archive / "training" / UNFINISHED / "metrics.jsonl"
    earlier = [line for line in lines(metrics) if line["step"] <= CHECKPOINT_STEP]
    report = hypermend(archive, "train", *KILLED_TRAINING)
    assert (report["state"], report["training"]) == ("finished", UNFINISHED)
    assert earlier and lines(metrics)[: len(earlier)] == earlier  # their seconds too: they were not done again
    assert lines(metrics)[-1]["step"] > CHECKPOINT_STEP
    assert "unfinished" in {row["name"] for row in hypermend(archive, "models")["models"]}


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]
