"""Training as a service: same curve on any number of workers, on after any kill, refusals, a model that restores."""

from __future__ import annotations

from collections.abc import Callable
from threading import Barrier, Thread
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from catalog.cube import Cube, create
from catalog.publish import put_item, source_item
from catalog.root import Root
from catalog.spec import CLOUD, VALID
from pipeline.config import TrainJob, parse
from pipeline.train_job import plan_training
from pipeline.train_plan import TrainPlan
from pipeline.train_record import Line
from pipeline.train_worker import Crew, work
from tests.small_cubes import make_scene, make_spec, write_tiles

EDGE = 160
TASKS = ("sharpen", "denoise", "fuse")
SMALL: dict[str, dict[str, Any]] = {
    "sharpen": {"filters": 4, "patch_px": 16},
    "denoise": {"patch_px": 16, "freeze_norm": True},
    "fuse": {"patch_px": 24},
}


def add_scene(
    root: Root, name: str, *, bands: int = 10, edge: int = EDGE, usable: int | None = None, **more: Any
) -> str:
    """A published source cube of smooth materials; only its first `usable` columns are usable. The key of the cube."""
    nm = np.linspace(420, 720, bands)
    spec = make_spec((bands, edge, edge), tile_px=96, wavelength_nm=nm, detector=["vnir"] * bands, **more)
    rng = np.random.default_rng([len(name), *name.encode()])
    maps = gaussian_filter(rng.normal(size=(4, edge, edge)), (0, 2, 2))
    spectra = gaussian_filter(rng.random((bands, 4)), (2, 0))
    pixels = np.tensordot(spectra, maps, 1)
    pixels = 1000 + 6000 * (pixels - pixels.min()) / np.ptp(pixels) + rng.normal(scale=4, size=pixels.shape)
    flags = np.full((edge, edge), VALID, np.uint8)
    if usable is not None:
        flags[:, usable:] = CLOUD
    key = f"source/{name}/abc.zarr"
    create(root, key, spec)
    write_tiles(Cube(root, key), pixels.astype(np.int16), flags)
    scene = make_scene(name)
    put_item(root, source_item(scene, spec, key=key, ingest_id="abc", valid_fraction=1.0), run="test")
    return key


def fill(root: Root) -> Root:
    for name in ("one", "two", "three"):
        add_scene(root, name)
    return root


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Root:
    """Three scenes that no test changes; trainings of different settings do not meet."""
    return fill(Root(tmp_path_factory.mktemp("train") / "a"))


def job(root: Root, task: str, **more: Any) -> TrainJob:
    asked = {
        "archive": root.url, "task": task, "name": f"small-{task}", "validation_scenes": ["three"], "steps": 4,
        "batch": 4, "bf16": False, **SMALL[task], **more,
    }  # fmt: skip
    return parse(TrainJob, asked, where="test")


def start(root: Root, asked: TrainJob) -> TrainPlan:
    """Plan, and keep the plan as the driver does."""
    plan = plan_training(asked)
    root.put_json(f"{plan.folder}/plan.json", plan.to_dict())
    return plan


# -------------------------------------------------------------------------------------------------------- samples


class Sums:
    """all_reduce for threads: what two workers exchange, in one process."""

    def __init__(self, size: int) -> None:
        self.size, self.parts, self.barrier = size, [torch.zeros(0)] * size, Barrier(size, timeout=60)

    def of(self, rank: int) -> Callable[[torch.Tensor], None]:
        def share(flat: torch.Tensor) -> None:
            self.parts[rank] = flat.clone()
            self.barrier.wait()
            flat.copy_(torch.stack(self.parts).sum(0))
            self.barrier.wait()

        return share


def lines_of(root: Root, plan: TrainPlan, workers: int) -> list[Line]:
    """The metrics of a training by so many workers, each a thread."""
    sums, out = Sums(workers), [list[Line]() for _ in range(workers)]

    def one(rank: int) -> None:
        share = sums.of(rank) if workers > 1 else None
        out[rank] = list(work(root, plan, Crew(rank=rank, size=workers, share=share)))

    threads = [Thread(target=one, args=(rank,)) for rank in range(workers)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert all([line["loss"] for line in lines] == [line["loss"] for line in out[0]] for lines in out)
    return out[0]


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_the_curve_is_that_of_the_global_batch_on_one_and_two_workers(scenes: Root, task: str) -> None:
    # Adam's first steps are the signs of gradients, also of those that are rounding alone: hence the small rate.
    settings = {"steps": 20, "check_every": 20, "learning_rate": 3e-4}
    # Another patience is another training with the same curve.
    one, two = (lines_of(scenes, start(scenes, job(scenes, task, patience=50 + n, **settings)), n) for n in (1, 2))
    assert len(one) == len(two) == 10
    np.testing.assert_allclose([x["loss"] for x in two], [x["loss"] for x in one], rtol=5e-4)
    assert two[-1]["psnr_db"] == pytest.approx(one[-1]["psnr_db"], abs=0.02)
