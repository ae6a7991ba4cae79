"""``histofuse serve``: a registered model behind a scoring server with limits."""

import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from histofuse.commands.ui import require_free
from histofuse.core.processes import forget_environment
from histofuse.core.progress import report
from histofuse.serving.http.limits import LIMITS, MIB
from histofuse.tracking.names import SCRATCH
from histofuse.tracking.registry import fetch_model, name_address
from histofuse.tracking.store import open_store


def serve(model: str, host: str, port: int, workers: int) -> None:
    """Serve a model, by name that in production, until a signal comes; ends the process."""
    store = open_store()
    require_free(port, host)
    with TemporaryDirectory(prefix=SCRATCH) as scratch:
        folder = fetch_model(model, store, Path(scratch))
        report(
            f"serving {name_address(model)} on http://{host}:{port}/invocations (Ctrl-C ends it)"
        )
        report(f"a request holds at most {LIMITS.most_bytes // MIB} MiB")
        from histofuse.serving.http.server import MODEL_VARIABLE, run

        forget_environment()
        os.environ[MODEL_VARIABLE] = str(folder)
        status = run(host, port, workers)
    sys.stdout.flush()
    os._exit(status)  # a thread may still compute for a client that is gone
