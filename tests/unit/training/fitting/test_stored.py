"""Rows on disk, read ahead."""

import threading

import numpy as np
import pytest
import torch

from histofuse.training.fitting.stored import StoredRows, iterate_rows

CPU = torch.device("cpu")
VALUES = np.arange(60, dtype=np.uint8).reshape(20, 3)


def make_stored(seen: list | None = None) -> StoredRows:
    def read(rows: np.ndarray) -> np.ndarray:
        if seen is not None:
            seen.append((rows.tolist(), threading.current_thread() is threading.main_thread()))
        return VALUES[rows]

    return StoredRows(read, len(VALUES))


def test_stored_rows_are_selected_as_tensors_are():
    stored, held = make_stored(), torch.from_numpy(VALUES.copy())
    rows = torch.tensor([7, 0, 19, 7])
    assert torch.equal(stored.index_select(0, rows), held.index_select(0, rows))
    assert torch.equal(stored.to(CPU), held)
    assert (len(stored), stored.nbytes) == (20, VALUES.nbytes)


def test_batches_come_in_order_and_the_next_one_is_read_meanwhile():
    seen: list = []
    batches = list(torch.randperm(20).split(6))
    beside = torch.arange(20)
    reading = iterate_rows((make_stored(seen), beside), batches, CPU)
    first = next(reading)
    assert [rows for rows, _ in seen][:1] == [batches[0].tolist()]
    found = [first, *reading]
    for (read, numbers), rows in zip(found, batches, strict=True):
        assert torch.equal(read, torch.from_numpy(VALUES)[rows]) and torch.equal(numbers, rows)
    assert len(seen) == len(batches) and not any(main for _, main in seen)


def test_an_error_in_reading_ends_the_iteration_and_the_thread():
    def read(rows: np.ndarray) -> np.ndarray:
        raise OSError("disk gone")

    before = threading.active_count()
    with pytest.raises(OSError, match="disk gone"):
        list(iterate_rows((StoredRows(read, 20),), torch.arange(20).split(5), CPU))
    assert threading.active_count() == before
