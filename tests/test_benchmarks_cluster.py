"""The dispatcher without pixels, small: the soak of F24 and what the benchmark prints."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import cluster
from hypermend.catalog.storage.archive_store import ArchiveStore


@pytest.mark.long
@pytest.mark.fault
def test_f24_many_small_tiles_with_random_faults_and_five_kills(ray_session: None, tmp_path: Path) -> None:
    """2,000 tiles; `python -m benchmarks.cluster soak --tiles 50000` is the long one."""
    figures = cluster.soak(str(tmp_path), 2_000)
    assert (figures["tiles"], figures["marked"], figures["exit_code"]) == (2_000, 2_000, 0)
    assert figures["faults"] > 5 + 5  # 1 % in passing, and five workers killed
    assert figures["driver_growth_mib"] < 64
    parts = [entry for entry in ArchiveStore(tmp_path).list("runs") if "/receipts/" in entry.key]
    assert len(parts) >= 3  # the log is written as it grows, not at the end


def test_a_resumed_scene_begins_with_what_is_missing(ray_session: None, tmp_path: Path) -> None:
    assert cluster.resume(str(tmp_path), 500)["first_tile_s"] < 60


@pytest.mark.long
def test_a_job_over_many_scenes_opens_the_first_before_it_has_seen_the_last(ray_session: None, tmp_path: Path) -> None:
    figures = cluster.many_scenes(str(tmp_path), 40)
    assert figures["scenes"] == 40
    assert figures["first_tile_s"] >= figures["opened_s"] >= figures["search_s"]
