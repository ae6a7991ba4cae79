import json
import threading
import time

import numpy as np
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException

from histofuse.core.errors import BundleError
from histofuse.serving.http.endpoint import Endpoint

AGE = "a finite number from 0 to 120 years, or null"


@pytest.fixture
def served(fusion):
    return Endpoint({"bundle": str(fusion.path), "encoders": str(fusion.encoders)})


def refuse(served, inputs, params=None):
    """Give status and body of a refused request."""
    with pytest.raises(MlflowException) as error:
        served.answer(inputs, params)
    return error.value.get_http_status_code(), json.loads(error.value.serialize_as_json())


def test_a_model_that_takes_no_params_says_so(served, patches, monkeypatch):
    monkeypatch.setattr(served, "_options", [])
    status, body = refuse(served, pd.DataFrame({"image": [*patches]}), {"shap": True})
    assert status == 400
    assert body["faults"][0]["expected"] == "none"


def test_a_fault_of_the_request_is_reported_as_one_without_the_record(served, patches, patients):
    inputs = patients.astype({"age_years": object}).assign(image=[*patches])
    inputs.loc[2, "age_years"] = "sixty"
    status, body = refuse(served, inputs)
    assert status == 400
    assert body["faults"] == [
        {
            "where": "the record, row 2, age_years",
            "problem": "is 'sixty'",
            "expected": AGE,
        }
    ]
    assert "row 2, age_years" in body["message"]
    assert "Medicare" not in json.dumps(body)


@pytest.mark.parametrize("value", [1e308, 22_645, True])
def test_an_impossible_value_is_refused_with_what_was_expected(served, patches, patients, value):
    inputs = patients.astype({"age_years": object}).assign(image=[*patches])
    inputs.loc[2, "age_years"] = value
    status, body = refuse(served, inputs)
    assert status == 400
    fault = body["faults"][0]
    assert (fault["where"], fault["expected"]) == ("the record, row 2, age_years", AGE)


def test_a_value_that_is_not_finite_is_an_error_and_no_answer(
    served, patches, patients, monkeypatch
):
    def diverge(image, patient):
        return np.full((len(image), 3), np.nan, np.float32)

    monkeypatch.setattr(type(served.predictor.model), "logits", lambda self, *a: diverge(*a))
    status, body = refuse(served, patients.assign(image=[*patches]))
    assert status == 500
    assert "not finite" in body["message"]


def test_the_message_stays_what_it_is_when_mlflow_adds_the_request_to_it(served):
    with pytest.raises(MlflowException) as error:
        served.answer(pd.DataFrame({"image": ["no"]}))
    error.value.message = "Failed to predict data 'all of it'"
    assert "all of it" not in error.value.serialize_as_json()


@pytest.mark.parametrize(("rows", "problem"), [(0, "no rows"), (1025, "1,025 rows")])
def test_too_few_rows_and_too_many(served, rows, problem):
    status, body = refuse(served, pd.DataFrame({"image": ["x"] * rows}))
    assert status == 400
    assert body["faults"][0]["problem"] == problem


def test_a_failure_of_the_model_is_reported_as_a_server_error(served, patches, monkeypatch, caplog):
    def fail(pairs, **asked):
        raise RuntimeError("out of memory")

    monkeypatch.setitem(served.predictor.__dict__, "answer", fail)
    status, body = refuse(served, pd.DataFrame({"image": [*patches]}))
    assert status == 500
    assert "out of memory" not in body["message"]
    assert "out of memory" in caplog.text


def test_explanations_are_returned_on_request(served, patches, patients):
    inputs = patients.assign(image=[*patches])
    plain = served.answer(inputs, {"gradcam": False, "shap": False})
    assert {"gradcam", "shap"}.isdisjoint(plain)
    both = served.answer(inputs, {"gradcam": True, "shap": True})
    pd.testing.assert_frame_equal(both[plain.columns], plain)
    assert [*both.columns[-3:]] == ["gradcam", "shap", "shap_base"]


def test_a_broken_model_fails_at_the_start(fusion):
    (fusion.image.path / "weights.safetensors").write_bytes(b"")
    with pytest.raises(BundleError, match=r"weights\.safetensors"):
        Endpoint({"bundle": str(fusion.path), "encoders": str(fusion.encoders)})


def test_everything_is_loaded_before_the_first_request(served):
    for part in (served.predictor, served.predictor.image, served.predictor.patient):
        assert {"model", "decision"} <= {*vars(part)}


def test_simultaneous_clients_each_get_their_own_answer(served, patches, patients):
    inputs = patients.assign(image=[*patches])
    expected = served.answer(inputs)
    found = {}

    def ask(row):
        found[row] = served.answer(inputs.iloc[[row % 4]], {"shap": row % 2 == 0})

    threads = [threading.Thread(target=ask, args=(row,)) for row in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for row in range(16):
        answer = found[row][expected.columns]
        pd.testing.assert_frame_equal(answer, expected.iloc[[row % 4]], check_exact=True)


def test_one_request_computes_at_a_time(served, patches, monkeypatch):
    inside, most = [], []
    real = served.predictor.answer

    def answer(pairs, **asked):
        inside.append(1)
        most.append(len(inside))
        found = real(pairs, **asked)
        inside.pop()
        return found

    monkeypatch.setitem(served.predictor.__dict__, "answer", answer)
    inputs = pd.DataFrame({"image": [*patches]})
    threads = [threading.Thread(target=served.answer, args=(inputs,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(most) == {1}


def hold_up(served, monkeypatch):
    """Keep the thread that computes busy with a request until released; note what it computes."""
    asked, started, release = [], threading.Event(), threading.Event()
    real = served.predictor.answer

    def answer(read, **wanted):
        asked.append(len(read.patches.index))
        started.set()
        release.wait(timeout=30)
        return real(read, **wanted)

    monkeypatch.setitem(served.predictor.__dict__, "answer", answer)
    return asked, started, release


def test_requests_that_wait_are_computed_together(served, patches, patients, monkeypatch):
    inputs = patients.assign(image=[*patches]).set_axis([7, 8, 9, 7])
    inputs.iloc[2, :4] = None
    expected, found = served.answer(inputs), {}
    asked, started, release = hold_up(served, monkeypatch)

    def ask(row):
        found[row] = served.answer(inputs.iloc[[row]])

    threads = [threading.Thread(target=ask, args=(row,)) for row in range(4)]
    threads[0].start()
    assert started.wait(timeout=30)
    for thread in threads[1:]:
        thread.start()
    while served._queue._waiting.qsize() < 3:
        time.sleep(0.01)
    release.set()
    for thread in threads:
        thread.join(timeout=30)
    assert asked == [1, 3]
    for row in range(4):
        pd.testing.assert_frame_equal(found[row], expected.iloc[[row]], check_exact=True)


@pytest.mark.parametrize("kind", ["image", "tabular"])
def test_other_kinds_are_merged_too(request, kind, patches, patients):
    predictor = Endpoint({"bundle": str(request.getfixturevalue(kind).path)}).predictor
    inputs = pd.DataFrame({"image": [*patches]}) if kind == "image" else patients
    merged = predictor.merge([predictor.read(inputs.iloc[:1]), predictor.read(inputs.iloc[1:])])
    expected = predictor.predict(inputs)
    pd.testing.assert_frame_equal(predictor.answer(merged), expected, check_exact=True)


def test_a_failing_request_does_not_fail_the_others(served, patches, monkeypatch):
    real = served.predictor.answer
    striped = np.zeros_like(patches[0])
    striped[::2] = 200

    def answer(read, **asked):
        if (read.patches.stored.max(axis=(1, 2, 3)) == 200).any():
            raise RuntimeError("striped")
        return real(read, **asked)

    monkeypatch.setitem(served.predictor.__dict__, "answer", answer)
    found = {}

    def ask(number, patch):
        try:
            found[number] = served.answer(pd.DataFrame({"image": [patch]}))
        except MlflowException as error:
            found[number] = error.get_http_status_code()

    threads = [
        threading.Thread(target=ask, args=(n, striped if n == 3 else patches[n % 4]))
        for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert [n for n, answer in found.items() if isinstance(answer, int)] == [3]
    assert found[3] == 500


def test_input_that_is_no_table_is_refused(served):
    assert refuse(served, ["a"])[1]["faults"][0]["problem"] == "is a list"


@pytest.mark.parametrize("kind", ["image", "mlp", "fusion"])
def test_columns_that_are_not_read_are_named_in_the_answer(request, kind, patches, patients):
    made = request.getfixturevalue(kind)
    encoders = {"encoders": str(made.encoders)} if kind == "fusion" else {}
    endpoint = Endpoint({"bundle": str(made.path), **encoders})
    inputs = endpoint.interface.example
    assert set(endpoint.answer(inputs)["warnings"]) == {""}
    answer = endpoint.answer(inputs.assign(shoe_size=43, weight_kg=60))
    assert answer["warnings"].tolist() == ["not read: shoe_size, weight_kg"]
