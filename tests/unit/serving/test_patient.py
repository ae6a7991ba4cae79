import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from drawn_patients import ENCODING, draw_bags, make_params
from mlflow.exceptions import MlflowException

from histofuse.core.errors import InputError
from histofuse.patients.rows import VIEWS
from histofuse.patients.train import PatientCohort, train_patients
from histofuse.serving.http.endpoint import Endpoint
from histofuse.serving.http.wire import write_answer
from histofuse.serving.predict import open_predictor
from histofuse.tracking.interface import describe_interface
from histofuse.training.recorder import Recorder
from histofuse.training.tabular import to_columns

RECORD = {"age": 0.3, "albumin": -1.0, "lactate": None, "sodium": 0.1}


@pytest.fixture
def made(tmp_path_factory, image):
    """A gated model on embeddings as wide as those of the image encoder, and its encoder."""
    drawn = draw_bags(200, dim=image.model.embedding_dim)
    bundle = image.bundle
    facts = {"name": bundle.name, "registered": "histofuse-simple-cnn", "digest": bundle.digest}
    cohort = PatientCohort(drawn, "death", "simulated", {}, facts, "simulated")
    path = tmp_path_factory.mktemp("models") / "patient_gated"
    trained = train_patients(cohort, make_params("gated", epochs=3), ENCODING, 1, Recorder(), path)
    encoders = tmp_path_factory.mktemp("encoders")
    (encoders / "image").symlink_to(image.path)
    return path, trained, open_predictor(path, encoders)


def test_answers_are_those_of_training_with_the_decision_of_the_sides_given(made):
    _, trained, predictor = made
    rows = trained.rows.take(np.arange(6))
    records = draw_bags(200, dim=rows.embeddings.shape[1]).records.iloc[:6]
    none = records * np.nan
    ends = {"both": (rows.sizes, records), "image": (rows.sizes, none)}
    ends["record"] = (rows.sizes * 0, records)

    for view in VIEWS:
        sizes, given = ends[view]
        embeddings = rows.embeddings if sizes.sum() else rows.embeddings[:0]
        # The image encoder of the test gives other logits than were drawn.
        own = predictor._make_rows(embeddings, sizes, given)
        expected, _ = trained.decisions[view].decide(to_columns(predictor.model.logits(own)))

        answer = predictor.answer_embedded(embeddings, sizes, given)

        np.testing.assert_allclose(answer["probability_death"], expected[:, 1], rtol=1e-5)
        assert set(answer["answered_by"]) == {"fusion" if view == "both" else view}


def test_a_patient_is_a_row_with_a_list_of_patches(made, patches):
    *_, predictor = made
    inputs = pd.DataFrame(
        {
            "image": [list(patches[:3]), None, [patches[3]]],
            **{name: [value, value, None] for name, value in RECORD.items()},
        }
    )

    answer = predictor.predict(inputs, attention=True)

    assert answer["answered_by"].tolist() == ["fusion", "record", "image"]
    assert [None if a is None else len(a) for a in answer["attention"]] == [3, None, 1]
    assert sum(answer["attention"][0]) == pytest.approx(1, abs=1e-4)
    alone = predictor.predict(inputs.iloc[[2]])
    assert alone["probability_death"].iloc[0] == pytest.approx(answer["probability_death"].iloc[2])


def test_several_requests_are_answered_as_one(made, patches):
    *_, predictor = made
    one = pd.DataFrame({"image": [list(patches[:2])], **{k: [v] for k, v in RECORD.items()}})
    other = pd.DataFrame({"image": [[patches[3]]]})

    merged = predictor.answer(predictor.merge([predictor.read(one), predictor.read(other)]))

    single = [predictor.predict(part)["probability_death"].iloc[0] for part in (one, other)]
    assert merged["probability_death"].tolist() == pytest.approx(single)


def test_a_patient_of_whom_nothing_is_known_is_refused(made, patches):
    *_, predictor = made
    inputs = pd.DataFrame({"image": [[patches[0]], [], None]})

    with pytest.raises(InputError) as raised:
        predictor.read(inputs)

    assert [str(f.where) for f in raised.value.faults] == ["row 1", "row 2"]


def test_an_image_that_is_no_list_is_refused(made):
    *_, predictor = made

    with pytest.raises(InputError, match="row 0, image: is a str; expected a list of patches"):
        predictor.read(pd.DataFrame({"image": ["iVBOR"]}))


def test_a_bad_patch_is_named_by_patient_and_nucleus(made, patches):
    *_, predictor = made

    with pytest.raises(InputError, match="row 0, nucleus 1"):
        predictor.read(pd.DataFrame({"image": [[patches[0], "not base64"]]}))


def test_explanations_add_up_and_are_of_the_sides_that_are_given(made, patches):
    _, trained, predictor = made
    inputs = pd.DataFrame(
        {
            "image": [list(patches[:3]), None, [patches[3]]],
            **{name: [value, value, None] for name, value in RECORD.items()},
        }
    )
    read = predictor.read(inputs)
    embeddings = predictor.image.embed_patches(read.patches)
    rows = predictor._make_rows(embeddings, read.sizes, read.records)
    logits = trained.fitted.model.logits(rows)

    answer = predictor.answer(read, nucleus_changes=True, shap=True)

    assert [None if a is None else len(a) for a in answer["nucleus_changes"]] == [3, None, 1]
    for row in (0, 1):
        shares, base = answer["shap"].iloc[row], answer["shap_base"].iloc[row]
        assert set(shares) == set(predictor.encoder.feature_order)
        assert sum(shares.values()) + base == pytest.approx(logits[row], abs=1e-4)
    assert answer["shap"].iloc[2] is None
    assert answer["shap_base"].iloc[2] is None
    without = replace(rows.take(np.array([2])), given=np.zeros((1, 2), dtype=bool))
    without = replace(
        without, embeddings=embeddings[:0], logits=rows.logits[:0], sizes=np.array([0])
    )
    change = logits[2] - trained.fitted.model.logits(without)[0]
    assert answer["nucleus_changes"].iloc[2] == [pytest.approx(change, abs=1e-5)]


def test_sides_are_compared_where_they_are_known(made):
    _, trained, predictor = made
    rows = trained.rows.take(np.arange(1))
    records = draw_bags(200, dim=rows.embeddings.shape[1]).records.iloc[:1]

    both = predictor.compare_sides(rows.embeddings, rows.sizes, records)
    record = predictor.compare_sides(rows.embeddings[:0], rows.sizes * 0, records)

    assert list(both) == ["both", "image", "record"]
    assert list(record) == ["record"]
    assert both["record"]["answered_by"].tolist() == ["record"]
    name = "probability_death"
    assert both["record"][name].iloc[0] == pytest.approx(record["record"][name].iloc[0])
    assert both["image"][name].iloc[0] != pytest.approx(both["both"][name].iloc[0])


def test_the_interface_names_what_is_answered(made, patches):
    *_, predictor = made
    interface = describe_interface(predictor.bundle, {"image": predictor.image.bundle})
    inputs = pd.DataFrame({"image": [[patches[0]]], **{k: [v] for k, v in RECORD.items()}})
    asked = {name: True for name in interface.asked if name != "shap_base"}

    assert set(predictor.predict(inputs, **asked)) == set(interface.outputs)


def test_a_server_gives_explanations_as_json_on_request(made, patches):
    path, _, predictor = made
    endpoint = Endpoint({"bundle": str(path), "encoders": str(predictor.image.bundle.path.parent)})
    inputs = pd.DataFrame(
        {
            "image": [list(patches[:3]), None],
            **{name: [value, value] for name, value in RECORD.items()},
        }
    )

    plain = endpoint.answer(inputs)
    asked = dict.fromkeys(("attention", "nucleus_changes", "shap"), True)
    both, record = json.loads(write_answer(endpoint.answer(inputs, asked)))["predictions"]

    assert not {"nucleus_changes", "shap"} & set(plain)
    assert len(both["nucleus_changes"]) == 3
    assert record["nucleus_changes"] is None
    assert set(record["shap"]) > set(RECORD)
    with pytest.raises(MlflowException, match="unknown key 'gradcam'"):
        endpoint.answer(inputs, {"gradcam": True})
