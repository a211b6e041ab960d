"""Choose the engine of a job: Ray, or one process where the job is small and no GPU waits for it."""

from __future__ import annotations

from pathlib import Path

from hypermend.pipeline.config import BadJob, IngestJob, RestoreJob
from hypermend.pipeline.engine.child_process import in_child
from hypermend.pipeline.runs.run import Engine

SMALL_SAMPLES = 2**26
"""Pixels times bands of a job that one process ends before Ray has started and its workers share the work: a scene of
512 x 512 pixels and 256 bands."""
_GPU = Path("/dev/nvidiactl")


def choose_engine(job: IngestJob | RestoreJob, samples: int | None) -> Engine:
    """The engine for a job.

    Args:
        samples: pixels times bands of all its scenes; None where they are not known, or too many to be counted.

    Raises:
        BadJob: ``engine = "process"`` beside what only Ray has.
    """
    if job.engine == "process":
        if job.ray_address is not None or (job.workers or 1) > 1:
            raise BadJob("--engine process is one process on this machine; leave out --address and --workers")
        return in_child
    asked = job.engine == "ray" or job.ray_address is not None or job.workers is not None or job.max_gpus is not None
    if not asked and samples is not None and samples <= SMALL_SAMPLES and not _GPU.exists():
        return in_child
    from hypermend.pipeline.engine.ray_actors import on_ray

    return on_ray
