"""Cost of a step of the search at full size: by channels, and with one and two trials at once on two cores.

Algorithm 1 with the merged super-net at the paper's width, 8 patches of 40 pixels; a step is one of alpha and one of
theta. The load of the machine is said with each line: beside other work the seconds are too many.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import torch
from torch.nn import functional

from hypermend.models.denoise.stas_search import SearchSettings, search
from hypermend.models.denoise.supernet import SuperNet
from hypermend.models.fit import Batch

CHANNELS = (8, 12, 16, 31)
TOGETHER = ((1, 1), (1, 2), (2, 1))
"""(trials at once, threads of each); the first alone for each number of channels."""
SHARED = 12
"""Channels for concurrent trials: those of `hypermend search`."""
PATCHES, PATCH_PX = 8, 40


def cost(turns: int) -> Iterator[dict[str, Any]]:
    """Median seconds of a step."""
    for channels in CHANNELS:
        for trials, threads in TOGETHER if channels == SHARED else TOGETHER[:1]:
            begin = os.getloadavg()[0]
            with ProcessPoolExecutor(trials, mp_context=multiprocessing.get_context("spawn")) as pool:
                jobs = [pool.submit(steps, channels, threads, turns) for _ in range(trials)]
                seconds = [statistics.median(job.result()) for job in jobs]
            yield {
                "channels": channels,
                "trials": trials,
                "threads_each": threads,
                "step_s": [round(s, 3) for s in seconds],
                "step_s_of_each_trial": round(max(seconds) / trials, 3),
                "cores": os.cpu_count(),
                "load_before": round(begin, 2),
            }


def steps(channels: int, threads: int, turns: int, *, patch_px: int = PATCH_PX) -> list[float]:
    """Seconds of each step but the first."""
    torch.set_num_threads(threads)
    settings = SearchSettings(epochs=turns + 1, steps=1)
    net, out, begin = SuperNet(channels), [], time.perf_counter()
    clean = torch.zeros(PATCHES, channels, patch_px, patch_px)
    batch = (torch.randn(clean.shape, generator=torch.Generator().manual_seed(0)), clean)

    def source(epoch: int) -> Iterator[Batch]:
        yield batch

    for _ in search(net, source, source, functional.mse_loss, settings):
        now = time.perf_counter()
        out.append(now - begin)
        begin = now
    return out[1:]
