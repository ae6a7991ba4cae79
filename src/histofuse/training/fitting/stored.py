"""Rows that stay on disk: read batch by batch through the page cache, ahead of the computation."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from histofuse.core.devices import send

_ROWS_AT_ONCE = 4096


class StoredRows:
    """Rows read when they are selected; a batch is all of them that memory holds."""

    device = torch.device("cpu")

    def __init__(self, read: Callable[[np.ndarray], np.ndarray], n: int) -> None:
        self._read, self._n = read, n

    def __len__(self) -> int:
        return self._n

    @property
    def nbytes(self) -> int:
        """Bytes of all rows."""
        return len(self) * self._read(np.arange(min(1, len(self)))).nbytes

    def index_select(self, _: int, rows: Int[Tensor, " batch"]) -> Tensor:
        """Read rows by their numbers."""
        return torch.from_numpy(self._read(rows.numpy()))

    def to(self, device: torch.device) -> Tensor:
        """Read all rows to a device."""
        parts = torch.arange(len(self)).split(_ROWS_AT_ONCE)
        return torch.cat([self.index_select(0, rows).to(device) for rows in parts])


Source = Tensor | StoredRows


def iterate_rows(
    sources: tuple[Source, ...], batches: Iterable[Int[Tensor, " _"]], device: torch.device
) -> Iterator[tuple[Tensor, ...]]:
    """Select batches of rows one after the other and move them to a device.

    Of rows on disk the next batch is read by a thread while the caller computes.
    """

    def select(rows: Tensor) -> tuple[Tensor, ...]:
        return tuple(s.index_select(0, send(rows, s.device)) for s in sources)

    selected = map(select, batches)
    if not all(isinstance(s, Tensor) for s in sources):
        selected = _read_ahead(select, batches)
    for inputs in selected:
        yield tuple(send(t, device) for t in inputs)


def _read_ahead(
    select: Callable[[Tensor], tuple[Tensor, ...]], batches: Iterable[Tensor]
) -> Iterator[tuple[Tensor, ...]]:
    reading: deque[Future[tuple[Tensor, ...]]] = deque()
    with ThreadPoolExecutor(1, "reading rows") as thread:
        for rows in batches:
            reading.append(thread.submit(select, rows))
            if len(reading) > 1:
                yield reading.popleft().result()
        while reading:
            yield reading.popleft().result()
