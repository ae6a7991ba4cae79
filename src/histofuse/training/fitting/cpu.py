"""What makes training faster on CPUs, behind one switch.

Shares are of a step's CPU time, on AVX-512 with bf16 and on AVX2 with fp32, for rows of
benchmarks/results.md.
"""

import ctypes
import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, pad

Layer = TypeVar("Layer", bound=nn.Module)
# Resolution of the probability of dropping a unit.
_PARTS, _UNITS_A_DRAW = 2**16, 4
# The last stage of a ResNet makes maps of 2 x 2 px from patches of 64 px.
_MOST_PIXELS = 4
# Of glibc's mallopt(3).
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _LARGEST_INT = -1, -4, 2**31 - 1


@contextmanager
def overriding_forward(
    layers: Sequence[Layer], forward: Callable[[Layer, Tensor], Tensor]
) -> Iterator[None]:
    """Let the layers compute by a function of themselves and their input."""
    for layer in layers:
        layer.forward = partial(forward, layer)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def drawing_dropout_by_bits(network: nn.Module) -> AbstractContextManager[None]:
    """Let dropout layers draw 64 bits at once for four units, where PyTorch draws for each.

    The probability is rounded to 1/65536, and what is kept is scaled by the rounded one.
    """
    layers = [module for module in network.modules() if isinstance(module, nn.Dropout)]
    return overriding_forward(layers, _drop)


def _drop(layer: nn.Dropout, input: Tensor) -> Tensor:
    dropped = round(layer.p * _PARTS)
    if not layer.training or not 0 < dropped < _PARTS:
        return nn.Dropout.forward(layer, input)
    draws = torch.empty(-(-input.numel() // _UNITS_A_DRAW), dtype=torch.int64)
    units = draws.random_(torch.iinfo(torch.int64).min, None).view(torch.int16)[: input.numel()]
    kept = units >= dropped - _PARTS // 2
    factors = kept.to(input.dtype).mul_(_PARTS / (_PARTS - dropped))
    return input * factors.view(input.shape)


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
    places = itertools.product(*map(range, layer.kernel_size))
    corners = ((row * down, column * right) for row, column in places)
    parts = [
        padded[:, top : top + step_y * rows : step_y, left : left + step_x * columns : step_x]
        for top, left in corners
    ]
    return torch.cat(parts, dim=3)


def _count_places(layer: nn.Conv2d, axis: int, side: int) -> int:
    reach = layer.dilation[axis] * (layer.kernel_size[axis] - 1) + 1
    return (side + 2 * int(layer.padding[axis]) - reach) // layer.stride[axis] + 1


@contextmanager
def training_faster_on_cpu(network: nn.Module) -> Iterator[None]:
    """Train a network on a CPU with every measure that saves at least 5 % on some processor."""
    # Row 4 (training_epoch): Simple CNN at 64 px takes 6 to 26 % more without it on AVX2.
    _keep_freed_memory()
    with (
        # Row 4 (training_epoch): ResNet-18 at 64 px takes 20 % more without it, 5 to 10 % on AVX2.
        multiplying_small_maps(network),
        # Row 5 (fusion_training): the fusion head takes 10 to 15 % more without it, on both.
        drawing_dropout_by_bits(network),
    ):
        yield


def _keep_freed_memory() -> None:
    """Let glibc keep a step's activations for the next, not have its pages cleared every time."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt:
        mallopt(_M_TRIM_THRESHOLD, _LARGEST_INT)
        mallopt(_M_MMAP_MAX, 0)
