"""``histofuse serve``: a registered model behind MLflow's scoring server, with limits."""

from __future__ import annotations

import os
import sys
from typing import Final

from histofuse.commands.ui import require_free
from histofuse.core.progress import report
from histofuse.serving.app import MODEL_VARIABLE, MOST_BYTES
from histofuse.tracking.connection import SETTINGS
from histofuse.tracking.names import PRODUCTION, REGISTERED_PREFIX
from histofuse.tracking.store import open_store

APP: Final = "histofuse.serving.app:make_app"


def serve(model: str, host: str, port: int, workers: int) -> None:
    """Put a scoring server in the place of this process.

    Args:
        model: A registered model (its production version), or any ``models:/…`` address.
        host: Address to listen on.
        port: Port to listen on.
        workers: Processes that answer, each with the model in memory.

    Raises:
        RegistryError: If the port is taken, or the registry does not hold the model.
    """
    address = name_address(model)
    store = open_store()
    require_free(port, host)
    folder = store.locate_model(address)
    report(f"serving {address} on http://{host}:{port}/invocations (Ctrl-C ends it)")
    report(f"a request holds at most {MOST_BYTES // 1024 // 1024} MiB")
    settings = {**SETTINGS, "MLFLOW_TRACKING_URI": store.uri}
    os.environ.update({k: v for k, v in settings.items() if k not in os.environ})
    os.environ[MODEL_VARIABLE] = str(folder)
    command = [sys.executable, "-m", "uvicorn", "--factory", APP, "--host", host]
    command += ["--port", str(port), "--workers", str(workers), "--log-level", "warning"]
    os.execv(sys.executable, command)


def name_address(model: str) -> str:
    """Name where a model lies: "fusion" -> "models:/histofuse-fusion@production"."""
    if "/" in model:
        return model
    name = model if model.startswith(REGISTERED_PREFIX) else f"{REGISTERED_PREFIX}{model}"
    return f"models:/{name}" if "@" in name else f"models:/{name}@{PRODUCTION}"
