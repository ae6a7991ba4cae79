import numpy as np
from drawn_patients import ENCODING, draw_bags

from histofuse.evaluation.patient_nuclei import measure_nuclei
from histofuse.patients.rows import fit_record_encoder, make_rows


class SumOfFirst:
    """Log-odds: the sum of the first embedding over a patient's nuclei, and of the record."""

    parameters = 0

    def attend(self, rows): ...

    def write(self, folder): ...

    def logits(self, rows):
        starts = np.cumsum(rows.sizes) - rows.sizes
        first = rows.embeddings[:, 0].astype(np.float64)
        return np.add.reduceat(first, starts) + rows.record.sum(axis=1, dtype=np.float64)


def test_a_nucleus_adds_what_is_lost_without_it():
    bags = draw_bags(200)
    patient = make_rows(bags, fit_record_encoder(bags, ENCODING)).take(np.array([3]))

    added = measure_nuclei(SumOfFirst(), patient)

    np.testing.assert_allclose(added, patient.embeddings[:, 0], atol=1e-5)
