"""A fusion model of a few lines that adapts, so that the managed stage can be tested apart from any real one."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from hypermend.models import checkpoint
from hypermend.models.budget import AdaptationBudget
from hypermend.models.card import ModelCard
from hypermend.models.fuse.interface import Adapted, BadPair, Pair, PairGeometry, State
from hypermend.models.restorer import SceneStatistics, array_from_json, array_to_json
from hypermend.models.signal.degrade import UPSAMPLE_TAPS, upsample
from hypermend.pipeline.config import RestoreJob
from hypermend.pipeline.engine.child_process import in_child
from hypermend.pipeline.engine.outcome import HandlerFactory, Policy, Workers
from hypermend.pipeline.engine.ray_actors import on_ray
from hypermend.pipeline.restore.driver import restore

CARD = ModelCard(name="stub", architecture="stub-fusion", halo=UPSAMPLE_TAPS)


def die_once() -> None:
    """Where ``STUB_DIES`` names a file that is not there yet, it is made and this process is killed."""
    try:
        Path(os.environ["STUB_DIES"]).touch(exist_ok=False)
    except (KeyError, FileExistsError):
        return
    os.kill(os.getpid(), signal.SIGKILL)


def down(x: torch.Tensor, scale: int) -> torch.Tensor:
    return functional.avg_pool2d(x, scale)


@dataclass(frozen=True)
class StubRestorer:
    """Z = upsample(Y - A down(X)) + A X, and a number for each band that a block has learned."""

    scale: int
    maps: torch.Tensor  # (b, m)
    learned: torch.Tensor | None
    halo: int = CARD.halo

    def __call__(self, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        rest = y - torch.einsum("bm,nmhw->nbhw", self.maps, down(x, self.scale))
        z = upsample(rest, self.scale) + torch.einsum("bm,nmhw->nbhw", self.maps, x)
        return z if self.learned is None else z + self.learned[:, None, None]

    def without_guide(self, y: torch.Tensor) -> torch.Tensor:
        return upsample(y, self.scale)


class StubFusion:
    def __init__(self, card: ModelCard, state: State) -> None:
        self.card = card
        self.adapts = bool(card.config.get("adapts", True))

    def halo(self, scale: int) -> int:
        return self.card.halo_at(scale)

    def estimate(self, pairs: Callable[[], Iterable[Pair]], setup: PairGeometry) -> SceneStatistics:
        xs, ys = [], []
        for pair in pairs():
            x = down(torch.from_numpy(pair.x)[None], setup.scale)[0].numpy()
            ys.append(pair.y[:, pair.y_valid])
            xs.append(x[:, pair.y_valid])
        x, y = np.concatenate(xs, axis=1), np.concatenate(ys, axis=1)
        if x.shape[1] < 50:
            raise BadPair(f"{x.shape[1]} pixels are valid, at least 50 are needed")
        a, *_ = np.linalg.lstsq(np.concatenate([x, np.ones((1, x.shape[1]))]).T, y.T, rcond=None)
        return {
            "scale": setup.scale,
            "maps": array_to_json(a[:-1].T),
            "level": float(y.mean()),
            "expected": setup.expected_centroid_px,
        }

    def bind(self, facts: SceneStatistics, state: State | None = None) -> StubRestorer:
        learned = state["learned"] if state else None
        return StubRestorer(int(facts["scale"]), torch.from_numpy(array_from_json(facts["maps"])), learned)

    def adapt(self, facts: SceneStatistics, pair: Pair, core: tuple[slice, slice], budget: AdaptationBudget) -> Adapted:
        """Bright blocks learn a tenth of their mean spectrum; dark ones fall back."""
        time.sleep(float(self.card.config.get("sleep_s", 0)))
        die_once()
        mean = pair.y[(slice(None), *core)].mean(axis=(1, 2))
        figures: SceneStatistics = {
            "steps": budget.steps,
            "loss_first": 1.0,
            "loss_last": float(mean.mean()),
            "seconds": 0.1,
        }
        if mean.mean() < facts["level"]:
            return Adapted(state={}, figures={**figures, "adapted": False, "reason": "dark", "fell_back_to": "fusion"})
        return Adapted(state={"learned": torch.from_numpy(0.1 * mean)}, figures={**figures, "adapted": True})


def knowing_it(factory: HandlerFactory[Any, Any]) -> Callable[[Any], Any]:
    """What ``factory`` builds, in a process that knows the stub."""
    checkpoint.ARCHITECTURES["stub-fusion"] = checkpoint.Architecture("fuse", StubFusion, of_pair=True)
    return factory()


def engine(
    factory: HandlerFactory[Any, Any], tasks: Iterator[Any], *, policy: Policy, workers: Workers
) -> Iterator[Any]:
    """`on_ray` with workers that know the stub."""
    return on_ray(partial(knowing_it, factory), tasks, policy=policy, workers=workers)


def child_engine(
    factory: HandlerFactory[Any, Any], tasks: Iterator[Any], *, policy: Policy, workers: Workers
) -> Iterator[Any]:
    """`in_child` with a worker that knows the stub."""
    return in_child(partial(knowing_it, factory), tasks, policy=policy, workers=workers)


def main() -> None:
    """A driver of its own: the job as JSON in, the report as JSON out."""
    checkpoint.ARCHITECTURES["stub-fusion"] = checkpoint.Architecture("fuse", StubFusion, of_pair=True)
    job = RestoreJob(**json.loads(sys.argv[1]))
    chosen = child_engine if job.engine == "process" else engine
    report = restore(job, engine=chosen).wait()
    print(json.dumps(report.to_dict()))
