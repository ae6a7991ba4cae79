import numpy as np
import pandas as pd
import pytest
from fairlearn.metrics import MetricFrame
from sklearn.metrics import recall_score, roc_auc_score

from histofuse.evaluation.assessment.subgroups import Rows, measure_subgroups, name_subgroups
from histofuse.evaluation.metrics.bootstrap import Bootstrap, ClusterBootstrap
from histofuse.evaluation.metrics.weighted import Clusters
from histofuse.params.evaluation import AssessmentParams
from histofuse.params.intervals import IntervalParams

BOOTSTRAP = Bootstrap(
    IntervalParams(resamples=400, confidence=0.9, method="percentile", fewest_groups=10), seed=1
)


def make_params(fewest):
    values = {
        "thresholds": {"low": 0.1, "high": 0.5, "step": 0.1},
        "specificities": [0.9],
        "sensitivities": [0.8],
        "coverage": 0.9,
        "conformal_score": "lac",
        "age_bands_years": [50, 65],
        "fewest_in_subgroup": fewest,
    }
    return AssessmentParams.model_validate(values)


def draw(n=400, seed=0):
    rng = np.random.default_rng(seed)
    p = rng.random(n)
    return Rows(p, p > 0.5, rng.random(n) < p, np.arange(n))


def measure(rows, of, fewest=20, restricted=False):
    n = len(rows.probability)
    bootstrap = ClusterBootstrap(BOOTSTRAP, Clusters(np.arange(n), n, "patients"))
    found = measure_subgroups(
        rows, {"by": of}, make_params(fewest), bootstrap, restricted=restricted
    )
    return found["by"]


def test_values_are_those_of_each_subgroup_alone():
    rows, of = draw(), np.where(np.arange(400) % 3 == 0, "x", "y").astype(object)
    for subgroup in measure(rows, of).subgroups:
        here = of == subgroup.name
        p, y, flagged = rows.probability[here], rows.positive[here], rows.flagged[here]
        found = {name: i.value for name, i in subgroup.intervals.items()}
        assert found["auroc"] == pytest.approx(roc_auc_score(y, p))
        assert found["recall"] == pytest.approx(recall_score(y, flagged))
        assert found["false_positive_rate"] == pytest.approx(flagged[~y].mean())
        assert found["predicted"] == pytest.approx(p.mean())
        assert found["observed"] == pytest.approx(y.mean())
        assert found["excess"] == pytest.approx(p.mean() - y.mean())
        assert (subgroup.rows, subgroup.positives) == (here.sum(), y.sum())
        assert all(i.low < i.value < i.high for i in subgroup.intervals.values())


def test_intervals_agree_with_fairlearns_where_a_row_is_a_patient():
    rows, of = draw(), np.where(np.arange(400) % 3 == 0, "x", "y").astype(object)
    frame = MetricFrame(
        metrics={"recall": recall_score},
        y_true=rows.positive,
        y_pred=rows.flagged,
        sensitive_features=pd.Series(of, name="by"),
        n_boot=40,
        ci_quantiles=[0.05, 0.95],
        random_state=0,
    )
    low, high = (ends["recall"] for ends in frame.by_group_ci)
    for subgroup in measure(rows, of).subgroups:
        found = subgroup.intervals["recall"]
        assert found.low == pytest.approx(low[subgroup.name], abs=0.03)
        assert found.high == pytest.approx(high[subgroup.name], abs=0.03)


def test_largest_gap_is_between_the_two_furthest_apart():
    rows = draw()
    of = np.array(["a", "b", "c"], dtype=object)[np.arange(400) % 3]
    rows.flagged[of == "b"] = True
    gap = measure(rows, of).gaps["false_positive_rate"]

    rates = {name: rows.flagged[(of == name) & ~rows.positive].mean() for name in "abc"}
    assert (gap.high, gap.low) == ("b", min(rates, key=rates.__getitem__))
    assert gap.interval.value == pytest.approx(max(rates.values()) - min(rates.values()))
    assert gap.interval.low > 0.3


def test_small_subgroups_are_counted_and_not_measured():
    rows, of = draw(), np.array(["big"] * 385 + ["small"] * 15, dtype=object)
    big, small = measure(rows, of).subgroups
    assert big.intervals
    assert not small.intervals
    assert small.rows == 15
    assert small.note == "too few: fewer than 20 patients"
    assert measure(rows, of).gaps == {}


def test_patients_are_counted_not_rows():
    rows = draw()
    few = Rows(rows.probability, rows.flagged, rows.positive, np.arange(400) % 19)
    (only,) = measure(few, np.full(400, "all", dtype=object)).subgroups
    assert (only.patients, only.rows) == (19, 400)
    assert "too few" in only.note


def test_restricted_subgroups_are_withheld_and_cannot_be_had_by_subtraction():
    rows = draw()
    names = ["a"] * 200 + ["b"] * 120 + ["c"] * 65 + ["d"] * 15
    found = measure(rows, np.array(names, dtype=object), restricted=True).subgroups

    assert [s.rows for s in found] == [200, 120, None, None]
    assert all(s.positives is None and not s.intervals for s in found[2:])
    assert "withheld" in found[3].note
    assert "15" not in str(found[3])


def test_few_deaths_are_withheld_with_restricted_data():
    rows = draw()
    rows.positive[200:300] = np.arange(100) < 5
    names = np.array(["a"] * 200 + ["b"] * 100 + ["c"] * 100, dtype=object)
    found = measure(rows, names, restricted=True).subgroups
    assert [s.rows is None for s in found].count(True) == 2
    assert found[1].rows is None


def test_rows_are_joined_by_admission_and_what_is_missing_is_said():
    features = pd.DataFrame(
        {
            "subject_id": [1, 1, 2, 3],
            "hadm_id": [10, 11, 20, 30],
            "age_years": [49.0, 50.0, 65.0, np.nan],
            "sex": ["F", "F", None, "M"],
            "race_group": ["white", "white", "black", "asian"],
        }
    )
    admissions = np.array(["3/30", "2/20", "1/11", "1/10", "1/11", "9/90"], dtype=object)
    found = name_subgroups(features, admissions, [50, 65])

    gone = "not recorded"
    bands = [gone, "65 and above", "50 to 64", "below 50", "50 to 64", gone]
    assert found["age_band"].tolist() == bands
    assert found["sex"].tolist() == ["M", gone, "F", "F", "F", gone]
    assert found["race"].tolist() == ["asian", "black", "white", "white", "white", gone]
    assert set(found["insurance"]) == {gone}
