"""Events of a run in progress and the report at its end: plain values, which programs get as JSON."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

Status = Literal["published", "current", "failed", "skipped", "held"]
"""How a scene ends: published; current (nothing was left to do); failed or skipped, with a reason; held (another driver
is at work on it)."""


def unit_id(collection: str, scene: str) -> str:
    """Return the id of a unit in a run: a scene id is unique in its collection only. No two scenes have the same."""
    return f"{collection.replace('%', '%25').replace('/', '%2F')}/{scene}"


@dataclass(frozen=True, kw_only=True)
class Event:
    """A step of a scene that the user may want to see."""

    kind: Literal["opened", "block", "tile"] | Status
    scene: str
    """Id of the unit; for a scene that did not become one, as much of its name as is known."""
    done: int = 0
    """Number of tiles done, or of adaptation blocks where the kind is ``block``."""
    total: int = 0
    message: str = ""


@dataclass(frozen=True, kw_only=True)
class SceneResult:
    """How a scene ended."""

    scene: str
    status: Status
    collection: str | None = None
    """None for a scene that was skipped before its collection was known."""
    tiles_written: int = 0
    tiles_failed: int = 0
    reason: str = ""
    warnings: tuple[str, ...] = ()
    figures: Mapping[str, Any] = field(default_factory=dict)
    """Figures of the scene; for a fusion its pair, and the steps, losses and fall-backs of every block."""

    @property
    def unit(self) -> str:
        """Id of the unit, or the scene id alone where the collection is not known."""
        return self.scene if self.collection is None else unit_id(self.collection, self.scene)


@dataclass(kw_only=True)
class RunReport:
    """How a run ended; complete once the run's events are exhausted."""

    run: str
    scenes: list[SceneResult] = field(default_factory=list)
    tiles_written: int = 0
    bytes_written: int = 0
    seconds: float = 0.0
    samples: int = 0
    """Number of samples written: bands times pixels."""
    worker_s: float = 0.0
    """Seconds that workers spent on tiles, summed over workers."""
    peak_worker_bytes: int = 0
    notes: dict[str, Any] = field(default_factory=dict)
    """Further facts; ``stopped`` is the reason why the run ended early by itself."""
    stopped: bool = False
    """True where the user stopped it: the tiles in flight are done, and the same command does the rest."""

    @property
    def exit_code(self) -> int:
        """0: every scene is published. 1: some are not, see ``scenes`` and the log. 130: stopped before its end."""
        if self.stopped:
            return 130
        return int("stopped" in self.notes or any(s.status not in ("published", "current") for s in self.scenes))

    def count(self, status: str) -> int:
        """Return the number of scenes that ended so."""
        return sum(s.status == status for s in self.scenes)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return asdict(self) | {"exit_code": self.exit_code}


def new_run_id(verb: str) -> str:
    """Make a run id that sorts by time and is unique."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}-{verb}"
