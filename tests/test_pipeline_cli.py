"""The command: JSON for machines, one line for people, exit codes that mean something."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from hypermend.pipeline.cli.main import app
from hypermend.pipeline.engine import cluster
from hypermend.pipeline.engine.outcome import NoWorkers
from tests.synthetic import cave_folder, enmap_folder

ROOT = Path(__file__).resolve().parents[1]


def hypermend(*words: object) -> Result:
    return CliRunner().invoke(app, [str(w) for w in words], catch_exceptions=False)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> Path:
    """An archive with one EnMAP-like and one CAVE-like scene, catalogued and ingested by the command."""
    folder = tmp_path_factory.mktemp("cli")
    enmap_folder(folder / "enmap")
    cave_folder(folder / "cave")
    for sensor in ("enmap", "cave"):
        made = hypermend("catalog", folder / sensor, "--sensor", sensor, "--archive", folder / "a", "--json")
        assert made.exit_code == 0, made.output
    dry = hypermend("ingest", "--archive", folder / "a", "--dry-run", "--json")
    assert len(json.loads(dry.stdout)["scenes"]) == 2
    ingested = hypermend("ingest", "--archive", folder / "a", "--json")
    assert ingested.exit_code == 0, ingested.output
    return folder / "a"


def test_query_prints_a_feature_collection_that_opens(archive: Path) -> None:
    result = hypermend("query", "--archive", archive, "--stage", "source", "--sensor", "enmap", "--json")
    found = json.loads(result.stdout)
    assert found["type"] == "FeatureCollection"
    (item,) = found["features"]
    assert (Path(item["assets"]["cube"]["href"]) / "zarr.json").exists()
    assert json.loads(hypermend("query", "--archive", archive, "--bbox", 0, 0, 1, 1, "--json").stdout)["features"] == []
    assert "enmap-source" in hypermend("query", "--archive", archive).stdout


def test_plan_then_restore_then_plan_again(archive: Path) -> None:
    options = ("--archive", archive, "--collection", "enmap", "--model", "identity", "--tile-px", 32)
    before = json.loads(hypermend("plan", *options, "--json").stdout)["scenes"]
    assert [(row["tiles_to_do"], row["seconds"]) for row in before] == [(6, None)]
    result = hypermend("restore", *options, "--json")
    report = json.loads(result.stdout)
    assert (result.exit_code, report["tiles_written"]) == (0, 6)
    assert [s["status"] for s in report["scenes"]] == ["published"]
    again = json.loads(hypermend("restore", *options, "--json").stdout)
    assert (again["bytes_written"], again["scenes"][0]["status"]) == (0, "current")
    after = json.loads(hypermend("plan", *options, "--json").stdout)["scenes"]
    assert [row["tiles_to_do"] for row in after] == [0]
    table = hypermend("plan", "--archive", archive, "--model", "identity").stdout
    assert "2 scenes" in table


def test_a_job_file_and_an_option_beside_it(archive: Path, tmp_path: Path) -> None:
    job = tmp_path / "job.toml"
    job.write_text(f'archive = "{archive}"\nmodel = "identity"\ncollections = ["cave"]\n')
    rows = json.loads(hypermend("plan", job, "--tile-px", 16, "--json").stdout)["scenes"]
    assert [(row["plan"]["tile_px"], row["plan"]["tiles"]) for row in rows] == [(16, 16)]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["restore", "--archive", "{a}", "--scene", "enmap_syntetic"], "the nearest is 'enmap_synthetic"),
        (["restore", "--archive", "{a}", "--sensor", "hyperion"], "no source cube that matches"),
        (["restore", "--archive", "{a}", "--model", "stass"], "no built-in model 'stass'"),
        (["restore", "--archive", "{a}", "--tile-px", "33"], "33 is not a multiple of 16"),
        (["restore", "--archive", "{a}", "--sensor", "enmapp"], "enmap"),
        (["ingest", "--archive", "{a}", "--collection", "nothing"], "no scene matches"),
        (["ingest", "--archive", "{a}", "--sign", "me"], "sign: Input should be 'none'"),
        (["plan", "no-such-job.toml"], "there is no such job file"),
        (["catalog", "/no/such/folder", "--sensor", "enmap", "--archive", "{a}"], "/no/such/folder"),
        (["catalog", ".", "--sensor", "aviriss", "--archive", "{a}"], "aviris"),
        (["query", "--archive", "ftp://x/y"], "an archive is a local folder or s3://bucket/prefix"),
        (["query", "--archive", "{a}", "--datetime", "soon"], "soon"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line(words: list[str], message: str, archive: Path) -> None:
    result = hypermend(*(w.format(a=archive) for w in words))
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith("hypermend: ")
    assert message in line
    assert "Traceback" not in result.output


def test_verify_and_index(archive: Path) -> None:
    result = hypermend("verify", "--archive", archive, "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["torn"] == []
    assert "items indexed" in hypermend("index", "--archive", archive).stdout


def test_an_unreadable_scene_is_skipped_and_the_rest_goes_on(tmp_path: Path, ray_session: None) -> None:
    cave_folder(tmp_path / "files", name="whole")
    cave_folder(tmp_path / "files", name="gone", seed=2)
    archive = tmp_path / "a"
    assert hypermend("catalog", tmp_path / "files", "--sensor", "cave", "--archive", archive).exit_code == 0
    for file in (tmp_path / "files").glob("gone*/*_07.png"):
        file.unlink()
    result = hypermend("ingest", "--archive", archive, "--json")
    assert result.exit_code == 1
    ended = {s["scene"]: (s["status"], s["reason"]) for s in json.loads(result.stdout)["scenes"]}
    status, reason = next(v for k, v in ended.items() if "gone" in k)
    assert status == "failed"
    assert "_07.png" in reason
    assert next(v for k, v in ended.items() if "whole" in k)[0] == "published"


def test_a_cluster_that_cannot_is_told_in_a_line(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(*, address: str | None) -> None:
        raise NoWorkers(f"no Ray cluster answers at {address}")

    monkeypatch.setattr(cluster, "start_ray", nobody)
    asked = hypermend("restore", "--archive", archive, "--sensor", "enmap", "--address", "10.0.0.9:6379")
    assert asked.exit_code == 2
    assert asked.stderr == "hypermend: no Ray cluster answers at 10.0.0.9:6379\n"


def test_what_ray_says_at_exit_does_not_follow_the_json(tmp_path: Path) -> None:
    code = (
        "import atexit; from hypermend.pipeline.cli.main import main\n"
        "atexit.register(lambda: print('(raylet) a worker died [repeated 4x]'))\n"
        "main()"
    )
    verb = ["genotypes", "--archive", str(tmp_path), "--json"]
    said = subprocess.run([sys.executable, "-c", code, *verb], cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(said.stdout) == {"genotypes": []}
    assert "a worker died" in said.stderr


def test_every_committed_result_is_json() -> None:
    for path in sorted((ROOT / "benchmarks" / "results").glob("*.jsonl")):
        for line in path.read_text().splitlines():
            assert isinstance(json.loads(line), dict), path.name
