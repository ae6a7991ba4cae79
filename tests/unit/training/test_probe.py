"""Linear heads on frozen features: penalty, optimum, and folds."""

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression

from histofuse.core.errors import InputError
from histofuse.params.image import ProbeParams
from histofuse.training.probe import fit_probe, split_by_unit

VALUES = {
    "strategy": "probe",
    "backbone": "simple_cnn",
    "model_kwargs": {},
    "weights": "none",
    "pooling": "encoder",
    "input_px": 32,
    "levels": ["features.0", "features.1"],
    "rotations": 4,
    "c": [0.1, 0.001, 10.0],
    "folds": 4,
    "normalisation": "unit",
    "minimum_map_px": 4,
    "calibration": "temperature",
    "threshold": "argmax",
    "study": "none",
}


def make_params(**changes) -> ProbeParams:
    return ProbeParams.model_validate(VALUES | changes)


def make_rows(n=240, width=6, cases=6):
    rng = np.random.default_rng(0)
    labels = np.arange(n) % 3
    features = rng.normal(size=(n, width)).astype(np.float32) * 5 + 3
    features[np.arange(n), labels] += 6
    case = np.arange(n) // 3 % cases
    frame = case * 10 + np.arange(n) % 8
    keys = pd.DataFrame({"case_id": case, "frame_id": frame, "patch_id": np.arange(n)})
    return features, labels, keys.astype("str")


def test_the_head_is_at_the_optimum_of_the_penalty_that_cross_validation_prefers():
    features, labels, keys = make_rows()
    probe = fit_probe(features, labels, keys, make_params(), 5)
    assert set(probe.scores) == {0.001, 0.1, 10.0}
    assert probe.scores[probe.c] == max(probe.scores.values())
    assert (probe.folds, probe.unit) == (4, "case")
    x = (features - features.mean(0)) / features.std(0)
    peer = LogisticRegression(C=probe.c, class_weight="balanced", tol=1e-9, max_iter=10_000)
    peer.fit(x.astype(np.float64), labels)
    np.testing.assert_allclose(probe.head.logits(features), peer.decision_function(x), atol=0.02)


def test_held_out_logits_are_those_of_heads_that_did_not_see_the_case():
    features, labels, keys = make_rows()
    probe = fit_probe(features, labels, keys, make_params(c=[0.1]), 5)
    changed = labels.copy()
    case = (keys["case_id"] == "2").to_numpy()
    folds, _ = split_by_unit(labels, keys, 4, 5)
    own = next(held for _, held in folds if case[held].any())
    changed[own] = (labels[own] + 1) % 3
    other = fit_probe(features, changed, keys, make_params(c=[0.1]), 5)
    assert np.abs(other.held_out - probe.held_out).max() > 0.1
    np.testing.assert_allclose(other.held_out[own], probe.held_out[own], atol=1e-3)


def test_folds_keep_the_largest_unit_whole_that_leaves_all_classes():
    _, labels, keys = make_rows()
    folds, unit = split_by_unit(labels, keys, 5, 1)
    assert unit == "case" and len(folds) == 5
    for rest, held in folds:
        assert not set(keys["case_id"].iloc[rest]) & set(keys["case_id"].iloc[held])
    assert sorted(np.concatenate([held for _, held in folds])) == list(range(len(labels)))

    one_has_it = labels.copy()
    one_has_it[(labels == 0) & (keys["case_id"] != "1")] = 1
    folds, unit = split_by_unit(one_has_it, keys, 5, 1)
    assert unit == "frame"
    assert all(set(one_has_it[rest]) == {0, 1, 2} for rest, _ in folds)

    one_frame, frames = labels.copy(), sorted(set(keys["frame_id"][labels == 0]))
    one_frame[(labels == 0) & (keys["frame_id"] != frames[0])] = 1
    assert split_by_unit(one_frame, keys, 5, 1)[1] == "patch"
    with pytest.raises(InputError, match="fewer than two rows"):
        split_by_unit(np.array([0, 1, 1, 1]), keys[:4], 5, 1)
