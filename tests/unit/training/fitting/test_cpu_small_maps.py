"""Convolutions done as matrix products give what convolutions give."""

import pytest
import torch
from torch import nn

from histofuse.training.fitting import cpu
from histofuse.training.fitting.cpu import multiplying_small_maps

SHAPES = [
    # channels in and out, kernel, stride, padding, dilation, side of the input
    (6, 5, 3, 1, 1, 1, 2),
    (6, 5, 3, 2, 1, 1, 4),
    (6, 5, 1, 2, 0, 1, 3),
    (6, 5, 3, 1, 2, 2, 2),
    (6, 5, (2, 3), (1, 2), (0, 1), 1, 3),
]


def run(layer, inputs, gradient):
    inputs = inputs.clone().requires_grad_()
    layer.zero_grad()
    outputs = layer(inputs)
    outputs.backward(gradient)
    return [outputs.detach(), inputs.grad, layer.weight.grad, layer.bias.grad]


@pytest.mark.parametrize("shape", SHAPES)
def test_small_maps_and_their_gradients_are_those_of_the_convolution(monkeypatch, shape):
    torch.manual_seed(0)
    *build, side = shape
    inputs, outputs, kernel, stride, padding, dilation = build
    layer = nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation).double()
    images = torch.randn(3, inputs, side, side, dtype=torch.float64)
    gradient = torch.randn_like(layer(images))
    assert gradient[0, 0].numel() <= 4
    expected = run(layer, images, gradient)
    multiplied = []
    linear = cpu.linear
    monkeypatch.setattr(cpu, "linear", lambda *a: multiplied.append(a) or linear(*a))
    with multiplying_small_maps(layer):
        found = run(layer, images, gradient)
    assert multiplied
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_larger_maps_and_grouped_layers_are_convolved(monkeypatch):
    monkeypatch.delattr(cpu, "linear")
    layer, grouped = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1, groups=2)
    images, small = torch.randn(2, 4, 3, 2), torch.randn(2, 4, 2, 2)
    with multiplying_small_maps(nn.ModuleList([layer, grouped])):
        found = layer(images), grouped(small)
    torch.testing.assert_close(found, (layer(images), grouped(small)), rtol=0, atol=0)


def test_gradients_lie_as_the_weights_do_with_their_channels_last():
    layer = nn.Conv2d(4, 6, 3, padding=1).to(memory_format=torch.channels_last)
    images = torch.randn(2, 4, 2, 2).to(memory_format=torch.channels_last)
    with multiplying_small_maps(layer):
        outputs = layer(images)
    outputs.sum().backward()
    assert outputs.is_contiguous(memory_format=torch.channels_last)
    assert layer.weight.grad.stride() == layer.weight.stride()


def test_layers_are_given_back_as_they_were():
    layer = nn.Conv2d(4, 4, 3)
    with pytest.raises(ZeroDivisionError), multiplying_small_maps(layer):
        assert "forward" in vars(layer)
        raise ZeroDivisionError
    assert "forward" not in vars(layer)
