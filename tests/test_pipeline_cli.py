"""The command: JSON for machines, one line for people, exit codes that mean something."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Never

import pytest
import typer
from rich.console import Console
from typer.main import get_command
from typer.testing import CliRunner, Result

from hypermend.pipeline.cli import restore as restore_verb
from hypermend.pipeline.cli import train as train_verb
from hypermend.pipeline.cli.app import GROUPS
from hypermend.pipeline.cli.main import app
from hypermend.pipeline.config import Job, RestoreJob, TrainJob
from hypermend.pipeline.engine import cluster
from hypermend.pipeline.engine.outcome import NoWorkers
from hypermend.pipeline.runs import progress
from hypermend.pipeline.runs.report import Event
from tests.synthetic import cave_folder, enmap_folder

ROOT = Path(__file__).resolve().parents[1]


def hypermend(*words: object) -> Result:
    return CliRunner().invoke(app, [str(w) for w in words], catch_exceptions=False)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
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
    assert [(row["tiles_to_do"], row["seconds_from"]) for row in before] == [(6, "benchmark")]
    assert 0 < before[0]["seconds"] < 60
    assert "~" in hypermend("plan", *options).stdout
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


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """The jobs that `restore` and `train` were given; none of them is run."""
    seen: list[Job] = []

    def record(job: Job) -> Never:
        seen.append(job)
        raise typer.Exit(0)

    monkeypatch.setattr(restore_verb, "run_job", lambda start, job, as_json, then: record(job))
    monkeypatch.setattr(train_verb, "follow", lambda job, console: record(job))
    return seen


def test_every_option_of_a_job_is_parsed_into_its_field(jobs: list[Job]) -> None:
    words = "--archive /a --task fuse --scene x --scene y --guide-collection g --budget-steps 0 --budget-seconds 2.5"
    more = "--memory-gib 4 --address auto --deadline 60 --workers 2 --bbox 1 2 3 4 --datetime 2024 --collection c"
    assert hypermend("restore", *words.split(), *more.split(), "--sensor", "enmap", "--tile-px", 32).exit_code == 0
    asked = RestoreJob(
        archive="/a", task="fuse", scenes=("x", "y"), guide_collection="g", budget_steps=0, budget_seconds=2.5,
        memory_gib=4, ray_address="auto", deadline_s=60, workers=2, bbox=(1, 2, 3, 4), datetime="2024",
        collections=("c",), sensor="enmap", tile_px=32,
    )  # fmt: skip
    assert jobs == [asked]


def test_an_option_wins_over_the_job_file_and_one_that_is_not_given_does_not(tmp_path: Path, jobs: list[Job]) -> None:
    file = tmp_path / "train.toml"
    file.write_text(
        'archive = "/a"\ntask = "denoise"\nname = "n"\nsteps = 3\ngpus = true\nbf16 = true\nscenes = ["s"]\n'
    )
    asked = TrainJob(archive="/a", task="denoise", name="n", steps=3, gpus=True, bf16=True, scenes=("s",))
    for words, update in (
        ((), {}),
        (("--no-bf16", "--seed", 0), {"bf16": False}),
        (("--freeze-norm", "--steps", 9, "--scene", "t"), {"freeze_norm": True, "steps": 9, "scenes": ("t",)}),
        (("--tensorboard", "b"), {"tensorboard": Path("b")}),
    ):
        assert hypermend("train", file, *words).exit_code == 0
        assert jobs.pop() == asked.model_copy(update=update)
    refused = hypermend("train", file, "--scale", 5)
    assert refused.exit_code == 2
    assert refused.stderr == f"hypermend: {file}: scale: Input should be 2, 3 or 4 (got 5)\n"
    refused = hypermend("train", "--task", "denoise")
    missing = "key 'archive' is missing; give --archive, or set HYPERMEND_ARCHIVE; key 'name' is missing"
    assert refused.stderr == f"hypermend: options of train: {missing}\n"


def verbs(group: Any = None, path: str = "") -> dict[str, Any]:
    """Every verb of the command by its name, such as `jobs list`."""
    group = group or get_command(app)
    found: dict[str, Any] = {}
    for name, command in group.commands.items():
        found[f"{path}{name}"] = command
        if hasattr(command, "commands"):
            found |= verbs(command, f"{path}{name} ")
    return found


def test_the_page_of_the_command_line_names_every_verb_and_no_option_that_there_is_not() -> None:
    page = (ROOT / "docs" / "command-line.md").read_text()
    table = page.split("\n## ")[0]
    listed = set(re.findall(r"`((?:[a-z]+ ?)+)", "\n".join(re.findall(r"^\| (.*?) \|", table, re.MULTILINE))))
    expected = {name for name in verbs() if name != "jobs"}
    assert {name.strip() for name in listed} == expected
    options = {option for command in verbs().values() for param in command.params for option in param.opts}
    assert set(re.findall(r"`(--[a-z][a-z-]*)", page)) <= options | {"--help"}


def test_every_option_has_a_help_text() -> None:
    for name, command in verbs().items():
        for param in command.params:
            assert getattr(param, "help", ""), f"{name}: {param.name}"


def test_the_help_lists_every_verb_once_in_full_at_80_columns() -> None:
    listed = [name for names in GROUPS.values() for name in names]
    assert sorted(listed) == sorted(get_command(app).commands)  # type: ignore[attr-defined]
    shown = CliRunner(env={"COLUMNS": "80"}).invoke(app, ["--help"]).stdout
    assert "..." not in shown.partition("Start:")[2]
    for name in listed:
        (line,) = [row for row in shown.splitlines() if row.startswith(f"  {name} ")]
        assert line.endswith("."), line


def test_the_version_is_shown() -> None:
    assert re.fullmatch(r"hypermend \d+\.\d+\.\d+\n", hypermend("--version").stdout)


def test_the_archive_of_the_environment_is_the_last_word(
    archive: Path, tmp_path: Path, jobs: list[Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "give --archive, or set HYPERMEND_ARCHIVE" in hypermend("restore").stderr
    monkeypatch.setenv("HYPERMEND_ARCHIVE", str(archive))
    assert "enmap-source" in hypermend("query").stdout
    job = tmp_path / "job.toml"
    job.write_text('archive = "of-the-file"\n')
    hypermend("restore")
    hypermend("restore", job)
    hypermend("restore", job, "--archive", "of-the-option")
    assert [job.archive for job in jobs] == [str(archive), "of-the-file", "of-the-option"]


def test_a_verb_shows_the_command_that_follows(archive: Path, tmp_path: Path) -> None:
    cave_folder(tmp_path / "my files")
    made = hypermend("catalog", tmp_path / "my files", "--sensor", "cave", "--archive", tmp_path / "my archive")
    assert f"next: hypermend ingest --archive '{tmp_path / 'my archive'}'\n" in made.stderr
    ingested = hypermend("ingest", "--archive", archive)
    assert f"next: hypermend plan --archive {archive}\n" in ingested.stderr


def test_a_file_gets_a_line_where_a_terminal_has_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LINE_S", 0.01)

    class Slow:
        scenes, report = 2, None

        def __iter__(self) -> Iterator[Event]:
            yield Event(kind="published", scene="a/first")
            yield Event(kind="tile", scene="a/second", done=1, total=4)
            time.sleep(0.2)

    console = Console(file=io.StringIO(), width=40)
    progress.follow(Slow(), console)  # type: ignore[arg-type]
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert lines[0] == "published a/first"
    assert re.fullmatch(r"1 of 2 scenes ended, 1 open \(25%\); 0\.\d s, about 0\.\d s left", lines[-1])


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


def test_an_unreadable_scene_is_skipped_and_the_rest_goes_on(tmp_path: Path) -> None:
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

    from hypermend.pipeline.engine import ray_actors  # noqa: F401 (were it loaded below, it would keep `nobody`)

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
