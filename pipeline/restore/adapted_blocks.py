"""Fusion in the worker: the weights that the blocks of a scene have learned, beside the restored cube.

<cube>.adapt/<iy>-<ix>.safetensors    weights of a block; none where it stays with the unadapted model
<cube>.adapt.done/                    its mark: size and crc32 of the weights, and figures; written last
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from hypermend.catalog.cube.marks import DoneMarks, Shard, crc32_hex
from hypermend.catalog.errors import NotFound, Refused
from hypermend.catalog.storage.archive_store import ArchiveStore
from hypermend.models.fuse.interface import AdaptationFigures
from hypermend.pipeline.restore.plan import Plan
from hypermend.pipeline.tiling.tiles import Index


class AdaptedBlocks:
    """Weights and figures of the adapted blocks of one scene."""

    def __init__(self, root: ArchiveStore, plan: Plan) -> None:
        self._root, self._plan = root, plan
        self._marks = DoneMarks(root, plan.adapted)

    def done(self) -> frozenset[Index]:
        """Blocks that have adapted."""
        return self._marks.tiles()[0] if self._plan.blocks is not None else frozenset()

    def put(self, index: Index, state: Mapping[str, torch.Tensor], figures: AdaptationFigures) -> int:
        """Store a block; the mark is written last. Returns the bytes of the weights."""
        shards = []
        if state:
            data = save_tensors({k: v.detach().cpu().contiguous() for k, v in sorted(state.items())})
            shards = [Shard(key=_name(index), size=len(data), crc32=crc32_hex(data))]
            self._root.put(f"{self._plan.adapted}/{_name(index)}", data)
        self._marks.mark(*index, shards, figures)
        return sum(shard.size for shard in shards)

    def get(self, index: Index) -> Mapping[str, torch.Tensor]:
        """Weights of a block; {} where it stays with the unadapted model.

        Raises:
            Refused: the block has not adapted, or its mark or its weights are torn.
        """
        mark = self._marks.get(index)
        key = f"{self._plan.adapted}/{_name(index)}"
        if mark is None:
            raise Refused(
                f"scene {self._plan.scene_id}: the mark of block {index} is missing or torn; `hypermend verify`, then "
                "the same command, adapts it again"
            )
        if not mark.shards:
            return {}
        try:
            data = self._root.get(key)
        except NotFound:
            data = b""
        if crc32_hex(data) != mark.shards[0].crc32:
            raise Refused(f"{self._root.href(key)} is torn; `hypermend verify`, then the same command, writes it again")
        return load_tensors(data)

    def figures(self) -> list[dict[str, Any]]:
        """Steps, losses and fall-back of every block, in order; folds their marks into one."""
        if self._plan.blocks is None:
            return []
        return [{"block": list(index), **mark.extra} for index, mark in self._marks.fold().items()]


def _name(index: Index) -> str:
    return f"{index[0]}-{index[1]}.safetensors"
