"""The search: merged equals separate, Algorithm 1 is repeatable and resumable, the path selections find the best."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch.nn import functional

from hypermend.models.denoise.stas import EDGES, OPS, Genotype, Stas
from hypermend.models.denoise.stas_search import (
    SPATIAL,
    SPECTRAL,
    SS1,
    SearchDiverged,
    SearchProgress,
    SearchSettings,
    alpha_rate,
    best_by_edge,
    log_mse,
    random_genotype,
    score,
    search,
)
from hypermend.models.denoise.supernet import FORMS, Form, MixedEdge, SuperNet, merge, path
from hypermend.models.fit import Batch

CHANNELS = 2


def source(seed: int, scale: float = 1.0) -> Iterator[Batch]:
    g = torch.Generator().manual_seed(seed)
    while True:
        clean = functional.avg_pool2d(torch.randn(2, CHANNELS, 16, 16, generator=g), 5, stride=1, padding=2)
        yield clean + 0.2 * scale * torch.randn(clean.shape, generator=g), clean


def train(epoch: int) -> Iterator[Batch]:
    return source(epoch)


def validation(epoch: int) -> Iterator[Batch]:
    return source(1000 + epoch)


def run(net: SuperNet, settings: SearchSettings, resume: SearchProgress | None = None) -> list[SearchProgress]:
    loss = functional.mse_loss
    return list(search(net, train, validation, loss, settings, resume=resume.state if resume else None))


@pytest.mark.parametrize("form", ["plain", "relu_conv"])
@pytest.mark.parametrize("m", [2, 6, 16])
def test_one_merged_convolution_has_the_value_and_the_gradients_of_eight(form: Form, m: int) -> None:
    torch.manual_seed(0)
    merged, separate = (MixedEdge(m, form=form, merged=flag).double() for flag in (True, False))
    separate.load_state_dict(merged.state_dict())
    x = torch.randn(2, m, 9, 7, dtype=torch.float64)
    weight = torch.randn(len(OPS), dtype=torch.float64).softmax(0)
    answers = []
    for edge in (merged, separate):
        inputs = [x.clone().requires_grad_(), weight.clone().requires_grad_(), *edge.parameters()]
        y = edge(inputs[0], inputs[1])
        answers.append([y, *torch.autograd.grad(y.sin().sum(), inputs)])
    for ours, reference in zip(*answers, strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("i", range(len(OPS)))
def test_each_operation_alone_is_its_merged_kernel(i: int) -> None:
    torch.manual_seed(0)
    edge = MixedEdge(4, form="plain", merged=True)
    x = torch.randn(1, 4, 8, 8)
    one = torch.eye(len(OPS))[i]
    torch.testing.assert_close(edge(x, one), edge(x, i), rtol=1e-5, atol=1e-5)
    kernel, bias = merge(edge.ops, one)
    assert kernel.shape == (4, 4, 5, 5) and bias.shape == (4,)


def test_what_cannot_be_built_says_so() -> None:
    with pytest.raises(ValueError, match="7 channels do not divide into 2 groups"):
        MixedEdge(7, form="plain", merged=True)
    with pytest.raises(ValueError, match="cannot be merged"):
        SuperNet(CHANNELS, form="relu_conv_bn", merged=True)
    with pytest.raises(ValueError, match=r"unknown form 'bn'.*plain"):
        MixedEdge(4, form="bn", merged=False)  # type: ignore[arg-type]


@pytest.mark.parametrize("form", FORMS)
def test_a_path_through_the_super_net_is_the_discrete_network(form: Form) -> None:
    """One-hot weights, a path and the discrete network with the same weights are one function."""
    genotype = random_genotype(3)
    net = SuperNet(3, width=2, extra=1, form=form, merged=form != "relu_conv_bn", seed=1)
    x = torch.randn(2, 4, 12, 12, generator=torch.Generator().manual_seed(0))
    along = net(x, path(genotype))
    one_hot = functional.one_hot(torch.tensor(path(genotype)), len(OPS)).float()
    torch.testing.assert_close(net(x, one_hot.unbind()), along, rtol=1e-4, atol=1e-4)
    if form == "relu_conv":
        discrete = Stas(genotype, 3, width=2, extra=1, activate=True).train()
        state = net.state_dict()
        for c in range(len(net.cells)):
            for e, op in enumerate(path(genotype)):
                taken = {k: v for k, v in state.items() if k.startswith(f"cells.{c}.edges.{e}.ops.{op}.")}
                state |= {k.replace(f".ops.{op}.", ".op."): v for k, v in taken.items()}
        known = discrete.state_dict().keys()
        discrete.load_state_dict({k: v for k, v in state.items() if k in known})
        torch.testing.assert_close(discrete(x), along, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("strategy", [pytest.param("darts", marks=pytest.mark.long), "spos"])
def test_a_search_is_repeatable_and_goes_on_where_it_stopped(strategy: str) -> None:
    settings = SearchSettings(epochs=2, steps=3, strategy=strategy, alpha_rate=0.05)  # type: ignore[arg-type]
    whole_net, again_net = (SuperNet(CHANNELS, width=1, seed=5) for _ in range(2))
    whole = run(whole_net, settings)
    assert [p.epoch for p in whole] == [1, 2]
    first = next(search(again_net, train, validation, functional.mse_loss, settings))
    state = {k: v.clone() for k, v in first.state.items()}
    other = SuperNet(CHANNELS, width=1, seed=6)  # its own weights must not matter
    (last,) = list(search(other, train, validation, functional.mse_loss, settings, resume=state))
    assert last.genotype == whole[-1].genotype and last.train_loss == whole[-1].train_loss
    for name, value in whole_net.state_dict().items():
        assert torch.equal(other.state_dict()[name], value), name


def test_alpha_learns_from_validation_and_theta_from_training() -> None:
    net = SuperNet(CHANNELS, width=1)
    alpha = net.alpha.detach().clone()
    batches = [next(source(seed)) for seed in range(50, 54)]
    before = score(net, batches, functional.mse_loss)
    progress = run(net, SearchSettings(epochs=3, steps=10, alpha_rate=alpha_rate(30)))
    assert score(net, batches, functional.mse_loss) < before
    assert progress[-1].train_loss < progress[0].train_loss
    assert not torch.equal(net.alpha, alpha) and progress[-1].genotype == net.derive()
    spos = SuperNet(CHANNELS, width=1)
    alpha = spos.alpha.detach().clone()
    assert run(spos, SearchSettings(epochs=1, steps=2, strategy="spos"))[0].genotype is None
    assert torch.equal(spos.alpha, alpha)


def test_alpha_prefers_the_operation_that_the_data_were_made_with() -> None:
    """A planted truth: the target is one operation's own answer."""
    torch.manual_seed(0)
    truth, edge = MixedEdge(4, form="plain", merged=True), MixedEdge(4, form="plain", merged=True)
    planted = list(OPS).index("conv3_dil")
    edge.load_state_dict(truth.state_dict())
    alpha = torch.zeros(len(OPS), requires_grad=True)
    optimiser = torch.optim.Adam([alpha], lr=0.1)
    for _ in range(60):
        x = torch.randn(2, 4, 12, 12)
        optimiser.zero_grad()
        functional.mse_loss(edge(x, alpha.softmax(0)), truth(x, planted)).backward()
        optimiser.step()
    assert int(alpha.argmax()) == planted and float(alpha.softmax(0)[planted].detach()) > 0.8


def test_the_loss_on_bands_has_gradients_of_one_size_whatever_the_error() -> None:
    """With the error itself they vanish with it, and weight decay holds alpha where it began."""
    error = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    for size in (0.3, 0.01):
        share = torch.ones((), requires_grad=True)
        log_mse(share * size * error, torch.zeros_like(error)).backward()  # type: ignore[no-untyped-call]
        assert share.grad is not None and float(share.grad) == pytest.approx(2, abs=0.05)


def test_a_loss_that_is_no_number_stops_the_search_by_name() -> None:
    bad = lambda epoch: ((x * float("nan"), y) for x, y in source(epoch))  # noqa: E731
    settings = SearchSettings(epochs=1, steps=2)
    with pytest.raises(SearchDiverged, match="validation loss is nan in epoch 0, step 0: lower the learning rate"):
        list(search(SuperNet(CHANNELS, width=1), train, bad, functional.mse_loss, settings))
    with pytest.raises(SearchDiverged, match="training loss is nan"):
        list(search(SuperNet(CHANNELS, width=1), bad, validation, functional.mse_loss, settings))


def test_a_source_that_ends_early_is_an_error() -> None:
    short = lambda epoch: iter([next(source(epoch))])  # noqa: E731
    with pytest.raises(ValueError, match="epoch 0 had 1 batches; 3 steps need as many"):
        list(search(SuperNet(CHANNELS, width=1), short, short, functional.mse_loss, SearchSettings(epochs=1, steps=3)))


def test_the_selection_finds_the_best_path() -> None:
    best = random_genotype(11)

    def wrong_edges(genotype: Genotype) -> float:
        return sum(a != b for a, b in zip(genotype.ops, best.ops, strict=True))

    assert best_by_edge(wrong_edges, seed=0) == best


def test_rivals_are_genotypes_of_the_space() -> None:
    assert {SPATIAL.ops, SPECTRAL.ops, SS1.ops} == {("conv3",) * 10, ("conv1",) * 10, ("sep3_dil",) * 10}
    assert random_genotype(1) == random_genotype(1) != random_genotype(2)
    assert len(path(random_genotype(1))) == len(EDGES)
    assert alpha_rate(1000) == pytest.approx(3e-3) and alpha_rate(10**6) == 3e-4
