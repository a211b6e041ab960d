"""What the scenes of an ingest job are taken for, before anything is written."""

from __future__ import annotations

from collections.abc import Iterator

from hypermend.catalog.sensor_tables import tables_of
from hypermend.catalog.stac.discover import Skipped
from hypermend.catalog.storage.archive_store import ArchiveStore
from hypermend.pipeline.config import IngestJob
from hypermend.pipeline.ingest import find_scenes
from hypermend.pipeline.inspect.driver import scene_facts
from hypermend.pipeline.inspect.facts import SceneFacts


def dry_run(job: IngestJob) -> Iterator[SceneFacts]:
    """What each scene of a job is taken for.

    Raises:
        ArchiveError: the archive or the STAC source cannot be read at all.
    """
    tables = tables_of(ArchiveStore(job.archive), job.sensors)
    for found in find_scenes(job):
        if isinstance(found, Skipped):
            yield SceneFacts(id=found.id, refusal=found.reason)
        else:
            scene = job.overrides.apply(found)
            yield scene_facts(scene, tables, bands=job.bands, gsd_m=job.gsd_m, sign=job.sign)
