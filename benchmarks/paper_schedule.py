"""The paper's adaptation (UAL, section 3.2) as a method of `benchmarks.fusion`: its quality, and when it reaches that.

The fusion network is the shipped one, frozen, told the Gaussian that the degradation network begins from; then 1500
steps of Adam on |P Z^ - X|_1 + |H(Z^) - Y|_1 over the paper's adaptation network (learning rate 9e-5, weight decay
1e-3) and over H, a 32 x 32 kernel that begins as that Gaussian (1e-4, 1e-5). No early stop: the last iterate is the
answer. Kinder than the public code in one thing: the adaptation network begins as nothing, so step 0 is the fusion.

The line also says when the schedule was at its best (`best_psnr`, `best_step`, `best_seconds`; the truth is looked at
every 25 steps, outside the clock) and after how many seconds ours had reached that (`ours_reached_seconds`; null:
never), from the files to the image, its kernel estimated, adapted only if it must be.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from hypermend.models.arrays import F32
from hypermend.models.fuse.interface import FusionModel
from hypermend.models.fuse.ual import KERNEL_PX, Adaptation, Degradation
from hypermend.models.signal import degrade, metrics

STEPS, LOOK_EVERY = 1500, 25
RATE, DECAY = (9e-5, 1e-4), (1e-3, 1e-5)
SIGMA_PX = 2.0


def schedule(model: FusionModel, p: Any, *, steps: int = STEPS) -> tuple[F32, float, dict[str, Any]]:
    """Image, seconds and figures of one problem (`benchmarks.fusion.Problem`)."""
    torch.manual_seed(0)
    y, x = torch.from_numpy(p.pair.y)[None], torch.from_numpy(p.pair.x)[None]
    begin = time.perf_counter()
    assumed = replace(p.setup, kernel=degrade.gaussian_kernel(KERNEL_PX, SIGMA_PX))
    fused = model.bind(model.estimate(lambda: [p.pair], assumed))(y, x)
    adapt, blur = Adaptation(fused.shape[1]), Degradation(p.setup.scale, sigma_px=SIGMA_PX)
    optimiser = torch.optim.Adam(
        [
            {"params": m.parameters(), "lr": rate, "weight_decay": decay}
            for m, rate, decay in zip((adapt, blur), RATE, DECAY, strict=True)
        ]
    )
    response, looked = torch.from_numpy(p.setup.response), 0.0
    best: tuple[float, int, float] = (-np.inf, 0, 0.0)
    for step in range(steps + 1):
        z = adapt(fused)
        if step % LOOK_EVERY == 0 or step == steps:
            pause = time.perf_counter()
            best = max(best, (_psnr(p.truth, z.detach()), step, pause - begin - looked), key=lambda b: b[0])
            looked += time.perf_counter() - pause
        if step == steps:
            break
        loss = functional.l1_loss(degrade.respond(z, response), x) + functional.l1_loss(blur(z), y)
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        optimiser.step()
    image = z.detach()[0].numpy()
    seconds = time.perf_counter() - begin - looked
    figures = {"steps": steps, "first_psnr": _psnr(p.truth, fused), "best_psnr": best[0], "best_step": best[1]}
    return image, seconds, {**figures, "best_seconds": round(best[2], 3)}


def reached(psnr: float, p: Any, *roads: Callable[[Any], Any]) -> float | None:
    """Seconds of the first of our methods, unadapted then adapted, that is as good."""
    for road in roads:
        answer = road(p)
        if _psnr(p.truth, torch.from_numpy(answer.image)[None]) >= psnr:
            return round(float(answer.seconds), 3)
    return None


def _psnr(truth: F32, z: torch.Tensor) -> float:
    return metrics.psnr(truth, np.clip(z[0].numpy(), 0, 1))
