"""The application that serves a model: MLflow's scoring protocol, in JSON.

MLflow's own application repeats what it refuses, with all values of the patients, and answers some
bodies that are no JSON with a server error.
"""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Mapping
from concurrent.futures import Future
from html import escape
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
from histofuse.serving.http.endpoint import Endpoint, explaining
from histofuse.serving.http.limits import LIMITS, Limits, RequestLimits, expect_json
from histofuse.serving.http.server import MODEL_VARIABLE, STARTUP_FAILURE
from histofuse.serving.http.wire import SPLIT, read_request, to_plain, write_answer
from histofuse.tracking.interface import SHAP_BASE

_JSON: Final = "application/json"
_ADDRESS: Final = "http://127.0.0.1:5001"
SEND_EXAMPLE: Final = f"""\
curl {_ADDRESS}/example > serving_input_example.json
curl -H 'Content-Type: application/json' -d @serving_input_example.json \\
  {_ADDRESS}/invocations"""
_PAGE: Final = """<!doctype html><html lang="en"><meta charset="utf-8"><title>histofuse</title>
<style>body {{font: 15px sans-serif; margin: 2em}} td {{padding: 2px 12px}}</style>
<h1>histofuse</h1><p>{model}, trained on {trained_on} data. Not a medical device.</p>
<h2>A request</h2><pre>{send}</pre><table>{request}</table><p>Params, true or false: {asked}.</p>
<h2>The answer</h2><table>{answer}</table></html>"""


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
    handlers: Any = {MlflowException: report_error}
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, exception_handlers=handlers)

    async def check_health(_: Request) -> Response:
        return Response("\n", 503 if endpoint.failed else 200, media_type=_JSON)

    docs = write_docs(endpoint)

    async def show_docs(request: Request) -> Response:
        address = escape(str(request.base_url).rstrip("/"))
        return Response(docs.replace(_ADDRESS, address), media_type="text/html")

    def read(body: bytes) -> tuple[pd.DataFrame, Future[pd.DataFrame]]:
        inputs, params = read_request(body)
        return inputs, endpoint.submit(inputs, params)

    def write(table: pd.DataFrame, inputs: pd.DataFrame) -> bytes:
        return write_answer(endpoint.name_unread(table, inputs))

    async def answer(request: Request) -> Response:
        with explaining():
            inputs, future = await asyncio.to_thread(read, await request.body())
            try:
                answered = asyncio.wrap_future(future)
                table = await asyncio.wait_for(answered, limits.answer_seconds)
            except TimeoutError:
                message = "the model is busy; send the request again later"
                raise MlflowException(message, TEMPORARILY_UNAVAILABLE) from None
            return Response(await asyncio.to_thread(write, table, inputs), media_type=_JSON)

    split = endpoint.interface.example.to_dict("split", index=False)
    pages: dict[str, Any] = {  # a response is an application of its own
        "/ping": check_health,
        "/health": check_health,
        "/version": Response(VERSION, media_type=_JSON),
        "/docs": show_docs,
        "/example": Response(json.dumps({SPLIT: split}, default=to_plain), media_type=_JSON),
    }
    for path, page in pages.items():
        app.add_route(path, page, methods=["GET"])
    app.add_route("/invocations", answer, methods=["POST"])
    return RequestLimits(app, limits, expect_json)


def write_docs(endpoint: Endpoint) -> str:
    """Write a page about a model: what goes in and what comes out."""
    interface = endpoint.interface
    names = {key: escape(value) for key, value in endpoint.identity.items()}
    request, answer = map(_write_rows, (interface.inputs, interface.outputs))
    asked = ", ".join(name for name in interface.asked if name != SHAP_BASE) or "none"
    return _PAGE.format(**names, send=SEND_EXAMPLE, request=request, answer=answer, asked=asked)


def _write_rows(columns: Mapping[str, str]) -> str:
    cells = ((escape(name), escape(holds)) for name, holds in columns.items())
    return "".join(f"<tr><td>{name}</td><td>{holds}</td></tr>" for name, holds in cells)


async def report_error(_: Request, error: MlflowException) -> Response:
    """Answer with an error, as MLflow's server does."""
    return Response(error.serialize_as_json(), error.get_http_status_code(), media_type=_JSON)


def _end_with(parent: Any) -> None:
    """End this process when the one that watches it has ended: nobody could stop it any more."""
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
