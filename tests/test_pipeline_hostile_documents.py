"""Jobs, models, records and objects of an archive that ask for the impossible: one line each, in bounded memory."""

from __future__ import annotations

import copy
import hashlib
import io
import json
import os
import resource
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from hypermend.catalog.errors import ArchiveError, BadSensor
from hypermend.catalog.sensor_tables import archive_tables
from hypermend.catalog.stac import index
from hypermend.catalog.storage.archive_store import ArchiveStore, NotJson, TooLarge
from hypermend.models.card import BadCard
from hypermend.models.checkpoint import BadCheckpoint, builtin, load, load_fusion
from hypermend.pipeline.cli.main import app
from hypermend.pipeline.config import BadJob, EvaluateJob, RestoreJob, load_job, parse
from hypermend.pipeline.engine.submit import make_package
from hypermend.pipeline.registry.genotypes import BadGenotype, StoredGenotype, stored_genotypes
from hypermend.pipeline.registry.spectrum import Spectrum
from hypermend.pipeline.search.trial import TrialRecord, put_record, read_record, record_key
from hypermend.pipeline.train.checkpoints import Saved, TrainingState, TrainingStore
from tests.test_pipeline_export import make_archive
from tests.test_pipeline_search import found

pytestmark = pytest.mark.fault
GIB = 2**30
MODELS = {"stas-subspace": load, "ssrnet-x2-small": load, "ual-fusion": load_fusion}
ODD = [10**20, 10**9, 4097, -1, 0, "x", None, 1.5, True, [], {}]


@contextmanager
def memory(more: int) -> Iterator[None]:
    """This process may take so many bytes more than it has."""
    now = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmData"))
    before = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (int(now.split()[1]) * 1024 + more, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def odd_model(folder: Path, name: str, change: Callable[[Any], object], weights: bytes | None = None) -> None:
    """Loading a shipped model whose card, or weights, were changed ends in one line, and neither hangs nor grows."""
    card = json.loads((builtin(name) / "card.json").read_text())
    folder.mkdir(exist_ok=True)
    data = (builtin(name) / "weights.safetensors").read_bytes() if weights is None else weights
    card["weights_sha256"] = hashlib.sha256(data).hexdigest()
    change(card)
    (folder / "weights.safetensors").write_bytes(data)
    (folder / "card.json").write_text(json.dumps(card))
    begin = time.monotonic()
    with memory(GIB), pytest.raises((BadCard, BadCheckpoint), match=name):
        MODELS[name](folder)
    assert time.monotonic() - begin < 20


SETTINGS = [
    *(("stas-subspace", key) for key in ("channels", "width", "genotype", "gate", "domain")),
    *(("ssrnet-x2-small", key) for key in ("scale", "filters", "modules")),
    *(("ual-fusion", key) for key in ("channels", "width", "depth", "stages")),
]


@pytest.mark.parametrize(("name", "key"), SETTINGS)
def test_g3_no_setting_of_a_card_makes_a_model_of_any_size(tmp_path: Path, name: str, key: str) -> None:
    for value in ODD:
        if (key, value) != ("width", None):  # that of the paper: other weights
            odd_model(tmp_path / "m", name, lambda card, value=value: card["config"].update({key: value}))  # type: ignore[misc]
    odd_model(tmp_path / "m", name, lambda card: card["config"].pop(key))


@pytest.mark.parametrize(
    "change",
    [{"ops": 5, "space": 1}, {"ops": ["x"] * 10, "space": 1}, {"ops": [[]] * 10, "space": 1}, {"ops": ["conv3"] * 10},
     {"ops": ["conv3"] * 10, "space": "x"}, {"ops": ["conv3"] * 10**6, "space": 1},
     {"ops": ["conv3"] * 10, "space": 1e400}],
    ids=lambda change: str(change)[:24],
)  # fmt: skip
def test_g3_a_genotype_that_is_none_is_an_error_of_its_card(tmp_path: Path, change: Any) -> None:
    odd_model(tmp_path / "m", "stas-subspace", lambda card: card["config"].update(genotype=change))


@pytest.mark.parametrize(
    "gate", [{"of_scene": "a", "of_noisiest": [], "of_band": None}, {"of_scene": 1}], ids=["values", "keys"]
)
def test_g3_a_gate_that_is_none_is_an_error_of_its_card(tmp_path: Path, gate: Any) -> None:
    odd_model(tmp_path / "m", "stas-subspace", lambda card: card["config"].update(gate=gate))


@pytest.mark.parametrize("key", ["scale", "halo", "guide_halo", "window_bands"])
def test_g3_a_card_asks_for_no_tile_of_any_size(tmp_path: Path, key: str) -> None:
    for value in (10**9, 10**30, -1):
        odd_model(tmp_path / "m", "stas-subspace", lambda card, value=value: card.update({key: value}))  # type: ignore[misc]


def test_g3_a_plan_with_an_odd_card_is_one_line(tmp_path: Path) -> None:
    make_archive(tmp_path / "a")
    for name, key in SETTINGS[:2]:
        for value in (*ODD, 10**400):
            card = json.loads((builtin(name) / "card.json").read_text())
            card["config"][key] = value
            ArchiveStore(tmp_path / "a").put_json("models/m/card.json", card)
            result = CliRunner().invoke(app, ["plan", "--model", "m", "--archive", str(tmp_path / "a")])
            assert result.exception is None or isinstance(result.exception, SystemExit), (key, value)


@pytest.mark.parametrize("spectrum", [{"bands": 31, "low_nm": 700, "high_nm": 400}, {"bands": 1e300}])
def test_g3_a_spectrum_of_a_card_that_is_none_is_an_error_of_the_card(tmp_path: Path, spectrum: Any) -> None:
    sound = {"bands": 31, "low_nm": 400, "high_nm": 700}
    odd_model(tmp_path / "m", "stas-subspace", lambda card: card.update(spectrum=sound | spectrum))


def tensors(header: Any, body: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


WEIGHTS = {
    "empty": b"",
    "a header of 2^60 bytes": struct.pack("<Q", 2**60),
    "deep": struct.pack("<Q", 200_000) + b"[" * 200_000,
    "negative": tensors({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, b"\0" * 4),
    "larger than the file": tensors({"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}),
    "no memory of 2^63": tensors({"a": {"dtype": "F32", "shape": [0, 2**63], "data_offsets": [0, 0]}}),
    "a type of four bits": tensors({"a": {"dtype": "F4", "shape": [8], "data_offsets": [0, 4]}}, b"\0" * 4),
    "other tensors": tensors({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, b"\0" * 4),
}


@pytest.mark.parametrize("weights", WEIGHTS)
def test_g3_weights_that_are_none_are_one_error(tmp_path: Path, weights: str) -> None:
    for name in MODELS:
        odd_model(tmp_path / "m", name, lambda card: None, WEIGHTS[weights])


@pytest.mark.parametrize(
    "text",
    ["x = " + "[" * 100_000, "x = " + "{a=" * 3000, "tile_px = " + "1" * 5000, "a." * 30_000 + "b = 1",
     "x = {" + "a." * 30_000 + "b = 1}", "#" * (2 << 20), "\udcff"],
    ids=lambda text: text[:12],
)  # fmt: skip
def test_g5_a_job_file_that_would_take_for_ever_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "job.toml"
    file.write_bytes(f'archive = "/a"\n{text}\n'.encode(errors="surrogateescape"))
    begin = time.monotonic()
    for read in (lambda: load_job(file, RestoreJob), lambda: make_package(file)):
        with memory(GIB), pytest.raises(BadJob, match=str(file)):
            read()
    assert time.monotonic() - begin < 5


def test_g5_a_job_file_is_a_regular_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", Path("/dev/zero"), tmp_path):
        for read in (lambda path=path: load_job(path, RestoreJob), lambda path=path: make_package(path)):  # type: ignore[misc]
            with pytest.raises(BadJob, match="is no file"):
                read()


def test_g6_numbers_of_a_job_are_within_what_is_computed_with() -> None:
    sigmas = [(EvaluateJob, {"sigma": (value,)}) for value in (10**400, -5)]
    for kind, odd in ((RestoreJob, {"memory_gib": 1e308}), *sigmas):
        with pytest.raises(BadJob, match="|".join(odd)):
            parse(kind, {"archive": "/a", "model": "identity", **odd}, where="here")  # type: ignore[type-var]


def sparse(path: Path, size: int = 20 * GIB) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.truncate(size)


def test_g4_no_object_of_an_archive_takes_more_memory_than_a_document(tmp_path: Path) -> None:
    root = ArchiveStore(tmp_path)
    sparse(tmp_path / "x.json")
    with memory(GIB):
        for read in (lambda: root.get("x.json"), lambda: root.get_versioned("x.json")):
            with pytest.raises(TooLarge, match=r"x\.json has 21474836480 bytes"):
                read()
        with pytest.raises(NotJson, match=r"x\.json has"):
            root.get_json("x.json")
        assert root.put_if_changed("x.json", b"{}")
    assert root.get("x.json") == b"{}" and root.get("x.json", most=2) == b"{}"


VERBS = [["query"], ["plan", "--model", "identity"], ["verify"], ["runs"], ["failures"], ["prune", "--dry-run"],
         ["models"], ["genotypes"], ["sensors"], ["index"]]  # fmt: skip


@pytest.mark.parametrize(
    "key",
    ["items/c/2022-07-24/x.json", "items/c-source/2022-07-24/catalog.json", "catalog.json", "index/c-source/x.parquet",
     "sensors/x.csv", "models/m/card.json", "genotypes/x.json", "runs/20261129T080000Z-aaaaaa-ingest/report.json",
     "runs/20261129T080000Z-aaaaaa-ingest/failures/0.jsonl", "source/S1/i.zarr.done.json",
     "source/S1/i.zarr/reflectance/c/0/0/0", "source/S1/i.zarr/zarr.json"],
)  # fmt: skip
def test_g3_an_object_of_any_size_costs_itself_alone(tmp_path: Path, key: str) -> None:
    make_archive(tmp_path / "a")
    sparse(tmp_path / "a" / key)
    for verb in VERBS:
        with memory(2 * GIB):
            result = CliRunner().invoke(app, [*verb, "--archive", str(tmp_path / "a")])
        assert result.exception is None or isinstance(result.exception, SystemExit), (verb, result.exception)
        if verb == ["query"]:
            assert "S1" in result.stdout


def part_of(rows: int, text: str) -> bytes:
    """A small file of that many rows, each with that text."""
    column = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), [text])
    names = [name for name in index._SCHEMA.names if name != "bbox"]
    table = pa.table(dict.fromkeys(names, column) | {"bbox": pa.nulls(rows, pa.list_(pa.float64()))})
    out = io.BytesIO()
    pq.write_table(table.select(index._SCHEMA.names), out, compression="zstd", store_schema=False)
    return out.getvalue()


@pytest.mark.parametrize(("rows", "text"), [(2_000_000, "x"), (10_000, "x" * 200_000)], ids=["rows", "texts"])
def test_g4_a_part_of_the_index_that_unpacks_to_more_than_an_index_is_not_used(
    tmp_path: Path, rows: int, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "PART_BYTES", 64 << 20, raising=False)
    make_archive(tmp_path / "a")
    root = ArchiveStore(tmp_path / "a")
    data = part_of(rows, text)
    assert len(data) < 5_000_000
    root.put("index/c-source/x.parquet", data)
    with memory(GIB):
        assert [scene.id for scene in index.search(root)] == ["S1"]


@pytest.mark.parametrize("name", ["x.csv", "x_srf.csv", "enmap.csv"])
def test_g3_a_table_of_an_archive_that_cannot_be_read_costs_its_sensor_alone(tmp_path: Path, name: str) -> None:
    make_archive(tmp_path / "a")
    root = ArchiveStore(tmp_path / "a")
    root.put(f"sensors/{name}", b"\xff\xfe\0")
    (tmp_path / "a/sensors/y.csv").symlink_to("/etc/passwd")
    assert archive_tables(root).sensor("enmap").bands == 224
    for verb in VERBS:
        result = CliRunner().invoke(app, [*verb, "--archive", root.url])
        assert result.exit_code == 0, (verb, result.output)
    for sensor in {"x.csv": ("x", "y")}.get(name, ("y",)):
        with pytest.raises(BadSensor, match=f"{sensor}.csv"):
            archive_tables(root).sensor(sensor)


SPECTRUM = Spectrum(bands=31, low_nm=400.0, high_nm=700.0)


def test_g3_an_odd_genotype_costs_itself_alone(tmp_path: Path) -> None:
    root = ArchiveStore(tmp_path)
    whole = found("x", SPECTRUM).to_dict()
    root.put_json("genotypes/x.json", whole)
    root.put_json("genotypes/copied.json", whole)
    paths = [
        ("id",),
        ("sensor",),
        ("genotype", "ops"),
        ("spectrum", "bands"),
        *(("figures", k) for k in whole["figures"]),
    ]
    for number, path in enumerate(paths):
        for value in (None, [], -1 if path[-1] == "bands" else {"a": []}):
            odd = copy.deepcopy(whole) | {"id": f"odd{number}"}
            (odd[path[0]] if len(path) > 1 else odd)[path[-1]] = value
            root.put_json(f"genotypes/odd{number}.json", odd)
            result = CliRunner().invoke(app, ["genotypes", "--archive", root.url])
            assert result.exit_code == 1 and isinstance(result.exception, SystemExit), (path, value)
            usable = [g for g in stored_genotypes(root) if isinstance(g, StoredGenotype)]
            assert [g.id for g in usable] == ["x"], (path, value)
    assert "copied.json" in "".join(str(g) for g in stored_genotypes(root) if isinstance(g, BadGenotype))


def test_g3_an_odd_record_of_a_trial_is_named(tmp_path: Path) -> None:
    root = ArchiveStore(tmp_path)
    line = {"epoch": 1, "train_loss": 1.0, "validation_loss": 1.0, "baseline_loss": 1.0, "seconds": 1.0}
    record = TrialRecord(
        number=0,
        seed=0,
        settings={"learning_rate": 1.0, "alpha_rate": 1.0},
        state="finished",
        history=(line,),
        genotype=found("x", SPECTRUM).genotype.to_dict(),
    )
    put_record(root, "s", record)
    assert read_record(root, "s", 0) == record
    for key in asdict(record):
        for value in (5.5, "x", [5], [{}], {"a": []}):
            if (key, value) not in (("reason", "x"), ("where", {"a": []})):
                root.put_json(record_key("s", 0), asdict(record) | {key: value})
                with pytest.raises(NotJson, match=r"000\.json"):
                    read_record(root, "s", 0)
    for odd in ({"number": 1}, {"history": []}, {"genotype": None}, {"key_of_a_newer_version": 1}):
        root.put_json(record_key("s", 0), asdict(record) | odd)
        with pytest.raises(NotJson, match=r"000\.json"):
            read_record(root, "s", 0)


def test_g3_odd_records_of_a_training_are_named_or_left_out(tmp_path: Path) -> None:
    store = TrainingStore(ArchiveStore(tmp_path), "training/t")
    whole = json.loads(json.dumps(asdict(TrainingState())))
    for key in whole:
        for value in (5.5, "x", [5], [{}], {"a": 5}):
            if (key, value) not in (("reason", "x"), ("psnr_db", 5.5)):
                store.root.put_json("training/t/record.json", whole | {key: value})
                with pytest.raises(NotJson, match=r"record\.json"):
                    store.read()
    for line in (b"5", b"[]", b"{}", b'{"step": "x"}', b"null", b"\xff"):
        store.root.put("training/t/metrics.jsonl", b'{"step": 1}\n' + line + b"\n")
        assert store.lines() == [{"step": 1}]
    store.root.put("training/t/x.safetensors", b"garbage")
    assert store.load(Saved(key="training/t/x.safetensors", sha256="", step=1, seconds=1.0)) is None
    with pytest.raises(ArchiveError):
        store.load(Saved(key="../../etc/passwd", sha256="", step=1, seconds=1.0))
