"""One bad item, card, mark, plan or log costs itself alone, and no text steers a terminal (G3 of docs/faults.md)."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

import hypermend
from hypermend.catalog.documents import MAX_NESTED, check_storable, parse_json, visible
from hypermend.catalog.keys import cube_key, item_key
from hypermend.catalog.scene import Scene
from hypermend.catalog.stac.discover import Skipped, discover
from hypermend.catalog.stac.item import to_item
from hypermend.catalog.storage.archive_store import to_json
from hypermend.pipeline.cli.main import app
from hypermend.pipeline.config import IngestJob
from hypermend.pipeline.engine.serial import serial
from hypermend.pipeline.ingest import ingest
from hypermend.pipeline.maintenance.prune import prune
from hypermend.pipeline.maintenance.verify import verify
from hypermend.pipeline.terminal import Terminal, _Visible
from hypermend.pipeline.terminal import to_json as shown_json
from tests.faults import make_ingested, restore_here
from tests.small_cubes import make_scene

pytestmark = pytest.mark.fault

GOOD = "enmap_synthetic-20220724T104526"
DEEP = "[" * 100_000 + "]" * 100_000
NESTED = '{"a":' * 900 + "1" + "}" * 900
NO_DOCUMENTS = [
    "",
    "{",
    "5",
    "null",
    "[]",
    "[5]",
    '{"a": 1e999}',
    '"text"',
    DEEP,
    NESTED,
    '{"x": "\\ud800"}',
    "\x00\xff",
]
READ_ONLY = (
    ("query",), ("query", "--json"), ("query", "--stage", "source"), ("failures",), ("failures", "--all"),
    ("retry", "--dry-run"), ("verify",), ("prune", "--dry-run", "--older-than", "0"), ("plan", "--task", "denoise"),
    ("models",), ("models", "--json"), ("genotypes",), ("sensors",), ("index",),
)  # fmt: skip
"""Every verb that reads an archive and needs neither Ray nor a network."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive with a scene, its source cube and its restored cube, the log of a run, and a copy of a model."""
    folder = tmp_path_factory.mktemp("bad-documents")
    archive = make_ingested(folder)
    assert restore_here(str(archive)).exit_code == 0
    return archive


@pytest.fixture
def archive(whole: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole, tmp_path / "archive")


def run(archive: Path, *words: str) -> str:
    """What a verb prints and logs; a verb that ends in another error than ours fails the test."""
    verb, *rest = words
    result = CliRunner().invoke(app, [verb, "--archive", str(archive), *rest])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise AssertionError(f"{words}: {result.exception!r}") from result.exception
    assert result.exit_code in (0, 1), (words, result.output)
    return result.output


def scene_of(archive: Path, stage: str) -> Scene:
    (item,) = hypermend.open(archive).search(stage=stage)
    return item.scene


def every_verb(archive: Path, caplog: pytest.LogCaptureFixture, named: list[str]) -> None:
    """All verbs go on with the good scene, and together they name the bad documents."""
    said = ""
    for words in READ_ONLY:
        caplog.clear()
        output = run(archive, *words)
        said += output + caplog.text
        if words[0] in ("query", "plan"):
            assert GOOD[:20] in output, words  # a table cuts the rest
    assert [name for name in named if name not in said] == []


def test_g3_items_that_are_none(archive: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = (archive / item_key(scene_of(archive, "source"))).parent
    for number, text in enumerate(NO_DOCUMENTS):
        (folder / f"bad-{number}-.json").write_text(text, encoding="utf-8")
    shutil.rmtree(archive / "index")
    every_verb(archive, caplog, [f"bad-{number}-.json" for number in range(len(NO_DOCUMENTS))])


def with_property(name: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda item: item["properties"].__setitem__(name, value)


ODD_ITEMS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "no cube": lambda item: item["properties"].pop("hypermend:cube"),
    "a cube elsewhere": with_property("hypermend:cube", "../../x"),
    "a cube of another stage": with_property("hypermend:cube", "models/a/b.zarr"),
    "no ingest id": lambda item: item["properties"].pop("hypermend:ingest"),
    "an odd guide": with_property("hypermend:guide", 5),
    "a guide elsewhere": with_property("hypermend:guide", "../../etc/passwd"),
    "odd wavelengths": with_property("hypermend:wavelength_nm", {"a": []}),
    "a stage that is none": with_property("hypermend:stage", ["source"]),
    "an odd sensor": with_property("hypermend:sensor", {"a": 1}),
    "a time out of range": with_property("datetime", "0001-01-01T00:00:00+14:00"),
    "a time that is none": with_property("datetime", [1]),
    "an odd box": lambda item: item.update(bbox=["a", None, {}, 1]),
    "odd links": lambda item: item.update(links=5, assets=7),
    "nested": with_property("x", json.loads(NESTED)),
    "markup": lambda item: item.update(id="x[/b][red]"),
    "a guide that is gone": with_property("hypermend:guide", "items/gone.json"),
    "escapes": lambda item: item.update(id="\x1b[2J\x1b]0;owned\x07"),
    "right to left": lambda item: item.update(id="a\u202eb", collection="\u2066c"),
}


VALID = ("markup", "a guide that is gone")


def test_g3_items_with_odd_fields(archive: Path, caplog: pytest.LogCaptureFixture) -> None:
    """All verbs go on with the good items; all others are named, but the one whose id only looks like markup."""
    key = item_key(scene_of(archive, "source"))
    good = json.loads((archive / key).read_text())
    for name, spoil in ODD_ITEMS.items():
        item = json.loads(json.dumps(good)) | {"id": f"bad {name}"}
        spoil(item)
        (archive / key).with_name(f"bad {name}.json").write_text(json.dumps(item))
    shutil.rmtree(archive / "index")
    every_verb(archive, caplog, [f"bad {name}" for name in ODD_ITEMS if name not in VALID])
    output = run(archive, "query")
    assert "x[/b][red]" in output and "\x1b" not in output + caplog.text


@pytest.mark.parametrize("updated", [None, "yesterday", 5, "0001-01-01T00:00:00+14:00"])
def test_g3_prune_leaves_what_it_cannot_date_and_says_so(archive: Path, updated: Any) -> None:
    assert ingest(IngestJob(archive=str(archive), tile_px=16), engine=serial).wait().exit_code == 0
    file = archive / item_key(scene_of(archive, "source"))
    item = json.loads(file.read_text())
    item["properties"].pop("updated") if updated is None else item["properties"].update(updated=updated)
    file.write_text(json.dumps(item))
    report = prune(str(archive), older_than_hours=0)
    assert report.removed == () and ["does not say when" in line for line in report.refused] == [True]
    run(archive, "failures")


def test_g3_prune_leaves_a_scene_one_of_whose_items_cannot_be_read(archive: Path) -> None:
    """The other collection's item names the older cube, as far as anybody knows."""
    old = scene_of(archive, "source")
    assert ingest(IngestJob(archive=str(archive), tile_px=16), engine=serial).wait().exit_code == 0
    shutil.copytree(archive / "items" / "enmap-source", archive / "items" / "other-source")
    (bad,) = (archive / "items" / "other-source").glob("*/[!c]*.json")
    bad.write_text("{")
    (archive / cube_key(scene_of(archive, "restored"))).with_suffix(".plan.json").unlink()
    report = prune(str(archive), older_than_hours=0)
    assert report.removed == () and "other-source" in report.refused[0]
    bad.unlink()
    assert [one.cube for one in prune(str(archive), older_than_hours=0).removed] == [cube_key(old)]


CARDS: list[Any] = [
    {"name": "evil", "architecture": "stas", "halo": "x"}, {"name": "evil", "architecture": "stas", "scale": None},
    {"name": "evil", "architecture": "stas", "spectrum": 5}, {"name": "evil", "architecture": ["stas"]},
    {"name": "evil", "architecture": "stas", "spectrum": {"bands": "a", "low_nm": [], "high_nm": None}},
    {"name": "evil", "architecture": "stas", "spectrum": {"bands": 0, "low_nm": 1, "high_nm": 2}},
    {"name": "evil", "architecture": "stas", "accepts_range_nm": 5}, {"name": "\x1b[2J", "architecture": "[/b]"},
    {"name": "evil", "architecture": "stas", "accepts_spacing_nm": ["a", "b"]}, 5, [5], None,
    {"name": "evil", "architecture": "stas", "quantity": 7}, {"name": "evil", "architecture": "stas", "trained_on": 1},
]  # fmt: skip


def test_g3_cards_that_are_none(archive: Path) -> None:
    cards = [*map(json.dumps, CARDS), DEEP, NESTED, "{"]
    for number, card in enumerate(cards):
        (archive / "models" / f"evil-{number}-").mkdir(parents=True)
        (archive / "models" / f"evil-{number}-" / "card.json").write_text(card)
    output = run(archive, "models")
    assert "stas-subspace" in output and "\x1b" not in output
    assert [n for n in range(len(cards)) if f"evil-{n}-" not in output] == []
    assert GOOD[:20] in run(archive, "plan", "--task", "denoise")


@pytest.mark.parametrize(
    "metrics", [{"psnr_db": {"a": "b"}}, {"scenes": {"a": 5}}, {"scenes": {"a": {"fusion_psnr_db": []}}}]
)
def test_g3_odd_metrics_of_a_card_are_no_figures(archive: Path, metrics: Any) -> None:
    (archive / "models" / "odd").mkdir(parents=True)
    card = {"name": "odd", "architecture": "identity", "metrics": metrics, "recipe": {"[red]": "\x1b[31m"}}
    (archive / "models" / "odd" / "card.json").write_text(json.dumps(card))
    assert "odd" in run(archive, "models")
    shown = CliRunner().invoke(app, ["models", "show", "odd", "--archive", str(archive)]).output
    assert "[red]" in shown and "\x1b" not in shown


@pytest.mark.parametrize("suffix", [".plan.json", ".zarr.done.json", ".zarr/zarr.json", ".zarr/reflectance/zarr.json"])
def test_g3_documents_of_a_cube_that_are_none(archive: Path, suffix: str) -> None:
    stem = cube_key(scene_of(archive, "restored")).removesuffix(".zarr")
    group = archive / f"{stem}.zarr" / "zarr.json"
    sound, sound_group = (archive / f"{stem}{suffix}").read_bytes(), group.read_bytes()
    for text in NO_DOCUMENTS:
        (archive / f"{stem}{suffix}").write_text(text, encoding="utf-8")
        report = verify(str(archive))
        assert report.cubes == 2 and stem in str(report.torn + report.unread), text
        prune(str(archive), older_than_hours=0)
        group.write_bytes(sound_group)  # `verify` sets it aside, whichever of the metadata is damaged
        (archive / f"{stem}{suffix}").write_bytes(sound)
        shutil.rmtree(archive / "set-aside", ignore_errors=True)
    assert (verify(str(archive)).torn, verify(str(archive)).unread) == ((), ())
    assert GOOD[:20] in run(archive, "plan", "--task", "denoise")


MARKS: list[Any] = [
    {"index": [0, 0], "shards": [{"key": "../../x", "size": 1, "crc32": "0"}]}, {"index": [9, 9], "shards": []},
    {"index": [0, 0], "shards": 5}, {"index": [0, 0], "shards": [], "extra": 5},
]  # fmt: skip


def test_g3_marks_that_are_none(archive: Path) -> None:
    cube = cube_key(scene_of(archive, "source"))
    for mark in [*map(json.dumps, MARKS), DEEP]:
        (archive / f"{cube}.done").mkdir(exist_ok=True)
        (archive / f"{cube}.done" / "0-0.json").write_text(mark)
        assert [(part.cube, part.index) for part in verify(str(archive)).torn] == [(cube, (0, 0))], mark
        assert ingest(IngestJob(archive=str(archive), tile_px=32), engine=serial).wait().exit_code == 0
        assert verify(str(archive)).torn == ()


FAR = {"run": "a", "time": "0001-01-01T00:00:00+14:00", "collection": None, "scene": "s", "step": "x", "message": "m"}
LINES = ("5", "[]", "{}", DEEP, '{"run": 5, "time": "x"}', json.dumps(FAR))


def test_g3_lines_of_a_log_that_are_none(archive: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = archive / "runs" / "20260101T000000Z-abcdef-restore" / "failures" / "h-1"
    folder.mkdir(parents=True)
    good = {
        "run": folder.parents[1].name,
        "time": "2026-01-01T00:00:00+00:00",
        "collection": "c\x1b[2J",
        "scene": "s[/b]",
    }
    good |= {"step": "tile", "message": "first\nfailed good\x1b[31m"}
    (folder / "0.jsonl").write_text("\n".join([*LINES, json.dumps(good)]))
    output = run(archive, "failures")
    assert len(output.splitlines()) == 1 and "s[/b]" in output and "\x1b" not in output
    assert caplog.text.count("cannot be read") == len(LINES)
    for text in NO_DOCUMENTS:
        (folder.parents[1] / "job.json").write_text(text, encoding="utf-8")
        result = CliRunner().invoke(app, ["retry", "--archive", str(archive), "--dry-run"])
        assert isinstance(result.exception, SystemExit) and "job.json" in result.output, text


# --------------------------------------------------------------------------------------------------- STAC from outside


def test_g3_a_bad_item_of_a_catalog_costs_itself(tmp_path: Path) -> None:
    good = to_item(make_scene("good"))
    bad = [5, None, [], {}, {"type": "Feature"}, {**good, "id": "\x1b[2J"}, {**good, "id": "x" * 5000},
           {**good, "id": "deep", "properties": {**good["properties"], "x": json.loads(NESTED)}},
           {**good, "id": "half", "properties": {**good["properties"], "x": "\ud800"}}]  # fmt: skip
    (tmp_path / "items.json").write_text(json.dumps([*bad, good]))
    (tmp_path / "deep.json").write_text(DEEP)
    (tmp_path / "lists.json").write_text("[" * 500 + "]" * 500)
    links = [{"rel": "item", "href": f"./{name}.json"} for name in ("deep", "lists", "items")]
    links += [{"rel": "item", "href": 5}, 7]  # type: ignore[list-item,dict-item]
    (tmp_path / "catalog.json").write_text(json.dumps({"type": "Catalog", "stac_version": "1.0.0", "links": links}))
    found = list(discover(tmp_path / "catalog.json"))
    assert [scene.id for scene in found if isinstance(scene, Scene)] == ["good"]
    assert len([one for one in found if isinstance(one, Skipped)]) >= len(bad) + 1
    assert not [one for one in found if isinstance(one, Skipped) and "\x1b" in one.id + one.reason]


@pytest.mark.parametrize("value", [5, "../../etc/passwd", {"a": 1}, "catalog.json", [None]])
def test_g3_odd_properties_of_a_remote_item_do_not_end_its_run(whole: Path, tmp_path: Path, value: Any) -> None:
    raw = to_item(scene_of(whole, "raw"))
    names = ("guide", "derived_from", "cube", "wavelength_nm", "notes", "stage", "quantity", "scale_factor", "crs")
    items = []
    for id in ("bad", "good"):
        odd = {f"hypermend:{name}": value for name in names} if id == "bad" else {}
        items.append({**raw, "id": id, "properties": {**raw["properties"], **odd}})
    (tmp_path / "items.json").write_bytes(to_json(items))
    job = IngestJob(archive=str(tmp_path / "archive"), stac=str(tmp_path / "items.json"), tile_px=48)
    report = ingest(job, engine=serial).wait()
    assert {s.scene: s.status for s in report.scenes}["good"] == "published"
    assert len(report.scenes) == 2


# ----------------------------------------------------------------------------------------------------------- terminal


@given(st.text(st.characters(codec=None)))
def test_g3_nothing_that_a_terminal_obeys_is_printed(text: str) -> None:
    shown = visible(text)
    assert len(shown) == len(text)
    assert not [c for c in shown if ord(c) < 32 or 127 <= ord(c) < 160 or c in "\u202e\u2066\u200f\u2028"]
    assert visible(shown) == shown
    if "\ud800" <= max(text, default="") <= "\udfff":
        return
    written = shown_json({"x": text})
    assert json.loads(written) == {"x": text} and visible(written.replace("\n", "")) == written.replace("\n", "")


class Sink:
    """A stream that keeps what is written."""

    encoding = "ascii"

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> int:
        self.text += text
        return len(text)

    def flush(self) -> None:
        pass

    def isatty(self) -> bool:
        return False


def test_g3_a_stream_shows_what_it_cannot_encode() -> None:
    sink = Sink()
    print("a\x1b[2J\ud800é", file=_Visible(sink))  # type: ignore[arg-type]
    assert sink.text == "a\\u241b[2J\\ufffd\\xe9\n"


def test_g3_a_table_shows_markup_and_escapes_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table("a")
    table.add_row("[/b]x[red]\x1b[31m  ")
    table.add_row(Text("\x1b[2J:smile:"))
    console = Terminal()
    console.print(table)
    console.print("[/]", highlight=False)
    printed = capsys.readouterr().out
    assert "[/b]x[red]␛[31m" in printed and "␛[2J:smile:" in printed and "\x1b" not in printed and "[/]" in printed


@pytest.mark.parametrize("depth", [MAX_NESTED - 1, MAX_NESTED + 1])
def test_g3_only_values_that_can_be_written_again_are_stored(depth: int) -> None:
    value = json.loads("[" * depth + "]" * depth)
    if depth > MAX_NESTED:
        with pytest.raises(ValueError, match="nested deeper"):
            check_storable(value)
    else:
        check_storable(value)
    with pytest.raises(ValueError, match="too deeply"):
        parse_json(DEEP)
