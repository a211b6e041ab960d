"""The search, scaled down to one core, in units that are measured once and stored.

A *unit* is one search or one fit: a JSON line that begins with all it depends on. `Units` looks for the line before it
measures, so that a run that was stopped goes on, and tables share what they need.

What is small: 10 bands spread evenly over a sensor's range, width 4 (E = 32, M = 8), one cell instead of four, 4
patches of 20 pixels a step. The code is that of `hypermend search`: super-net, Algorithm 1, `fit`. It works on noisy
*bands*, where the network does all of the denoising: in the signal subspace the training-free pilot leaves so little
that cells could not be told apart (docs/decisions/0005, 0013).

Data: `cave`, 10 training scenes for theta and two for alpha, scored on the centre of the three validation scenes;
`enmap`, the 18 tiles of 32 pixels of Potsdam: 11, 3 and 4. Noise of 30, 50 or 70 of 255.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks import denoise_real
from benchmarks.scenes import crop, read_scene, versions
from hypermend.models.arrays import F32
from hypermend.models.denoise.samples import SIGMAS, any_of, band_stream
from hypermend.models.denoise.stas import Genotype, Stas
from hypermend.models.denoise.stas_search import (
    SearchSettings,
    Strategy,
    alpha_rate,
    best_by_edge,
    log_mse,
    random_genotype,
    score,
    search,
)
from hypermend.models.denoise.supernet import SuperNet
from hypermend.models.fit import Batch, FitSettings, fit
from hypermend.models.signal import metrics
from hypermend.models.signal.degrade import gaussian

VALIDATION = ("fake_and_real_peppers", "paints", "thread_spools")
ALPHA = ("egyptian_statue", "flowers")
"""CAVE's training scenes that alpha learns from."""
LEARNT_PX, SCORED_PX = 256, 128
"""Edges of the central crop of CAVE's scenes, in pixels: of those learnt from, and of those scored on."""
TILE_PX = 32
"""Edge of EnMAP's tiles, in pixels; of each five the third is for scoring and the fifth for alpha."""
HELD = 16
"""Batches that paths are compared on."""
INHERITED = 15
"""Random cells whose accuracy with a super-net's weights is kept."""
SIGMAS_OF_255 = tuple(round(255 * s) for s in SIGMAS)
SPOS_STEPS = 3
"""Steps of SPOS for one of DARTS, so that both take about as long."""

Line = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Sizes of a scaled search."""

    bands: int = 10
    width: int = 4
    cells: int = 1
    patch_px: int = 20
    patches: int = 4
    steps: int = 1000
    """Steps of a fit, and of a search: as many of theta, and as many of alpha."""


@dataclass(frozen=True, kw_only=True)
class Data:
    """Cubes (bands, h, w) about 0 to 1, all bands of the sensor."""

    theta: tuple[F32, ...]
    alpha: tuple[F32, ...]
    scored: tuple[F32, ...]


class Units:
    """Lines of a file, each measured once."""

    def __init__(self, path: Path, data: Path) -> None:
        """Go on with the file, if there is one; `data` is the folder of the real scenes."""
        self.path, self.data = path, data
        text = path.read_text().splitlines() if path.exists() else []
        self.lines: list[Line] = [json.loads(line) for line in text]

    def get(self, key: Mapping[str, Any], make: Callable[[], Line]) -> Line:
        """Return the line that has all of `key`; measure it now if there is none."""
        for line in self.lines:
            if all(k in line and line[k] == v for k, v in key.items()):
                return line
        begin = time.process_time()
        line = {**key, **make()}
        line = {**line, "cpu_s": round(time.process_time() - begin, 2), **versions()}
        self.lines.append(line)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as f:
            print(json.dumps(line, allow_nan=False), file=f, flush=True)
        return line

    def search(
        self,
        sensor: str,
        scale: Scale,
        *,
        seed: int,
        strategy: Strategy = "darts",
        sigmas: Sequence[float] = SIGMAS,
    ) -> Line:
        """One search: `cell`, and for SPOS the `inherited` loss of random cells."""
        key: Line = {"unit": "search", "sensor": sensor, "strategy": strategy, "seed": seed}
        key["sigmas"] = [round(255 * s) for s in sigmas]
        return self.get(
            key | asdict(scale),
            lambda: searched(read_data(self.data, sensor), scale, seed=seed, strategy=strategy, sigmas=sigmas),
        )

    def fit(self, sensor: str, cell: Genotype, scale: Scale, *, seed: int) -> Line:
        """One cell fitted and scored on the scenes that no fit saw: `psnr`, `sam_deg`, `parameters`."""
        key = {"unit": "fit", "sensor": sensor, "cell": list(cell.ops), "seed": seed}
        return self.get(key | asdict(scale), lambda: fitted(read_data(self.data, sensor), cell, scale, seed=seed))


@cache
def read_data(folder: Path, sensor: str) -> Data:
    """Real scenes of one sensor, in the parts that they are used for.

    Raises:
        SystemExit: they are not in the folder.
    """
    if sensor == "cave":
        scenes = {p.name.removesuffix("_ms"): p for p in sorted((folder / "cave").glob("*_ms"))}
        if missing := [name for name in (*VALIDATION, *ALPHA) if name not in scenes]:
            raise SystemExit(f"{folder / 'cave'}: no scene {', '.join(missing)} in it")
        theta = [p for name, p in scenes.items() if name not in (*VALIDATION, *ALPHA)]
        return Data(
            theta=tuple(_middle(p, LEARNT_PX) for p in theta),
            alpha=tuple(_middle(scenes[name], LEARNT_PX) for name in ALPHA),
            scored=tuple(_middle(scenes[name], SCORED_PX) for name in VALIDATION),
        )
    for name, cube, known in denoise_real.scenes(folder):
        if name.startswith(sensor):
            bright = np.quantile(cube[:, known], 0.999)
            _, h, w = cube.shape
            corners = [(y, x) for y in range(0, h, TILE_PX) for x in range(0, w, TILE_PX)]
            windows = [np.s_[y : y + TILE_PX, x : x + TILE_PX] for y, x in corners]
            tiles = [np.clip(cube[:, *i] / bright, 0, 1).astype(np.float32) for i in windows if known[i].all()]
            return Data(
                theta=tuple(t for i, t in enumerate(tiles) if i % 5 not in (2, 4)),
                alpha=tuple(tiles[4::5]),
                scored=tuple(tiles[2::5]),
            )
    raise SystemExit(f"{folder}: no scene of {sensor!r} in it")


def _middle(folder: Path, edge_px: int) -> F32:
    return crop(read_scene(folder), edge_px).copy()  # a view would keep the whole scene


def spread_bands(cubes: Sequence[F32], bands: int) -> list[F32]:
    """Select so many bands of each cube, evenly over the range."""
    return [c[np.linspace(0, len(c) - 1, bands).round().astype(int)] for c in cubes]


def network(cell: Genotype, scale: Scale, *, seed: int) -> Stas:
    """The discrete network, whose first answer is its input."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = Stas(cell, scale.bands, width=scale.width, activate=True, cells=scale.cells)
    begin_with_nothing(net.conv3)
    return net


def begin_with_nothing(last: nn.Conv2d) -> None:
    torch.nn.init.zeros_(last.weight)
    assert last.bias is not None
    torch.nn.init.zeros_(last.bias)


def fitted(data: Data, cell: Genotype, scale: Scale, *, seed: int) -> Line:
    """Fit on all that is not scored, then score."""
    net = network(cell, scale, seed=seed)
    batches = _batches([*data.theta, *data.alpha], scale, seed=seed)
    *_, last = fit(net, batches, log_mse, FitSettings(steps=scale.steps))
    parameters = sum(p.numel() for p in net.parameters())
    return {"parameters": parameters, **quality(last.ema, spread_bands(data.scored, scale.bands))}


def _batches(cubes: Sequence[F32], scale: Scale, *, seed: int, sigmas: Sequence[float] = SIGMAS) -> Iterator[Batch]:
    chosen = spread_bands(cubes, scale.bands)
    draw = any_of(chosen, scale.patch_px)
    return band_stream(draw, patch_px=scale.patch_px, seed=seed, batch=scale.patches, sigmas=sigmas).batches()


@torch.no_grad()
def quality(net: nn.Module, cubes: Sequence[F32]) -> Line:
    """Means over cubes and noise levels of PSNR (peak 1, one MSE over the cube) and SAM; the output clipped to 0..1."""
    by_sigma: dict[str, float] = {}
    angles = []
    for sigma in SIGMAS_OF_255:
        values = []
        for cube in cubes:
            noisy = gaussian(cube, sigma / 255, np.random.default_rng([0, sigma]))
            y = net(torch.from_numpy(noisy)[None])[0].numpy().clip(0, 1)
            values.append(metrics.psnr(cube, y))
            angles.append(metrics.sam(cube, y).degrees)
        by_sigma[str(sigma)] = round(float(np.mean(values)), 4)
    mean = sum(by_sigma.values()) / len(by_sigma)
    return {"psnr": round(mean, 4), "psnr_by_sigma": by_sigma, "sam_deg": round(float(np.mean(angles)), 3)}


def searched(data: Data, scale: Scale, *, seed: int, strategy: Strategy, sigmas: Sequence[float]) -> Line:
    """One search from nothing."""
    steps = scale.steps * (SPOS_STEPS if strategy == "spos" else 1)
    settings = SearchSettings(epochs=1, steps=steps, strategy=strategy, alpha_rate=alpha_rate(steps), seed=seed)
    net = SuperNet(scale.bands, width=scale.width, cells=scale.cells, seed=seed)
    begin_with_nothing(net.conv3)
    loss = log_mse
    (last,) = search(
        net,
        lambda epoch: _batches(data.theta, scale, seed=seed, sigmas=sigmas),
        lambda epoch: _batches(data.alpha, scale, seed=1000 + seed, sigmas=sigmas),
        loss,
        settings,
    )
    line: Line = {"search_s": round(last.seconds, 2), "train_loss": round(last.train_loss, 7)}
    if last.genotype is not None:
        lead = net.weights().detach().max(dim=1).values  # of each edge's strongest operation
        line |= {"alpha_rate": settings.alpha_rate, "lead": round(float(lead.mean()), 4)}
        return line | {"cell": list(last.genotype.ops)}
    held = list(islice(_batches(data.alpha, scale, seed=2000), HELD))
    known: dict[Genotype, float] = {}

    def inherited(genotype: Genotype) -> float:
        return known.setdefault(genotype, score(net, held, log_mse, genotype))

    best = best_by_edge(inherited, seed=seed)
    cells = [inherited(random_genotype(n)) for n in range(INHERITED)]
    assert all(map(math.isfinite, cells))
    return line | {"cell": list(best.ops), "loss": known[best], "inherited": cells}


def smaller(scale: Scale, **changes: int) -> Scale:
    """The same with other sizes."""
    return replace(scale, **changes)
