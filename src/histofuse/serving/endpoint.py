"""The adapter to MLflow: row limits, faults as MLflow reports them, one thread that computes."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INTERNAL_ERROR, INVALID_PARAMETER_VALUE

from histofuse.core.errors import Fault, HistofuseError, InputError
from histofuse.serving.batching import RequestQueue
from histofuse.serving.predict import open_predictor

MOST_ROWS: Final = 1024
_log = logging.getLogger(__name__)


class Endpoint:
    """A predictor for a server with several clients.

    Requests are read in their own threads and computed in a single one: networks that compete for
    cores are slower than networks that run one after the other.
    """

    def __init__(self, artifacts: Mapping[str, str]) -> None:
        encoders = artifacts.get("encoders")
        self.predictor: Any = open_predictor(
            Path(artifacts["bundle"]), Path(encoders) if encoders else None
        )
        self.predictor.load()
        self._queue = RequestQueue(self.predictor)

    def answer(self, inputs: Any, params: Mapping[str, Any] | None = None) -> pd.DataFrame:
        """Answer a request.

        Raises:
            MlflowException: With status 400 if the request is at fault, 500 if the model is.
        """
        try:
            return self._answer(inputs, params or {})
        except InputError as error:
            raise Refusal(error) from error
        except Exception as error:
            _log.exception("a request failed")
            known = f": {error}" if isinstance(error, HistofuseError) else ""
            problem = f"The model failed{known}. See the server's log."
            raise MlflowException(problem, error_code=INTERNAL_ERROR) from error

    def _answer(self, inputs: Any, params: Mapping[str, Any]) -> pd.DataFrame:
        rows = _count_rows(inputs)
        read = self.predictor.read(inputs)
        options = {name: True for name, wanted in params.items() if wanted}
        return self._queue.answer(read, rows, options)


def _count_rows(inputs: Any) -> int:
    """Count the rows of a request.

    Raises:
        InputError: If it has no rows, too many rows, or is not a table.
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


class Refusal(MlflowException):
    """A refused request, as MLflow's server reports it: status 400, and a list of faults.

    MLflow would put the request itself before the message, with all values of the patients.
    """

    def __init__(self, error: InputError) -> None:
        super().__init__(str(error), error_code=INVALID_PARAMETER_VALUE)
        self.faults = error.faults

    def serialize_as_json(self) -> str:
        """Give the body of the response."""
        faults = [
            {name: str(value) for name, value in asdict(fault).items() if value}
            for fault in self.faults
        ]
        body = {"error_code": self.error_code, "message": self.args[0], "faults": faults}
        return json.dumps(body)
