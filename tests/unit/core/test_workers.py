"""Mapping a function over jobs; `data/test_patch_engines.py` does so on a real Dask cluster."""

import operator
import sys
from contextlib import nullcontext
from unittest.mock import Mock

import distributed
import pytest
from distributed.client import FutureCancelledError

from histofuse.core import workers
from histofuse.core.errors import InputError
from histofuse.core.workers import count_workers, map_jobs


@pytest.mark.parametrize("engine", ["threads", "processes"])
def test_results_come_in_the_order_of_the_jobs(engine):
    results = map_jobs(operator.neg, iter(range(50)), engine=engine, workers=2)
    assert list(results) == [-n for n in range(50)]


def test_workers_are_counted_by_processor_up_to_eight(monkeypatch):
    monkeypatch.setattr("joblib.cpu_count", lambda: 3)
    assert (count_workers("auto"), count_workers(20)) == (3, 20)
    monkeypatch.setattr("joblib.cpu_count", lambda: 64)
    assert count_workers("auto") == 8


def test_a_scheduler_that_does_not_answer_is_named(monkeypatch):
    monkeypatch.setattr(workers, "_CONNECT_SECONDS", 0.5)
    with pytest.raises(InputError, match=r"tcp://127\.0\.0\.1:9: no Dask scheduler answers"):
        list(map_jobs(operator.neg, [1], engine="tcp://127.0.0.1:9"))


def test_a_missing_dask_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(InputError, match=r"pip install 'histofuse\[cluster\]'"):
        list(map_jobs(operator.neg, [1], engine="tcp://127.0.0.1:9"))


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (distributed.KilledWorker("job", None, 3), "a job killed one worker after another"),
        (FutureCancelledError("job", "scheduler-connection-lost"), "the Dask scheduler was lost"),
    ],
)
def test_a_cluster_that_is_lost_is_named(loss, message, monkeypatch):
    future = Mock(**{"result.side_effect": loss})
    client = Mock(**{"map.return_value": [future], "scheduler_info.return_value": {"workers": [1]}})
    monkeypatch.setattr(workers, "_connect", lambda _: nullcontext(client))
    with pytest.raises(InputError, match=rf"tcp://host:1: {message}"):
        list(map_jobs(operator.neg, [1], engine="tcp://host:1"))
