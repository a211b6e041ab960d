"""The training loop, as a generator: its caller decides what to log, when to save and when to stop.

    for p in fit(net, batches, loss, settings): report(p)

Several processes can train one network. Each gets its share of every batch and a function `share` that sums a tensor
over all processes. Gradients, normalisation statistics, loss and clock are averaged at each step, so all processes make
the same steps and stop together.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import nn

Batch = tuple[torch.Tensor, torch.Tensor]
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
AllReduce = Callable[[torch.Tensor], object]
"""Sums a flat tensor over all processes, in place."""
State = Mapping[str, torch.Tensor]
"""Tensors that a training needs to resume, by name: weights, EMA of the weights, moments of the optimiser."""
_NET, _EMA = "net.", "average."
"""Prefixes of weights and of their EMA in a stored state."""
_MOMENTS = ("exp_avg", "exp_avg_sq")
"""State that AdamW keeps for each parameter."""


class Diverged(FloatingPointError):
    """Raised when the loss is NaN or infinite; the message says at which step and what to do."""

    def __init__(self, message: str, step: int) -> None:
        super().__init__(message)
        self.step = step


@dataclass(frozen=True, kw_only=True)
class FitSettings:
    """Settings of a training, which ends at `steps` or `minutes`, whichever comes first."""

    steps: int | None = None
    minutes: float | None = None
    learning_rate: float = 2e-3
    """Peak. The rate rises linearly over `warmup_steps`, then falls as a cosine to `learning_rate_end`."""
    learning_rate_end: float = 1e-6
    warmup_steps: int = 100
    weight_decay: float = 1e-4
    clip_norm: float = 1.0
    ema_decay: float = 0.998
    """Decay for each step of the exponential moving average (EMA) of the weights; a training keeps the EMA."""
    bf16: bool = False
    """Autocast to bfloat16: 2x faster on a CPU that has it in hardware, 35x slower on one that does not."""
    report_every: int = 50
    """Steps between two values of Progress."""
    freeze_norm: bool = False
    """Normalise with the stored statistics, not with those of the batch: then its shares add up to it exactly."""

    def __post_init__(self) -> None:
        """Check that the training ends.

        Raises:
            ValueError: neither steps nor minutes.
        """
        if self.steps is None and self.minutes is None:
            raise ValueError("training without an end: give steps, minutes or both")


@dataclass(frozen=True, kw_only=True)
class Progress:
    """State of a running training."""

    step: int
    seconds: float
    fraction: float
    """Share of the training that is done, 0 to 1."""
    loss: float
    """Mean since the previous Progress."""
    learning_rate: float
    ema: nn.Module
    """Network with the EMA of the weights, in eval mode. The next step changes it, so save or score it at once."""
    state: Callable[[], State]
    """Returns the state for `Resume`; the next step changes its tensors as well."""


@dataclass(frozen=True, kw_only=True)
class Resume:
    """Point at which an earlier `fit` stopped. `fit` then takes the batches that follow it."""

    state: State
    step: int
    seconds: float


def fit(
    net: nn.Module,
    batches: Iterator[Batch],
    loss: Loss,
    settings: FitSettings,
    *,
    share: AllReduce | None = None,
    resume: Resume | None = None,
) -> Iterator[Progress]:
    """Train `net` in place; yield every `report_every` steps and at the end.

    Args:
        net: on its device.
        batches: (input, target). The training also ends when they do.
        loss: (output, target) -> scalar, a mean over the samples.
        settings: see `FitSettings`.
        share: sums a tensor over the processes; None for a single process.
        resume: None starts a new training.

    Raises:
        Diverged: the loss is NaN or infinite.
        KeyError, RuntimeError: the state of `resume` belongs to another network.
    """
    s = settings
    device = next(net.parameters()).device
    optimiser = torch.optim.AdamW(net.parameters(), lr=s.learning_rate, weight_decay=s.weight_decay)
    ema = copy.deepcopy(net).eval()
    step, before = (resume.step, resume.seconds) if resume else (0, 0.0)
    if resume:
        _restore(resume, net, ema, optimiser)
    begin, seconds, sums, last = time.monotonic() - before, before, 0.0, step
    for x, target in batches:
        done = _fraction(s, step, seconds)
        rate = _rate(s, step, done)
        for group in optimiser.param_groups:
            group["lr"] = rate
        net.train()
        if s.freeze_norm:
            _freeze_norm(net)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=s.bf16):
            y = net(x.to(device))
        value = loss(y.float(), target.to(device))
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(value)
        now, seconds = float(value.detach()), time.monotonic() - begin
        if share is not None:
            now, seconds = _all_reduce_gradients(net, len(x), now, seconds, share)
        nn.utils.clip_grad_norm_(net.parameters(), s.clip_norm)
        optimiser.step()
        step += 1
        _update_ema(ema, net, min(s.ema_decay, step / (step + 9)))
        if not math.isfinite(now):
            raise Diverged(f"loss is {now} at step {step}: lower the learning rate or train without bf16", step)
        sums += now
        done = _fraction(s, step, seconds)
        if step % s.report_every == 0 or done >= 1.0:
            yield Progress(
                step=step,
                seconds=seconds,
                fraction=done,
                loss=sums / (step - last),
                learning_rate=rate,
                ema=ema,
                state=lambda: _state(net, ema, optimiser),
            )
            sums, last = 0.0, step
        if done >= 1.0:
            return


def _fraction(s: FitSettings, step: int, seconds: float) -> float:
    """Share of the training that is done, by steps or by time, whichever is larger."""
    by_steps = step / s.steps if s.steps else 0.0
    by_time = seconds / (60 * s.minutes) if s.minutes else 0.0
    return min(1.0, max(by_steps, by_time))


def _rate(s: FitSettings, step: int, done: float) -> float:
    cosine = s.learning_rate_end + (s.learning_rate - s.learning_rate_end) * (1 + math.cos(math.pi * done)) / 2
    return cosine * min(1.0, (step + 1) / max(1, s.warmup_steps))


def _freeze_norm(net: nn.Module) -> None:
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


@torch.no_grad()
def _all_reduce_gradients(
    net: nn.Module, samples: int, loss: float, seconds: float, share: AllReduce
) -> tuple[float, float]:
    """Average gradients and normalisation statistics over all processes, in place, weighted by samples.

    One flat tensor, so one exchange for each step.

    Returns:
        Loss and seconds, averaged in the same way.
    """
    tensors = [p.grad for p in net.parameters() if p.grad is not None]
    tensors += [b for b in net.buffers() if b.is_floating_point()]
    more = tensors[0].new_tensor([loss, seconds, 1.0])
    flat = torch.cat([*(t.reshape(-1) for t in tensors), more]) * samples
    share(flat)
    flat /= flat[-1].clone()
    for t, mean in zip(tensors, torch.split(flat[:-3], [t.numel() for t in tensors]), strict=True):
        t.copy_(mean.view(t.shape))
    return float(flat[-3]), float(flat[-2])


def _state(net: nn.Module, ema: nn.Module, optimiser: torch.optim.Optimizer) -> State:
    out = {f"{_NET}{k}": v for k, v in net.state_dict().items()}
    out |= {f"{_EMA}{k}": v for k, v in ema.state_dict().items()}
    for name, p in net.named_parameters():
        for moment in _MOMENTS:
            out[f"{moment}.{name}"] = optimiser.state[p][moment]
    return out


def _restore(resume: Resume, net: nn.Module, ema: nn.Module, optimiser: torch.optim.Optimizer) -> None:
    for module, prefix in ((net, _NET), (ema, _EMA)):
        module.load_state_dict({k.removeprefix(prefix): v for k, v in resume.state.items() if k.startswith(prefix)})
    for name, p in net.named_parameters():
        moments = {
            m: resume.state[f"{m}.{name}"].to(p.device).clone(memory_format=torch.preserve_format) for m in _MOMENTS
        }
        optimiser.state[p] = {"step": torch.tensor(float(resume.step)), **moments}


@torch.no_grad()
def _update_ema(ema: nn.Module, net: nn.Module, decay: float) -> None:
    """Move weights and normalisation statistics of the EMA towards those of `net`."""
    for a, p in zip(ema.parameters(), net.parameters(), strict=True):
        a.lerp_(p, 1 - decay)
    for kept, now in zip(ema.buffers(), net.buffers(), strict=True):
        if kept.is_floating_point():
            kept.lerp_(now, 1 - decay)
        else:
            kept.copy_(now)
