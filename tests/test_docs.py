"""Whatever a reader sees is run: the blocks of README and docs, the examples, the links, the cluster file.

Blocks of a document run in order in one folder that holds a small `demo-archive`. A block that cannot run says why, in
a comment right above it: `<!-- not run: reason -->`, or `<!-- run by tests/test_x.py -->` where another test runs it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from hypermend.pipeline.config import BadJob, IngestJob, Job, NightlyJob, RestoreJob, parse

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "deploy/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
LONG = {"docs/fusion.md", "docs/models.md"}
"""Documents with blocks that take a minute: a fusion, a training."""
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
RUN = {"bash", "python", "toml"}
SHOWN = {"text", "json"}
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Block:
    """A fenced block of a document."""

    language: str
    text: str
    line: int
    remark: str
    """The HTML comment right above it, or nothing."""


def blocks(document: str) -> Iterator[Block]:
    for match in BLOCK.finditer(document):
        above = document[: match.start()].rstrip("\n").rsplit("\n", 1)[-1]
        remark = above[4:-3].strip() if above.startswith("<!--") and above.endswith("-->") else ""
        line = document.count("\n", 0, match.start()) + 1
        yield Block(language=match[1], text=match[2], line=line, remark=remark)


def excused(block: Block) -> bool:
    """Whether the remark above says, believably, why the block is not run here."""
    if block.remark.startswith("not run: "):
        return len(block.remark) > len("not run: ") + 15
    if block.remark.startswith("run by "):
        test = ROOT / block.remark.removeprefix("run by ")
        assert test.is_file(), f"line {block.line}: {test} does not exist"
        return True
    return False


@pytest.fixture(scope="session")
def environment() -> dict[str, str]:
    """`hypermend` and `python` as a reader has them after `make demo`, at 80 columns."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return os.environ | {"PATH": path, "COLUMNS": "80", "OMP_NUM_THREADS": "1"}


@pytest.fixture
def folder(tmp_path: Path, demo_archive: tuple[Path, dict[str, Any], str]) -> Path:
    shutil.copytree(demo_archive[0], tmp_path / "demo-archive")
    return tmp_path


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def with_blocks() -> Iterator[Any]:
    for path in DOCUMENTS:
        if any(b.language in RUN for b in blocks(path.read_text())):
            marks = [pytest.mark.long] if name_of(path) in LONG else [pytest.mark.slow]
            yield pytest.param(path, id=name_of(path), marks=marks)


@pytest.mark.parametrize("path", list(with_blocks()))
def test_the_blocks_of_a_document_run(path: Path, request: pytest.FixtureRequest) -> None:
    """In document order, in one folder. The folder is made only where something is to be run."""
    todo = [block for block in blocks(path.read_text()) if block.language in RUN and not excused(block)]
    for block in todo:
        if block.language == "toml":
            kinds = (IngestJob, RestoreJob, NightlyJob)
            assert any(accepts(kind, block.text) for kind in kinds), f"{name_of(path)}:{block.line}"
            continue
        where, names = request.getfixturevalue("folder"), request.getfixturevalue("environment")
        program = ["bash", "-euo", "pipefail", "-c"] if block.language == "bash" else [sys.executable, "-c"]
        answer = subprocess.run(
            [*program, block.text], cwd=where, env=names, capture_output=True, text=True, timeout=240, check=False
        )
        assert answer.returncode == 0, f"{name_of(path)}:{block.line}\n{answer.stdout[-3000:]}\n{answer.stderr[-3000:]}"


def accepts(kind: type[Job], text: str) -> bool:
    try:
        parse(kind, tomllib.loads(text), where="a block")
    except BadJob:
        return False
    return True


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_every_block_is_run_or_says_why_not(path: Path) -> None:
    for block in blocks(path.read_text()):
        assert block.language in RUN | SHOWN, f"{name_of(path)}:{block.line}: name the block's language, or `text`"
        assert not block.remark.startswith(("not run", "run by")) or excused(block), f"{name_of(path)}:{block.line}"
        if block.remark.startswith("run by "):
            test = ROOT / block.remark.removeprefix("run by ")
            assert path.name in test.read_text(), f"{name_of(path)}:{block.line}: {test.name} never names this document"


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_relative_links_lead_somewhere(path: Path) -> None:
    text = BLOCK.sub("", path.read_text())
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        if not re.match(r"[a-z]+:", target):
            assert (path.parent / target).exists(), f"{name_of(path)} links to {target}, which does not exist"


@pytest.mark.slow
@pytest.mark.parametrize("path", EXAMPLES, ids=name_of)
def test_an_example_runs(path: Path, folder: Path, environment: dict[str, str]) -> None:
    answer = subprocess.run(
        [sys.executable, str(path)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr[-3000:]


def test_the_citation_and_the_package_have_one_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (citation["version"], citation["license"]) == (project["version"], project["license"])


def test_a_block_without_an_excuse_is_not_excused() -> None:
    unexcused = "<!-- not run: no -->\n```bash\nfalse\n```\n\n```python\n1 / 0\n```\n"
    text = unexcused + "<!-- not run: it needs a cluster of machines -->\n```bash\nx\n```\n"
    assert [(b.language, b.line, excused(b)) for b in blocks(text)] == [
        ("bash", 2, False),
        ("python", 6, False),
        ("bash", 10, True),
    ]


def test_every_fault_has_tests_with_its_id_and_mark() -> None:
    rows = re.findall(r"^\| F(\d+) \|(.*)\|$", (ROOT / "docs" / "faults.md").read_text(), re.MULTILINE)
    assert len(rows) >= 19
    sources = "\n".join(path.read_text() for path in (ROOT / "tests").glob("test_*.py"))
    tested = {int(number) for number in re.findall(r"^def test_f(\d+)_", sources, re.MULTILINE)}
    for number, row in rows:
        assert int(number) in tested, f"F{number} has no test"
        assert f"`test_f{int(number):02d}_`" in row
    assert tested <= {int(number) for number, _ in rows}
    for path in (ROOT / "tests").glob("test_*.py"):
        text = path.read_text()
        if "fault" in (re.search(r"^pytestmark = .*$", text, re.MULTILINE) or [""])[0]:
            continue
        for match in re.finditer(r"((?:^@.*\n|^ .*\n|^\).*\n)*)^def (test_f\d+_\w+)", text, re.MULTILINE):
            assert "pytest.mark.fault" in match[1], f"{path.name}: {match[2]} lacks the marker"


def test_each_claim_of_security_names_tests_that_exist() -> None:
    rows = [li for li in (ROOT / "SECURITY.md").read_text().splitlines() if li.startswith("| ") and "input" not in li]
    assert len(rows) > 10
    files = {path.name: path.read_text() for path in (ROOT / "tests").glob("test_*.py")}
    for row in rows:
        names = re.findall(r"`(test_[a-z0-9_]+(?:\.py)?)`", row.rstrip("| ").rpartition("|")[2])
        assert names, f"no test: {row}"
        for name in names:
            assert name in files or any(f"def {name}" in text for text in files.values()), f"SECURITY.md: {name}"
