"""One switch turns on all that makes training faster on CPUs, and off again."""

from torch import nn

from histofuse.training.fitting.cpu import training_faster_on_cpu


def test_convolutions_and_dropout_are_replaced_while_it_is_on():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Dropout(0.5))
    with training_faster_on_cpu(network):
        assert ["forward" in vars(layer) for layer in network] == [True, False, True]
    assert not any("forward" in vars(layer) for layer in network)
