"""Denoising in a worker: what is found out about a scene before the first tile, and the pixels of a tile.

source cube --read with halo--> fill holes --model--> crop the core
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from catalog.cube import Cube
from catalog.root import Root
from models.restorer import Facts, Model, Restorer, pack, unpack
from pipeline.pixels import (
    FILL_REACH_PX,
    Flags,
    Mask,
    Physical,
    Stored,
    TilePixels,
    data_mask,
    fill_holes,
    mark_near_fill,
    physical,
    refuse_bad_output,
    to_stored,
)
from pipeline.plan import Plan, Refused
from pipeline.tiles import SpectralWindow, Tile, padded_read, sample_windows

# ---------------------------------------------------------------------------------------------- facts of the scene


def scene_facts(plan: Plan, source: Cube, model: Model) -> Facts:
    """What depends on the whole scene: the mean spectrum that fills deep holes, and what the model asks for.

    Raises:
        Refused: no sampled pixel of the scene holds data.
    """
    good = np.flatnonzero(plan.spec.good)
    mean = _mean_spectrum(plan, source, good)
    windows = plan.windows
    if windows is None:
        return {"mean": pack(mean), "model": [model.estimate(_samples(plan, source, good))]}
    # One estimate for each spectral window, on the bands that it feeds.
    return {"mean": pack(mean), "model": [model.estimate(_samples(plan, source, np.array(w.take))) for w in windows]}


def _samples(plan: Plan, source: Cube, bands: NDArray[np.intp]) -> Iterator[tuple[Physical, Mask]]:
    """Sampled windows of the scene: physical values of ``bands`` and where they hold data. One in memory at a time."""
    for window in sample_windows(plan.spec.height, plan.spec.width):
        stored, flags = source.read(window.y, window.x)
        values = physical(stored[bands], source.spec)
        known = data_mask(values, flags)
        if known.any():
            yield np.where(known, values, np.float32(0)), known


def _mean_spectrum(plan: Plan, source: Cube, good: NDArray[np.intp]) -> Physical:
    total, count = np.zeros(len(good)), 0
    for values, known in _samples(plan, source, good):
        total += values[:, known].sum(axis=1, dtype=np.float64)
        count += int(known.sum())
    if count == 0:
        raise Refused(f"scene {plan.scene_id}: none of the sampled pixels holds data; nothing to restore")
    return (total / count).astype(np.float32)


# ----------------------------------------------------------------------------------------------------- one tile


class DenoisedScene:
    """A plan with its source open and its restorer bound."""

    def __init__(self, plan: Plan, root: Root, model: Model) -> None:
        assert plan.scene_facts is not None
        self.plan = plan
        self._source = Cube(root, plan.source)
        self._good = np.flatnonzero(plan.spec.good)
        self._mean = unpack(plan.scene_facts["mean"])
        self._restorer = bind(plan, model)

    def pixels(self, tile: Tile) -> TilePixels:
        """Read and restore one tile."""
        start = time.perf_counter()
        stored, flags, values, known = self._read(tile)
        read = time.perf_counter()
        core = _core(tile, self.plan.halo)
        restored, flags_out = stored[(..., *core)], flags[core]
        if known[core].any():
            output = restore_values(self._restorer, values, core)
            if output is not None:
                refuse_bad_output(output, known[core])
                restored = self._store(restored, values[(..., *core)], output, known[core])
            flags_out = mark_near_fill(flags, known, self.plan.halo)[core]
        return TilePixels(stored=restored, flags=flags_out, read_s=read - start, model_s=time.perf_counter() - read)

    def _read(self, tile: Tile) -> tuple[Stored, Flags, Physical, Mask]:
        """The tile with its halo: stored numbers, flags, physical values of the good bands without holes, known."""
        halo = self.plan.halo
        stored, flags = self._padded(tile, halo)
        values = physical(stored[self._good] if not all(self.plan.spec.good) else stored, self._source.spec)
        known = data_mask(values, flags)
        if not known.all():
            # A hole takes its values from up to FILL_REACH_PX farther than the network looks.
            wide, wide_flags = self._padded(tile, halo + FILL_REACH_PX)
            filled = physical(wide[self._good], self._source.spec)
            fill_holes(filled, data_mask(filled, wide_flags), self._mean)
            inner = slice(FILL_REACH_PX, -FILL_REACH_PX)
            values = np.ascontiguousarray(filled[:, inner, inner])
        return stored, flags, values, known

    def _padded(self, tile: Tile, halo: int) -> tuple[Stored, Flags]:
        read = padded_read(self.plan.grid, tile, halo)
        stored, flags = self._source.read(read.window.y, read.window.x)
        return read.take(stored), read.take(flags)

    def _store(self, stored: Stored, before: Physical, after: Physical, known: Mask) -> Stored:
        """The change of the good bands, added to the stored numbers where there is data.

        Adding the change, rather than storing the result anew, keeps every band that the model left alone bit for bit.
        """
        spec, out = self.plan.spec, stored.astype(self.plan.spec.dtype)
        change = (after - before) / np.float32(spec.scale_factor)
        out[self._good] = np.where(known, to_stored(stored[self._good] + change, spec), out[self._good])
        return out


def _core(tile: Tile, halo: int) -> tuple[slice, slice]:
    return slice(halo, halo + tile.core.height), slice(halo, halo + tile.core.width)


def restore_values(restorer: Restorer, values: Physical, core: tuple[slice, slice]) -> Physical | None:
    """Run the model on (bands, h, w) physical values; (bands, core) out, or None where it changes nothing."""
    x = torch.from_numpy(values)[None].to("cuda" if torch.cuda.is_available() else "cpu")
    with torch.inference_mode():
        y = restorer(x)
    if y is x:
        return None
    return np.asarray(y[0].cpu().numpy()[(..., *core)], dtype=np.float32)


# ----------------------------------------------------------------------------------------------- spectral windows


def bind(plan: Plan, model: Model) -> Restorer:
    """The restorer of every good band of the plan's scene."""
    assert plan.scene_facts is not None
    facts = plan.scene_facts["model"]
    windows = plan.windows
    if windows is None:
        return model.bind(facts[0])
    position = {int(band): i for i, band in enumerate(np.flatnonzero(plan.spec.good))}
    local = [replace(w, take=tuple(position[b] for b in w.take)) for w in windows]
    return SpectralWindows(local, [model.bind(f) for f in facts])


class SpectralWindows:
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
