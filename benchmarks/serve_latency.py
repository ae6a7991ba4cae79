"""Latency of the served fusion model, one row and 64 rows a request, 1 and 8 clients.

The server is MLflow's own, started as the README says; the peer is the same model asked in process,
which is what a request costs without HTTP, JSON and waiting for others.
Run: python benchmarks/serve_latency.py [requests a client], in a project that has run.
"""

import base64
import io
import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import requests
from PIL import Image

from histofuse.commands.predict import open_model
from histofuse.data.patches import load_index, read_patches
from histofuse.features.specs import KEY
from histofuse.tracking.connection import name_store
from histofuse.tracking.store import open_store

REQUESTS = int(sys.argv[1]) if len(sys.argv) > 1 else 40
MODEL = "histofuse-fusion"
ROWS, CLIENTS = (1, 64), (1, 8)


def make_rows(count: int) -> pd.DataFrame:
    index = load_index(Path("data/patches")).head(count)
    records = pd.read_parquet("data/ehr/features.parquet").head(count).drop(columns=list(KEY))
    images = [encode(patch) for patch in read_patches(Path("data/patches"), index)]
    return records.assign(image=images)


def encode(patch: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(patch).save(file, format="PNG")
    return base64.b64encode(file.getvalue()).decode()


def to_body(rows: pd.DataFrame) -> str:
    return json.dumps({"dataframe_split": json.loads(rows.to_json(orient="split"))})


def name_model() -> str:
    """The version in production, or the newest where none is."""
    store = open_store()
    numbers = [v.number for v in store.list_versions() if v.name == MODEL]
    return f"models:/{MODEL}/{store.read_status(MODEL).production or max(numbers)}"


def start_server() -> tuple[subprocess.Popen, str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [Path(sys.executable).with_name("mlflow"), "models", "serve"]
    command += ["-m", name_model(), "--env-manager", "local", "--port", str(port)]
    environment = os.environ | {"MLFLOW_TRACKING_URI": name_store()}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    server = subprocess.Popen(command, env=environment, start_new_session=True, **quiet)
    address = f"http://127.0.0.1:{port}"
    for _ in range(240):
        try:
            if requests.get(f"{address}/ping", timeout=5).ok:
                return server, address
        except requests.ConnectionError:
            pass
        time.sleep(0.5)
    os.killpg(server.pid, 15)
    raise TimeoutError("the server did not start")


def ask_often(address: str, body: str, clients: int) -> np.ndarray:
    """Seconds of each request."""
    taken: list[float] = []

    def ask() -> None:
        headers = {"Content-Type": "application/json"}
        with requests.Session() as session:
            for number in range(REQUESTS + 2):
                start = time.perf_counter()
                answer = session.post(f"{address}/invocations", data=body, headers=headers)
                assert answer.ok, answer.text
                if number >= 2:
                    taken.append(time.perf_counter() - start)

    threads = [threading.Thread(target=ask) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return np.array(taken)


def time_here(rows: pd.DataFrame) -> float:
    seconds = []
    with TemporaryDirectory() as scratch:
        predictor = open_model(name_model(), Path(scratch))
        for _ in range(10):
            start = time.perf_counter()
            predictor.predict(rows)
            seconds.append(time.perf_counter() - start)
    return float(np.median(seconds[2:]))


def main() -> None:
    rows = {count: make_rows(count) for count in ROWS}
    here = {count: time_here(table) for count, table in rows.items()}
    server, address = start_server()
    try:
        print("rows  clients   p50 ms   p95 ms  rows/s   in process ms  p50 / in process")
        for count, table in rows.items():
            for clients in CLIENTS:
                start = time.perf_counter()
                taken = ask_often(address, to_body(table), clients)
                rate = count * clients * (REQUESTS + 2) / (time.perf_counter() - start)
                p50, p95 = np.quantile(taken, (0.5, 0.95)) * 1000
                alone = here[count] * 1000
                print(f"{count:4}  {clients:7}  {p50:7.1f}  {p95:7.1f}  {rate:6.0f}  {alone:14.1f}"
                      f"  {p50 / alone:16.2f}")  # fmt: skip
    finally:
        os.killpg(server.pid, 15)
        server.wait()


if __name__ == "__main__":
    main()
