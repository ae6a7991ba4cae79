from dataclasses import replace

import numpy as np
import pytest
from drawn_patients import ENCODING, draw_bags, make_params

from histofuse.explain.fusion import patient_records
from histofuse.explain.fusion.explainers import encode_typical, name_sources
from histofuse.explain.fusion.patient_records import explain_patient_record
from histofuse.features.specs import FeatureSpec
from histofuse.patients.train import train_method
from histofuse.training.recorder import Recorder


def train(name, **changes):
    return train_method(draw_bags(200), make_params(name, **changes), ENCODING, 1, Recorder())


def explain(trained, patient, sources=None):
    encoder = trained.encoder
    sources = sources or name_sources(encoder)
    return explain_patient_record(trained.fitted.model, patient, encode_typical(encoder), sources)


@pytest.mark.parametrize("view", ["both", "record"])
def test_in_a_logistic_regression_a_feature_adds_its_weight_times_its_value(view):
    trained = train("early_logistic")
    patient = trained.rows.take(np.array([5])).show(view)
    learner, encoder = trained.fitted.model.learners[view], trained.encoder
    width = len(encoder.feature_order)
    weights = (learner.weights / learner.scale)[-width:]
    moved = patient.record[0] - encode_typical(encoder).to_numpy()[0]

    shares, base = explain(trained, patient)

    expected = dict(zip(encoder.feature_order, weights * moved, strict=True))
    assert shares == pytest.approx(expected, abs=1e-5)
    logit = trained.fitted.model.logits(patient)[0]
    assert base == pytest.approx(logit - sum(expected.values()), abs=1e-5)


@pytest.mark.parametrize("name", ["early_xgboost", "cross_attention"])
def test_in_any_method_they_add_up_and_are_the_same_each_time(name):
    trained = train(name, **({"epochs": 2} if name == "cross_attention" else {"rounds": 20}))
    patient = trained.rows.take(np.array([5]))
    model = trained.fitted.model

    shares, base = explain(trained, patient)

    assert sum(shares.values()) + base == pytest.approx(model.logits(patient)[0], abs=1e-4)
    assert explain(trained, patient) == (shares, base)


def test_columns_of_one_feature_are_present_together():
    trained = train("record")
    patient = trained.rows.take(np.array([5]))
    apart, base = explain(trained, patient)
    first, second, *others = trained.encoder.feature_order

    joined, same = explain(trained, patient, {first: first, second: first} | {o: o for o in others})

    assert same == base
    assert joined[first] == pytest.approx(apart[first] + apart[second], abs=1e-5)
    assert set(joined) == {first, *others}


def test_many_nuclei_are_answered_in_parts(monkeypatch):
    trained = train("early_logistic")
    patient = trained.rows.take(np.array([5]))
    shares, base = explain(trained, patient)
    monkeypatch.setattr(patient_records, "NUCLEI_AT_ONCE", 20)

    parts, same = explain(trained, patient)

    assert parts == pytest.approx(shares, abs=1e-6)
    assert same == pytest.approx(base)


def test_the_columns_of_categories_are_one_feature():
    bags = draw_bags(200)
    names = np.resize(["Medicare", "Other", "Medicaid"], len(bags))
    records = bags.records.assign(insurance=names.astype(object))
    spec = FeatureSpec("insurance", "insurance", "categorical", "", "demographics", "Insurance")
    bags = replace(bags, records=records, specs=[*bags.specs, spec])
    trained = train_method(bags, make_params("early_logistic"), ENCODING, 1, Recorder())
    patient = trained.rows.take(np.array([5]))

    shares, base = explain(trained, patient)

    assert {"insurance", "albumin"} < set(shares)
    assert not any("=" in name for name in shares)
    logit = trained.fitted.model.logits(patient)[0]
    assert sum(shares.values()) + base == pytest.approx(logit, abs=1e-4)
