"""Pairing never takes a patient or a case across splits, whatever the tables look like."""

import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st

from histofuse.core.ids import SPLITS
from histofuse.features.pairing import make_pairs
from histofuse.params.pairing import PairingParams

LABELS = ("mitosis", "tumour", "non_tumour")
SHARES = {"mitosis": 1.0, "tumour": 0.5, "non_tumour": 0.0}
RULES = st.sampled_from(
    [
        {"rule": "label_blind", "level": "case"},
        {"rule": "label_blind", "level": "patch"},
        {"rule": "permuted"},
        {"rule": "label_aligned", "positive_share": SHARES},
    ]
)


@st.composite
def patch_tables(draw):
    cases = draw(st.lists(st.sampled_from(SPLITS), min_size=1, max_size=8))
    rows = [
        (f"Case_{c}-00/{p:04d}", f"Case_{c}-00", f"Case_{c}", draw(st.sampled_from(LABELS)), split)
        for c, split in enumerate(cases)
        for p in range(draw(st.integers(1, 6)))
    ]
    return pd.DataFrame(rows, columns=["patch_id", "frame_id", "case_id", "label", "split"])


@st.composite
def patient_tables(draw):
    """Patients of each split and target, with one to three admissions each."""
    rows = []
    for split in SPLITS:
        targets = [0, 1, *draw(st.lists(st.integers(0, 1), max_size=6))]
        for target in targets:
            subject = len(rows) + 1
            rows += [
                (subject, 100 * subject + a, split, target) for a in range(draw(st.integers(1, 3)))
            ]
    table = pd.DataFrame(rows, columns=["subject_id", "hadm_id", "split", "target"])
    return table.sample(frac=1, random_state=draw(st.integers(0, 9)))


@settings(max_examples=80, deadline=None)
@given(patch_tables(), patient_tables(), RULES, st.integers(0, 2**32))
def test_no_patient_and_no_case_crosses_splits(patches, patients, rule, seed):
    pairs = make_pairs(patches, patients, PairingParams.model_validate(rule), seed)

    split_of_patient = patients.set_index(["subject_id", "hadm_id"])["split"]
    keys = pd.MultiIndex.from_frame(pairs[["subject_id", "hadm_id"]])
    assert (split_of_patient.loc[keys].to_numpy() == pairs["split"].to_numpy()).all()
    assert (pairs.groupby("subject_id")["split"].nunique() == 1).all()
    assert (pairs.groupby("case_id")["split"].nunique() == 1).all()

    kept = patches.set_index("patch_id").loc[pairs["patch_id"]]
    assert len(pairs) == len(patches)
    assert kept["split"].tolist() == pairs["split"].tolist()
    assert kept["label"].tolist() == pairs["label"].tolist()
