"""Convolutions onto few pixels, as matrix products: on CPUs their own kernels are slow there."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, pad

from histofuse.training.fitting.cpu.overrides import overriding_forward

# The last stage of a ResNet makes maps of 2 x 2 px from patches of 64 px.
_MOST_PIXELS = 4


def multiplying_small_maps(network: nn.Module) -> AbstractContextManager[None]:
    """Let each convolution onto at most 2 x 2 pixels be one matrix product, on CPUs.

    oneDNN's kernels are slow on such maps. Larger maps, and all on GPUs, are convolved as usual.
    """
    layers = [
        layer
        for layer in network.modules()
        if isinstance(layer, nn.Conv2d)
        and layer.groups == 1
        and layer.padding_mode == "zeros"
        and not isinstance(layer.padding, str)
    ]
    return overriding_forward(layers, _convolve)


def _convolve(layer: nn.Conv2d, input: Tensor) -> Tensor:
    assert not isinstance(layer.padding, str)
    if input.device.type != "cpu":
        return nn.Conv2d.forward(layer, input)
    rows, columns = (_count_places(layer, axis, side) for axis, side in enumerate(input.shape[2:]))
    if not 0 < rows * columns <= _MOST_PIXELS:
        return nn.Conv2d.forward(layer, input)
    seen = _list_windows(layer, input, rows, columns)
    # Channels come last in the weights' memory too, so this copies neither them nor their gradient.
    weights = layer.weight.permute(0, 2, 3, 1).flatten(1)
    product = linear(seen.flatten(0, 2), weights, layer.bias)
    return product.view(len(input), rows, columns, -1).permute(0, 3, 1, 2)


def _list_windows(layer: nn.Conv2d, input: Tensor, rows: int, columns: int) -> Tensor:
    """Put side by side what each place sees: (n, rows, columns, kernel's places * channels)."""
    (down, right), (step_y, step_x) = layer.dilation, layer.stride
    pad_y, pad_x = (int(side) for side in layer.padding)
    padded = pad(input.permute(0, 2, 3, 1), (0, 0, pad_x, pad_x, pad_y, pad_y))
    tops = (row * down for row in range(layer.kernel_size[0]))
    lefts = [column * right for column in range(layer.kernel_size[1])]
    parts = [
        padded[:, top : top + step_y * rows : step_y, left : left + step_x * columns : step_x]
        for top in tops
        for left in lefts
    ]
    return torch.cat(parts, dim=3)


def _count_places(layer: nn.Conv2d, axis: int, side: int) -> int:
    reach = layer.dilation[axis] * (layer.kernel_size[axis] - 1) + 1
    return (side + 2 * int(layer.padding[axis]) - reach) // layer.stride[axis] + 1
