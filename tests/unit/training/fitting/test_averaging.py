"""The average of weights: its definition, and fits that validate and keep it."""

import copy

import pytest
import torch
from torch import nn

from histofuse.training.fitting.averaging import AveragedNetwork
from histofuse.training.fitting.batches import compute_logits
from histofuse.training.fitting.fit import fit
from histofuse.training.fitting.history import measure
from histofuse.training.fitting.recipe import ParameterGroup, Recipe, Rows


def make_network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2))


def make_rows(n: int, seed: int) -> Rows:
    x = torch.randn(n, 4, generator=torch.Generator().manual_seed(seed))
    return Rows((x,), (x[:, 0] > 0).long())


def train(epochs: int, averaging: float, checkpoints=None):
    network = make_network()
    groups = (ParameterGroup("all", tuple(network.parameters()), 1e-2),)
    recipe = Recipe(epochs, 8, 9, "loss", 1, groups, weight_averaging=averaging)
    result = fit(network, make_rows(64, 1), make_rows(40, 2), recipe, checkpoints)
    return network, result


def test_each_step_moves_the_average_towards_the_weights():
    network = make_network()
    average = AveragedNetwork(network, decay=0.25)
    first = network[0].weight.detach().clone()
    for step, decay in ((1, 2 / 11), (2, 3 / 12)):
        with torch.no_grad():
            network[0].weight.fill_(step)
            network[1].num_batches_tracked.add_(1)
        average.update()
        first = decay * first + (1 - decay) * step
    torch.testing.assert_close(average.network[0].weight, first)
    assert average.network[1].num_batches_tracked == 2
    assert not any(p.requires_grad for p in average.network.parameters())
    assert (network[0].weight == 2).all()


def test_the_fitted_network_is_the_average_that_was_validated():
    network, result = train(5, 0.9)
    rows = make_rows(40, 2)
    best = result.history[result.best_epoch - 1]
    found = measure(compute_logits(network, rows.inputs), rows.labels.numpy())
    assert found["loss"] == pytest.approx(best["validation_loss"], rel=1e-5)
    plain, other = train(5, 0.0)
    # Averaging does not change how the weights themselves are trained.
    assert [row["train_loss"] for row in result.history] == [
        row["train_loss"] for row in other.history
    ]
    assert not torch.equal(network[0].weight, plain[0].weight)


def test_an_interrupted_average_goes_on_to_the_same_bits(tmp_path):
    whole, result = train(4, 0.9)
    train(2, 0.9, tmp_path)
    resumed, again = train(4, 0.9, tmp_path)
    assert again == result
    state = copy.deepcopy(resumed.state_dict())
    assert all(torch.equal(value, state[name]) for name, value in whole.state_dict().items())
