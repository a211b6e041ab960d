"""The one training loop. A generator: whoever iterates it decides what to log, where to save and when to stop.

for p in fit(net, batches, loss, settings): report(p)
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import nn

Batch = tuple[torch.Tensor, torch.Tensor]
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class FitSettings:
    """How to train; the end is whichever of steps and minutes comes first."""

    steps: int | None = None
    minutes: float | None = None
    learning_rate: float = 2e-3
    """Peak; rises linearly over `warmup_steps`, then falls as a cosine to `learning_rate_end` at the end."""
    learning_rate_end: float = 1e-6
    warmup_steps: int = 100
    weight_decay: float = 1e-4
    clip_norm: float = 1.0
    average: float = 0.998
    """Decay of the running average of the weights, which is what is kept."""
    bf16: bool = False
    """Autocast to bfloat16: 2x on a CPU that has it in hardware, 35x slower on one that has not."""
    report_every: int = 50
    """Steps for each Progress."""

    def __post_init__(self) -> None:
        """Check that there is an end.

        Raises:
            ValueError: neither steps nor minutes.
        """
        if self.steps is None and self.minutes is None:
            raise ValueError("training without an end: give steps, minutes or both")


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where training stands."""

    step: int
    seconds: float
    fraction: float
    """Of the way to the end, 0 to 1."""
    loss: float
    """Mean since the last report."""
    learning_rate: float
    average: nn.Module
    """The network with averaged weights, in eval mode; changes with the next step, so save or score it at once."""


def fit(net: nn.Module, batches: Iterator[Batch], loss: Loss, settings: FitSettings) -> Iterator[Progress]:
    """Train `net` in place; yields every `report_every` steps and at the end.

    Args:
        net: on its device.
        batches: (input, target), endless or not: its end is an end as well.
        loss: (output, target) -> scalar.
        settings: see `FitSettings`.
    """
    s = settings
    device = next(net.parameters()).device.type
    optimiser = torch.optim.AdamW(net.parameters(), lr=s.learning_rate, weight_decay=s.weight_decay)
    average = copy.deepcopy(net).eval()
    begin, step, sums, last = time.monotonic(), 0, 0.0, 0

    def fraction() -> float:
        by_steps = step / s.steps if s.steps else 0.0
        by_time = (time.monotonic() - begin) / (60 * s.minutes) if s.minutes else 0.0
        return min(1.0, max(by_steps, by_time))

    rate = 0.0
    for x, target in batches:
        done = fraction()
        cosine = s.learning_rate_end + (s.learning_rate - s.learning_rate_end) * (1 + math.cos(math.pi * done)) / 2
        rate = cosine * min(1.0, (step + 1) / max(1, s.warmup_steps))
        for group in optimiser.param_groups:
            group["lr"] = rate
        net.train()
        with torch.autocast(device, dtype=torch.bfloat16, enabled=s.bf16):
            y = net(x)
        value = loss(y.float(), target)
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(value)
        nn.utils.clip_grad_norm_(net.parameters(), s.clip_norm)
        optimiser.step()
        step += 1
        _follow(average, net, min(s.average, step / (step + 9)))
        now = float(value.detach())
        if not math.isfinite(now):
            raise FloatingPointError(f"loss is {now} at step {step}: lower the learning rate or train without bf16")
        sums += now
        done = fraction()
        if step % s.report_every == 0 or done >= 1.0:
            yield Progress(
                step=step,
                seconds=time.monotonic() - begin,
                fraction=done,
                loss=sums / (step - last),
                learning_rate=rate,
                average=average,
            )
            sums, last = 0.0, step
        if done >= 1.0:
            return


@torch.no_grad()
def _follow(average: nn.Module, net: nn.Module, decay: float) -> None:
    """Move the averaged weights and normalisation statistics towards those of `net`."""
    for a, p in zip(average.parameters(), net.parameters(), strict=True):
        a.lerp_(p, 1 - decay)
    for kept, now in zip(average.buffers(), net.buffers(), strict=True):
        if kept.is_floating_point():
            kept.lerp_(now, 1 - decay)
        else:
            kept.copy_(now)
