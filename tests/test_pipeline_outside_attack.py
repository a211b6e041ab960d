"""Faults that an attacker found from outside: exports, pages of runs, retries, tables and leases (docs/faults.md)."""

from __future__ import annotations

import errno
import fcntl
import io
import json
import math
import os
import resource
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from PIL import Image
from typer.testing import CliRunner

import hypermend.pipeline.export.driver
from hypermend.catalog.errors import ArchiveError, BadSensor, Refused
from hypermend.catalog.sensor_csv import parse_sensor
from hypermend.catalog.storage.archive_store import ArchiveStore
from hypermend.catalog.storage.leases import Leases
from hypermend.pipeline import user_values
from hypermend.pipeline.cli.main import app
from hypermend.pipeline.export.driver import export
from hypermend.pipeline.maintenance.failures import failures, jobs_to_retry
from hypermend.pipeline.report.page import write_report
from hypermend.pipeline.report.runs import list_runs
from hypermend.pipeline.report.scenes import _picture, _view
from tests.test_pipeline_export import NAMES, make_archive

pytestmark = pytest.mark.fault
RUN = "20261129T080000Z-aaaaaa-restore"


@contextmanager
def room_of_files(room: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A process whose files hold so many bytes."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
@pytest.mark.parametrize("format", NAMES)
def test_g6_an_export_without_room_is_told_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: Any, share: float
) -> None:
    make_archive(tmp_path / "a")
    whole = tmp_path / f"whole{Path(NAMES[format]).suffix}"
    export(str(tmp_path / "a"), "S1", format=format, out=whole)
    left = {path.name for path in tmp_path.iterdir()}
    room = int(whole.stat().st_size * share)
    with room_of_files(room, monkeypatch), pytest.raises(ArchiveError, match=r"cannot be written|does not hold"):
        export(str(tmp_path / "a"), "S1", format=format, out=tmp_path / NAMES[format])
    assert {path.name for path in tmp_path.iterdir()} == left


def test_g1_an_export_replaces_neither_a_link_nor_a_file_made_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_archive(tmp_path / "a")
    (tmp_path / "out.tif").symlink_to(tmp_path / "nowhere")
    with pytest.raises(Refused, match="exists"):
        export(str(tmp_path / "a"), "S1", format="cog", out=tmp_path / "out.tif")
    late = tmp_path / "late.img"

    def write(*_: Any) -> None:
        late.write_text("mine")

    monkeypatch.setattr(hypermend.pipeline.export.driver, "check_written", write)
    with pytest.raises(Refused, match="was made while"):
        export(str(tmp_path / "a"), "S1", format="envi", out=late)
    assert late.read_text() == "mine"


def test_g2_no_text_of_a_delivery_is_a_field_of_an_envi_header(tmp_path: Path) -> None:
    evil = "x\nbyte order = 1\ndata ignore value = 7\nheader offset = 100"
    make_archive(tmp_path / "a", units=evil, sensor=evil)
    group = tmp_path / "a/source/S1/i.zarr/zarr.json"
    document = json.loads(group.read_text())
    spec = json.loads(document["attributes"]["hypermend:spec"])
    spec["band_name"] = ["a}\nbyte order = 1\nx = {", "b,c", *spec["band_name"][2:]]
    document["attributes"]["hypermend:spec"] = json.dumps(spec)
    group.write_text(json.dumps(document))
    for format, name in NAMES.items():
        export(str(tmp_path / "a"), "S1", format=format, out=tmp_path / name)  # type: ignore[arg-type]
    lines = (tmp_path / "out.hdr").read_text().splitlines()
    assert "byte order = 1" not in lines and sum("header offset" in line.split("=")[0] for line in lines) == 1
    with rasterio.open(tmp_path / "out.img") as envi, rasterio.open(tmp_path / "out.tif") as cog:
        np.testing.assert_array_equal(envi.read(), cog.read())


@pytest.mark.parametrize("out", ["/proc/none/x.tif", "\udcff.tif", "x" * 300 + ".tif"])
def test_g6_a_name_that_no_file_can_have_is_refused_in_a_line(tmp_path: Path, out: str) -> None:
    make_archive(tmp_path / "a")
    for words in (["export", "S1", "--format", "cog"], ["export", "S1", "--format", "envi", "--bands", "1" * 5000]):
        result = CliRunner().invoke(app, [*words, "--archive", str(tmp_path / "a"), "--out", str(tmp_path / out)])
        assert result.exit_code == 2 and isinstance(result.exception, SystemExit), result.exception


def test_g6_an_error_of_the_system_is_a_line() -> None:
    result = CliRunner().invoke(app, ["sensors", "--sensors", "x" * 5000])
    assert result.exit_code == 2 and isinstance(result.exception, SystemExit), result.exception
    assert "File name too long" in result.stderr


def put_run(root: ArchiveStore, run: str = RUN, **documents: Any) -> None:
    root.put_json("catalog.json", {})
    for name, value in documents.items():
        root.put(f"runs/{run}/{name}.json", value if isinstance(value, bytes) else json.dumps(value).encode())


SCENE = {"scene": "S", "collection": "c", "status": "published"}
GOOD = {"exit_code": 0, "seconds": 3.0, "tiles_written": 2, "scenes": [SCENE]}


@pytest.mark.parametrize(
    "odd",
    [
        {"seconds": math.inf}, {"seconds": 10**400}, {"tiles_written": math.nan}, {"exit_code": []},
        {"worker_s": 1e300},
        {"scenes": [{"scene": [], "collection": {}, "status": []}]},
        {"scenes": [SCENE | {"figures": {"changes": {"x": 1}}}]},
        {"scenes": [SCENE | {"figures": {"changes": {"noise_share_before": 10**400}}}]},
        {"notes": {str(i): "x" for i in range(100_000)}},
    ],
    ids=lambda odd: str(odd)[:40],
)  # fmt: skip
def test_g3_an_odd_report_of_a_run_costs_itself_alone(tmp_path: Path, odd: dict[str, Any]) -> None:
    root = ArchiveStore(tmp_path / "a")
    put_run(root, report=GOOD)
    put_run(root, "20261129T090000Z-aaaaab-ingest", report=GOOD | odd)
    put_run(root, "20261129T100000Z-aaaaac-nightly", night={"exit_code": {}})
    put_run(root, "20261129T100000Z-aaaaac-nightly-ingest", report=GOOD | odd)
    assert [run.counts for run in list_runs(root.url) if run.run == RUN] == [{"published": 1}]
    for verb in (["runs"], ["runs", "--json"]):
        result = CliRunner().invoke(app, [*verb, "--archive", root.url])
        assert result.exit_code == 0 and RUN in result.stdout and "Infinity" not in result.stdout, result.exception
    for run in ("20261129T09", "20261129T10"):
        assert Path(write_report(root.url, run)).stat().st_size < 200_000


@pytest.mark.parametrize("name", ["report.json", "job.json", "receipts/0.jsonl", "failures/0.jsonl"])
@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/etc/passwd")], ids=["FIFO", "link"])
def test_g3_a_document_of_a_run_that_is_no_file_costs_itself_alone(
    tmp_path: Path, name: str, make: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    root = ArchiveStore(tmp_path / "a")
    put_run(root, report=GOOD)
    bad = tmp_path / "a/runs/20261129T090000Z-aaaaab-ingest" / name
    bad.parent.mkdir(parents=True)
    make(bad)
    assert len(list(list_runs(root.url))) == 2 and failures(root.url) == []
    write_report(root.url, "20261129T09")


def test_g4_a_picture_that_unpacks_to_more_than_an_overview_is_not_shown(tmp_path: Path) -> None:
    root = ArchiveStore(tmp_path / "a")
    shown = []
    for edge in (512, 513):
        file = io.BytesIO()
        Image.new("RGB", (edge, 1)).save(file, "PNG")
        root.put("source/S/i.overview.png", file.getvalue())
        shown.append(_picture(root, "source/S/i.zarr") is not None)
    assert shown == [True, False]
    head = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head))
    root.put("source/S/i.overview.png", bomb + struct.pack(">I", 0) + b"IDAT")
    assert _picture(root, "source/S/i.zarr") is None


def test_g3_figures_are_shown_together_or_not_at_all() -> None:
    figures = dict.fromkeys(("noise_share_before", "noise_share_after", "change", "angle_deg"), 0.5)
    whole = figures | {"bands_losing_signal": 0}
    assert _view(SCENE | {"figures": {"changes": whole}}).changes == whole
    assert _view(SCENE | {"figures": {"changes": figures}}).changes == {}


def put_failure(root: ArchiveStore, run: str, job: dict[str, Any]) -> None:
    put_run(root, run, job=job)
    line = {"run": run, "time": "2026-11-29T08:00:00Z", "collection": "c", "scene": run[-14:], "step": "tile"}
    root.put(f"runs/{run}/failures/0.jsonl", json.dumps(line | {"message": "m"}).encode())


def test_g4_a_job_of_an_archive_chooses_neither_a_cluster_nor_a_file(tmp_path: Path) -> None:
    root = ArchiveStore(tmp_path / "a")
    evil = {"ray_address": "ray://attacker:10001", "archive": "/elsewhere"}
    put_failure(root, RUN, {"job": "RestoreJob", "task": "denoise"} | evil)
    file = tmp_path / "secret"
    file.write_text("450\n550\n")
    put_failure(root, "20261129T080000Z-aaaaab-ingest", {"job": "IngestJob", "wavelengths": str(file)} | evil)
    (job,) = jobs_to_retry(root.url, failures(root.url))
    assert job.ray_address is None and job.archive == root.url
    result = CliRunner().invoke(app, ["retry", "--dry-run", "--archive", root.url])
    assert result.exit_code == 0


def test_g3_a_job_of_another_version_does_not_stop_the_retry_of_others(tmp_path: Path) -> None:
    root = ArchiveStore(tmp_path / "a")
    put_failure(root, RUN, {"job": "RestoreJob", "key_of_a_newer_version": 1})
    put_failure(root, "20261129T080000Z-aaaaab-restore", {"job": "RestoreJob"})
    assert len(jobs_to_retry(root.url, failures(root.url))) == 1


@pytest.mark.parametrize("cell", ['"a\nb"', "a" * 200_000, "a\0", "\x1b[31m", '"a'], ids=lambda c: repr(c)[:12])
def test_g3_an_odd_cell_of_a_sensor_table_is_named_by_its_line(cell: str) -> None:
    head = "# quantity: reflectance\n# source: x\nband,wavelength_nm,fwhm_nm,detector,usable,gsd_m\n"
    with pytest.raises(BadSensor, match="line 4"):
        parse_sensor("x", f"{head}{cell},500,10,VNIR,true,30\n", where="x")


def test_g5_wavelengths_are_a_list_of_any_length_or_a_regular_file(tmp_path: Path) -> None:
    listed = ",".join(f"{400 + i}.25" for i in range(300))
    assert len(user_values.wavelengths(listed)[0]) == 300
    assert user_values.wavelengths("0.45, 0.55 um")[0] == (450.0, 550.0)
    os.mkfifo(tmp_path / "fifo.csv")
    for text in (str(tmp_path / "fifo.csv"), "400" + " " * 200_000 + "!"):  # quadratic would take minutes
        with pytest.raises(ValueError, match=r"no file|cannot be read"):
            user_values.wavelengths(text)


@pytest.mark.parametrize(
    "odd", [{"since": "yesterday"}, {"since": "2026-11-29T08:00:00"}, {"ttl_s": 1e300}, {"pid": []}]
)
def test_g5_a_lease_that_nobody_could_take_over_is_damaged(tmp_path: Path, odd: dict[str, Any]) -> None:
    root = ArchiveStore(tmp_path)
    claim = {
        "token": "t",
        "host": "h",
        "pid": 1,
        "process": "",
        "what": "w",
        "since": "2026-11-29T08:00:00Z",
        "ttl_s": 99,
    }
    root.put_json("leases/nightly/n.json", claim)
    leases = Leases(root, what="ours")
    assert leases.take("leases/nightly/n.json") is not None
    root.put_json("leases/nightly/n.json", claim | odd)
    assert leases.take("leases/nightly/n.json") is None
    leases.close()


KILLED = """
import os, sys
from pathlib import Path
from hypermend.pipeline.export.driver import export

archive, format, out, kill_at = sys.argv[1:]
make, made = os.link, []

def link(*args, **kwargs):
    if len(made) == int(kill_at):
        os.kill(os.getpid(), 9)
    made.append(make(*args, **kwargs))

os.link = link
export(archive, "S1", format=format, out=Path(out))
"""


@pytest.mark.parametrize("format", ["cog", "envi"])
def test_g1_the_same_export_ends_what_a_kill_began(tmp_path: Path, format: Any) -> None:
    """Killed after each file has its name, and while the files are made."""
    make_archive(tmp_path / "a")
    out = tmp_path / NAMES[format]
    export(str(tmp_path / "a"), "S1", format=format, out=out)
    whole = {path.name: path.read_bytes() for path in tmp_path.glob("out.*")}
    for kill_at in range(len(whole)):
        for name in whole:
            (tmp_path / name).unlink()
        killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "a"), format, str(out), str(kill_at)])
        assert killed.returncode == -9
        assert out.name not in {path.name for path in tmp_path.iterdir()}  # the image is whole or not there
        export(str(tmp_path / "a"), "S1", format=format, out=out)
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == whole
        assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["a"]


def test_g1_an_export_leaves_that_of_another_to_itself(tmp_path: Path) -> None:
    make_archive(tmp_path / "a")
    theirs = tmp_path / ".out.tif.export-12345678"
    theirs.mkdir()
    lock = os.open(theirs, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    link = tmp_path / ".out.tif.export-87654321"
    link.symlink_to(tmp_path / "a")
    export(str(tmp_path / "a"), "S1", format="cog", out=tmp_path / "out.tif")
    assert theirs.is_dir() and link.is_symlink() and (tmp_path / "a/catalog.json").is_file()
    os.close(lock)


def test_g6_an_export_to_a_disk_without_links_is_made_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def hardlink_to(self: Path, target: Path) -> None:
        raise OSError(errno.EOPNOTSUPP, "no links")

    monkeypatch.setattr(Path, "hardlink_to", hardlink_to)
    make_archive(tmp_path / "a")
    export(str(tmp_path / "a"), "S1", format="cog", out=tmp_path / "out.tif")
    assert rasterio.open(tmp_path / "out.tif").count == 6
