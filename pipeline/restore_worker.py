"""What a worker does to one tile of a scene, and what it finds out about the scene before the first tile.

    source cube --read with halo--> fill holes --model--> crop the core --write one shard--> mark

Whatever a tile's pixels depend on lies within its halo or in the plan, so every tile size, worker and order gives the
same cube (DESIGN section 4).
"""

from __future__ import annotations

import tempfile
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from catalog.cube import Cube, create, open_cube
from catalog.errors import NotFound
from catalog.root import Root, to_json
from catalog.spec import VALID
from models.card import ModelCard
from models.checkpoint import CARD, WEIGHTS, builtin, load
from models.restorer import Facts, Model, Restorer, pack, unpack
from pipeline.job import Opened, peak_bytes
from pipeline.ledger import Receipt
from pipeline.pixels import (
    FILL_REACH_PX,
    Flags,
    Mask,
    Physical,
    Stored,
    data_mask,
    fill_holes,
    mark_near_fill,
    physical,
    to_integers,
)
from pipeline.plan import Plan, Refused, make_plan
from pipeline.tiles import Index, SpectralWindow, Tile, padded_read, sample_windows

# ---------------------------------------------------------------------------------------------------------- tasks


@dataclass(frozen=True, kw_only=True)
class Prepare:
    """Plan one scene, estimate its facts, create its target."""

    unit: str
    scene: str
    source: str
    ingest_id: str
    collection: str
    task: str
    model: str
    tile_px: int | None


@dataclass(frozen=True, kw_only=True)
class RestoreTile:
    unit: str
    plan: str
    """Key of the plan; the worker reads it once."""
    index: Index

    @property
    def tiles(self) -> tuple[Index, ...]:
        return (self.index,)


@dataclass(frozen=True, kw_only=True)
class Finish:
    unit: str
    plan: str


class RestoreWorker:
    """Handles the tasks of any number of scenes; keeps models for its life and the last few scenes open."""

    keep_open = 4

    def __init__(self, archive: str) -> None:
        self._root = Root(archive)
        self._scenes: OrderedDict[str, _OpenScene] = OrderedDict()
        self._model = cache(lambda name: load_model(self._root, name))

    def __call__(self, task: Prepare | RestoreTile | Finish) -> Any:
        if isinstance(task, Prepare):
            return self._prepare(task)
        if isinstance(task, RestoreTile):
            scene = self._scene(task.plan)
            return scene.restore(scene.plan.grid[task.index])
        return self._finish(Plan.from_dict(self._root.get_json(task.plan)))

    def _prepare(self, task: Prepare) -> Opened:
        source = Cube(self._root, task.source)
        model = self._model(task.model)
        plan = make_plan(
            scene_id=task.scene,
            collection=task.collection,
            source=task.source,
            ingest_id=task.ingest_id,
            spec=source.spec,
            card=model.card,
            task=task.task,
            tile_px=task.tile_px,
        )
        wrote = 0
        try:
            plan = Plan.from_dict(self._root.get_json(plan.key))
        except NotFound:
            data = to_json(plan.with_facts(scene_facts(plan, source, model)).to_dict())
            # Of two drivers that estimate at once, one wins, and both go on with its facts.
            wrote = len(data) if self._root.put_new(plan.key, data) else 0
            plan = Plan.from_dict(self._root.get_json(plan.key))
        create(self._root, plan.target, plan.spec, lonlat=_lonlat(self._root, task.source))
        done = frozenset(Cube(self._root, plan.target).done())
        assert plan.scene_facts is not None
        # A model that leaves a scene, or a window of its bands, as it is says why.
        reasons = dict.fromkeys(f"left as it is: {f['reason']}" for f in plan.scene_facts["model"] if "reason" in f)
        return Opened(
            total=len(plan.grid),
            done=done,
            bytes_written=wrote,
            context=replace(plan, scene_facts=None),
            warnings=(*plan.warnings, *reasons),
        )

    def _finish(self, plan: Plan) -> float:
        """Fold the marks; returns the usable share of the scene."""
        cube = Cube(self._root, plan.target)
        valid = sum(mark.extra["valid_px"] for mark in cube.done().values())
        cube.fold()
        return float(valid) / (plan.spec.height * plan.spec.width)

    def _scene(self, key: str) -> _OpenScene:
        if key not in self._scenes:
            plan = Plan.from_dict(self._root.get_json(key))
            self._scenes[key] = _OpenScene(plan, self._root, self._model(plan.model))
            while len(self._scenes) > self.keep_open:
                self._scenes.popitem(last=False)
        self._scenes.move_to_end(key)
        return self._scenes[key]


def _lonlat(root: Root, path: str) -> tuple[NDArray[Any], NDArray[Any]] | None:
    """2-D longitude and latitude of a cube in sensor geometry."""
    cube = open_cube(root, path)
    return (cube["lon"].values, cube["lat"].values) if "lon" in cube.coords else None


def load_model(root: Root, name: str) -> Model:
    """The model ``name`` of the archive, or the built-in one."""
    with tempfile.TemporaryDirectory() as folder:
        for file in (CARD, WEIGHTS):
            try:
                (Path(folder) / file).write_bytes(root.get(f"models/{name}/{file}"))
            except NotFound:
                if file == CARD:
                    return load(builtin(name))
        return load(folder)


def model_card(root: Root, name: str) -> ModelCard:
    """The card alone: what a plan needs of a model."""
    try:
        return ModelCard.from_dict(root.get_json(f"models/{name}/{CARD}"))
    except NotFound:
        return ModelCard.read(builtin(name) / CARD)


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


class _OpenScene:
    """A plan with its cubes open and its restorer bound."""

    def __init__(self, plan: Plan, root: Root, model: Model) -> None:
        assert plan.scene_facts is not None
        if model.card.weights_sha256 != plan.weights_sha256:
            raise Refused(f"scene {plan.scene_id}: the weights of {plan.model} changed under its plan; run it again")
        self.plan = plan
        self._source = Cube(root, plan.source)
        self._target = Cube(root, plan.target)
        self._good = np.flatnonzero(plan.spec.good)
        self._mean = unpack(plan.scene_facts["mean"])
        self._restorer = bind(plan, model)

    def restore(self, tile: Tile) -> Receipt:
        """Read, restore and write one tile; the mark is written last."""
        start = time.perf_counter()
        stored, flags, values, known = self._read(tile)
        read = time.perf_counter()
        core = _core(tile, self.plan.halo)
        restored, flags_out = stored[(..., *core)], flags[core]
        if known[core].any():
            output = restore_values(self._restorer, values, core)
            if output is not None:
                restored = self._store(restored, values[(..., *core)], output, known[core])
            flags_out = mark_near_fill(flags, known, self.plan.halo)[core]
        modelled = time.perf_counter()
        restored = restored.astype(self.plan.spec.dtype, copy=False)
        shards = self._target.write(tile.core.y, tile.core.x, restored, flags_out)
        usable = int(np.count_nonzero(flags_out & VALID))
        self._target.mark(*tile.index, shards, {"valid_px": usable})
        return Receipt(
            tiles=(tile.index,),
            read_s=read - start,
            model_s=modelled - read,
            write_s=time.perf_counter() - modelled,
            valid_fraction=usable / flags_out.size,
            samples=restored.size,
            bytes_written=sum(shard.size for shard in shards),
            peak_bytes=peak_bytes(),
        )

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
        moved = stored[self._good] + change
        if np.dtype(spec.dtype).kind in "iu":
            moved = to_integers(moved, spec)
        out[self._good] = np.where(known, moved.astype(spec.dtype, copy=False), out[self._good])
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
