"""Adam by the order of memory is Adam."""

import copy

import pytest
import torch
from torch import nn

from histofuse.training.fitting.cpu.adam import LayoutAdam


def make_network():
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 16, 1), nn.Conv2d(16, 5, 3, groups=1), nn.Linear(5, 7)
    return nn.Sequential(*layers).to(memory_format=torch.channels_last)


def take_steps(network, optimiser, steps=3):
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        for parameter in network.parameters():
            drawn = torch.randn(parameter.shape, generator=generator)
            parameter.grad = torch.empty_like(parameter).copy_(drawn)
        optimiser.step()


def make_adam(kind, network):
    first, *others = network.parameters()
    groups = [{"params": [first], "lr": 0.1}, {"params": others, "lr": 0.01}]
    return kind(groups, weight_decay=0.1, fused=True)


@pytest.fixture
def stepped():
    """A network and its optimiser after three steps, of each kind."""
    both = {}
    for kind in (torch.optim.Adam, LayoutAdam):
        network = make_network()
        both[kind] = network, make_adam(kind, network)
        take_steps(*both[kind])
    return both


def require_equal(ours, theirs):
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=0, atol=0)


def test_weights_and_state_are_adams_to_the_bit(stepped):
    for ours, theirs in zip(stepped[LayoutAdam], stepped[torch.optim.Adam], strict=True):
        require_equal(ours, theirs)
    state = stepped[LayoutAdam][1].state_dict()["state"]
    assert state[0]["exp_avg"].shape == (8, 3, 3, 3)
    assert state[0]["exp_avg"].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("before", [torch.optim.Adam, LayoutAdam])
def test_state_of_one_kind_is_resumed_by_the_other(stepped, before):
    (after,) = {torch.optim.Adam, LayoutAdam} - {before}
    network = make_network()
    network.load_state_dict(stepped[before][0].state_dict())
    resumed = make_adam(after, network)
    resumed.load_state_dict(copy.deepcopy(stepped[before][1].state_dict()))
    take_steps(network, resumed)
    take_steps(*stepped[before])
    require_equal(network, stepped[before][0])
    require_equal(resumed, stepped[before][1])


def test_a_parameter_without_a_gradient_stays(stepped):
    network, optimiser = stepped[LayoutAdam]
    kept = {name: p.detach().clone() for name, p in network.named_parameters()}
    for name, parameter in network.named_parameters():
        if name.startswith("0."):
            parameter.grad = None
    optimiser.step()
    stayed = {n for n, p in network.named_parameters() if torch.equal(p, kept[n])}
    assert stayed == {"0.weight", "0.bias"}


def test_no_gradient_is_copied(stepped):
    counts = {}
    for kind, (network, optimiser) in stepped.items():
        for parameter in network.parameters():
            parameter.grad = torch.ones_like(parameter)
        with torch.profiler.profile() as profile:
            optimiser.step()
        counts[kind] = sum(event.name == "aten::clone" for event in profile.events())
    assert counts[LayoutAdam] == 0 < counts[torch.optim.Adam]
