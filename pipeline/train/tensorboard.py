"""A training's metrics as TensorBoard's event files, made from its lines: any finished or running one can be shown."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hypermend.catalog.errors import Refused

TAGS = {
    "fit/loss": "loss",
    "fit/learning_rate": "learning_rate",
    "fit/psnr_db": "psnr_db",
    "fit/without": "baseline_db",
}
"""Curve -> key of a line; one group, so that all are seen at once."""


class TensorBoardWriter:
    """Event files in a local folder, one run in it for each training."""

    def __init__(self, folder: Path, training: str) -> None:
        """
        Raises:
            Refused: TensorBoard is not installed.
        """
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise Refused(
                f"--tensorboard needs TensorBoard ({error}): pip install 'hypermend[tensorboard]', or leave it out"
            ) from error
        self._writer: Any = SummaryWriter(str(folder / training))
        self._last = 0

    def show(self, lines: Iterable[dict[str, Any]]) -> None:
        """Add the lines that are not there yet."""
        for line in lines:
            step = int(line["step"])
            if step <= self._last:
                continue
            self._last = step
            for tag, key in TAGS.items():
                if key in line:
                    self._writer.add_scalar(tag, line[key], step)
            for scene, scores in line.get("scenes", {}).items():
                self._writer.add_scalar(f"psnr_db by scene/{scene}", scores["psnr_db"], step)
        self._writer.flush()

    def close(self) -> None:
        """Nothing comes any more."""
        self._writer.close()
