"""The paper's networks: parameter counts, step 0, and how far they see."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hypermend.models.fuse.ual import Adaptation, Degradation, Fusion
from hypermend.models.signal.degrade import blur_down


def parameters(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def test_counts_of_the_paper() -> None:
    assert parameters(Fusion(31, 3)) == 683_551
    assert parameters(Fusion(31, 3, shared=False)) == 1_421_599
    assert parameters(Adaptation(31)) == 331_231
    assert parameters(Degradation(8)) == 32 * 32


def test_adaptation_begins_at_the_fusion() -> None:
    z = torch.rand(1, 5, 12, 9)
    assert torch.equal(Adaptation(5, width=4)(z), z)


@pytest.mark.parametrize("stages", [1, 2])
def test_fusion_sees_its_halo_and_no_farther(stages: int) -> None:
    torch.manual_seed(0)
    net = Fusion(4, 2, out=3, width=6, depth=2, stages=stages, shared=False)
    y, x = torch.rand(1, 4, 41, 41), torch.rand(1, 2, 41, 41)
    changed = x.clone()
    changed[:, :, 20, 20] += 10
    difference = (net(y, changed) - net(y, x)).abs().amax((0, 1))  # (41, 41)
    rows = torch.nonzero(difference.sum(1)).flatten()
    assert net(y, x).shape == (1, 3, 41, 41)
    assert (int(rows[0]), int(rows[-1])) == (20 - net.halo, 20 + net.halo)


def test_degradation_is_the_operator_of_the_house() -> None:
    z, net = torch.rand(1, 3, 32, 24), Degradation(8)
    assert torch.equal(net(z), blur_down(z, net.kernel, 8))
    assert abs(float(net.kernel.detach().sum()) - 1) < 1e-6
