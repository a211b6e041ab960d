"""The rooms and who may import whom (docs/decisions/0001), read from the code so that the picture cannot drift."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("catalog", "models", "pipeline")
FILES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))

# What a room must not know. Tests and benchmarks know everything and are known by nobody.
FORBIDDEN = {
    "catalog": {"torch", "ray", "models", "pipeline", "tests", "benchmarks", "pickle"},
    "models": {"ray", "zarr", "xarray", "pystac", "pystac_client", "rasterio", "odc", "obstore", "catalog", "pipeline"}
    | {"tests", "benchmarks", "pickle"},
    "pipeline": {"tests", "benchmarks", "pickle"},
}
# A library that only these files may import.
ONLY_IN = {
    "zarr": {"catalog/cube.py", "catalog/cube_layout.py", "catalog/cube_stores.py"},
    "ray": {
        "pipeline/cluster.py",
        "pipeline/execute.py",
        "pipeline/metrics.py",
        "pipeline/search.py",
        "pipeline/submit.py",
        "pipeline/train.py",
    },
    "pystac_client": {"catalog/discover.py"},
}
LAPTOP = ("pipeline.tiles", "pipeline.plan", "pipeline.config", "pipeline.cli")
DRIVERS = ("pipeline.ingest", "pipeline.restore", "pipeline.forecast")
BANNED_STEMS = {"util", "utils", "common", "helper", "helpers", "core", "base", "manager", "managers", "misc"}


def imports(source: str) -> set[str]:
    """The top-level names of everything a module imports, wherever in it the import stands."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import; write the room's name"
            found.add((node.module or "").split(".")[0])
    return found


def strings(source: str) -> Iterator[str]:
    """The string constants of a module, docstrings apart."""
    tree = ast.parse(source)
    doc = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in doc:
            yield node.value


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_room_imports_only_what_it_may_know(path: Path) -> None:
    room = name_of(path).split("/")[0]
    found = imports(path.read_text())
    assert not found & FORBIDDEN[room], f"{name_of(path)} must not import {sorted(found & FORBIDDEN[room])}"
    for library, allowed in ONLY_IN.items():
        if library in found:
            assert name_of(path) in allowed, f"{name_of(path)} imports {library}; only {sorted(allowed)} may"


def heavy_after_import(module: str) -> str:
    """Which of ray and torch are loaded once a fresh interpreter has imported the module, through whatever path."""
    code = f"import sys, {module}; print(*sorted({{'ray', 'torch'}} & set(sys.modules)))"
    answer = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return answer.stdout.strip()


@pytest.mark.parametrize("module", LAPTOP)
def test_a_plan_is_made_without_torch_or_ray(module: str) -> None:
    assert heavy_after_import(module) == "", f"{module} must load on a laptop that has neither"


@pytest.mark.parametrize("module", DRIVERS)
def test_a_driver_computes_nothing_and_starts_without_torch(module: str) -> None:
    assert heavy_after_import(module) == "ray"


def test_the_worker_does_load_torch() -> None:
    """So that what it loads is there before its memory is limited."""
    assert "torch" in heavy_after_import("pipeline.restore_worker").split()


def test_the_engine_does_load_ray() -> None:
    """The control of the test above: were the answer always empty, it would prove nothing."""
    assert "ray" in heavy_after_import("pipeline.execute").split()


def test_no_file_has_a_name_that_says_nothing() -> None:
    named = [name_of(path) for path in FILES if path.stem in BANNED_STEMS]
    assert not named, f"name these after what they do: {named}"


def test_models_know_no_sensor() -> None:
    sensors = {path.stem for path in (ROOT / "catalog" / "data").glob("*.csv") if not path.stem.endswith("_srf")}
    assert "enmap" in sensors
    for path in (ROOT / "models").rglob("*.py"):
        named = sensors & set(strings(path.read_text()))
        assert not named, f"{name_of(path)} names {sorted(named)}; what a network accepts belongs in its card"


def test_the_reader_of_imports_sees_nested_and_dotted_ones() -> None:
    source = "import os.path\nfrom torch.nn import functional\ndef f():\n    import ray\n"
    assert imports(source) == {"os", "torch", "ray"}
    with pytest.raises(AssertionError, match="line 1: relative import"):
        imports("from . import x")
