"""One cell in two domains: on the coefficients of the scene's signal subspace, and on the bands themselves.

Both networks have the same cell, width, steps, patches and training pixels. Each domain is tried with one set of
weights for all sensors, learnt on CAVE, and with a set of the sensor's own. On bands the network runs in overlapping
windows of 31 bands and knows the noise from the image alone, as in the subspace. Beside them what ships
(`stas-subspace`; MUUFL was among what it learnt from) and its training-free pilot without a network.

Sensors: CAVE (31 bands; scored on the centre of the validation scenes), MUUFL (64) and Pavia Centre (102), the left
three fifths to learn from and the right to score, and EnMAP Potsdam (218): a block of 64 x 96 pixels is scored and
another of 128 x 64 learnt from. Noise of 30, 50 and 70 of 255.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.denoise_real import read
from benchmarks.scenes import crop
from benchmarks.search_scaled import SIGMAS_OF_255, Line, Scale, Units, begin_with_nothing, read_data
from benchmarks.search_tables import Sizes, cell_of
from hypermend.models import checkpoint
from hypermend.models.arrays import F32
from hypermend.models.denoise.model import StasModel
from hypermend.models.denoise.samples import (
    SampleSettings,
    TrainingScene,
    any_of,
    band_stream,
    loss,
    sample_stream,
    weighted,
)
from hypermend.models.denoise.stas import Genotype, Stas
from hypermend.models.denoise.stas_search import log_mse
from hypermend.models.denoise.subspace_denoiser import CONTEXT_PX, SubspaceDenoiser
from hypermend.models.fit import FitSettings, fit
from hypermend.models.signal import metrics
from hypermend.models.signal.degrade import gaussian
from hypermend.models.signal.subspace import moments, signal_axes, subspace

SENSORS = ("cave", "muufl", "rosis", "enmap")
FOLDERS = {"muufl": "muufl", "rosis": "pavia", "enmap": "enmap_potsdam"}
WINDOW, COEFFICIENTS = 31, 12
ONE_SET = "cave"
SCENE_PX = 56
"""Window that gets noise at once in the subspace: a patch with its context."""

Method = Callable[[F32], F32]
Pair = tuple[list[F32], list[F32]]
"""Training cubes and validation cubes."""


@cache
def read_pair(folder: Path, sensor: str) -> Pair:
    """Real scenes of a sensor, 0 to 1.

    Raises:
        SystemExit: they are not in the folder.
    """
    if sensor == "cave":
        data = read_data(folder, sensor)
        return [*data.theta, *data.alpha], [crop(c, 96) for c in data.scored]
    for _, values, known in read(folder / FOLDERS[sensor], sensor):
        cube = np.clip(values / np.quantile(values[:, known], 0.999), 0, 1).astype(np.float32)
        if sensor == "enmap":  # its tiles do not fill a rectangle
            return [cube[:, 64:192, 96:160]], [cube[:, :64, :96]]
        w = cube.shape[2]
        return [cube[:, :, : w * 3 // 5]], [cube[:, :, w * 3 // 5 :]]
    raise SystemExit(f"{folder / FOLDERS[sensor]}: no scene of {sensor!r} in it")


def starts(bands: int) -> list[int]:
    """First bands of windows that cover all of them, as few and as evenly spread as can be."""
    count = -(-bands // WINDOW)
    return [round(s) for s in np.linspace(0, bands - WINDOW, count)]


def _net(cell: Genotype, channels: int, extra: int, scale: Scale) -> Stas:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = Stas(cell, channels, width=scale.width, extra=extra, activate=True, cells=scale.cells)
    begin_with_nothing(net.conv3)
    return net


def _learnt(net: Stas, source: Iterator[Any], criterion: Any, scale: Scale) -> Stas:
    *_, last = fit(net, source, criterion, FitSettings(steps=scale.steps))
    ema: Any = last.ema
    return ema.requires_grad_(False)  # type: ignore[no-any-return]


def fit_bands(cubes: Sequence[F32], cell: Genotype, scale: Scale) -> Stas:
    """A network for any window of 31 bands."""
    windows = [c[s : s + WINDOW] for c in cubes for s in starts(len(c))]
    draw = any_of(windows, scale.patch_px)
    source = band_stream(draw, patch_px=scale.patch_px, seed=0, batch=scale.patches)
    return _learnt(_net(cell, WINDOW, 0, scale), source.batches(), log_mse, scale)


def fit_subspace(cubes: Sequence[F32], cell: Genotype, scale: Scale) -> Stas:
    """A network for twelve coefficients, which corrects the pilot."""
    settings = SampleSettings(
        channels=COEFFICIENTS,
        patch_px=scale.patch_px,
        scene_px=max(SCENE_PX, scale.patch_px + 32),
    )
    scenes = [TrainingScene(cube=c, least_noise=20 / 255) for c in cubes]
    source = sample_stream(weighted(scenes, settings), settings, seed=0, batch=scale.patches)
    return _learnt(_net(cell, COEFFICIENTS, 3 * COEFFICIENTS, scale), source.batches(), loss, scale)


def on_bands(net: Stas) -> Method:
    """In windows; where they overlap their mean."""

    def run(noisy: F32) -> F32:
        sums, times = np.zeros_like(noisy), np.zeros((len(noisy), 1, 1), np.float32)
        padded = _padded(noisy, net.halo)
        h = net.halo
        for s in starts(len(noisy)):
            y = net(torch.from_numpy(padded[None, s : s + WINDOW]))[0, :, h:-h, h:-h].numpy()
            sums[s : s + WINDOW] += y
            times[s : s + WINDOW] += 1
        return np.asarray(sums / times, np.float32)

    return run


def on_subspace(net: nn.Module, halo: int) -> Method:
    """As the shipped model works, in full, whatever the noise."""

    def run(noisy: F32) -> F32:
        m = moments([(noisy, np.ones(noisy.shape[1:], dtype=bool))])
        s = subspace(m) if m else None
        assert m is not None and s is not None
        restorer = SubspaceDenoiser(net, signal_axes(m, s), [True] * len(noisy), halo)  # type: ignore[arg-type]
        return restorer(torch.from_numpy(_padded(noisy, halo))[None])[0, :, halo:-halo, halo:-halo].numpy()

    return run


def _padded(x: F32, halo: int) -> F32:
    return np.pad(x, ((0, 0), (halo, halo), (halo, halo)), mode="reflect")


def _pilot_alone(channels: int) -> nn.Module:
    """Corrects nothing."""
    net = Stas(Genotype(("conv1",) * 10), channels, width=1, extra=3 * channels, cells=1)
    begin_with_nothing(net.conv3)
    return net.eval().requires_grad_(False)


@torch.inference_mode()
def scored(cubes: Sequence[F32], method: Method) -> Line:
    """Mean PSNR and SAM over cubes and noise levels, and CPU seconds of one cube."""
    psnr, angle, seconds = [], [], []
    for cube in cubes:
        for sigma in SIGMAS_OF_255:
            noisy = gaussian(cube, sigma / 255, np.random.default_rng([0, sigma]))
            begin = time.process_time()
            y = method(noisy)
            seconds.append(time.process_time() - begin)
            psnr.append(metrics.psnr(cube, y.clip(0, 1)))
            angle.append(metrics.sam(cube, y.clip(0, 1)).degrees)
    return {
        "psnr": round(float(np.mean(psnr)), 3),
        "sam_deg": round(float(np.mean(angle)), 3),
        "restore_cpu_s": round(float(np.median(seconds)), 3),
        "shape": list(cubes[0].shape),
    }


def domains(units: Units, sizes: Sizes) -> Iterator[Line]:
    """Every sensor by every method."""
    cell = cell_of(units.search("cave", sizes.scale, seed=0))
    scale = sizes.domain_scale
    nets: dict[tuple[str, str], Stas] = {}

    def net(domain: str, sensor: str) -> Stas:
        if (domain, sensor) not in nets:
            make = fit_bands if domain == "bands" else fit_subspace
            nets[domain, sensor] = make(read_pair(units.data, sensor)[0], cell, scale)
        return nets[domain, sensor]

    def method(domain: str, weights: str) -> Method:
        if weights == "none":
            return (lambda noisy: noisy) if domain == "bands" else on_subspace(_pilot_alone(COEFFICIENTS), CONTEXT_PX)
        if weights == "shipped":
            model = checkpoint.load(checkpoint.builtin("stas-subspace"))
            assert isinstance(model, StasModel)
            return on_subspace(model.net, model.halo)
        own = net(domain, weights)
        return on_bands(own) if domain == "bands" else on_subspace(own, own.halo + CONTEXT_PX)

    for sensor in SENSORS:
        ways = [("bands", "none"), ("subspace", "none"), ("subspace", "shipped")]
        ways += [(d, w) for w in dict.fromkeys((ONE_SET, sensor)) for d in ("bands", "subspace")]
        for domain, weights in ways:
            key: Line = {"unit": "domain", "sensor": sensor, "domain": domain, "weights": weights}
            if weights not in ("none", "shipped"):
                key |= {"cell": list(cell.ops), **asdict(scale)}
            yield units.get(
                key,
                lambda sensor=sensor, d=domain, w=weights: scored(  # type: ignore[misc]
                    read_pair(units.data, sensor)[1], method(d, w)
                ),
            )
