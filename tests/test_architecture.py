"""The rooms, their packages and the allowed imports (docs/decisions/0001), and the size of files and functions."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from statistics import median
from types import ModuleType

import pytest

from hypermend.pipeline import ingest_worker
from hypermend.pipeline.maintenance import failures
from hypermend.pipeline.restore import messages

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("catalog", "models", "pipeline")
FILES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))

# No room may import these: tests and benchmarks, pickle, and the rooms by the names that any project may have.
FORBIDDEN_EVERYWHERE = {"tests", "benchmarks", "pickle", *ROOMS}
FORBIDDEN = {
    "catalog": {"torch", "ray", "hypermend.models", "hypermend.pipeline"},
    "models": {"ray", "zarr", "xarray", "pystac", "pystac_client", "rasterio", "odc", "obstore"}
    | {"hypermend.catalog", "hypermend.pipeline"},
    "pipeline": set(),
}
# Floors of each room, the highest first. A package imports only from floors below its own.
FLOORS = {
    "catalog": "archive > stac > readers pairs > meaning > cube band_names sensor_tables > keys > storage sensors"
    " > sensor_csv > scene grids errors arrays documents recent > dateline",
    "models": "checkpoint > denoise sharpen fuse > signal > restorer memory sampling > fit card budget arrays",
    # Training and evaluation score by the same protocols, and evaluation stands above restore and train.
    "pipeline": "cli > serve > report > nightly demo evaluate maintenance inspect > restore ingest search export"
    " > ingest_worker > runs train > protocols > engine registry > tiling config formatting terminal > user_values",
}
# Libraries that only these files may import.
ONLY_IN = {
    # Cubes of the archive, and deliveries in Zarr: remote ones need our signers and errors, which Zarr's stores lack.
    "zarr": {
        "catalog/cube/bounded.py",
        "catalog/cube/codec_pipeline.py",
        "catalog/cube/cube.py",
        "catalog/cube/layout.py",
        "catalog/cube/stores.py",
        "catalog/readers/hierarchical/zarr_file.py",
    },
    "ray": {
        "pipeline/engine/cluster.py",
        "pipeline/engine/prometheus.py",
        "pipeline/engine/ray_actors.py",
        "pipeline/engine/submit.py",
        "pipeline/search/driver.py",
        "pipeline/train/driver.py",
    },
    "pystac_client": {"catalog/stac/api.py"},
    "aiohttp": {"pipeline/serve/server.py"},
}
LAPTOP = (
    "hypermend",
    "hypermend.pipeline.tiling.tiles",
    "hypermend.pipeline.restore.make_plan",
    "hypermend.pipeline.restore.work_list",
    "hypermend.pipeline.restore.dry_run",
    "hypermend.pipeline.config",
    "hypermend.pipeline.cli.main",
    # Drivers compute nothing, and load Ray only for a job that runs on it.
    "hypermend.pipeline.ingest",
    "hypermend.pipeline.restore.driver",
    "hypermend.pipeline.nightly",
)
BANNED_STEMS = {"util", "utils", "common", "helper", "helpers", "core", "base", "manager", "managers", "misc"}
MAX_FILES = 15
"""Files of a folder, without `__init__.py`."""
MAX_MEDIAN_LINES = 150
"""Lines of the median file."""
MAX_FUNCTION_LINES = 60
"""Lines of a function, without its docstring."""
MAX_TASK_DISPATCHES = 4
MAX_BLIND_EXCEPTS = 3
"""Handlers of `Exception`, each with its reason beside it; one more needs a decision."""


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def imports(source: str) -> set[str]:
    """Collect the full names of everything that a module imports, at whatever level."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import; write the package's name"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def used(names: set[str], packages: set[str]) -> set[str]:
    """Select the packages that a name is, or lies in."""
    return {f for f in packages if any(name == f or name.startswith(f"{f}.") for name in names)}


def package_of(path: Path) -> str:
    """Name the folder or module directly below the room."""
    return path.relative_to(ROOT).with_suffix("").parts[1]


def strings(source: str) -> Iterator[str]:
    """Give the string constants of a module, without its docstrings."""
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


def names_in(node: ast.AST) -> set[str]:
    return {child.id for child in ast.walk(node) if isinstance(child, ast.Name)}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_room_imports_only_what_it_may_know(path: Path) -> None:
    room = name_of(path).split("/")[0]
    names = imports(path.read_text())
    forbidden = used(names, FORBIDDEN[room] | FORBIDDEN_EVERYWHERE)
    assert not forbidden, f"{name_of(path)}: not {sorted(forbidden)}"
    # The front door opens catalog/archive.py; only what stands above that may enter by it.
    assert room == "pipeline" or "hypermend" not in names, f"{name_of(path)} imports the front door"
    for library, allowed in ONLY_IN.items():
        if used(names, {library}):
            assert name_of(path) in allowed, f"{name_of(path)} imports {library}; only {sorted(allowed)} may"


@pytest.mark.parametrize("room", ROOMS)
def test_imports_go_down_from_floor_to_floor(room: str) -> None:
    floor = {package: i for i, names in enumerate(FLOORS[room].split(" > ")) for package in names.split()}
    for path in FILES:
        if name_of(path).split("/")[0] != room or (path.parent == ROOT / room and path.stem == "__init__"):
            continue
        package = package_of(path)
        assert package in floor, f"{name_of(path)}: give {package} a floor"
        for name in imports(path.read_text()):
            parts = name.split(".")
            if parts[:2] == ["hypermend", room] and len(parts) > 2 and parts[2] != package:
                assert floor[package] < floor[parts[2]], f"{name_of(path)}: {name} is not below {package}"


def test_the_init_of_a_package_holds_its_docstring_and_nothing_else() -> None:
    for path in FILES:
        if path.stem == "__init__":
            body = tree_of(path).body
            assert len(body) == 1 and isinstance(body[0], ast.Expr), f"{name_of(path)}: a docstring only"


def test_folders_and_files_are_small() -> None:
    code = [path for path in FILES if path.stem != "__init__"]
    folders = Counter(path.parent for path in code)
    assert not {name_of(f): n for f, n in folders.items() if n > MAX_FILES}
    assert median(path.read_text().count("\n") for path in code) <= MAX_MEDIAN_LINES


def test_no_function_is_too_long() -> None:
    long = {}
    for path in FILES:
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                docstring = (ast.get_docstring(node, clean=False) or "").count("\n")
                lines = (node.end_lineno or 0) - node.lineno + 1 - docstring
                if lines > MAX_FUNCTION_LINES:
                    long[f"{name_of(path)}:{node.name}"] = lines
    assert not long


def test_few_places_ask_which_task_it_is() -> None:
    """A task is a value with parts of its own; a comparison with its name, or of a guide with None, is a dispatch."""
    tasks = {"denoise", "sharpen", "fuse"}

    def names_a_task(node: ast.expr | None) -> bool:
        if isinstance(node, ast.Tuple | ast.List | ast.Set):
            return any(map(names_a_task, node.elts))
        return isinstance(node, ast.Constant) and node.value in tasks

    def dispatches(node: ast.AST) -> bool:
        if isinstance(node, ast.Dict):
            return sum(map(names_a_task, node.keys)) > 1
        if not isinstance(node, ast.Compare):
            return False
        sides = [node.left, *node.comparators]
        guide = any(ast.unparse(side).split(".")[-1] == "guide" for side in sides)
        return any(map(names_a_task, sides)) or (guide and any(ast.unparse(side) == "None" for side in sides))

    places = [
        f"{name_of(path)}:{node.lineno}" for path in FILES for node in ast.walk(tree_of(path)) if dispatches(node)
    ]
    assert len(places) <= MAX_TASK_DISPATCHES, places


def test_few_handlers_catch_everything() -> None:
    blind = [
        f"{name_of(path)}:{node.lineno}"
        for path in FILES
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or {"Exception", "BaseException"} & names_in(node.type))
    ]
    assert len(blind) <= MAX_BLIND_EXCEPTS, blind


def heavy_after_import(*modules: str) -> dict[str, list[str]]:
    """Name those of ray, torch and xarray that a fresh interpreter has loaded after it imported each module in turn."""
    code = (
        "import importlib, json, sys\n"
        "def heavy(name): importlib.import_module(name); return sorted({'ray', 'torch', 'xarray'} & set(sys.modules))\n"
        "print(json.dumps({name: heavy(name) for name in sys.argv[1:]}))"
    )
    process = subprocess.run(
        [sys.executable, "-c", code, *modules], cwd=ROOT, capture_output=True, text=True, check=True
    )
    found: dict[str, list[str]] = json.loads(process.stdout)
    return found


def test_a_plan_is_made_without_torch_or_ray_and_a_job_without_xarray() -> None:
    """These modules load on a laptop that has neither; with xarray and its pandas a verb would start half as fast."""
    assert heavy_after_import(*LAPTOP) == {name: [] for name in LAPTOP}


def test_class_names_that_are_stored_stay() -> None:
    """job.json of every run names the class of its job, and Prometheus series are labelled with the classes of tasks.

    A new name would make `hypermend retry` misread old runs and would break dashboards and alerts: keep these names, or
    map them where they are read and written (`maintenance/failures.py`, `engine/prometheus.py`).
    """
    assert set(failures._KINDS) == {"IngestJob", "RestoreJob", "NightlyJob"}
    for name, kind in failures._KINDS.items():
        assert kind(archive="a").to_record()["job"] == name
    assert task_names(ingest_worker) == {"Prepare", "WriteTiles", "Finish"}
    assert task_names(messages) == {"Prepare", "AdaptBlock", "RestoreTile", "Finish"}


def task_names(module: ModuleType) -> set[str]:
    """Name the tasks of a module: its dataclasses that belong to a unit."""
    return {name for name, value in vars(module).items() if "unit" in getattr(value, "__dataclass_fields__", ())}


def test_the_worker_does_load_torch() -> None:
    """Its libraries must be loaded before its memory is limited; xarray is none of them."""
    assert heavy_after_import("hypermend.pipeline.restore.worker") == {"hypermend.pipeline.restore.worker": ["torch"]}


def test_the_engine_does_load_ray() -> None:
    """Control of the tests above, which an empty list would always pass."""
    assert heavy_after_import("hypermend.pipeline.engine.ray_actors") == {
        "hypermend.pipeline.engine.ray_actors": ["ray"]
    }


def test_no_file_has_a_name_that_says_nothing() -> None:
    vague = [name_of(path) for path in FILES if BANNED_STEMS & {path.stem, path.parent.name}]
    assert not vague, f"name these after what they do: {vague}"


def test_models_know_no_sensor() -> None:
    sensors = {path.stem for path in (ROOT / "catalog" / "data").glob("*.csv") if not path.stem.endswith("_srf")}
    assert "enmap" in sensors
    for path in (ROOT / "models").rglob("*.py"):
        named = sensors & set(strings(path.read_text()))
        assert not named, f"{name_of(path)} names {sorted(named)}; what a network accepts belongs in its card"


def test_imports_are_seen_nested_and_dotted() -> None:
    source = "import os.path\nfrom torch.nn import functional\ndef f():\n    import ray\n"
    assert imports(source) == {"os.path", "torch.nn.functional", "ray"}
    assert used(imports(source), {"torch", "os", "or"}) == {"torch", "os"}
    with pytest.raises(AssertionError, match="line 1: relative import"):
        imports("from . import x")
