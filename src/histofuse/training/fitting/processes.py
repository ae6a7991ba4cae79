"""One training in several processes: which rows each takes, and batch norm across them."""

import atexit
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from histofuse.core.progress import report
from histofuse.training.fitting.cpu import overriding_forward


@dataclass(frozen=True)
class Share:
    """What one of several processes takes of rows: every `of`-th from `first` on."""

    first: int = 0
    of: int = 1

    def take(self, rows: Tensor) -> Tensor:
        """Take this process's rows."""
        return rows[self.first :: self.of]

    def take_all(self, rows: Tensor, batches: Sequence[Tensor]) -> Tensor:
        """Take this process's rows of all batches, into which `rows` are split."""
        return rows if self.of == 1 else torch.cat([self.take(batch) for batch in batches])


def join_processes() -> Share:
    """Join the processes that torchrun has started, if it has, and say what this one takes."""
    if not torch.distributed.is_torchelastic_launched():
        return Share()
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
        atexit.register(torch.distributed.destroy_process_group)
    return Share(torch.distributed.get_rank(), torch.distributed.get_world_size())


def choose_device() -> torch.device:
    """Choose this process's GPU, else the CPU: Apple's GPU has no deterministic kernels."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(device)
    return device


def report_idle_gpus(script: str) -> None:
    """Say how to use all GPUs, if there are several and torchrun has not started the script."""
    gpus = torch.cuda.device_count()
    if gpus > 1 and not torch.distributed.is_torchelastic_launched():
        command = f"torchrun --standalone --nproc-per-node {gpus} {script}"
        report(f"uses one of {gpus} GPUs; to use all: {command}")


@dataclass(frozen=True)
class Draws:
    """Random numbers for those rows of some batches that are this process's.

    Every process draws those of all rows, so a row's numbers do not depend on the process count.
    """

    generator: torch.Generator
    sizes: Sequence[int]
    share: Share = Share()

    def uniform(self, columns: int) -> Tensor:
        """Draw (rows, columns) numbers between 0 and 1."""
        drawn = (torch.rand(size, columns, generator=self.generator) for size in self.sizes)
        return torch.cat([self.share.take(batch) for batch in drawn])


def sharing_batch_norm(network: nn.Module) -> AbstractContextManager[None]:
    """Let batch norms in training take mean and variance over all processes."""
    layers = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    return overriding_forward(layers, _normalise)


def _normalise(layer: _BatchNorm, input: Tensor) -> Tensor:
    if not layer.training:
        return type(layer).forward(layer, input)
    mean, variance, count = _measure(input)
    _track(layer, mean.detach(), variance.detach(), count)
    shape = [1, -1] + [1] * (input.ndim - 2)
    scale = torch.rsqrt(variance + layer.eps)
    if layer.affine:
        scale = scale * layer.weight
    centred = (input - mean.reshape(shape)) * scale.reshape(shape)
    shifted = centred + layer.bias.reshape(shape) if layer.affine else centred
    return shifted.to(input.dtype)


def _measure(values: Tensor) -> tuple[Tensor, Tensor, float]:
    """Measure each channel's mean and variance over all processes, and count its values."""
    values = values.float()
    others = [axis for axis in range(values.ndim) if axis != 1]
    mine = values.new_tensor([values.numel() / values.shape[1]])
    sums = _add_up(torch.cat((values.sum(dim=others), mine)))
    count = sums[-1].detach()
    mean = sums[:-1] / count
    centred = values - mean.reshape([1, -1] + [1] * (values.ndim - 2))
    variance = _add_up(centred.square().sum(dim=others)) / count
    return mean, variance, float(count)


def _add_up(values: Tensor) -> Tensor:
    """Add up over all processes; gradients too, for each of them has a part of the loss."""
    from torch.distributed.nn.functional import all_reduce

    return all_reduce(values)


@torch.no_grad()
def _track(layer: _BatchNorm, mean: Tensor, variance: Tensor, count: float) -> None:
    if layer.running_mean is None or layer.running_var is None:
        return
    assert layer.num_batches_tracked is not None
    layer.num_batches_tracked.add_(1)
    momentum = layer.momentum
    weight = 1 / float(layer.num_batches_tracked) if momentum is None else momentum
    layer.running_mean.lerp_(mean, weight)
    layer.running_var.lerp_(variance * count / max(count - 1, 1), weight)
