"""One function over many jobs: in threads, in processes, or on a Dask cluster."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

from histofuse.core.errors import InputError
from histofuse.core.progress import report

if TYPE_CHECKING:
    from distributed import Client, Future

Job = TypeVar("Job")
Result = TypeVar("Result")

_MOST_WORKERS: Final = 8
_BACKENDS: Final = {"threads": "threading", "processes": "loky"}
_CONNECT_SECONDS: Final = 10
# In addition to lost workers, which the scheduler counts itself: a disk or network may fail for a
# while.
_RETRIES: Final = 2


def count_workers(workers: int | Literal["auto"]) -> int:
    """Count the jobs to run at once: one per processor, at most eight."""
    return min(_MOST_WORKERS, count_processors()) if workers == "auto" else workers


def count_processors() -> int:
    """Count the processors this process may use, which on a cluster may be fewer than there are."""
    from joblib import cpu_count

    return cpu_count()


def map_jobs(
    function: Callable[[Job], Result],
    jobs: Iterable[Job],
    *,
    engine: str,
    workers: int | Literal["auto"] = "auto",
) -> Iterator[Result]:
    """Apply a function to each job; yield the results in the order of the jobs.

    The engine is ``threads``, ``processes`` or the address of a Dask scheduler,
    ``tcp://host:8786``; function, jobs and results are pickled but for threads. Jobs are taken as
    workers become free, and all at once for a cluster, which has its own number of workers and
    repeats the job of a worker that dies. Raises InputError if Dask is not installed, or the
    scheduler or all its workers are lost.
    """
    if engine in _BACKENDS:
        return _map_here(function, jobs, _BACKENDS[engine], count_workers(workers))
    return _map_on_cluster(function, jobs, engine)


def _map_here(
    function: Callable[[Job], Result], jobs: Iterable[Job], backend: str, workers: int
) -> Iterator[Result]:
    from joblib import Parallel, delayed

    parallel: Any = Parallel(n_jobs=workers, backend=backend, return_as="generator")
    yield from parallel(delayed(function)(job) for job in jobs)


def _map_on_cluster(
    function: Callable[[Job], Result], jobs: Iterable[Job], address: str
) -> Iterator[Result]:
    with _connect(address) as client:
        if not client.scheduler_info()["workers"]:
            report(f"{address} has no worker yet; waiting for one")
        # Last job first, so that pop() takes the first; the cluster can then release its result.
        futures = client.map(function, list(jobs), pure=False, retries=_RETRIES)[::-1]
        while futures:
            yield _take(futures.pop(), address)


def _take(future: "Future", address: str) -> Any:
    from distributed import KilledWorker
    from distributed.client import FutureCancelledError

    try:
        return future.result()
    except KilledWorker:
        problem = "a job killed one worker after another, or all were lost"
        expected = "workers that keep running"
        remedy = "See the workers' log; usually they ran out of memory."
    except FutureCancelledError:
        problem, expected = "the Dask scheduler was lost", "a scheduler that keeps running"
        remedy = "Start it again, and run this again."
    raise InputError.of(f"engine {address}", problem, expected, remedy)


@contextmanager
def _connect(address: str) -> "Iterator[Client]":
    where = f"engine {address}"
    try:
        from distributed import Client
    except ImportError:
        remedy = "Run pip install 'histofuse[cluster]'."
        raise InputError.of(where, "Dask is not installed", "Dask", remedy) from None
    try:
        client: Any = Client(address, timeout=_CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError, TypeError) as error:  # TypeError: TLS without certificates
        problem = f"no Dask scheduler answers ({str(error) or type(error).__name__})"
        remedy = "Start dask scheduler there, or set engine: threads."
        raise InputError.of(where, problem, "a running scheduler", remedy) from None
    with client:
        yield client
