"""``histofuse ui``: MLflow's server on the project's store, for this machine only."""

import os
import socket
import sys
from typing import Final

from histofuse.core.errors import RegistryError
from histofuse.core.progress import report
from histofuse.tracking.connection import SETTINGS
from histofuse.tracking.local import locate_artifacts
from histofuse.tracking.names import redact
from histofuse.tracking.store import Store, open_store
from histofuse.tracking.views import name_view

HOST: Final = "127.0.0.1"
PORT: Final = 5000
# MLflow's background jobs are for language models; they would cost a second process.
SERVER_SETTINGS: Final = {**SETTINGS, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


def describe_page(store: Store) -> list[str]:
    """Say where the table of runs is shown; nothing if there are no runs."""
    page = store.name_page()
    if page is None:
        return []
    if store.database is None:
        return [f"runs: {redact(store.uri).rstrip('/')}{page}"]
    return [f"runs: http://{HOST}:{PORT}{page} once make ui, or histofuse ui, is running"]


def serve(port: int) -> None:
    """Replace this process by MLflow's server."""
    store = open_store()
    if store.database is None:
        page = redact(store.uri).rstrip("/") + name_view(store.experiment_id)
        raise RegistryError(f"runs are stored on a server: open {page} in a browser")
    require_free(port, HOST)
    with store.locked():
        store.database.parent.mkdir(parents=True, exist_ok=True)
        view = name_view(store.experiment_id)
    report(f"open http://{HOST}:{port}{view} (Ctrl-C stops it)")
    os.environ.update({k: v for k, v in SERVER_SETTINGS.items() if k not in os.environ})
    command = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port)]
    command += ["--backend-store-uri", store.uri, "--workers", "1"]
    command += ["--default-artifact-root", str(locate_artifacts(store.database))]
    os.execv(sys.executable, command)


def require_free(port: int, host: str) -> None:
    """Make sure that a server can listen on a port; `RegistryError` if it cannot."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise RegistryError(
            f"port {port} cannot be used on {host} ({error.strerror}). Choose another one with "
            "--port, or PORT=… for make."
        ) from None
