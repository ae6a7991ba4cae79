"""Adam gives the bits of PyTorch's, and resumes from its state."""

import copy

import torch
from torch import nn

from histofuse.training.fitting.adam import Adam
from histofuse.training.fitting.recipe import ParameterGroup


def make_network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3))


def make_groups(network: nn.Sequential) -> tuple[ParameterGroup, ...]:
    body, _, head = (tuple(layer.parameters()) for layer in network)
    return ParameterGroup("head", head, 1e-2), ParameterGroup("body", body, 1e-3)


def take_steps(network: nn.Sequential, optimizer, first: int, last: int) -> None:
    """Freeze the first layer in the first two steps."""
    for step in range(first, last):
        network[0].requires_grad_(step >= 2)
        optimizer.zero_grad()
        inputs = torch.randn(6, 5, generator=torch.Generator().manual_seed(step))
        network(inputs).square().sum().backward()
        optimizer.step()


def test_steps_are_those_of_pytorch_to_the_bit():
    ours, theirs = make_network(), make_network()
    groups = make_groups(theirs)
    peer = torch.optim.Adam(
        [{"params": list(group.parameters), "lr": group.learning_rate} for group in groups],
        weight_decay=0.1,
        fused=True,
    )
    take_steps(ours, Adam(make_groups(ours), 0.1), 0, 5)
    take_steps(theirs, peer, 0, 5)
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(mine, other)


def test_a_resumed_optimizer_goes_on_as_if_undisturbed():
    whole, resumed = make_network(), make_network()
    first = Adam(make_groups(whole), 0.1)
    take_steps(whole, first, 0, 1)
    resumed.load_state_dict(whole.state_dict())
    second = Adam(make_groups(resumed), 0.1)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    take_steps(whole, first, 1, 4)
    take_steps(resumed, second, 1, 4)
    for mine, other in zip(resumed.parameters(), whole.parameters(), strict=True):
        assert torch.equal(mine, other)
