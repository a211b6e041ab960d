"""The page of a run: what it tells is what the archive holds, nothing of it is obeyed, and a browser shows it."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import subprocess
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from PIL import Image
from typer.testing import CliRunner

import hypermend
from hypermend.catalog.cube.cube import Cube
from hypermend.catalog.cube.layout import create
from hypermend.catalog.cube.quicklook import write_quicklooks
from hypermend.catalog.errors import NotFound, Refused
from hypermend.catalog.keys import source_cube_key
from hypermend.catalog.stac.publish import put_item, source_item
from hypermend.catalog.storage.archive_store import ArchiveStore
from hypermend.pipeline.cli.main import app
from hypermend.pipeline.cli.run_job import run_job
from hypermend.pipeline.config import RestoreJob
from hypermend.pipeline.engine.serial import serial
from hypermend.pipeline.report.chart import noise_chart, tile_map, timeline
from hypermend.pipeline.report.page import report_page
from hypermend.pipeline.report.runs import find_run, list_runs, read_run
from hypermend.pipeline.report.scenes import scene_views
from hypermend.pipeline.report.spectra import Lattice
from hypermend.pipeline.restore.driver import restore
from hypermend.pipeline.runs.run_log import RunLog, SkippedScene
from tests.small_cubes import make_scene, write_tiles
from tests.test_models_denoise import SUBSPACE
from tests.test_pipeline_repair import put_stas
from tests.test_pipeline_restore_fuse import cube_spec

RUN = "20260102T030405Z-abcdef-restore"
BANDS, EDGE = 12, 48
HOSTILE = "\"><img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
PAGE_BYTES = 5_000_000


def put_scenes(archive: Path) -> None:
    """Two scenes of noise, the second under a name that attacks a page, and a small model."""
    archive.mkdir()
    root = ArchiveStore(archive)
    rng = np.random.default_rng(3)
    y, x = np.mgrid[0:EDGE, 0:EDGE] / 9
    materials = np.stack([np.sin(y) + 1.2, np.cos(1.3 * x) + 1.2, np.sin(x + 2 * y) + 1.2])
    clean = np.einsum("bk,kyx->byx", rng.random((BANDS, 3)), materials) * 1000
    flags = np.ones((EDGE, EDGE), np.uint8)
    flags[:5, :7] = 2
    for name in ("plain", HOSTILE):
        stored = (clean + rng.normal(0, 100, clean.shape)).astype(np.float32)
        stored[:, flags == 2] = -32768
        spec = cube_spec(stored.shape, px=30.0, guide=False, lab=True, wavelength_nm=np.linspace(430, 2400, BANDS))
        key = source_cube_key(name, "i")
        create(root, key, spec)
        write_tiles(Cube(root, key), stored, flags)
        pictures = write_quicklooks(Cube(root, key))
        assert pictures
        scene = make_scene(name, collection="hs", sensor=spec.sensor, grid=None)
        item = source_item(scene, spec, key=key, ingest_id="i", valid_fraction=1.0, quicklooks=pictures)
        put_item(root, item, run="r")
    torch.manual_seed(0)
    put_stas(root, "small", SUBSPACE)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An archive after one run of two scenes, and a third that was skipped for a reason that attacks."""
    folder = tmp_path_factory.mktemp("report") / "archive"
    put_scenes(folder)
    report = restore(RestoreJob(archive=str(folder), model="small"), engine=serial, run=RUN).wait()
    assert [s.status for s in report.scenes] == ["published", "published"]
    log = RunLog(ArchiveStore(folder), RUN)
    log.skipped(SkippedScene(scene="lost", collection="hs", reason=f"no file {HOSTILE}"))
    log.flush()
    return str(folder)


class Page(HTMLParser):
    """Elements of a page, and the texts of its scripts by id."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append((dict(attrs), ""))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] == "script" and not self.scripts[-1][1]:
            self.scripts[-1] = (self.scripts[-1][0], data)
        else:
            self.text += data


@pytest.fixture(scope="module")
def page(archive: str) -> str:
    return report_page(archive, find_run(archive, RUN))


def test_its_spectra_are_those_of_the_cubes(archive: str, page: str) -> None:
    data = [json.loads(text) for attrs, text in Page(page).scripts if attrs.get("type") == "application/json"]
    assert len(data) == 2
    views = {view.scene: view for view in scene_views(archive, find_run(archive, RUN))}
    for view, spectra in zip(views.values(), data, strict=True):
        root = ArchiveStore(archive)
        for side, key, packed in zip(("before", "after"), ("source", "cube"), spectra["values"], strict=True):
            assert spectra["sides"] == ["before", "after"], side
            cube = Cube(root, view.facts[key])
            stored, flags = cube.read(slice(0, EDGE), slice(0, EDGE))
            expected = stored[:, spectra["rows"]][:, :, spectra["columns"]] * 1e-4
            usable = flags[np.ix_(spectra["rows"], spectra["columns"])] & 1 != 0
            steps = np.frombuffer(base64.b64decode(packed), "<u2").reshape(*usable.shape, BANDS)
            assert (steps[~usable] == 65535).all() and not usable.all()
            got = spectra["low"] + steps / 65534 * (spectra["high"] - spectra["low"])
            step = (spectra["high"] - spectra["low"]) / 65534
            np.testing.assert_allclose(got[usable], np.moveaxis(expected, 0, -1)[usable], atol=step)
    assert data[0]["values"][0] != data[0]["values"][1]


def test_its_figures_counts_and_pictures_are_those_of_the_archive(archive: str, page: str) -> None:
    items = {item.scene.id: item for item in hypermend.open(archive).search(stage="restored")}
    parsed = Page(page)
    for item in items.values():
        figures = item.scene.properties["hypermend:figures"]
        assert f"{figures['angle_deg']:.2g}°" in parsed.text
    for expected in ("published", RUN, "2026-01-02 03:04:05Z", "small", "hypermend retry", "no file"):
        assert expected in parsed.text
    record = find_run(archive, RUN)
    assert (record.state, dict(record.counts), record.tiles) == ("done", {"published": 2}, 2)
    sources = [(attrs["class"], attrs["src"]) for tag, attrs in parsed.tags if tag == "img" and attrs.get("class")]
    assert [name for name, _ in sources] == ["before", "after", "removed"] * 2
    for name, url in sources:
        assert url is not None
        picture = Image.open(io.BytesIO(base64.b64decode(url.removeprefix("data:image/webp;base64,"))))
        assert picture.size == (EDGE, EDGE)
        pixels = np.asarray(picture)
        assert pixels[2, 2, 3] == 0 and pixels[20, 20, 3] == 255
        assert name != "removed" or pixels[8:].std() > 15  # noise
    assert sum(tag == "path" for tag, _ in parsed.tags) == 4  # noise before and after, of both scenes


def test_it_needs_no_network_and_is_small(page: str) -> None:
    parsed = Page(page)
    assert not [t for t in parsed.tags if t[0] in ("link", "iframe", "object", "embed", "base", "form")]
    links = [v for _, attrs in parsed.tags for name in ("src", "href", "srcset") if (v := attrs.get(name))]
    assert links and all(link.startswith(("#", "data:image/webp;base64,")) for link in links)
    assert len(page.encode()) < PAGE_BYTES


def test_g3_a_hostile_text_of_a_run_is_text_on_its_page(page: str) -> None:
    parsed = Page(page)
    assert HOSTILE in parsed.text  # as a title, and in a reason
    assert not [attrs for _, attrs in parsed.tags if any(name.startswith("on") or name == "style" for name in attrs)]
    assert sum(tag == "script" for tag, _ in parsed.tags) == 3  # two spectra, and the page's own
    assert not [attrs for tag, attrs in parsed.tags if tag == "img" and attrs.get("src") == "x"]


@pytest.mark.parametrize("figures", [5, {"angle_deg": "<b>", "repaired": [["<script>"]], "noise_before": 3}, {}])
def test_g3_odd_figures_of_an_item_cost_themselves_alone(archive: str, tmp_path: Path, figures: Any) -> None:
    copy = str(shutil.copytree(archive, tmp_path / "copy"))
    for path in Path(copy, "items").rglob("plain.json"):
        item = json.loads(path.read_text())
        if item["collection"] == "hs-denoise":
            item["properties"]["hypermend:figures"] = figures
            path.write_text(json.dumps(item))
    hypermend.open(copy).reindex()
    text = report_page(copy, find_run(copy, RUN))
    assert "<b>" not in text and '["<script>' not in text
    assert sum(tag == "article" for tag, _ in Page(text).tags) == 2


def test_a_lost_cube_costs_its_picture_alone(archive: str, tmp_path: Path) -> None:
    copy = str(shutil.copytree(archive, tmp_path / "copy"))
    (path,) = Path(copy, "restored", "plain").glob("*.zarr")
    shutil.rmtree(path)
    parsed = Page(report_page(copy, find_run(copy, RUN)))
    assert "hs/plain" in parsed.text and sum(tag == "article" for tag, _ in parsed.tags) == 1


def test_report_and_runs_are_verbs(archive: str, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    made = CliRunner().invoke(app, ["report", RUN[:10], "--archive", archive, "--out", str(out)])
    assert (made.exit_code, made.stdout.strip()) == (0, str(out)) and "</html>" in out.read_text()
    listed = CliRunner().invoke(app, ["runs", "--archive", archive])
    first, second = listed.stdout.splitlines()
    assert first == f"done        {RUN}" and second.startswith("            2 published; 2 tiles, ")
    told = json.loads(CliRunner().invoke(app, ["runs", "--archive", archive, "--json"]).stdout)["runs"]
    assert [(run["run"], run["state"], run["counts"]) for run in told] == [(RUN, "done", {"published": 2})]
    unknown = CliRunner().invoke(app, ["report", "1999", "--archive", archive])
    assert unknown.exit_code == 2 and "hypermend runs" in unknown.stderr


def test_restore_leaves_its_page_and_a_rerun_leaves_none(
    archive: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = str(shutil.copytree(archive, tmp_path / "copy"))
    shutil.rmtree(Path(copy) / "runs")
    job = RestoreJob(archive=copy, model="identity", scenes=("plain",))
    with pytest.raises(typer.Exit, match="0"):
        run_job(partial(restore, engine=serial), job, as_json=False, then=("query",))
    (path,) = Path(copy, "runs").glob("*/report.html")
    printed = capsys.readouterr()
    assert f"report: {path}" in printed.err and "plain: noise" in printed.out
    with pytest.raises(typer.Exit, match="0"):
        run_job(partial(restore, engine=serial), job, as_json=False, then=("query",))
    assert "report:" not in capsys.readouterr().err
    assert [*Path(copy, "runs").glob("*/report.html")] == [path]


def test_runs_that_were_killed_or_are_nights_are_told(tmp_path: Path) -> None:
    root = ArchiveStore(tmp_path)
    night = "20260103T000000Z-aaaaaa-nightly"
    for verb, status in (("ingest", "published"), ("123456-restore", "failed")):
        scene = {"scene": "a", "collection": "c", "status": status, "reason": "too dark"}
        root.put_json(f"runs/{night}-{verb}/report.json", {"exit_code": 0, "scenes": [scene], "tiles_written": 2})
    root.put_json(f"runs/{night}/night.json", {"exit_code": 1, "seconds": 4})
    killed = "20260104T000000Z-bbbbbb-restore"
    root.put(f"runs/{killed}/receipts/host-1/000000.jsonl", b'{"read_s": 1}\nnot JSON\n')
    root.put(f"runs/{killed}-2/report.json", b"[]")
    states = {run.run: (run.state, dict(run.counts), run.tiles) for run in list_runs(str(tmp_path))}
    assert states[killed] == ("unfinished", {}, 1)
    assert states[night] == ("failures", {"failed": 1}, 4)
    assert [*states] == [f"{killed}-2", killed, night]
    for found in list_runs(str(tmp_path)):
        assert "</html>" in report_page(str(tmp_path), found)
    assert find_run(str(tmp_path), "20260103").run == night
    with pytest.raises(Refused, match="2 runs begin"):
        find_run(str(tmp_path), "20260104T000000Z-bbb")
    with pytest.raises(NotFound, match="no run"):
        find_run(str(tmp_path), "1999")
    assert read_run(root, "no-such").state == "unfinished"


def test_a_lattice_fits_its_points_and_lies_inside() -> None:
    for height, width, points in ((48, 48, 10_000), (5, 900, 40), (3000, 2000, 5000), (1, 1, 9), (10, 10, 1)):
        lattice = Lattice.over(height, width, points=points)
        assert 1 <= len(lattice.rows) * len(lattice.columns) <= points
        assert max(len(lattice.rows), len(lattice.columns)) <= (16 if max(height, width) > 1024 else 32)
        for places, size in ((lattice.rows, height), (lattice.columns, width)):
            assert len(set(places)) == len(places) and 0 <= min(places) <= max(places) < size


def test_a_chart_breaks_its_lines_at_gaps_and_between_detectors() -> None:
    nm, detector = [400.0, 410, 420, 430, 900, 910, 920], ["a"] * 6 + ["b"]
    chart = noise_chart(nm, detector, [0.1] * 7, [0.01, None, 0.01, 0, 0.01, 0.01, 0.01])
    before, after = re.findall(r'<path class="\w+" d="([^"]*)"/>', chart)
    assert (before.count("M"), before.count("L")) == (3, 4)
    assert "nan" not in chart and after.count("M") == 3
    assert noise_chart(nm, detector, [None] * 7, [0.0] * 7) == ""
    assert noise_chart([500.0], ["a"], [0.1], [0.1]) == ""


def test_a_map_shades_each_tile_by_its_value_and_one_tile_has_none() -> None:
    drawn = tile_map({(0, 0): 2.0, (1, 2): 4.0}, (2, 3))
    cells = re.findall(r'x="(\d)" y="(\d)" width="1" height="1" fill-opacity="([\d.]+)"', drawn)
    assert cells == [("0", "0", "0.500"), ("2", "1", "1.000")] and 'viewBox="0 0 3 2"' in drawn
    assert tile_map({(0, 0): 2.0}, (1, 1)) == tile_map({}, (2, 3)) == ""


def test_a_timeline_has_a_row_for_each_task_that_ran_at_once_on_a_machine() -> None:
    tasks = [
        ("a", 10.0, (1.0, 8.0, 1.0)),
        ("a", 20.0, (1.0, 8.0, 1.0)),
        ("a", 12.0, (0.0, 9.0, 1.0)),
        ("b", 20.0, (0, 5, 0)),
    ]
    drawn = timeline(tasks)
    rows = re.findall(r'class="model" x="([\d.]+)" y="(\d+)" width="([\d.]+)"', drawn)
    assert rows == [("32.0", "0", "256.0"), ("64.0", "14", "288.0"), ("352.0", "0", "256.0"), ("480.0", "28", "160.0")]
    assert timeline(tasks[:1]) == ""


# ------------------------------------------------------------------------------------------------------- in a browser


@pytest.fixture(scope="module")
def chromium() -> str:
    found = next(
        (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), ""
    )
    if not found:
        pytest.skip("no Chromium on this machine; Debian: apt-get install chromium")
    return found


def shown(chromium: str, file: Path, *options: str) -> tuple[str, str]:
    """The page as a browser has it after its scripts, and the browser's log."""
    command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={file.parent / 'profile'}"]
    logged = ["--enable-logging=stderr", "--virtual-time-budget=2000", *options, "--dump-dom", file.as_uri()]
    answer = subprocess.run([*command, *logged], capture_output=True, text=True, timeout=120, check=True)
    return answer.stdout, answer.stderr


def test_a_browser_draws_the_spectra_and_blocks_nothing_of_it(chromium: str, page: str, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    file.write_text(page)
    dom, log = shown(chromium, file)
    drawn = re.findall(r'<svg viewBox="0 0 640 360".*?</svg>', dom, re.DOTALL)
    assert len(drawn) == 2
    for svg in drawn:
        assert [re.search(rf'class="{name}" d="M', svg) is None for name in ("before", "after", "removed")] == [
            False
        ] * 3
    assert dom.count('class="compare split"') == 2 and "of the pixel in row" in dom
    assert f"<title>Hypermend: restore {RUN}</title>" in dom
    assert "Content Security Policy" not in log and "Uncaught" not in log


CLICKS = """<script>
const shown = () => getComputedStyle(document.querySelector(".removed")).display;
const told = [shown()];
document.querySelector(".toggle input").click();
const compare = document.querySelector(".compare"), where = document.querySelector(".where");
told.push(shown(), where.textContent);
compare.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowUp" }));
told.push(where.textContent);
const frame = compare.getBoundingClientRect();
compare.dispatchEvent(new MouseEvent("click", { clientX: frame.right - 1, clientY: frame.bottom - 1 }));
told.push(where.textContent);
const slider = document.querySelector(".slider input");
slider.value = 20;
slider.dispatchEvent(new Event("input"));
told.push(compare.style.getPropertyValue("--cut"));
document.title = JSON.stringify(told);
</script></html>"""


def test_a_user_sees_what_was_removed_and_moves_the_point_by_keys_and_clicks(
    chromium: str, page: str, tmp_path: Path
) -> None:
    file = tmp_path / "page.html"
    file.write_text(re.sub(r"<meta http-equiv[^>]*>", "", page).replace("</html>", CLICKS))
    title = re.search(r"<title>(.*?)</title>", shown(chromium, file)[0])
    assert title is not None
    hidden, toggled, first, above, corner, cut = json.loads(title[1])
    assert (hidden, toggled, cut) == ("none", "block", "20%")
    places = [tuple(map(int, re.findall(r"\d+", text))) for text in (first, above, corner)]
    assert places[1][0] < places[0][0] and places[1][1] == places[0][1]
    assert places[2] == (EDGE - 1, EDGE - 1)


def test_g3_the_policy_runs_nothing_but_the_page_itself(chromium: str, page: str, tmp_path: Path) -> None:
    attack = "<script>document.title='owned'</script><img src='data:,' onerror=\"document.title='owned'\"></main>"
    file = tmp_path / "page.html"
    file.write_text(page.replace("</main>", attack))
    dom, log = shown(chromium, file)
    assert "document.title='owned'</script></main>" not in dom and "<title>owned" not in dom
    assert "Content Security Policy" in log
    file.write_text(re.sub(r"<meta http-equiv[^>]*>", "", page).replace("</main>", attack))
    assert "<title>owned" in shown(chromium, file)[0]  # the attack works where no policy forbids it
