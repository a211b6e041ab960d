"""Models in a chain: each bound to its scene, over spectral windows where its network has a fixed width."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import cast

import numpy as np
import torch

from hypermend.models.restorer import CertainRestorer, Model, Restorer, SceneStatistics
from hypermend.pipeline.restore.plan import Plan
from hypermend.pipeline.restore.steps import Step, margins
from hypermend.pipeline.tiling.pixels import Physical
from hypermend.pipeline.tiling.spectral_windows import SpectralWindow


class Chain:
    """Bound models one after the other; the margin that each needs is cut off after it."""

    def __init__(self, steps: Sequence[Step], restorers: Iterable[Restorer]) -> None:
        every = margins(steps)
        self.margin = every[0]
        """Pixels that the core needs around it."""
        self._parts = list(zip(steps, restorers, every, (*every[1:], 0), strict=True))

    def __call__(self, values: Physical) -> Physical | None:
        """(bands, margin + h + margin, ...) -> (bands, scale * h, ...), or None where nothing is changed."""
        x, changed = _on_device(values), False
        with torch.inference_mode():
            for step, restorer, margin, needed in self._parts:
                y = restorer(x)
                changed |= y is not x
                cut = step.scale * margin - needed
                inner = slice(cut, -cut or None)
                x = y[..., inner, inner]
        return np.asarray(x[0].cpu().numpy(), dtype=np.float32) if changed else None

    def with_std(self, values: Physical) -> tuple[Physical | None, Physical]:
        """The same by the only step, and the standard deviation of the result; NaN where it is not known."""
        ((_, restorer, margin, _),) = self._parts
        x, inner = _on_device(values), slice(margin, -margin or None)
        y, std = cast(CertainRestorer, restorer).with_std(x)
        result, deviation = (np.asarray(t[0, :, inner, inner].cpu().numpy(), dtype=np.float32) for t in (y, std))
        return None if y is x else result, deviation


def _on_device(values: Physical) -> torch.Tensor:
    return torch.from_numpy(values)[None].to("cuda" if torch.cuda.is_available() else "cpu")


def bind_steps(plan: Plan, models: Sequence[Model], facts: Sequence[Sequence[SceneStatistics]]) -> list[Restorer]:
    """Bind the models of the first steps of a plan to every good band of its scene.

    Args:
        plan: gives the steps and their spectral windows.
        models: one for each step.
        facts: statistics of the scene for each model and spectral window.
    """
    steps = zip(models, plan.steps, facts, strict=False)
    return [bind_model(model, plan.windows(step), plan.spec.good, f) for model, step, f in steps]


def bind_model(
    model: Model, windows: Sequence[SpectralWindow] | None, good: Sequence[bool], facts: Sequence[SceneStatistics]
) -> Restorer:
    """Bind one model to every good band."""
    if windows is None:
        return model.bind(facts[0])
    position = {int(band): i for i, band in enumerate(np.flatnonzero(good))}
    local = [replace(w, take=tuple(position[b] for b in w.take)) for w in windows]
    return WindowedRestorer(local, [model.bind(f) for f in facts])


class WindowedRestorer:
    """A network of fixed width run over overlapping windows of the bands, the results blended by their weights."""

    def __init__(self, windows: list[SpectralWindow], restorers: list[Restorer]) -> None:
        self._parts = list(zip(windows, restorers, strict=True))
        self.halo = max(r.halo for r in restorers)
        self.scale = restorers[0].scale

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """(B, bands, H, W) -> (B, bands, scale*H, scale*W)."""
        out = x.new_zeros(x.shape[0], x.shape[1], x.shape[2] * self.scale, x.shape[3] * self.scale)
        for window, restorer in self._parts:
            y = restorer(x[:, list(window.take)])
            used = [i for i, weight in enumerate(window.weight) if weight]
            weight = torch.tensor([window.weight[i] for i in used], dtype=x.dtype, device=x.device)
            bands = torch.tensor([window.take[i] for i in used], device=x.device)
            out.index_add_(1, bands, y[:, used] * weight[:, None, None])
        return out
