"""Training of a pair filter (`pair_filter.py`) in closed form: its samples, their sums, and the filter that follows.

A sample is a pair simulated from a part of a cube, with a blur kernel, noise and kernel error of its own: the steps of
the candidates in bands, D (N b, P), and what the local regression missed, e (b, P), on every third pixel. The filter is

    W = argmin |e - W D|^2 + RIDGE |W|^2_D        over all samples of all scenes

in units of the sample's own mean error, so that every sample has the same weight. Within a sample a squared error q
times the mean weighs 1 / sqrt(q), so that a few glints do not decide, and dark pixels weigh more, since angles are
relative. A pair of sensors has a few hundred steps, so the second
moments are small, and adding them up is all there is to train: workers share sums, and a killed training resumes from
them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import cast

import numpy as np
import torch
from torch import nn

from hypermend.models.arrays import F32
from hypermend.models.fit import AllReduce, Batch, Diverged, FitSettings, Loss, Progress, Resume
from hypermend.models.fuse.candidates import NAMES, Candidates
from hypermend.models.fuse.samples import PairNoise, part, regressed_pair
from hypermend.models.fuse.sensor_pair import SensorPair
from hypermend.models.sampling import SampleStream

RIDGE = 3e-2
"""Of the filter, as a share of the second moments of each step and band."""
BORDER_PX, STRIDE_PX = 24, 3
"""Outer pixels of a sample that do not count, where the scene is cut off, and the distance of those that do."""

NOISE = PairNoise(snr_db=(34.0, 44.0), clean_guide=0.75, kernel_error=(0.02, 0.35))


def sample(cube: F32, sensors: SensorPair, size: int, rng: np.random.Generator) -> Batch:
    """Draw a part of a cube (b, H, W), `size` pixels along an edge, and simulate its pair.

    Returns:
        Steps (N b, P) and what the local regression missed (b, P), with their weights.
    """
    edge = min(size, *cube.shape[1:]) // sensors.scale * sensors.scale
    z = part(cube, edge, rng, coarser=0.0)  # larger pixels are other optics
    pair, regression = regressed_pair(z, sensors.response, sensors.scale, NOISE, rng)
    border = min(BORDER_PX, edge // 4)
    at = (slice(border, edge - border, STRIDE_PX),) * 2
    with torch.inference_mode():
        y = torch.from_numpy(pair.y)[None]
        s = regression(y, torch.from_numpy(pair.x)[None])
        missed = (torch.from_numpy(z) - regression.bands(s.coefficients, s, y)[0])[:, *at].flatten(1)
        back = regression.t["back"]
        steps = [(back @ step[0][:, *at].flatten(1)) for step in Candidates(regression).steps(s)]
        error = missed.square().sum(0)
        mean = error.mean().clamp_min(torch.finfo(torch.float32).tiny)
        level = torch.from_numpy(z)[:, *at].flatten(1).norm(dim=0)
        dark = 1 + 0.5 * (level.mean() / level.clamp_min(torch.finfo(torch.float32).tiny)).clamp_max(4.0)
        weight = (dark * (error / mean).clamp_min(1).rsqrt() / (mean * error.numel())).sqrt()
        return torch.cat(steps) * weight, missed * weight


def sample_stream(
    draw: Callable[[np.random.Generator], F32], sensors: SensorPair, size: int, *, seed: int, batch: int
) -> SampleStream[Batch]:
    """Stream samples, each used once.

    Args:
        draw: returns a cube (b, H, W).
        sensors: the pair of sensors.
        size: edge of a sample in pixels.
        seed: seed of all randomness.
        batch: samples in a batch.
    """
    return SampleStream(
        lambda rng: sample(draw(rng), sensors, size, rng),
        lambda made, rng: made,
        seed=seed,
        batch=batch,
        every=1,
        keep=1,
    )


class FilterSums(nn.Module):
    """Sums of a training: second moments of the steps, of them with what the local regression missed, and of that."""

    gram: torch.Tensor
    cross: torch.Tensor
    power: torch.Tensor
    samples: torch.Tensor

    def __init__(self, bands: int) -> None:
        super().__init__()
        n = len(NAMES) * bands
        for name, shape in (("gram", (n, n)), ("cross", (bands, n)), ("power", (bands, bands)), ("samples", ())):
            self.register_buffer(name, torch.zeros(shape, dtype=torch.float64))

    def add(self, steps: torch.Tensor, missed: torch.Tensor, share: AllReduce | None) -> float:
        """Add samples (B, N b, P) and (B, b, P) of all processes.

        Returns:
            Share of their squared error that the filter leaves, before it has seen them; mean over the samples.
        """
        error = missed - self.solved().filter @ steps
        left = error.square().sum((1, 2)) / missed.square().sum((1, 2)).clamp_min(1e-30)
        sums = (self.gram, self.cross, self.power, self.samples)
        new = (steps @ steps.mT, missed @ steps.mT, missed @ missed.mT, torch.ones_like(left), left)
        flat = torch.cat([t.sum(0).double().flatten() for t in new])
        if share is not None:
            share(flat)
        *added, all_left = torch.split(flat, [*(t.numel() for t in sums), 1])
        for total, more in zip(sums, added, strict=True):
            total += more.view(total.shape)
        return float(all_left / added[-1])

    def solved(self) -> FilterWeights:
        """Solve for the filter; zero before the first sample."""
        b = len(self.power)
        out = FilterWeights(b)
        if self.samples > 0:
            size = self.gram.diag()
            normal = self.gram + torch.diag(RIDGE * size + 1e-10 * size.mean())
            filter_ = torch.linalg.solve(normal, self.cross.mT).mT
            missed = self.power - filter_ @ self.cross.mT - self.cross @ filter_.mT + filter_ @ self.gram @ filter_.mT
            out.filter.copy_(filter_)
            out.missed.copy_(missed / self.samples)
        return out


class FilterWeights(nn.Module):
    """The weights of a filter, as a file holds them."""

    filter: torch.Tensor
    """(b, N b), of step n and band c at n b + c."""
    missed: torch.Tensor
    """(b, b) second moments of what the filter missed."""

    def __init__(self, bands: int) -> None:
        super().__init__()
        self.register_buffer("filter", torch.zeros(bands, len(NAMES) * bands))
        self.register_buffer("missed", torch.eye(bands))


def fit_filter(
    net: nn.Module,
    batches: Iterator[Batch],
    loss: Loss,
    settings: FitSettings,
    *,
    share: AllReduce | None = None,
    resume: Resume | None = None,
) -> Iterator[Progress]:
    """Sum batches up in `net`, a `FilterSums`; as `fit.fit`, which trains networks. Learning rate and loss have no use.

    Raises:
        Diverged: a sample is not finite.
    """
    sums, s = cast(FilterSums, net), settings
    step, before = (resume.step, resume.seconds) if resume else (0, 0.0)
    if resume:
        sums.load_state_dict({k.removeprefix("net."): v for k, v in resume.state.items()})
    begin, errors = time.monotonic() - before, []
    for steps, missed in batches:
        errors.append(sums.add(steps.to(sums.gram.device), missed.to(sums.gram.device), share))
        step += 1
        if not np.isfinite(errors[-1]):
            raise Diverged(f"a sample of step {step} is not finite", step)
        seconds = torch.tensor([time.monotonic() - begin, 1.0], dtype=torch.float64)
        if share is not None:
            share(seconds)
        taken = float(seconds[0] / seconds[1])
        done = min(1.0, max(step / s.steps if s.steps else 0.0, taken / (60 * s.minutes) if s.minutes else 0.0))
        if step % s.report_every == 0 or done >= 1.0:
            yield Progress(
                step=step,
                seconds=taken,
                fraction=done,
                loss=float(np.mean(errors)),
                learning_rate=0.0,
                ema=sums.solved(),
                state=lambda: {f"net.{k}": v for k, v in sums.state_dict().items()},
            )
            errors = []
        if done >= 1.0:
            return
