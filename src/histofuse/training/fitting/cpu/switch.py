"""The one switch for what makes training faster on CPUs.

Shares of CPU time in a step are one thread's, on AVX-512 with bf16 and on AVX2 with fp32; the rows
of benchmarks/results.md that depend on each are named.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from histofuse.training.fitting.cpu.dropout import drawing_dropout_by_bits
from histofuse.training.fitting.cpu.small_maps import multiplying_small_maps

# Of glibc's mallopt(3).
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _LARGEST_INT = -1, -4, 2**31 - 1


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
    """Let glibc keep freed memory for the next step, for the rest of the process.

    A step frees its activations at its end and needs them again in the next. Without this, the
    system would clear each of their pages every time.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt:
        mallopt(_M_TRIM_THRESHOLD, _LARGEST_INT)
        mallopt(_M_MMAP_MAX, 0)
