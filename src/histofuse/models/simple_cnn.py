"""The baseline: three convolutional blocks and one hidden layer.

Source: paper 3.1 (32-64-128 channels, 3 x 3 convolutions with padding 1, ReLU, max-pool; flatten,
8192 -> 256, ReLU, dropout 0.5, 256 -> 3; about 2.2 million parameters at 64 x 64).
"""

import itertools
from collections import OrderedDict

from torch import nn

CHANNELS = (3, 32, 64, 128)
EMBEDDING_DIM = 256


class SimpleCnnBackbone(nn.Sequential):
    """All of the baseline but dropout and the last layer: images -> (batch, 256)."""

    def __init__(self, input_px: int) -> None:
        pairs = itertools.pairwise(CHANNELS)
        features = nn.Sequential(*(_make_block(i, o) for i, o in pairs))
        side = input_px // 2 ** (len(CHANNELS) - 1)
        hidden = nn.Sequential(
            nn.Flatten(), nn.Linear(CHANNELS[-1] * side * side, EMBEDDING_DIM), nn.ReLU()
        )
        super().__init__(OrderedDict(features=features, hidden=hidden))


def _make_block(inputs: int, outputs: int) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, kernel_size=3, padding=1)
    return nn.Sequential(convolution, nn.ReLU(), nn.MaxPool2d(2))
