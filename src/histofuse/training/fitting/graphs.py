"""CUDA graphs of a network's forward and backward pass: a launch each, not hundreds.

A step of a small network is bound by the launching of its kernels. A graph replays the same kernels
on the same memory, so the numbers stay the same.
"""

import gc
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from histofuse.core.progress import report
from histofuse.training.fitting.recipe import Inputs


class GraphedNetwork:
    """A network on a GPU in training; called as the network is.

    A graph is recorded at the first batch of each size; call `refresh` where parts may have been
    frozen or changed mode. The graphs share their memory: the backward pass of a batch must be over
    before the next batch comes. A network that waits for the GPU halfway is called as it is.
    """

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self._state: tuple[bool, ...] = ()
        self.refresh()

    def refresh(self) -> None:
        """Forget the graphs if what is trained has changed since they were recorded."""
        trained = (parameter.requires_grad for parameter in self._network.parameters())
        state = (*trained, *(module.training for module in self._network.modules()))
        if state != self._state:
            self._state = state
            self._graphs: dict[tuple[torch.Size, ...], Callable[..., Any]] = {}
            self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Compute the network's outputs."""
        shapes = tuple(tensor.shape for tensor in inputs)
        if shapes not in self._graphs:
            self._graphs[shapes] = self._record(inputs)
        # The graph writes its next outputs into the same memory.
        return self._graphs[shapes](*inputs).clone()

    def _record(self, inputs: Inputs) -> Callable[..., Any]:
        # Recording runs the network a few times: random numbers and running statistics are put
        # back, so that an epoch does not depend on when it was done.
        before = [buffer.clone() for buffer in self._network.buffers()]
        with torch.random.fork_rng([inputs[0].device]), _without_cache(), _without_collecting():
            if reason := self._find_wait(inputs):
                report(f"kernels are launched one by one, as the network waits for one: {reason}")
                recorded = self._network
            else:
                recorded = torch.cuda.make_graphed_callables(
                    _Whole(self._network),
                    tuple(map(torch.clone, inputs)),
                    allow_unused_input=True,
                    pool=self._pool,
                )
        for buffer, value in zip(self._network.buffers(), before, strict=True):
            buffer.copy_(value)
        return recorded

    def _find_wait(self, inputs: Inputs) -> str:
        """Say where the network waits for the GPU, or nothing: recording would fail there."""
        mode = torch.cuda.get_sync_debug_mode()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Synchronization debug mode")
            torch.cuda.set_sync_debug_mode("error")
        try:
            self._network(*inputs)
        except RuntimeError as error:
            if "synchroniz" not in str(error):
                raise
            return str(error).partition("\n")[0]
        finally:
            torch.cuda.set_sync_debug_mode(mode)
        return ""


class _Whole(nn.Module):
    """Has a `forward` of its own for PyTorch to replace, one for each size of a batch."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.network(*inputs)


def _without_cache() -> torch.autocast:
    """Go on with the precision in force, but keep no converted weights: they change in between."""
    enabled, dtype = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
    return torch.autocast("cuda", dtype, enabled=enabled, cache_enabled=False)


@contextmanager
def _without_collecting() -> Iterator[None]:
    """Keep the garbage collector from freeing what lies on the GPU: amid a recording that fails."""
    gc.collect()
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
