"""The adapter to MLflow: row limits, faults as MLflow reports them, one thread that computes."""

import inspect
import json
import logging
import traceback
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INTERNAL_ERROR, INVALID_PARAMETER_VALUE

from histofuse.core.errors import HistofuseError, InputError, collect_faults, list_faults, shorten
from histofuse.serving.http.batching import RequestQueue
from histofuse.serving.http.wire import check_rows
from histofuse.serving.predict import open_predictor
from histofuse.serving.records import join_warnings
from histofuse.tracking.interface import IMAGE, PATIENT, WARNINGS, describe_interface

MOST_FAULTS_ANSWERED: Final = 20  # the others are counted
_log = logging.getLogger(__name__)


class Endpoint:
    """A predictor for a server with several clients.

    Requests are read in their own threads and computed in a single one: networks that compete for
    cores are slower than networks that run one after the other.
    """

    def __init__(self, artifacts: Mapping[str, str]) -> None:
        encoders = artifacts.get("encoders")
        bundle = Path(artifacts["bundle"])
        self.predictor: Any = open_predictor(bundle, Path(encoders) if encoders else None)
        self.predictor.load()
        p = self.predictor
        sides = {side: getattr(p, side).bundle for side in (IMAGE, PATIENT) if hasattr(p, side)}
        self.interface = describe_interface(p.bundle, sides)
        self.identity: dict[str, str] = p.identity
        self._queue = RequestQueue(p)
        self._options = list(inspect.signature(p.answer).parameters)[1:]

    @property
    def failed(self) -> bool:
        """Whether nothing is answered any more."""
        return self._queue.failed

    def answer(self, inputs: Any, params: Mapping[str, Any] | None = None) -> pd.DataFrame:
        """Answer a request, with errors as those of `explaining`."""
        with explaining():
            table = self.submit(inputs, params or {}).result()
            return self.name_unread(table, inputs)

    def name_unread(self, table: pd.DataFrame, inputs: pd.DataFrame) -> pd.DataFrame:
        """Add to the warnings of an answer which columns of the request the model does not read."""
        unread = [str(name) for name in inputs if name not in self.interface.inputs]
        if not unread:
            return table
        said = pd.Series(shorten(f"not read: {', '.join(unread)}"), table.index)
        return table.assign(**{WARNINGS: join_warnings(table[WARNINGS], said)})

    def submit(self, inputs: Any, params: Mapping[str, Any]) -> Future[pd.DataFrame]:
        """Read a request and hand it to the thread that computes; `InputError` lists its faults."""
        if not isinstance(inputs, pd.DataFrame):
            raise InputError.of("input", f"is a {type(inputs).__name__}", "a data frame")
        check_rows(len(inputs))
        options = self._read_options(params)
        return self._queue.submit(self.predictor.read(inputs), len(inputs), options)

    def _read_options(self, params: Mapping[str, Any]) -> dict[str, bool]:
        with collect_faults() as faults:
            if unknown := [name for name in params if name not in self._options]:
                problem = f"unknown key {unknown[0]!r}, {len(unknown):,} such keys"
                known = f"one of {', '.join(self._options)}" if self._options else "none"
                faults.add("params", problem, known)
            for name in self._options:
                if not isinstance(params.get(name, False), bool):
                    faults.add(f"params, {name}", "another type", "true or false")
        return {name: True for name, wanted in params.items() if wanted}


@contextmanager
def explaining() -> Iterator[None]:
    """Turn errors into MLflow's, of status 400 if the request is at fault, 500 if the model is."""
    try:
        yield
    except InputError as error:
        raise Refusal(error) from error
    except MlflowException:
        raise
    except Exception as error:
        frames = "".join(traceback.format_tb(error.__traceback__))
        cause = shorten(f"{type(error).__name__}: {error}")
        _log.error("a request failed\n%s%s", frames, cause)
        known = f": {shorten(str(error))}" if isinstance(error, HistofuseError) else ""
        problem = f"The model failed{known}. See the server's log."
        raise MlflowException(problem, error_code=INTERNAL_ERROR) from error


class Refusal(MlflowException):
    """A refused request, as MLflow's server reports it: status 400, and a list of faults.

    MLflow would put the request itself before the message, with all values of the patients.
    """

    def __init__(self, error: InputError) -> None:
        message = list_faults(error.faults, MOST_FAULTS_ANSWERED)
        super().__init__(message, error_code=INVALID_PARAMETER_VALUE)
        self.faults = error.faults

    def serialize_as_json(self) -> str:
        """Give the body of the response."""
        shown = [
            {name: shorten(str(value)) for name, value in asdict(fault).items() if value}
            for fault in self.faults[:MOST_FAULTS_ANSWERED]
        ]
        body = {"error_code": self.error_code, "message": self.args[0], "faults": shown}
        return json.dumps(body)
