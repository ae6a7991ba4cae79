"""Steps recorded as CUDA graphs give what steps launched kernel by kernel give."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from histofuse.training.fitting import trainer
from histofuse.training.fitting.fit import fit
from histofuse.training.fitting.recipe import ParameterGroup, Recipe, Rows

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


class Plain:
    """In the place of `GraphedNetwork`: calls the network."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network

    def refresh(self) -> None:
        pass

    def __call__(self, *inputs: Tensor) -> Tensor:
        return self.network(*inputs)


class Waiting(nn.Sequential):
    """Asks the GPU for a number halfway."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) * (1 if input.sum().item() else 2)


def make_network(kind: type[nn.Sequential] = nn.Sequential) -> nn.Sequential:
    torch.manual_seed(0)
    return kind(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(8, 3),
    )


def make_rows(count: int) -> Rows:
    generator = torch.Generator().manual_seed(count)
    images = torch.randn(count, 3, 12, 12, generator=generator)
    return Rows((images,), torch.arange(count) % 3)


def thaw(network: nn.Module, epoch: int) -> None:
    """Keep the convolution as it is in the first epoch, and its batch norm in the first two."""
    network.train()
    network[0].requires_grad_(epoch > 0)
    network[1].train(epoch > 1)


def make_recipe(network: nn.Module) -> Recipe:
    return Recipe(
        epochs=4,
        batch_size=16,
        patience=9,
        monitor="loss",
        seed=1,
        groups=(ParameterGroup("all", tuple(network.parameters()), 1e-2),),
        begin_epoch=thaw,
        show_progress=False,
    )


def train(network, checkpoints=None, **changes):
    recipe = replace(make_recipe(network), **changes)
    # 41 rows: batches of 14 and of 13.
    result = fit(network, make_rows(41), make_rows(10), recipe, checkpoints)
    return result.history, {name: t.tolist() for name, t in network.state_dict().items()}


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_graphs_change_no_digit(monkeypatch, precision):
    graphed = train(make_network(), precision=precision)
    monkeypatch.setattr(trainer, "GraphedNetwork", Plain)
    assert train(make_network(), precision=precision) == graphed


def test_an_epoch_does_not_depend_on_where_graphs_were_recorded(tmp_path):
    whole = train(make_network())
    train(make_network(), tmp_path, epochs=2)
    assert train(make_network(), tmp_path) == whole


def test_a_network_that_cannot_be_recorded_is_trained_as_it_is_and_said(monkeypatch, capsys):
    waiting = train(make_network(Waiting))
    assert "kernels are launched one by one" in capsys.readouterr().err
    monkeypatch.setattr(trainer, "GraphedNetwork", Plain)
    assert train(make_network(Waiting)) == waiting
