"""Convolutions onto few pixels, as matrix products: on CPUs their own kernels are slow there."""

from __future__ import annotations

from contextlib import AbstractContextManager

from torch import Tensor, nn
from torch.nn.functional import linear, unfold

from histofuse.models.overrides import overriding_forward

# The last stage of a ResNet makes maps of 2 x 2 px from patches of 64 px.
_MOST_PIXELS = 4


def multiplying_small_maps(network: nn.Module) -> AbstractContextManager[None]:
    """Let each convolution onto at most 2 x 2 pixels be one matrix product, on CPUs.

    oneDNN's kernels are far from the machine's rate on such maps: of a step of ResNet-18 on patches
    of 64 px, the three layers that make them took a third. Other sizes, and all on GPUs, are
    convolved as ever.
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
    seen = unfold(input, layer.kernel_size, layer.dilation, layer.padding, layer.stride)
    product = linear(seen.transpose(1, 2).flatten(0, 1), layer.weight.flatten(1), layer.bias)
    return product.view(len(input), rows, columns, -1).permute(0, 3, 1, 2)


def _count_places(layer: nn.Conv2d, axis: int, side: int) -> int:
    reach = layer.dilation[axis] * (layer.kernel_size[axis] - 1) + 1
    return (side + 2 * int(layer.padding[axis]) - reach) // layer.stride[axis] + 1
