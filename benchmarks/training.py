"""Every task from cubes to results in one archive: `python -m benchmarks.training --data DIR [--tasks TASK ...]`.

Scenes of CAVE are ingested. For each task `hypermend train` runs on two Ray Train workers; after its first checkpoint
the driver and all of its processes are killed, and the same command is given again; `hypermend evaluate` scores the
model on a scene that it did not see; `hypermend restore` uses it. One JSON line for each task; leaves with 0 if all of
them held.

The trainings are short: what is shown is the way, not the quality that the networks reach.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import imageio.v3 as imageio
import numpy as np

import hypermend
from benchmarks.measure import rounded
from benchmarks.real_cluster import descendants, wait_for
from benchmarks.scenes import crop, read_scene, versions
from hypermend.catalog.sensors import srf
from hypermend.catalog.storage.archive_store import ArchiveStore
from hypermend.models.arrays import F32
from hypermend.models.fuse.interface import PairGeometry
from hypermend.models.signal.degrade import gaussian_kernel
from hypermend.pipeline.protocols.pairs import SNR_DB, degraded_pair

LEARNT = ("balloons", "feathers", "flowers", "jelly_beans")
HELD = "paints"
FULL_SCALE = 65535
PAIR_PX, SCALE, BLUR_PX = 256, 8, 2.0
"""Fusion pair: edge of the sharp image in pixels, scale, and blur in sharp pixels."""

SETTINGS: dict[str, tuple[str, ...]] = {
    "denoise": ("--steps", "60", "--check-every", "15", "--freeze-norm"),
    "sharpen": ("--steps", "60", "--check-every", "15", "--filters", "8", "--scale", "2"),
    "fuse": ("--steps", "60", "--check-every", "15", "--guide-collection", "camera"),
}
SCORED = {"denoise": ("--sigma", "50"), "sharpen": (), "fuse": ("--crop-px", "256")}
USED = {
    "denoise": ("--collection", "cave"),
    "sharpen": ("--collection", "cave"),
    "fuse": ("--collection", "coarse", "--guide-collection", "camera"),
}
WITHOUT = {"denoise": "svd", "sharpen": "bicubic", "fuse": "bicubic"}
"""Baselines of the model."""


def command(*words: str) -> str:
    """Standard output of a command.

    Raises:
        RuntimeError: it failed.
    """
    done = subprocess.run([sys.executable, "-m", "hypermend", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"hypermend {' '.join(words)}: {done.stderr}")
    return done.stdout


def write_bands(folder: Path, cube: F32) -> None:
    """A cube (b, y, x), 0 to 1, as one 16-bit PNG for each band."""
    folder.mkdir(parents=True)
    for number, band in enumerate(cube, 1):
        counts = np.rint(np.clip(band, 0, 1) * FULL_SCALE).astype(np.uint16)
        imageio.imwrite(folder / f"{folder.name.removesuffix('_ms')}_{number:02d}.png", counts)


def make_archive(data: Path, folder: Path) -> Path:
    """Whole scenes of CAVE, and one as a coarse camera of 31 bands and a sharp one of three see it."""
    files, archive = folder / "files", folder / "archive"
    for name in (*LEARNT, HELD):
        shutil.copytree(data / "cave" / f"{name}_ms", files / "cave" / f"{name}_ms")
    truth = np.ascontiguousarray(crop(read_scene(data / "cave" / f"{HELD}_ms"), PAIR_PX))
    setup = PairGeometry(scale=SCALE, response=srf("cave", "nikon-d700").astype(np.float32), expected_centroid_px=0.0)
    pair = degraded_pair(truth, gaussian_kernel(15, BLUR_PX), setup, SNR_DB, SNR_DB)
    write_bands(files / "coarse" / "pair_ms", pair.y)
    write_bands(files / "camera" / "pair_ms", pair.x)
    for collection, sensor in (("cave", "cave"), ("coarse", "cave"), ("camera", "nikon-d700")):
        where = ("--sensor", sensor, "--archive", str(archive), "--collection", collection)
        command("catalog", str(files / collection), *where)
    command("ingest", "--archive", str(archive))
    return archive


def killed_once(command: Sequence[str], root: ArchiveStore) -> int:
    """Run a training, kill all its processes after its first checkpoint, and return the step of that."""
    driver = subprocess.Popen([sys.executable, "-m", "hypermend", *command], stdout=subprocess.DEVNULL)
    before = kept(root)

    def moved() -> bool:
        if driver.poll() is not None:
            raise RuntimeError(f"the training ended before it could be killed, with {driver.returncode}")
        return kept(root) != before

    wait_for(moved, "the first checkpoint")
    for pid in [driver.pid, *descendants(driver.pid)]:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    driver.wait()
    (new,) = kept(root) - before
    return int(Path(new).stem)


def kept(root: ArchiveStore) -> set[str]:
    """Checkpoints of all trainings."""
    return {e.key for e in root.list("training") if "/checkpoints/" in e.key}


def measure(archive: Path, task: str) -> dict[str, Any]:
    root, name = ArchiveStore(archive), f"cave-{task}"
    scenes = [word for scene in LEARNT for word in ("--scene", f"{scene}_ms")]
    train = (
        "train", "--archive", str(archive), "--task", task, "--name", name, *scenes, "--collection", "cave",
        "--validation-scene", f"{HELD}_ms", "--workers", "2", *SETTINGS[task], "--json",
    )  # fmt: skip
    begin = time.monotonic()
    stood = killed_once(train, root)
    trained = json.loads(command(*train))
    again = json.loads(command(*train))
    seconds = time.monotonic() - begin
    lines = [json.loads(line) for line in root.get(f"training/{trained['training']}/metrics.jsonl").splitlines()]
    score = ("evaluate", "--archive", str(archive), "--model", name, "--task", task, "--scene", f"{HELD}_ms")
    found = json.loads(command(*score, "--collection", "cave", *SCORED[task], "--json"))
    means = {(m["level"], m["method"]): m for m in found["means"]}
    gains = [m["psnr"] - means[level, WITHOUT[task]]["psnr"] for (level, method), m in means.items() if method == name]
    restored = json.loads(
        command("restore", "--archive", str(archive), "--task", task, "--model", name, *USED[task], "--json")
    )
    items = [i for i in hypermend.open(str(archive)).search(stage="restored") if i.scene.collection.endswith(task)]
    return {
        "name": f"train-evaluate-restore-{task}",
        "workers": 2,
        "killed_after_step": stood,
        "steps": lines[-1]["step"],
        "best_step": trained["steps"],
        "each_step_once": len({line["step"] for line in lines}) == len(lines),
        "state": trained["state"],
        "state_of_a_third_run": again["state"],
        "validation_psnr_db": trained["psnr_db"],
        "evaluate": f"mean gain over {WITHOUT[task]} at each level",
        "gain_db": rounded(gains),
        "restored": len(items),
        "restore_exit_code": restored["exit_code"],
        "finite": all(bool(np.isfinite(i.dataset()["reflectance"].values).all()) for i in items),
        "train_s": round(seconds, 1),
        **versions(),
    }


def main() -> int:
    """Entry point."""
    ap = argparse.ArgumentParser(prog="python -m benchmarks.training", description=(__doc__ or "").split("\n")[0])
    ap.add_argument("--data", type=Path, required=True, help="folder with cave/")
    ap.add_argument("--tasks", nargs="+", choices=list(SETTINGS), default=list(SETTINGS))
    a = ap.parse_args()
    all_held = True
    with tempfile.TemporaryDirectory(prefix="hypermend-training-") as folder:
        archive = make_archive(a.data, Path(folder))
        for task in a.tasks:
            line = measure(archive, task)
            line["held"] = line == line | {
                "each_step_once": True, "state": "finished", "state_of_a_third_run": "current", "finite": True,
                "restore_exit_code": 0,
            } and 0 < line["killed_after_step"] < line["steps"] and line["restored"] > 0  # fmt: skip
            all_held &= line["held"]
            print(json.dumps(line, allow_nan=False), flush=True)
    return 0 if all_held else 1


if __name__ == "__main__":
    sys.exit(main())
