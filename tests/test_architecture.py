"""The rooms and who may import whom (docs/decisions/0001), read from the code so that the picture cannot drift."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("catalog", "models", "pipeline")
FILES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))

# What a room must not know. Tests and benchmarks know everything and are known by nobody.
FORBIDDEN = {
    "catalog": {"torch", "ray", "hypermend.models", "hypermend.pipeline", "tests", "benchmarks", "pickle", *ROOMS},
    "models": {"ray", "zarr", "xarray", "pystac", "pystac_client", "rasterio", "odc", "obstore"}
    | {"hypermend.catalog", "hypermend.pipeline", "tests", "benchmarks", "pickle", *ROOMS},
    "pipeline": {"tests", "benchmarks", "pickle", *ROOMS},
}
# Floors of each room, the highest first. A package imports from floors below its own, never from its own or above.
FLOORS = {
    "catalog": "archive > stac > readers pairs > cube keys band_names > storage sensors > scene grids errors arrays",
    "models": "checkpoint > denoise sharpen fuse > signal > restorer memory sampling > fit card budget arrays",
    "pipeline": "cli > nightly demo evaluate maintenance > restore ingest search > runs train > engine registry"
    " > tiling config formatting",
}
# A library that only these files may import.
ONLY_IN = {
    "zarr": {"catalog/cube/cube.py", "catalog/cube/layout.py", "catalog/cube/stores.py"},
    "ray": {
        "pipeline/engine/cluster.py",
        "pipeline/engine/prometheus.py",
        "pipeline/engine/ray_actors.py",
        "pipeline/engine/submit.py",
        "pipeline/search/driver.py",
        "pipeline/train/driver.py",
    },
    "pystac_client": {"catalog/stac/discover.py"},
}
LAPTOP = (
    "hypermend",
    "hypermend.pipeline.tiling.tiles",
    "hypermend.pipeline.restore.make_plan",
    "hypermend.pipeline.restore.work_list",
    "hypermend.pipeline.restore.dry_run",
    "hypermend.pipeline.config",
    "hypermend.pipeline.cli.main",
)
DRIVERS = ("hypermend.pipeline.ingest", "hypermend.pipeline.restore.driver")
BANNED_STEMS = {"util", "utils", "common", "helper", "helpers", "core", "base", "manager", "managers", "misc"}
MOST_FILES, MEDIAN_LINES, MOST_LINES = 15, 150, 60
"""Files of a folder, lines of the median file, lines of a function without its docstring."""
BLIND_EXCEPTS = 3
"""`except Exception` in the rooms, each with its reason beside it; more needs a decision."""


def imports(source: str) -> set[str]:
    """The full names of everything a module imports, wherever in it the import stands."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import; write the package's name"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def begins(names: set[str], forbidden: set[str]) -> set[str]:
    """Those of ``forbidden`` that a name is, or lies in."""
    return {f for f in forbidden if any(name == f or name.startswith(f"{f}.") for name in names)}


def package_of(path: Path) -> str:
    """Folder or module directly below the room."""
    inside = path.relative_to(ROOT).parts[1:]
    return inside[0] if len(inside) > 1 else path.stem


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
    assert not begins(found, FORBIDDEN[room]), f"{name_of(path)}: not {sorted(begins(found, FORBIDDEN[room]))}"
    for library, allowed in ONLY_IN.items():
        if begins(found, {library}):
            assert name_of(path) in allowed, f"{name_of(path)} imports {library}; only {sorted(allowed)} may"


@pytest.mark.parametrize("room", ROOMS)
def test_imports_go_down_from_floor_to_floor(room: str) -> None:
    floor = {package: i for i, names in enumerate(FLOORS[room].split(" > ")) for package in names.split()}
    for path in FILES:
        if name_of(path).split("/")[0] != room or (path.parent == ROOT / room and path.stem == "__init__"):
            continue
        own = package_of(path)
        assert own in floor, f"{name_of(path)}: give {own} a floor"
        for name in imports(path.read_text()):
            parts = name.split(".")
            if parts[:2] == ["hypermend", room] and len(parts) > 2 and parts[2] != own:
                assert floor[own] < floor[parts[2]], f"{name_of(path)} imports {name}, which is not below {own}"


def test_a_package_says_what_it_is_and_nothing_else() -> None:
    for path in FILES:
        if path.stem == "__init__":
            body = ast.parse(path.read_text()).body
            assert len(body) == 1 and isinstance(body[0], ast.Expr), f"{name_of(path)}: a docstring only"


def test_files_are_found_and_read_at_one_glance() -> None:
    code = [path for path in FILES if path.stem != "__init__"]
    folders = Counter(path.parent for path in code)
    assert not {name_of(f): n for f, n in folders.items() if n > MOST_FILES}
    assert median(path.read_text().count("\n") for path in code) <= MEDIAN_LINES


def test_no_function_is_too_long() -> None:
    long = {}
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                docstring = (ast.get_docstring(node, clean=False) or "").count("\n")
                lines = (node.end_lineno or 0) - node.lineno + 1 - docstring
                if lines > MOST_LINES:
                    long[f"{name_of(path)}:{node.name}"] = lines
    assert not long


def test_few_places_catch_everything() -> None:
    blind = [
        f"{name_of(path)}:{node.lineno}"
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or (isinstance(node.type, ast.Name) and node.type.id in ("Exception", "BaseException")))
    ]
    assert len(blind) <= BLIND_EXCEPTS, blind


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
    assert "torch" in heavy_after_import("hypermend.pipeline.restore.worker").split()


def test_the_engine_does_load_ray() -> None:
    """The control of the test above: were the answer always empty, it would prove nothing."""
    assert "ray" in heavy_after_import("hypermend.pipeline.engine.ray_actors").split()


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
    assert imports(source) == {"os.path", "torch.nn.functional", "ray"}
    assert begins(imports(source), {"torch", "os", "or"}) == {"torch", "os"}
    with pytest.raises(AssertionError, match="line 1: relative import"):
        imports("from . import x")
