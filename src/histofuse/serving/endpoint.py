"""The edge towards MLflow: limits, faults as MLflow reports them, and one thread that computes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import pandas as pd

from histofuse.core.errors import Fault, HistofuseError, InputError
from histofuse.serving.batches import Batches
from histofuse.serving.predict import open_predictor

MOST_ROWS: Final = 1024
_log = logging.getLogger(__name__)
ValueT = TypeVar("ValueT")


class Endpoint:
    """A predictor behind a server that answers several clients at once.

    Requests are read in the threads they come in and computed in a single one, for networks that
    compete for cores are slower than one after the other.
    """

    def __init__(self, artifacts: Mapping[str, str]) -> None:
        encoders = artifacts.get("encoders")
        self.predictor: Any = open_predictor(
            Path(artifacts["bundle"]), Path(encoders) if encoders else None
        )
        self.predictor.load()
        self._batches = Batches(self.predictor)

    def answer(self, inputs: Any, params: Mapping[str, Any] | None = None) -> pd.DataFrame:
        """Answer a request.

        Raises:
            MlflowException: With the status 400 for faults of the request, 500 for those in here.
        """
        return _report_faults(lambda: self._answer(inputs, params or {}))

    def _answer(self, inputs: Any, params: Mapping[str, Any]) -> pd.DataFrame:
        rows = _count_rows(inputs)
        read = self.predictor.read(inputs)
        asked = {name: True for name, wanted in params.items() if wanted}
        return self._batches.answer(read, rows, asked)


def _count_rows(inputs: Any) -> int:
    """Count the rows of a request.

    Raises:
        InputError: If it has none, or too many, or is no table.
    """
    if not isinstance(inputs, pd.DataFrame):
        raise InputError([Fault("input", f"is a {type(inputs).__name__}", "a data frame")])
    n = len(inputs)
    if n == 0:
        raise InputError([Fault("input", "no rows", "at least one")])
    if n > MOST_ROWS:
        remedy = "Send several requests, or use histofuse predict."
        raise InputError([Fault("input", f"{n:,} rows", f"at most {MOST_ROWS:,}", remedy)])
    return n


def _report_faults(answer: Callable[[], ValueT]) -> ValueT:
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import INTERNAL_ERROR

    from histofuse.serving.refusal import Refusal

    try:
        return answer()
    except InputError as error:
        raise Refusal(error) from error
    except Exception as error:
        _log.exception("a request failed")
        known = f": {error}" if isinstance(error, HistofuseError) else ""
        problem = f"The model failed{known}. The server's log says where."
        raise MlflowException(problem, error_code=INTERNAL_ERROR) from error
