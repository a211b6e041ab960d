"""Speed of the training samples, and cost of joining workers: `python -m benchmarks.loader [--only NAME ...] [--cpu]`.

One JSON line for each measurement, with `ours`, `reference`, `ratio` and `target`; sides run in turn, medians count.

    samples  patches a second from Zarr cubes of an archive into a step that does nothing, against those that a step of
             the small SSRNet takes, both on one thread
    memory   how far a process grows over the samples of many steps, against few (bytes)
    workers  patches a second of two Ray Train workers with one thread each that share every step's gradients, against
             two bare processes that run the same step and share nothing
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import repeat
from pathlib import Path
from typing import Any

import torch

from benchmarks.cubes import make_source
from benchmarks.measure import Clock, line, rounded
from hypermend.catalog.storage.archive_store import ArchiveStore
from hypermend.models.fit import AllReduce, Batch, FitSettings, fit
from hypermend.pipeline.config import TrainJob
from hypermend.pipeline.train.make_plan import plan_training
from hypermend.pipeline.train.task_table import Training, build

NAMES = ("samples", "memory", "workers")
BANDS, EDGE_PX, SCENES = 31, 512, 4
WARM, STEPS = 3, 25
LOADED = 120
"""Number of batches timed."""


def make_archive(folder: Path) -> str:
    """Source cubes of the size of CAVE's scenes."""
    for number in range(SCENES):
        make_source(folder, f"scene-{number}", bands=BANDS, edge_px=EDGE_PX)
    return str(folder)


def training_of(archive: str) -> tuple[Training, int]:
    """The training of the small sharpener, and its batch."""
    plan = plan_training(TrainJob(archive=archive, task="sharpen", name="x", steps=1000, bf16=False))
    return build(ArchiveStore(archive), plan), plan.settings.batch


def load_seconds(training: Training, batch: int, steps: int, clock: Clock, first: int = 0) -> float:
    """Seconds to draw the samples of so many steps, without training."""
    start = clock()
    for step in range(first, first + steps):
        training.samples.stream.batch(step, range(batch))
    return clock() - start


def step_seconds(training: Training, batch: Batch, clock: Clock, share: AllReduce | None = None) -> float:
    """Seconds of STEPS steps on the same samples, after a warm-up."""
    settings = FitSettings(steps=WARM + STEPS, report_every=WARM, bf16=False)
    start = 0.0
    for p in fit(training.net, repeat(batch), training.samples.loss, settings, share=share):
        if p.step == WARM:
            start = clock()
    return clock() - start


def samples(archive: str, turns: int, clock: Clock) -> dict[str, Any]:
    torch.set_num_threads(1)
    training, batch = training_of(archive)
    held = training.samples.stream.batch(0, range(batch))
    load_seconds(training, batch, 4, clock)
    ours, steps = [], []
    for turn in range(turns):
        steps.append(batch * STEPS / step_seconds(training, held, clock))
        ours.append(batch * LOADED / load_seconds(training, batch, LOADED, clock, first=turn * LOADED))
    return line(
        "samples", statistics.median(ours), statistics.median(steps), target=3.0, lower_is_better=False,
        unit="patches/s", shapes={"input": list(held[0].shape), "target": list(held[1].shape)},
        turns={"ours": rounded(ours), "reference": rounded(steps)},
    )  # fmt: skip


GROWN = """
import torch
from benchmarks.loader import load_seconds, training_of
torch.set_num_threads(1)
training, batch = training_of({archive!r})
load_seconds(training, batch, {steps}, lambda: 0.0)
lines = open("/proc/self/status").read().splitlines()
print(1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")))
"""


def memory(archive: str) -> dict[str, Any]:
    few, many = 40, 400
    peaks = {
        steps: int(
            subprocess.run(
                [sys.executable, "-c", GROWN.format(archive=archive, steps=steps)],
                capture_output=True,
                text=True,
                check=True,
            ).stdout
        )
        for steps in (few, many)
    }
    return line(
        "memory", peaks[many], peaks[few], target=1.15, lower_is_better=True, unit="bytes at most",
        steps={"ours": many, "reference": few},
        archive_bytes=SCENES * BANDS * EDGE_PX * EDGE_PX * 4,
    )  # fmt: skip


# -------------------------------------------------------------------------------------------------------- workers


def half_batch(archive: str, rank: int) -> tuple[Training, Batch]:
    """Make the training and the half of its batch that one of two workers gets."""
    torch.set_num_threads(1)
    training, batch = training_of(archive)
    return training, training.samples.stream.batch(0, range(rank, batch, 2))


BARE = """
import sys, time
from benchmarks.loader import half_batch, step_seconds
training, half = half_batch(sys.argv[1], int(sys.argv[2]))
print("ready", flush=True)
sys.stdin.readline()
print(step_seconds(training, half, time.perf_counter))
"""


def bare(archive: str) -> list[float]:
    """Seconds of two independent processes that run at the same time."""
    both = [
        subprocess.Popen(
            [sys.executable, "-c", BARE, archive, str(rank)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]
    for process in both:
        assert process.stdout is not None
        process.stdout.readline()
    for process in both:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    return [float(process.communicate()[0]) for process in both]


def _ray_worker(config: dict[str, Any]) -> Any:
    from ray import train as ray_train
    from torch import distributed

    rank = ray_train.get_context().get_world_rank()
    training, half = half_batch(config["archive"], rank)
    distributed.barrier()
    return step_seconds(training, half, time.perf_counter, distributed.all_reduce)


def joined(archive: str) -> float:
    """Seconds of two Ray Train workers."""
    from ray.train.v2.api.config import LoggingConfig, RunConfig, ScalingConfig
    from ray.train.v2.torch.torch_trainer import TorchTrainer

    with tempfile.TemporaryDirectory() as scratch:
        result: Any = TorchTrainer(
            _ray_worker,
            train_loop_config={"archive": archive},
            scaling_config=ScalingConfig(num_workers=2),
            run_config=RunConfig(storage_path=scratch, logging_config=LoggingConfig(log_level="ERROR")),
        ).fit()
    return float(result.return_value)


def workers(archive: str, turns: int) -> dict[str, Any]:
    from hypermend.pipeline.engine.cluster import start_ray

    start_ray(cpus=2)
    _, half = half_batch(archive, 0)
    patches = STEPS * len(half[0])
    reference, ours = [], []
    for _ in range(turns):
        reference.append(sum(patches / seconds for seconds in bare(archive)))
        ours.append(2 * patches / joined(archive))
    return line(
        "workers", statistics.median(ours), statistics.median(reference), target=0.9, lower_is_better=False,
        unit="patches/s of both", shapes={"input of each": list(half[0].shape)},
        turns={"ours": rounded(ours), "reference": rounded(reference)},
    )  # fmt: skip


def measured(only: list[str], turns: int, clock: Clock) -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory(prefix="hypermend-loader-") as folder:
        archive = make_archive(Path(folder))
        if "samples" in only:
            yield samples(archive, turns, clock)
        if "memory" in only:
            yield memory(archive)
        if "workers" in only:
            yield workers(archive, turns)


def main() -> int:
    """Entry point."""
    ap = argparse.ArgumentParser(prog="python -m benchmarks.loader", description=(__doc__ or "").split("\n")[0])
    ap.add_argument("--only", nargs="+", choices=NAMES, default=list(NAMES))
    ap.add_argument("--turns", type=int, default=5)
    ap.add_argument("--cpu", action="store_true", help="samples in CPU seconds, on a machine that others use")
    a = ap.parse_args()
    clock = time.process_time if a.cpu else time.perf_counter
    for found in measured(a.only, a.turns, clock):
        print(json.dumps({**found, "clock": clock.__name__ if found["name"] == "samples" else "wall"}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
