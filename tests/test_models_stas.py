"""STAS: the paper's reading is counted, the halo is what the pixels say, folding changes nothing."""

from __future__ import annotations

import copy

import pytest
import torch

from hypermend.models.denoise.stas import CELLS, EDGES, OPS, Edge, Genotype, Stas, fold

COUNTED = Genotype(("conv3",) + ("conv3_dil_grouped",) * 8 + ("conv3",))
"""A genotype with the parameter count that the paper prints."""


def settled(net: Stas) -> Stas:
    """The network with normalisation statistics that are not the identity, in eval mode."""
    g = torch.Generator().manual_seed(0)
    for m in net.modules():
        if isinstance(m, torch.nn.BatchNorm2d):
            for t, low in ((m.running_mean, -0.5), (m.running_var, 0.5), (m.weight, 0.5), (m.bias, -0.5)):
                assert t is not None
                t.data = torch.rand(t.shape, generator=g) + low
    return net.eval()


def test_the_papers_reading_has_its_parameter_count() -> None:
    net = Stas(COUNTED, 31)
    assert sum(p.numel() for p in net.parameters()) == 1_430_991
    assert len(EDGES) == 10 and len(OPS) == 8 and len(net.cells) == CELLS == 4


def test_genotype_is_data() -> None:
    assert Genotype.from_dict(COUNTED.to_dict()) == COUNTED
    with pytest.raises(ValueError, match=r"edge \(0, 1\).*conv7"):
        Genotype(("conv7", *COUNTED.ops[1:]))
    with pytest.raises(ValueError, match="9 operations"):
        Genotype(COUNTED.ops[1:])
    with pytest.raises(ValueError, match="space 2"):
        Genotype.from_dict({"space": 2, "ops": list(COUNTED.ops)})


@pytest.mark.parametrize("op", OPS)
def test_every_operation_keeps_the_shape_and_reaches_as_far_as_the_halo_says(op: str) -> None:
    torch.manual_seed(0)  # the weights too: random ReLUs decide how far a change is seen
    genotype = Genotype((op,) * 10)
    net = settled(Stas(genotype, 2, width=2, activate=True)).double()
    h = genotype.halo
    x = torch.randn(1, 2, 2 * h + 5, 2 * h + 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    y = net(x)
    assert y.shape == x.shape
    moved = x.clone()
    moved[:, :, h + 2, h + 2] += 1.0
    changed = ((net(moved) - y).abs().amax(dim=(0, 1)) > 0).nonzero()  # (n, 2)
    reach = int((changed - (h + 2)).abs().max())
    assert reach <= h
    assert reach >= h - 2 * CELLS  # no idle bound; random ReLUs may cut the last pixels


@pytest.mark.parametrize("activate", [False, True])
def test_folding_changes_nothing(activate: bool) -> None:
    genotype = Genotype((*OPS, "conv3", "conv1"))
    net = settled(Stas(genotype, 4, width=3, extra=2, activate=activate))
    x = torch.randn(2, 6, 24, 20, generator=torch.Generator().manual_seed(2))
    folded = fold(copy.deepcopy(net))
    torch.testing.assert_close(folded(x), net(x), rtol=1e-4, atol=1e-4)
    assert not any(isinstance(m.norm, torch.nn.BatchNorm2d) for m in folded.modules() if isinstance(m, Edge))


def test_width_and_extra_channels_do_not_change_what_goes_out() -> None:
    net = Stas(COUNTED, 5, width=2, extra=7).eval()
    assert net(torch.zeros(1, 12, 8, 8)).shape == (1, 5, 8, 8)
