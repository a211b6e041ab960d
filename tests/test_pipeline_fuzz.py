"""Mutated items, cards, marks and plans of an archive end in a right result or in an error of ours, and harm no other.

A hundred run in `make test`, two thousand of each in `make test-long`, of which those that differ are run; the seed of
a failing one is in its message.
"""

from __future__ import annotations

import hashlib
import json
import logging
import random
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hypermend
from hypermend.catalog.errors import ArchiveError
from hypermend.catalog.keys import cube_key
from hypermend.catalog.storage.archive_store import ArchiveStore
from hypermend.models.card import BadCard
from hypermend.models.checkpoint import CARD, builtin
from hypermend.pipeline.config import IngestJob, RestoreJob
from hypermend.pipeline.engine.serial import serial
from hypermend.pipeline.ingest import catalog_folder, ingest
from hypermend.pipeline.maintenance.prune import prune
from hypermend.pipeline.maintenance.verify import verify
from hypermend.pipeline.registry.models import archived, model_card
from hypermend.pipeline.restore.driver import restore
from tests.synthetic import enmap_folder
from tests.test_catalog_fuzz import SLOWEST_S, mutated, spoilt

pytestmark = pytest.mark.fault
SHORT, LONG = {"item": 12, "card": 64, "mark": 12, "plan": 12}, 2000
KINDS = {
    "item": "items/enmap-*/*/*T104526.json",
    "card": "models/odd/card.json",
    "mark": "restored/*/*.zarr.done.json",
    "plan": "restored/*/*.plan.json",
}
READERS = {
    "item": ("verify", "prune", "repair"),
    "card": ("models", "card"),
    "mark": ("verify", "restore", "repair"),
    "plan": ("prune", "verify", "restore"),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive of one scene of four tiles, restored, with a copy of a model."""
    folder = tmp_path_factory.mktemp("fuzz")
    enmap_folder(folder / "files", height=32, width=32, tile_px=16)
    archive = folder / "archive"
    catalog_folder(str(archive), folder / "files", sensor="enmap")
    assert ingest(IngestJob(archive=str(archive), tile_px=16), engine=serial).wait().exit_code == 0
    assert run_restore(archive) == 0
    shutil.copytree(builtin("identity"), archive / "models" / "odd")
    assert (archive / "models" / "odd" / CARD).exists()
    return archive


def run_restore(archive: Path) -> int:
    job = RestoreJob(archive=str(archive), model="identity", tile_px=16)
    return restore(job, engine=serial).wait().exit_code


Pixels = np.ndarray[Any, Any]


def values(archive: Path, known: dict[str, Pixels]) -> Iterator[tuple[str, Pixels]]:
    """Pixels of each published cube; one that cannot be opened is none.

    Args:
        known: pixels by the hash of their cube's objects, filled here; a cube of the same bytes is not read again.
    """
    for item in hypermend.open(archive).search():
        if item.scene.stage != "raw":
            objects = sorted(path for path in (archive / cube_key(item.scene)).rglob("*") if path.is_file())
            parts = (str(path.relative_to(archive)).encode() + path.read_bytes() for path in objects)
            digest = hashlib.sha256(b"".join(parts)).hexdigest()
            try:
                if digest not in known:
                    known[digest] = item.dataset()["reflectance"].values
            except (ArchiveError, BadCard):
                continue
            yield item.scene.collection, known[digest]


def look(archive: Path, kind: str) -> None:
    """What reads a document of this kind; each may end in an error of ours."""
    sound: list[bool] = []

    def check() -> None:
        report = verify(str(archive))
        sound.append(not report.torn and not report.unread)

    steps: dict[str, Callable[[], Any]] = {
        "verify": check,
        "prune": lambda: prune(str(archive), older_than_hours=0),
        "models": lambda: list(archived(ArchiveStore(archive))),
        "card": lambda: model_card(ArchiveStore(archive), "odd"),
        "restore": lambda: run_restore(archive),
        "repair": lambda: None if all(sound) else verify(str(archive), repair=True),
    }
    for name in READERS[kind]:
        try:
            steps[name]()
        except (ArchiveError, BadCard):
            continue


def others(archive: Path, victim: Path) -> dict[str, bytes]:
    """The deliveries, and every pixel and mark of the source cube: nothing may change them."""
    kept = [*archive.parent.glob("files/*"), *archive.glob("source/**/c/**/*"), *archive.glob("source/*/*.json")]
    return {str(path): path.read_bytes() for path in kept if path.is_file() and path != victim}


def mutation(whole: Path, kind: str, seed: int) -> tuple[Path, str]:
    """A document of the archive, relative to it, and its new text."""
    chance = random.Random(f"{kind} {seed}")
    document = chance.choice(sorted(whole.glob(KINDS[kind])))
    text = document.read_text()
    new = json.dumps(spoilt(json.loads(text), chance)) if seed % 3 else mutated(text, chance)
    return document.relative_to(whole), new


def check(whole: Path, folder: Path, kind: str, document: Path, text: str, known: dict[str, Pixels]) -> None:
    """Put a text in place of a document in a copy of the archive, made in `folder`, and use it.

    Args:
        known: as of `values`; has the pixels of the undisturbed archive.
    """
    truth = next(iter(known.values()))
    archive = Path(shutil.copytree(whole, folder / "archive"))
    victim = archive / document
    victim.write_text(text, encoding="utf-8", errors="replace")
    before, start = others(archive, victim), time.monotonic()
    look(archive, kind)
    for collection, pixels in values(archive, known) if kind != "card" else ():
        assert np.array_equal(pixels, truth, equal_nan=True), collection
    assert time.monotonic() - start < SLOWEST_S
    assert others(archive, victim) == before
    assert sorted(path.name for path in folder.iterdir()) == ["archive"]


@pytest.mark.parametrize(
    ("kind", "count"),
    [*SHORT.items(), *(pytest.param(kind, LONG, marks=pytest.mark.long) for kind in KINDS)],
)
def test_mutated_documents_of_an_archive(
    whole: Path, tmp_path: Path, kind: str, count: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    known: dict[str, Pixels] = {}
    assert len(list(values(whole, known))) == 2
    for (document, text), seed in {mutation(whole, kind, seed): seed for seed in range(count)}.items():
        folder = tmp_path / f"{seed}"
        folder.mkdir()
        try:
            check(whole, folder, kind, document, text, known)
        except Exception as e:
            raise AssertionError(f"{kind}, seed {seed}: {type(e).__name__}: {e}") from e
        shutil.rmtree(folder)
