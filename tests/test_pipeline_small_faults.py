"""What a newcomer does wrong first: a misspelt archive, a folder that is none; and messages that name what exists."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

import hypermend
from hypermend.catalog.errors import NotFound
from hypermend.pipeline.cli.main import app
from tests.test_architecture import strings

ROOT = Path(__file__).resolve().parents[1]
VERBS = (
    "ingest", "ingest --dry-run", "query", "plan", "restore", "verify", "index", "failures", "retry", "prune",
    "genotypes", "models", "models show stas-cave-31", "evaluate --model stas-cave-31 --task denoise",
    "train --task denoise --name n --steps 2", "search --sensor enmap --budget smoke",
)  # fmt: skip


def refused(words: list[str]) -> str:
    result = CliRunner().invoke(app, words, catch_exceptions=False)
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.strip().splitlines()
    return line


@pytest.mark.parametrize("verb", VERBS)
def test_a_misspelt_archive_is_said_and_not_made(tmp_path: Path, verb: str) -> None:
    line = refused([*verb.split(), "--archive", str(tmp_path / "typo")])
    assert line.startswith(f"hypermend: no archive at {tmp_path / 'typo'}: no such folder")
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_and_a_search_that_fails_make_no_archive(tmp_path: Path) -> None:
    (tmp_path / "catalog.json").write_text("{}")
    for words in (["--dry-run"], []):
        for source in ("catalog.json", "gone.json"):
            refused(["ingest", "--archive", str(tmp_path / "new"), "--stac", str(tmp_path / source), *words])
    assert [path.name for path in tmp_path.iterdir()] == ["catalog.json"]


def test_a_night_on_a_misspelt_archive_makes_none_either(tmp_path: Path) -> None:
    (tmp_path / "job.toml").write_text(f'archive = "{tmp_path / "typo"}"\nmodel = "identity"\n')
    assert "no archive at" in refused(["nightly", str(tmp_path / "job.toml")])
    assert [path.name for path in tmp_path.iterdir()] == ["job.toml"]


@pytest.mark.parametrize("verb", ["query", "ingest", "plan", "verify"])
def test_a_folder_of_other_files_is_no_archive(tmp_path: Path, verb: str) -> None:
    (tmp_path / "scenes").mkdir()
    (tmp_path / "scenes" / "a.tif").write_bytes(b"II*\0")
    line = refused([verb, "--archive", str(tmp_path)])
    assert f"{tmp_path} is no archive" in line and "`hypermend catalog`" in line and "`hypermend ingest --stac`" in line
    assert [path.name for path in tmp_path.iterdir()] == ["scenes"]


def test_an_empty_folder_and_an_archive_without_items_are_archives(tmp_path: Path, s3_bucket: str) -> None:
    assert hypermend.open(tmp_path).search() == []
    (tmp_path / ".DS_Store").write_text("")
    assert hypermend.open(tmp_path).search() == []
    (tmp_path / "models" / "m").mkdir(parents=True)
    (tmp_path / "notes.txt").write_text("mine")
    assert hypermend.open(tmp_path).search() == []
    url = f"s3://{s3_bucket}/archive"
    archive = hypermend.open(url)
    assert archive.search() == []
    archive.root.put("picture.png", b"x")
    with pytest.raises(NotFound, match="is no archive"):
        hypermend.open(url)


def options(command: Any) -> set[str]:
    own = {option for param in command.params for option in (*param.opts, *param.secondary_opts)}
    return own.union(*(options(inner) for inner in getattr(command, "commands", {}).values()))


OF_RAY = {"--head"}


def test_messages_name_options_that_exist() -> None:
    """An option in a string of the package is one of some verb."""
    there = options(get_command(app)) | {"--help", "--no"} | OF_RAY
    wrong: dict[str, set[str]] = {}
    for room in ("catalog", "models", "pipeline"):
        for file in sorted((ROOT / room).rglob("*.py")):
            if "import argparse" in (source := file.read_text()):
                continue  # a script with options of its own
            named = {option for text in strings(source) for option in re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", text)}
            if missing := {name.rstrip("-") for name in named} - there:
                wrong[file.relative_to(ROOT).as_posix()] = missing
    assert not wrong
