"""The search for a STAS cell: the super-net, Algorithm 1 of the paper and one-path sampling on the same space.

He et al., "Spectrum-aware and transferable architecture search for hyperspectral image restoration", ECCV 2022. In the
super-net every edge is a mixed residual block over the eight operations of `stas.OPS`,

    MRB_jk(x) = x + sum_l a_jkl o_l(x),   a_jk = softmax(alpha_jk),   alpha 10x8, shared by the four cells

and Algorithm 1 alternates: alpha on a validation batch, theta (all other weights) on a training batch, noise drawn anew
for each, first order (Liu et al., "DARTS", ICLR 2019). SPOS (Guo et al., "Single path one-shot", ECCV 2020) trains one
random operation for each edge a step instead and then looks for the path with the lowest validation loss.

`supernet.py` has the forms of the edge, and merges its eight operations into one convolution.

All normalisation uses the batch's own statistics (the super-net is never in eval mode), as every path needs its own.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal

import numpy as np
import torch

from hypermend.models.denoise.stas import EDGES, OPS, Genotype
from hypermend.models.denoise.supernet import SuperNet, decode_genotype, path
from hypermend.models.fit import Batch, Loss

Strategy = Literal["darts", "spos"]
Source = Callable[[int], Iterator[Batch]]
"""epoch -> batches. Seeded by the epoch, so that an interrupted search resumes with the same samples."""
State = Mapping[str, torch.Tensor]
"""Tensors that a search needs to resume, by name."""
SPATIAL = Genotype(("conv3",) * len(EDGES))
"""Rival: spatial neighbours on every edge."""
SPECTRAL = Genotype(("conv1",) * len(EDGES))
"""Rival: bands alone."""
SS1 = Genotype(("sep3_dil",) * len(EDGES))
"""Rival: space, then spectrum, on every edge. The paper names an SS1 and shows it as a picture: this is our reading."""


def random_genotype(seed: int) -> Genotype:
    """Rival: each edge's operation drawn evenly."""
    return decode_genotype(np.random.default_rng(seed).integers(len(OPS), size=len(EDGES)))


def log_mse(y: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Loss on bands: the logarithm of each sample's MSE, (B, c, H, W) both, mean over the batch.

    The MSE itself falls to 0.001, and alpha's gradients with it: then Adam's weight decay outweighs them and holds
    every operation at 1/8. As a logarithm they keep their size, and strong and weak noise count alike.
    """
    return ((y - target).square().mean((1, 2, 3)) + 1e-6).log().mean()


class SearchDiverged(FloatingPointError):
    """Raised when a loss is NaN or infinite; the message says which, where and what to do."""


@dataclass(frozen=True, kw_only=True)
class SearchSettings:
    """Settings of a search. Rates and decays are the paper's, Adam's betas for alpha DARTS'."""

    epochs: int
    steps: int
    """Steps in an epoch."""
    strategy: Strategy = "darts"
    learning_rate: float = 1e-3
    """Rate of theta; falls as a cosine to `learning_rate_end`."""
    learning_rate_end: float = 1e-6
    weight_decay: float = 4e-4
    alpha_rate: float = 3e-4
    alpha_weight_decay: float = 1e-3
    seed: int = 0
    """Seed of the sampled paths."""


def alpha_rate(steps: int) -> float:
    """Return alpha's learning rate for a search of `steps` steps.

    The paper's 3e-4, or 3 / steps where that is more: Adam moves an alpha by at most its rate a step, so that in fewer
    than 10,000 steps at 3e-4 no operation could get ahead whatever the data say.
    """
    return max(3e-4, 3 / steps)


@dataclass(frozen=True, kw_only=True)
class SearchProgress:
    """State of a search after an epoch."""

    epoch: int
    """Number of finished epochs."""
    seconds: float
    """Seconds of the search, including those before it was resumed."""
    train_loss: float
    """Mean over the epoch."""
    genotype: Genotype | None
    """Genotype of the current alpha; None for SPOS, which compares paths afterwards."""
    state: State
    """State to resume from. It holds the tensors themselves, so save it before the next epoch."""


def search(
    net: SuperNet,
    train: Source,
    validation: Source,
    loss: Loss,
    settings: SearchSettings,
    *,
    resume: State | None = None,
) -> Iterator[SearchProgress]:
    """Train the super-net in place; yields after every epoch. Same seeds and sources, same search, resumed or not.

    Args:
        net: on its device, to which the batches are moved.
        train: batches for theta.
        validation: batches for alpha; SPOS does not read them.
        loss: (output, target) -> scalar.
        settings: see `SearchSettings`.
        resume: the state of an earlier progress of the same search.

    Raises:
        SearchDiverged: a loss is NaN or infinite.
        ValueError: a source that ends before its epoch does.
    """
    run = _Run(net, settings, loss)
    if resume is not None:
        run.load(resume)
    before, begin = run.seconds, time.monotonic()
    net.train()
    while run.epoch < settings.epochs:
        epoch = run.epoch
        if settings.strategy == "darts":
            pairs: Iterator[tuple[Batch, Batch | None]] = zip(train(epoch), validation(epoch), strict=False)
        else:
            pairs = ((batch, None) for batch in train(epoch))
        losses = [run.step(*pair) for pair in islice(pairs, settings.steps)]
        if len(losses) < settings.steps:
            raise ValueError(f"epoch {epoch} had {len(losses)} batches; {settings.steps} steps need as many")
        run.epoch, run.seconds = epoch + 1, before + time.monotonic() - begin
        yield SearchProgress(
            epoch=run.epoch,
            seconds=run.seconds,
            train_loss=sum(losses) / len(losses),
            genotype=net.derive() if settings.strategy == "darts" else None,
            state=run.state(),
        )


class _Run:
    """Super-net, its two optimisers and the clock of one search."""

    def __init__(self, net: SuperNet, settings: SearchSettings, loss: Loss) -> None:
        s = settings
        self.net, self.settings, self.loss = net, s, loss
        self.epoch, self.done, self.seconds = 0, 0, 0.0
        self.theta = torch.optim.Adam(net.theta(), lr=s.learning_rate, weight_decay=s.weight_decay)
        self.alpha = torch.optim.Adam(
            [net.alpha], lr=s.alpha_rate, betas=(0.5, 0.999), weight_decay=s.alpha_weight_decay
        )

    def step(self, train: Batch, validation: Batch | None) -> float:
        """Algorithm 1's two updates, or SPOS' one; the training loss."""
        s = self.settings
        done = self.done / (s.epochs * s.steps)
        rate = s.learning_rate_end + (s.learning_rate - s.learning_rate_end) * (1 + math.cos(math.pi * done)) / 2
        for group in self.theta.param_groups:
            group["lr"] = rate
        choices: list[int] | None = None
        if validation is None:
            choices = np.random.default_rng([s.seed, self.done]).integers(len(OPS), size=len(EDGES)).tolist()
        else:
            self._update(self.alpha, validation, None, "validation")
        value = self._update(self.theta, train, choices, "training")
        self.done += 1
        return value

    def _update(self, optimiser: torch.optim.Optimizer, batch: Batch, choices: list[int] | None, kind: str) -> float:
        """One step of one optimiser: gradients of its own parameters only (first order)."""
        own = [p for group in optimiser.param_groups for p in group["params"]]
        value = self.loss(self.net(batch[0].to(own[0].device), choices), batch[1].to(own[0].device))
        now = float(value.detach())
        if not math.isfinite(now):
            raise SearchDiverged(
                f"{kind} loss is {now} in epoch {self.epoch}, step {self.done}: lower the learning rate "
                f"({self.settings.learning_rate:g}) or look for values in the patches that are no numbers"
            )
        # A path leaves the other operations without a gradient; Adam then skips them, weight decay included.
        for p, g in zip(own, torch.autograd.grad(value, own, allow_unused=choices is not None), strict=True):
            p.grad = g
        optimiser.step()
        return now

    def state(self) -> State:
        """Tensors by name, for `load`."""
        out: dict[str, torch.Tensor] = {f"net.{k}": v for k, v in self.net.state_dict().items()}
        for name, optimiser in (("theta", self.theta), ("alpha", self.alpha)):
            for i, moments in optimiser.state_dict()["state"].items():
                out |= {f"{name}.{i}.{key}": value for key, value in moments.items()}
        counters = {"epoch": self.epoch, "done": self.done, "seconds": self.seconds}
        return out | {k: torch.tensor(v, dtype=torch.float64) for k, v in counters.items()}

    def load(self, state: State) -> None:
        """Resume from `state`."""
        self.net.load_state_dict({k[4:]: v for k, v in state.items() if k.startswith("net.")})
        for name, optimiser in (("theta", self.theta), ("alpha", self.alpha)):
            moments: dict[int, dict[str, torch.Tensor]] = {}
            for key, value in state.items():
                if key.startswith(f"{name}."):
                    _, i, what = key.split(".")
                    moments.setdefault(int(i), {})[what] = value.clone()
            groups = optimiser.state_dict()["param_groups"]
            optimiser.load_state_dict({"state": moments, "param_groups": groups})
        self.epoch, self.done = int(state["epoch"]), int(state["done"])
        self.seconds = float(state["seconds"])


Score = Callable[[Genotype], float]
"""Lower is better, and the same for the same genotype."""


@torch.no_grad()
def score(net: SuperNet, batches: Sequence[Batch], loss: Loss, genotype: Genotype | None = None) -> float:
    """Mean loss over the batches: of the mix, or of one path through the super-net's weights."""
    net.train()
    choices = None if genotype is None else path(genotype)
    device = net.alpha.device
    return sum(float(loss(net(x.to(device), choices), y.to(device))) for x, y in batches) / len(batches)


def best_by_edge(score: Score, *, seed: int, passes: int = 1) -> Genotype:
    """Exhaustive for each edge: all eight operations are tried on one edge after the other, the others held.

    Begins with a random path; 71 scores a pass.
    """
    best = random_genotype(seed)
    low = score(best)
    for edge in [*range(len(EDGES))] * passes:
        for op in OPS:
            ops = (*best.ops[:edge], op, *best.ops[edge + 1 :])
            if ops != best.ops and (value := score(Genotype(ops))) < low:
                best, low = Genotype(ops), value
    return best
