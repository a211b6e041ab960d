"""An installed Hypermend: wheel and sdist are whole, and run beside packages that have the names of our folders.

The rooms are links below `hypermend/` in a checkout (docs/decisions/0016) and folders there once installed.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from hypermend.pipeline.engine.submit import code_sha256, make_package, working_dir
from tests.conftest import unpack
from tests.synthetic import cave_folder

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("catalog", "models", "pipeline")
NOT_IN_IT = shutil.ignore_patterns("__pycache__", "*.egg-info")
# Without the checkout: pip would take the egg-info of its editable install for this one, and install nothing.
ENV = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}

IMPORT_ALL = """
import importlib, pkgutil, sys, hypermend
names = [m.name for m in pkgutil.walk_packages(hypermend.__path__, "hypermend.") if m.name != "hypermend.__main__"]
for name in names:
    importlib.import_module(name)
print(len(names), hypermend.__file__)
assert not {"catalog", "models", "pipeline"} & set(sys.modules)
"""


@dataclass(frozen=True)
class Installed:
    """A virtual environment that holds the wheel, and the dependencies of this one."""

    wheel: Path
    python: Path
    site: Path

    def run(self, *words: object, cwd: Path) -> str:
        """Run its Python; the checkout is not on the path."""
        answer = subprocess.run(
            [str(self.python), *map(str, words)], cwd=cwd, env=ENV, capture_output=True, text=True, check=False
        )
        assert answer.returncode == 0, answer.stderr[-3000:]
        return answer.stdout


def build(source: Path, out: Path, kind: str) -> Path:
    """Build a wheel or an sdist with the setuptools that is here, without the network."""
    out.mkdir()
    code = f"from setuptools import build_meta; build_meta.build_{kind}({str(out)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=source, capture_output=True, check=True)
    (path,) = out.iterdir()
    return path


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what a checkout builds from, links kept: a build leaves its traces there."""
    folder = tmp_path_factory.mktemp("source")
    for name in (*ROOMS, "hypermend"):
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=NOT_IN_IT)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    return folder


@pytest.fixture(scope="module")
def installed(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    folder = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    local = ["--no-deps", "--no-index"]
    where = ["--wheel-dir", str(folder / "wheel")]
    subprocess.run([*pip, "wheel", *local, "--no-build-isolation", *where, str(source)], check=True)
    (wheel,) = (folder / "wheel").iterdir()
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")], check=True)
    python = folder / "venv" / "bin" / "python"
    subprocess.run([*pip, "--python", str(python), "install", *local, str(wheel)], check=True, env=ENV)
    (site,) = (folder / "venv" / "lib").glob("python*/site-packages")
    # As a path alone: the editable install of the checkout is a .pth file there, and is not read.
    (site / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return Installed(wheel=wheel, python=python, site=site)


def package_files(source: Path) -> set[str]:
    """Names of all files of the package as a wheel should have them."""
    files = [*(source / "hypermend").iterdir(), *(path for room in ROOMS for path in (source / room).rglob("*"))]
    names = {path.relative_to(source).as_posix() for path in files if path.is_file()}
    return {name if name.startswith("hypermend/") else f"hypermend/{name}" for name in names}


def test_the_wheel_holds_every_file_of_the_package_and_no_other(installed: Installed, source: Path) -> None:
    with zipfile.ZipFile(installed.wheel) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert names == package_files(source)
    assert "hypermend/py.typed" in names
    assert "hypermend/catalog/data/enmap.csv" in names
    assert any(name.startswith("hypermend/models/weights/") and name.endswith(".safetensors") for name in names)


def test_an_sdist_builds_the_same_wheel(installed: Installed, source: Path, tmp_path: Path) -> None:
    sdist = build(source, tmp_path / "sdist", "sdist")
    unpack(sdist, tmp_path)
    (unpacked,) = (path for path in tmp_path.iterdir() if path.name.startswith("hypermend-"))
    again = build(unpacked, tmp_path / "wheel", "wheel")
    with zipfile.ZipFile(installed.wheel) as first, zipfile.ZipFile(again) as second:
        assert {i.filename: i.CRC for i in second.infolist()} == {i.filename: i.CRC for i in first.infolist()}


def test_an_sdist_is_installed_and_runs(source: Path, tmp_path: Path) -> None:
    sdist = build(source, tmp_path / "sdist", "sdist")
    target = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "install", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--no-build-isolation", "--target", str(target), str(sdist)], check=True, env=ENV)
    code = "import hypermend.catalog as c; print(c.__file__); from hypermend.pipeline.cli.main import main; main()"
    answer = subprocess.run(
        [sys.executable, "-c", code, "--help"], cwd=tmp_path, env={**ENV, "PYTHONPATH": str(target)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert answer.stdout.startswith(str(target)) and "Usage: " in answer.stdout


UNHASHED = re.compile(r"torch|triton|(nvidia|cuda)-[a-z0-9-]+")


@pytest.mark.fault
@pytest.mark.parametrize(("file", "extra"), [("constraints.txt", ""), ("constraints-test.txt", "test")])
def test_g9_every_package_is_pinned_with_its_hashes(file: str, extra: str) -> None:
    """The lock holds whatever pyproject.toml asks for and whatever that needs, but torch and what its build brings."""
    entries = re.split(r"\n(?=[a-z])", "\n".join(li for li in (ROOT / file).read_text().splitlines() if li[:1] != "#"))
    locked = {entry.partition("==")[0].strip(): entry for entry in entries}
    assert all(re.match(r"\s*[a-z0-9.-]+==\S+", entry) and "--hash=sha256:" in entry for entry in entries)
    assert not [name for name in locked if UNHASHED.fullmatch(name)]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    waiting = [Requirement(text) for text in project["dependencies"]]
    waiting += [Requirement(text) for text in project["optional-dependencies"].get(extra, [])]
    seen: set[tuple[str, str]] = set()
    while waiting:
        needed = waiting.pop()
        for of in ("", *needed.extras):
            if (canonicalize_name(needed.name), of) in seen:
                continue
            seen.add((canonicalize_name(needed.name), of))
            for inner in map(Requirement, metadata.requires(needed.name) or ()):
                if inner.marker is None or inner.marker.evaluate({"extra": of}):
                    waiting.append(inner)
    assert {name for name, _ in seen if not UNHASHED.fullmatch(name)} <= set(locked)


@pytest.mark.fault
def test_g9_torch_has_one_version_wherever_it_is_installed() -> None:
    texts = [(ROOT / name).read_text() for name in ("Makefile", "deploy/Dockerfile")]
    assert len({pin for text in texts for pin in re.findall(r"torch==[\d.]+", text)}) == 1
    assert all("--require-hashes -r constraints.txt" in text for text in texts)


def test_every_module_imports_and_nothing_else_is_installed(installed: Installed, source: Path, tmp_path: Path) -> None:
    added = {path.name.split("-")[0] for path in installed.site.iterdir()}
    assert added == {"hypermend", "dependencies.pth"}
    count, file = installed.run("-c", IMPORT_ALL, cwd=tmp_path).split(maxsplit=1)
    assert Path(file.strip()).is_relative_to(installed.site)
    modules = [name for name in package_files(source) if name.endswith(".py")]
    assert int(count) == len(modules) - 2  # all but hypermend itself and hypermend.__main__


def test_it_runs_where_other_packages_have_the_names_of_our_folders(installed: Installed, tmp_path: Path) -> None:
    for room in ROOMS:
        (tmp_path / room).mkdir()
        (tmp_path / room / "__init__.py").write_text(f"raise ImportError('the {room} of this folder')\n")
    assert "Usage: hypermend" in installed.run(installed.python.parent / "hypermend", "--help", cwd=tmp_path)
    cave_folder(tmp_path / "files")
    words = ["catalog", "files", "--sensor", "cave", "--archive", "archive"]
    assert installed.run("-m", "hypermend", *words, cwd=tmp_path).startswith("small_ms ")
    code = "import hypermend; print(*(item.scene.sensor for item in hypermend.open('archive').search(stage='raw')))"
    assert installed.run("-c", code, cwd=tmp_path) == "cave\n"


def test_submit_ships_the_same_code_from_a_checkout_and_from_an_install(installed: Installed, tmp_path: Path) -> None:
    job = tmp_path / "job.toml"
    job.write_text('archive = "/a"\ntask = "denoise"\n')
    code = "from hypermend.pipeline.engine.submit import code_sha256; print(code_sha256())"
    assert installed.run("-c", code, cwd=tmp_path).strip() == code_sha256()
    with working_dir(make_package(job)) as folder:
        assert not [path for path in folder.rglob("*") if path.is_symlink()]
        where = installed.run("-c", "import hypermend.models; print(hypermend.models.__file__)", cwd=folder).strip()
        assert Path(where) == folder / "hypermend" / "models" / "__init__.py"
        assert "Usage: " in installed.run("-m", "hypermend", "--help", cwd=folder)
