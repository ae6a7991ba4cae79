"""Server processes: how they start, stop and watch each other."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from histofuse.serving.http.app import SEND_EXAMPLE
from histofuse.serving.http.server import MODEL_VARIABLE, STARTUP_FAILURE, STOP_SECONDS


@pytest.fixture
def folder(tmp_path, tabular):
    """A registered model as it is downloaded."""
    made = tmp_path / "registered"
    shutil.copytree(tabular.path, made / "artifacts" / "bundle")
    return made


class Served:
    """A server in processes of its own, with `patch` run first in each."""

    def __init__(self, folder, tmp_path, workers, patch=""):
        (tmp_path / "sitecustomize.py").write_text(patch)
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        start = f"run('127.0.0.1', {self.port}, {workers})"
        code = (
            "import os, signal, sys; from histofuse.serving.http.server import run; "
            "signal.signal(signal.SIGTERM, lambda *_: sys.exit(1)); "  # as the command line does
            f"os._exit({start})"
        )
        path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
        self.log = tmp_path / "log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", code],
                env=os.environ | {MODEL_VARIABLE: str(folder), "PYTHONPATH": path},
                stderr=log,
                stdout=log,
                start_new_session=True,
            )

    def answers(self):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{self.port}/ping", timeout=2).close()
        except OSError:
            return False
        return True

    def wait_until(self, check):
        deadline = time.monotonic() + 90
        while not check():
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.1)

    def start(self):
        self.wait_until(lambda: self.answers() or self.process.poll() is not None)
        assert self.process.poll() is None, self.log.read_text()

    def list_group(self):
        command = ["ps", "-o", "pid=", "-g", str(self.process.pid)]
        listed = subprocess.run(command, capture_output=True, text=True, check=False).stdout
        return [int(pid) for pid in listed.split()]

    def ask_in_vain(self):
        """Send a request that is not answered."""
        client = socket.create_connection(("127.0.0.1", self.port))
        row = {"age_years": 1, "metastatic": 0, "albumin": 1, "insurance": "a"}
        body = json.dumps({"instances": [row]})
        head = "POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
        return client


@pytest.fixture
def serve(folder, tmp_path):
    made = []

    def start(workers, patch=""):
        made.append(Served(folder, tmp_path, workers, patch))
        return made[-1]

    yield start
    for served in made:
        for pid in served.list_group():
            os.kill(pid, signal.SIGKILL)
        served.process.wait()


STUCK = """
import os, sys
if "spawn_main" in str(sys.orig_argv) or "serving.server" in str(sys.orig_argv):
    import time
    from histofuse.serving.tabular import TabularPredictor
    real, asked = TabularPredictor.answer, []
    def answer(self, records, *, shap=False):
        asked.append(1)
        if len(asked) > 1:
            time.sleep(1000)
        return real(self, records, shap=shap)
    TabularPredictor.answer = answer
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_it_ends_in_time_although_a_request_is_computed(serve, workers):
    served = serve(workers, STUCK)
    served.start()
    client = served.ask_in_vain()
    time.sleep(0.5)
    started = time.monotonic()
    served.process.send_signal(signal.SIGTERM)
    assert served.process.wait(timeout=60) == 0
    assert time.monotonic() - started < STOP_SECONDS + 5
    client.close()
    served.wait_until(lambda: served.list_group() == [])


@pytest.mark.parametrize("workers", [1, 2])
def test_a_model_that_cannot_be_loaded_stops_the_server_with_a_message(serve, folder, workers):
    (folder / "artifacts/bundle/encoder.json").write_text("{}")
    served = serve(workers)
    assert served.process.wait(timeout=90) == STARTUP_FAILURE
    log = served.log.read_text()
    assert "the model cannot be served" in log
    assert "encoder.json" in log
    assert "Traceback" not in log
    served.wait_until(lambda: served.list_group() == [])


def test_a_worker_that_dies_while_it_loads_stops_the_server(serve):
    killed = "import os, sys\nif 'spawn_main' in str(sys.orig_argv): os.kill(os.getpid(), 9)"
    served = serve(2, killed)
    assert served.process.wait(timeout=90) == STARTUP_FAILURE
    assert "before it served" in served.log.read_text()
    served.wait_until(lambda: served.list_group() == [])


def test_workers_are_replaced_and_end_with_the_process_that_watches_them(serve):
    served = serve(2)
    served.start()
    time.sleep(5)  # until both serve
    worker = max(served.list_group())
    os.kill(worker, signal.SIGKILL)
    served.wait_until(lambda: worker not in served.list_group())
    served.wait_until(served.answers)
    assert served.process.poll() is None
    served.process.kill()
    served.process.wait()
    served.wait_until(lambda: served.list_group() == [])


def read_request(page):
    text = (Path(__file__).parents[4] / page).read_text()
    return next(b for b in re.findall(r"```sh\n(.*?)```", text, re.DOTALL) if "/example" in b)


def test_the_request_of_the_docs_runs_as_written(serve, folder, tmp_path):
    request = read_request("docs/serving.md")
    assert request.strip() == SEND_EXAMPLE == read_request("README.md").strip()
    (folder / "registered_model_meta").write_text("model_name: histofuse-mlp\nmodel_version: 7\n")
    served = serve(1)
    served.start()
    address = f"127.0.0.1:{served.port}"
    command = ["bash", "-c", request.replace("127.0.0.1:5001", address)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    page = urllib.request.urlopen(f"http://{address}/docs", timeout=5).read().decode()
    (answer,) = json.loads(done.stdout)["predictions"]
    assert answer["model"].endswith(" (version 7)")
    assert answer["trained_on"] == "simulated"
    assert answer["warnings"] == ""
    for said in ("<title>histofuse</title>", "0.3 to 8 g/dL", "training had medicare, other"):
        assert said in page
    assert f"curl http://{address}/example" in page
    assert not re.findall(r"(?:src|href)=", page), "needs something from elsewhere"
