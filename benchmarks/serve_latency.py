"""Requests a second and latency of served models with and without batching, at 1, 8 and 32 clients.

Both servers are `histofuse serve`'s, on loopback, and differ in how many rows are computed
together: the peer answers each request alone. A request is one row; the answers of both must
agree to 1e-6, and their largest difference is printed. ``cpu`` is the server's CPU time in
ms, which depends less on what else the machine does.
Run: python benchmarks/serve_latency.py [requests], in a project that has run.
"""

import json
import os
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import local

import numpy as np
import requests

from histofuse.core.artifacts import load_json
from histofuse.serving.http.server import MODEL_VARIABLE
from histofuse.tracking.interface import encode_png

MODELS = Path("models")
SERVED = ("simple_cnn", "resnet18", "fusion_label_blind")
REQUESTS = int(sys.argv[1]) if len(sys.argv) > 1 else 64
CLIENTS = (1, 8, 32)
PEER = "import histofuse.serving.http.batching as b; b.MOST_ROWS_TOGETHER = 1; "
RUN = "from histofuse.serving.http.server import run; run('127.0.0.1', {port}, 1)"


def lay_out(name: str, folder: Path) -> None:
    """Lay a bundle out as a registered model."""
    parts = {"bundle": name}
    for side, encoder in load_json(MODELS / name / "config.json").get("encoders", {}).items():
        parts[f"encoders/{side}"] = encoder["name"]
    for part, model in parts.items():
        path = folder / "artifacts" / part
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to((MODELS / model).absolute())


@dataclass(frozen=True)
class Served:
    port: int
    pid: int
    kept: local = field(default_factory=local)  # a connection a client

    def send(self, method: str, path: str, body: str | None = None) -> dict:
        if not hasattr(self.kept, "connection"):
            self.kept.connection = HTTPConnection("127.0.0.1", self.port, timeout=120)
        self.kept.connection.request(method, path, body, {"Content-Type": "application/json"})
        return json.loads(self.kept.connection.getresponse().read())

    def measure_cpu(self) -> float:
        """Milliseconds since the start."""
        ticks = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        return sum(map(int, ticks)) * 1000 / os.sysconf("SC_CLK_TCK")


@contextmanager
def serving(folder: Path, before: str = ""):
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [sys.executable, "-c", before + RUN.format(port=port)]
    server = subprocess.Popen(command, env=os.environ | {MODEL_VARIABLE: str(folder)})
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            try:
                requests.get(f"{address}/ping", timeout=5)
                break
            except requests.ConnectionError:
                time.sleep(0.5)
        yield Served(port, server.pid)
    finally:
        server.terminate()
        server.wait()


def make_bodies(served: Served) -> list[str]:
    """Make requests of a row each, with patches of noise."""
    split = served.send("GET", "/example")["dataframe_split"]
    row = dict(zip(split["columns"], split["data"][0], strict=True))
    draw = np.random.default_rng(0).integers
    images = (encode_png(draw(0, 256, (64, 64, 3), np.uint8)) for _ in range(REQUESTS))
    return [json.dumps({"dataframe_records": [row | {"image": image}]}) for image in images]


def ask(served: Served, body: str) -> tuple[float, np.ndarray]:
    start = time.perf_counter()
    (row,) = served.send("POST", "/invocations", body)["predictions"]
    seconds = time.perf_counter() - start
    return seconds, np.array([v for k, v in row.items() if k.startswith("probability_")])


def measure(served: Served, bodies: list[str], clients: int) -> tuple[list[float], np.ndarray]:
    """Give requests/s, p50 and p95 in ms, CPU ms a request; and the answers."""
    with ThreadPoolExecutor(clients) as pool:
        start, before = time.perf_counter(), served.measure_cpu()
        answers = list(pool.map(lambda body: ask(served, body), bodies))
        rate = len(bodies) / (time.perf_counter() - start)
        cpu = (served.measure_cpu() - before) / len(bodies)
    p50, p95 = np.quantile([seconds for seconds, _ in answers], (0.5, 0.95)) * 1000
    return [rate, p50, p95, cpu], np.array([row for _, row in answers])


def main() -> None:
    heads = ["alone/s", "p50", "p95", "cpu", "batched/s", "p50", "p95", "cpu"]
    print(f"{'model':<19} clients  {'  '.join(f'{head:>9}' for head in heads)}   ratio")
    for name in SERVED:
        with TemporaryDirectory() as scratch:
            lay_out(name, Path(scratch))
            with serving(Path(scratch), PEER) as alone, serving(Path(scratch)) as batched:
                bodies = make_bodies(batched)
                measure(alone, bodies[:2], 1), measure(batched, bodies[:2], 1)  # warm up
                for clients in CLIENTS:
                    peer, expected = measure(alone, bodies, clients)
                    ours, answers = measure(batched, bodies, clients)
                    np.testing.assert_allclose(answers, expected, rtol=0, atol=1e-6)
                    shown = "  ".join(f"{value:9.1f}" for value in (*peer, *ours))
                    print(f"{name:<19} {clients:7}  {shown}  {ours[0] / peer[0]:6.2f}", flush=True)
                print(f"  largest difference of an answer: {np.abs(answers - expected).max():.1e}")


if __name__ == "__main__":
    main()
