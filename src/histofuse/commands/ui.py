"""``histofuse ui``: MLflow's own server over the project's store, for this machine only."""

from __future__ import annotations

import os
import socket
import sys
from typing import Final

from histofuse.core.errors import RegistryError
from histofuse.core.progress import report
from histofuse.tracking.local import locate_artifacts
from histofuse.tracking.names import redact
from histofuse.tracking.store import SETTINGS, open_store

HOST: Final = "127.0.0.1"


def serve(port: int) -> None:
    """Put MLflow's server in the place of this process.

    Raises:
        RegistryError: If the port is taken, or the store is a server with a page of its own.
    """
    store = open_store()
    if store.database is None:
        raise RegistryError(f"the store is a server already: open {redact(store.uri)}")
    require_free(port, HOST)
    with store.locked():
        store.database.parent.mkdir(parents=True, exist_ok=True)
    report(f"open http://{HOST}:{port} (Ctrl-C ends it)")
    # The server's background jobs are for language models; they would cost a second process.
    settings = {**SETTINGS, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    os.environ.update({k: v for k, v in settings.items() if k not in os.environ})
    command = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port)]
    command += ["--backend-store-uri", store.uri, "--workers", "1"]
    command += ["--default-artifact-root", str(locate_artifacts(store.database))]
    os.execv(sys.executable, command)


def require_free(port: int, host: str) -> None:
    """Make sure that a port can be listened on.

    Raises:
        RegistryError: If it cannot.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise RegistryError(
                f"port {port} cannot be used ({error.strerror}). Name another with --port."
            ) from None
