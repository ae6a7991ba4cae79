"""Registered models behind MLflow's own server, in a process of its own.

Answers are held against the pipeline's predictions of every test row.
"""

import base64
import io
import json
import shutil
import socket
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from histofuse.data.patches import ShardReader
from histofuse.promotion.scoring import TestData

KEY = ["subject_id", "hadm_id"]


@contextmanager
def serving(project, model):
    """Serve a registered model by the documented command and give its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = ["mlflow", "models", "serve", "-m", f"models:/{model}/1", "--env-manager", "local"]
    store = f"sqlite:///{project.root}/mlruns/mlflow.db"
    # Not in the project, which others may be copying at this moment.
    log = Path(tempfile.mkdtemp(prefix="histofuse-serving-")) / f"{model}.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [*command, "--port", str(port)],
            cwd="/",  # a served model needs no project
            env={**project.environment, "MLFLOW_TRACKING_URI": store},
            stdout=output,
            stderr=output,
        )
    try:
        wait_for(f"http://127.0.0.1:{port}/ping", process, log)
        yield f"http://127.0.0.1:{port}/invocations"
    finally:
        process.terminate()
        process.wait(timeout=30)
        shutil.rmtree(log.parent)


def wait_for(address, process, log):
    for _ in range(600):
        if process.poll() is not None:
            pytest.fail(f"the server ended: {log.read_text()[-2000:]}")
        try:
            urllib.request.urlopen(address, timeout=5).close()
        except OSError:
            time.sleep(0.2)
        else:
            return
    pytest.fail(f"the server does not answer: {log.read_text()[-2000:]}")


def post(address, body):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(address, data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=120) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def ask(address, rows, **params):
    status, body = post(address, {"dataframe_records": rows, "params": params})
    assert status == 200, body
    return pd.DataFrame(body["predictions"])


def to_text(patch):
    file = io.BytesIO()
    Image.fromarray(patch).save(file, format="PNG")
    return base64.b64encode(file.getvalue()).decode()


def to_records(table):
    return json.loads(table.to_json(orient="records", double_precision=15))


def read_rows(project, name, kind):
    """Read the test rows of a model: keys, and what a client would send."""
    data = TestData(project.root / "data")
    if kind == "tabular":
        table = data.read_admissions()
        return table[KEY], to_records(table.drop(columns=[*KEY, "split", "target"]))
    table = data.read_patches() if kind == "image" else data.read_pairs("label_blind")
    stored = ShardReader(data.patches).read(table["shard"], table["row"])
    records = [{"image": to_text(patch)} for patch in stored]
    if kind == "fusion":
        features = table[KEY].merge(data.read_features(), on=KEY, how="left", validate="m:1")
        pairs = zip(records, to_records(features.drop(columns=KEY)), strict=True)
        records = [patch | record for patch, record in pairs]
    return table[["patch_id"]], records


def hold_against_the_pipeline(project, name, url, keys, records):
    """Compare the answers to all rows, in requests of many and of one, with what DVC holds."""
    file = project.root / "models" / name / "predictions.parquet"
    expected = keys.merge(pd.read_parquet(file), on=[*keys.columns], how="left", validate="1:1")
    parts = [records[i : i + 500] for i in range(0, len(records), 500)]
    many = pd.concat([ask(url, part) for part in parts], ignore_index=True)
    alone = pd.concat([ask(url, [record]) for record in records[:8]], ignore_index=True)
    columns = [c for c in many if c.startswith("probability_")]
    if "probability" in expected:  # of the positive class
        columns, expected = columns[1:], expected.rename(columns={"probability": columns[1]})
    assert len(many) == len(expected) > 8
    np.testing.assert_allclose(many[columns], expected[columns], rtol=0, atol=1e-6)
    np.testing.assert_allclose(alone[columns], expected[columns][:8], rtol=0, atol=1e-6)
    if "patch_id" in keys:
        assert many["prediction"].tolist() == expected["prediction"].tolist()


@pytest.mark.parametrize(("name", "kind"), [("resnet18", "image"), ("xgboost", "tabular")])
def test_the_server_says_what_the_pipeline_said(built, name, kind):
    with serving(built, f"histofuse-{name}") as url:
        hold_against_the_pipeline(built, name, url, *read_rows(built, name, kind))


@pytest.fixture(scope="module")
def fusion(built):
    """Address of the served fusion model."""
    with serving(built, "histofuse-fusion") as url:
        yield url


@pytest.fixture(scope="module")
def pairs(built):
    """Keys of the test pairs, and what a client would send of them."""
    return read_rows(built, "fusion_label_blind", "fusion")


def test_the_served_fusion_says_what_the_pipeline_said(built, fusion, pairs):
    hold_against_the_pipeline(built, "fusion_label_blind", fusion, *pairs)


def test_bad_requests_are_refused_and_the_server_goes_on(fusion, pairs):
    good = pairs[1][0]
    small = to_text(np.zeros((9, 9, 3), np.uint8))
    bad = {
        "no column 'age_years'": [{k: v for k, v in good.items() if k != "age_years"}],
        "no column 'image'": [{k: v for k, v in good.items() if k != "image"}],
        "row 1, age_years: is 'sixty'": [good, good | {"age_years": "sixty"}],
        "row 0, age_years: is inf": [good | {"age_years": float("inf")}],
        "row 0, emergency_department: is 2": [good | {"emergency_department": 2}],
        "row 0, insurance: is 5": [good | {"insurance": 5}],
        "row 1, image: is missing": [good, good | {"image": None}],
        "row 0, image: cannot be read": [good | {"image": small[:40]}],
        "row 0, image: is of 9 x 9 px": [good | {"image": small}],
        "10,000 rows": [{"image": small}] * 10_000,
        "a text of 50,000,000 characters": [good | {"image": "A" * 50_000_000}],
        "no rows": [],
    }
    before = ask(fusion, [good])
    for named, request in bad.items():
        status, body = post(fusion, {"dataframe_records": request})
        assert (status, named in body["message"]) == (400, True), (named, body["message"][:300])
    for body in (b"", b"[1]", b'{"dataframe_records": ['):
        assert post(fusion, body)[0] == 400
    not_known = ask(fusion, [good | {"age_years": float("nan")}])
    assert not_known["answered_by"].tolist() == ["fusion"]
    pd.testing.assert_frame_equal(ask(fusion, [good]), before)


def test_many_clients_are_answered_each_their_own(fusion, pairs):
    records, found = pairs[1][:8], {}
    expected = ask(fusion, records)

    def client(number):
        found[number] = ask(fusion, [records[number]])

    clients = [threading.Thread(target=client, args=(number,)) for number in range(8)]
    for thread in clients:
        thread.start()
    for thread in clients:
        thread.join()
    together = pd.concat([found[number] for number in range(8)], ignore_index=True)
    pd.testing.assert_frame_equal(together, expected, check_exact=False, atol=1e-6)


def test_a_patch_without_a_record_and_explanations(fusion, pairs):
    records = pairs[1]
    rows = [records[0], {"image": records[1]["image"]}]
    answer = ask(fusion, rows, gradcam=True, shap=True)
    assert answer["answered_by"].tolist() == ["fusion", "image"]
    assert answer["shap"].iloc[1] is None
    assert {"age_years", "insurance"} <= set(answer["shap"].iloc[0])
    for text in answer["gradcam"]:
        assert Image.open(io.BytesIO(base64.b64decode(text))).size == (64, 64)
