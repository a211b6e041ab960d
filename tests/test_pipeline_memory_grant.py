"""What a tile is said to take is near what it takes, and one that takes more than is granted is refused."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest

from hypermend.catalog.errors import Refused
from hypermend.models.card import ModelCard
from hypermend.models.checkpoint import builtin
from hypermend.models.memory import activation_bytes
from hypermend.pipeline.config import RestoreJob
from hypermend.pipeline.engine import memory_grant
from hypermend.pipeline.engine.memory_grant import granted_bytes
from hypermend.pipeline.registry.tasks import TASKS
from hypermend.pipeline.restore.make_plan import check_memory
from tests.test_pipeline_restore_plan import plan_of

CARD = ModelCard.read(builtin(TASKS["denoise"].builtins[0]) / "card.json")
PEAK = """
import ctypes, resource, sys
import numpy as np, torch
from hypermend.models.checkpoint import builtin, load
from hypermend.pipeline.engine.memory_grant import keep_freed_memory
bands, edge = int(sys.argv[1]), int(sys.argv[2])
keep_freed_memory()
torch.set_num_threads(1)
rng = np.random.default_rng(0)
y, x = np.mgrid[0:128, 0:128] / 20
materials = np.stack([np.sin(y) + 1, np.cos(x) + 1, np.sin(x + y) + 1])
scene = np.einsum("bk,kyx->byx", rng.random((bands, 3)), materials) + rng.normal(0, 0.15, (bands, 128, 128))
model = load(builtin(sys.argv[3]))
facts = model.estimate([(scene.astype(np.float32), np.ones((128, 128), bool))])
assert facts["kind"] == "subspace", facts
tile = torch.from_numpy(np.tile(scene, (1, 4, 4))[:, :edge, :edge].astype(np.float32))[None]
del scene
ctypes.CDLL(None).malloc_trim(0)  # or the tile takes what the estimate has freed, and its peak seems smaller
before = int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
model.bind(facts)(tile)
# Not ru_maxrss: a child begins with its parent's, and the whole suite is a large parent.
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(int(peak.split()[1]) * 1024 - before)
"""


def test_the_figure_is_near_the_peak_that_is_seen() -> None:
    bands, edge = 64, 400
    seen = subprocess.run(
        [sys.executable, "-c", PEAK, str(bands), str(edge), CARD.name], check=True, capture_output=True, text=True
    )
    assert 1 / 1.5 < activation_bytes(CARD, bands, edge**2) / int(seen.stdout) < 1.5


def test_a_tile_above_what_is_granted_is_refused_with_both_numbers() -> None:
    plan = plan_of(card=CARD)
    assert plan.tile_bytes > plan_of(card=replace(CARD, architecture="identity")).tile_bytes
    check_memory(plan, plan.tile_bytes)
    check_memory(plan, None)
    with pytest.raises(Refused, match=r"a tile of 704 pixels takes \d\.\d\d GiB .* is granted 0\.50 GiB; .*--tile-px"):
        check_memory(plan, 2**29)
    check_memory(plan_of(card=CARD, tile_px=64), 2**29)


def test_a_worker_is_granted_its_share_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_grant, "machine_bytes", lambda: 12 * 2**30)
    assert granted_bytes(RestoreJob(archive="a", workers=3)) == 4 * 2**30
    assert granted_bytes(RestoreJob(archive="a", workers=3, memory_gib=0.5)) == 2**29
    assert granted_bytes(RestoreJob(archive="a", ray_address="ray://elsewhere:10001")) is None


def test_a_share_is_no_more_than_the_machine() -> None:
    assert 0 < memory_grant.share_bytes(None) <= memory_grant.share_bytes(1) == memory_grant.machine_bytes()
