"""The application that serves a model: MLflow's scoring protocol, in JSON.

MLflow's own application repeats what it refuses, with all values of the patients, and answers some
bodies that are no JSON with a server error.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from multiprocessing import parent_process
from pathlib import Path
from threading import Thread
from typing import Any, Final

import pandas as pd
from fastapi import FastAPI, Request, Response
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import TEMPORARILY_UNAVAILABLE
from mlflow.version import VERSION

from histofuse.core.errors import HistofuseError, shorten
from histofuse.core.progress import report
from histofuse.serving.endpoint import Endpoint, explaining
from histofuse.serving.limits import LIMITS, Limits, RequestLimits, expect_json
from histofuse.serving.server import MODEL_VARIABLE, STARTUP_FAILURE
from histofuse.serving.wire import read_request, write_answer

_JSON: Final = "application/json"
Answer = Callable[[Request], Awaitable[Response]]


def make_app() -> RequestLimits:
    """Make the application that serves the model of the folder in `MODEL_VARIABLE`.

    If that fails, the process ends with `STARTUP_FAILURE`, and uvicorn starts no other one.
    """
    if (parent := parent_process()) is not None:
        Thread(target=_end_with, args=[parent], daemon=True).start()
    try:
        folder = Path(os.environ[MODEL_VARIABLE])
        endpoint = Endpoint(find_artifacts(folder))
        report("answers are by {model}, trained on {trained_on} data".format_map(endpoint.identity))
        return serve_endpoint(endpoint)
    except Exception as error:
        known = isinstance(error, HistofuseError)
        report(f"the model cannot be served: {error if known else shorten(repr(error))}")
        sys.exit(STARTUP_FAILURE)


def find_artifacts(folder: Path) -> dict[str, str]:
    """Find the parts of a registered model in its folder: ``bundle`` and perhaps ``encoders``."""
    parts = (folder / "artifacts").iterdir()
    return {part.name: str(part) for part in parts}


def serve_endpoint(endpoint: Endpoint, limits: Limits = LIMITS) -> RequestLimits:
    """Make the application that serves an endpoint."""
    app = FastAPI(title="histofuse")

    async def check_health(_: Request) -> Response:
        return Response("\n", 503 if endpoint.failed else 200, media_type=_JSON)

    async def name_version(_: Request) -> Response:
        return Response(VERSION, media_type=_JSON)

    def read(body: bytes) -> Future[pd.DataFrame]:
        return endpoint.submit(*read_request(body))

    async def answer(request: Request) -> Response:
        with explaining():
            future = await asyncio.to_thread(read, await request.body())
            try:
                answered = asyncio.wrap_future(future)
                table = await asyncio.wait_for(answered, limits.answer_seconds)
            except TimeoutError:
                message = "the model is busy; send the request again later"
                raise MlflowException(message, TEMPORARILY_UNAVAILABLE) from None
            return Response(await asyncio.to_thread(write_answer, table), media_type=_JSON)

    app.add_route("/ping", check_health, methods=["GET"])
    app.add_route("/health", check_health, methods=["GET"])
    app.add_route("/version", name_version, methods=["GET"])
    app.add_route("/invocations", _reporting(answer), methods=["POST"])
    return RequestLimits(app, limits, expect_json)


def _reporting(answer: Answer) -> Answer:
    """Report errors as MLflow does."""

    async def respond(request: Request) -> Response:
        try:
            return await answer(request)
        except MlflowException as error:
            status = error.get_http_status_code()
            return Response(error.serialize_as_json(), status, media_type=_JSON)

    return respond


def _end_with(parent: Any) -> None:
    """End this process when the one that watches it has ended: nobody could stop it any more."""
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
