from dataclasses import replace

import numpy as np
import pytest
from drawn_patients import ENCODING, draw_bags, make_params

from histofuse.patients import influence
from histofuse.patients.fusion.interface import PatientModel
from histofuse.patients.influence import measure_nuclei
from histofuse.patients.rows import fit_record_encoder, make_rows
from histofuse.patients.train import train_method
from histofuse.training.recorder import Recorder


class SumOfFirst(PatientModel):
    """Log-odds: the sum of the first embedding over a patient's nuclei, and of the record."""

    def logits(self, rows):
        starts = np.cumsum(rows.sizes) - rows.sizes
        first = rows.embeddings[:, 0].astype(np.float64)
        return np.add.reduceat(first, starts) + rows.record.sum(axis=1, dtype=np.float64)


@pytest.fixture(scope="module")
def patient():
    bags = draw_bags(200)
    return make_rows(bags, fit_record_encoder(bags, ENCODING)).take(np.array([3]))


@pytest.mark.parametrize("at_once", [20, 2**16])
def test_a_nucleus_adds_what_is_lost_without_it(patient, at_once, monkeypatch):
    monkeypatch.setattr(influence, "NUCLEI_AT_ONCE", at_once)

    added = measure_nuclei(SumOfFirst(), patient)

    np.testing.assert_allclose(added, patient.embeddings[:, 0], atol=1e-5)


def test_a_patient_without_their_only_nucleus_is_answered_by_the_record_alone():
    trained = train_method(draw_bags(200), make_params("early_logistic"), ENCODING, 1, Recorder())
    patient = trained.rows.take(np.array([3]))
    one = replace(
        patient,
        embeddings=patient.embeddings[:1],
        logits=patient.logits[:1],
        sizes=np.ones(1, dtype=np.int64),
    )
    model = trained.fitted.model

    added = measure_nuclei(model, one)

    np.testing.assert_allclose(added, model.logits(one) - model.logits(one.show("record")))


def test_of_a_bag_larger_than_the_model_reads_the_nuclei_read_are_measured():
    params = make_params("gated", epochs=2, most_nuclei=4, aggregators=["attention"])
    trained = train_method(draw_bags(200), params, ENCODING, 1, Recorder())
    patient = trained.rows.take(np.array([3]))
    model = trained.fitted.model

    added = measure_nuclei(model, patient)

    read = model.attend(patient) > 0
    assert read.sum() == 4 < len(added)
    np.testing.assert_array_equal(np.isfinite(added), read)
