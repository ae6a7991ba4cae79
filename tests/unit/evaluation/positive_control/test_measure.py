"""What fusion gains on linked patients."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from tests.fixtures.drawn_patients import ENCODING, make_params

from histofuse.core.auroc import compute_auroc
from histofuse.core.tables import write_table
from histofuse.data.simulate.linked.achievable import SIDES, compute_best
from histofuse.data.simulate.linked.cohort import draw_cohort
from histofuse.evaluation.metrics.bootstrap import Bootstrap
from histofuse.evaluation.metrics.sides import Rules
from histofuse.evaluation.positive_control import report
from histofuse.evaluation.positive_control.measure import (
    ControlMethods,
    measure_gain,
    read_scores,
    score_by_chance,
    score_cohort,
)
from histofuse.evaluation.positive_control.report import COHORTS, write_positive_control
from histofuse.params.base import load_section
from histofuse.params.intervals import IntervalParams
from histofuse.params.simulation import LinkedSimulationParams
from histofuse.patients.bags import PatientBags, describe_record
from histofuse.patients.train import PATIENT_PREDICTIONS

PARAMS = load_section(LinkedSimulationParams, "simulation.linked")
BOOTSTRAP = Bootstrap(
    IntervalParams(resamples=200, confidence=0.95, method="bca", fewest_groups=10), 1
)
METHODS = ControlMethods(
    {side: make_params(name, aggregators=["distribution"]) for side, name in (
        ("image", "image"), ("record", "record"), ("both", "early_logistic"),
    )},
    ENCODING,
    1,
)  # fmt: skip


def see_perfectly(cohort) -> PatientBags:
    """Make bags whose logits name the class of each nucleus."""
    counts = cohort.tissue.counts
    classes = np.concatenate([np.repeat(np.arange(3), of) for of in counts])
    records = pd.DataFrame(np.column_stack((cohort.record.markers, cohort.record.own)))
    records.columns = [f"record_{i}" for i in range(records.shape[1])]
    n = len(counts)
    return PatientBags(
        embeddings=np.eye(3, dtype=np.float32)[classes],
        logits=(20 * np.eye(3, dtype=np.float32) - 10)[classes],
        bag_of=np.repeat(np.arange(n), counts.sum(axis=1)),
        records=records,
        specs=describe_record(records),
        outcome=cohort.outcome,
        split=np.resize(["train", "train", "test", "test", "validation"], n).astype(object),
        patient_ids=np.array([f"P{i}" for i in range(n)], dtype=object),
    )


@pytest.fixture(scope="module")
def cohort():
    return draw_cohort(PARAMS, 1)


@pytest.fixture(scope="module")
def bags(cohort):
    return see_perfectly(cohort)


@pytest.fixture(scope="module")
def linked(bags, cohort):
    scores = score_cohort(bags, cohort, PARAMS, METHODS)
    return replace(scores, by_chance=score_by_chance(bags, METHODS, 2))


@pytest.fixture(scope="module")
def null(bags):
    without = PARAMS.model_copy(update={"image_own": 0.0})
    return score_cohort(bags, draw_cohort(without, 1), without, METHODS)


def test_gain_is_over_the_better_side_and_the_share_of_what_is_achievable(linked):
    measured = {name: of.value for name, of in measure_gain(linked, BOOTSTRAP).items()}
    for kind, scores in (("model", linked.models), ("best", linked.best)):
        for side in SIDES:
            auroc = compute_auroc(scores[side], linked.outcome)
            assert measured[f"{kind}/{side}"] == pytest.approx(auroc)
    better = max(measured["model/image"], measured["model/record"])
    assert measured["gain"] == pytest.approx(measured["model/both"] - better)
    achievable = measured["best/both"] - better
    assert measured["achievable_gain"] == pytest.approx(achievable)
    assert measured["share"] == pytest.approx(measured["gain"] / achievable)


def test_fusion_gains_and_reaches_most_of_it_when_the_nuclei_are_seen_as_they_are(linked):
    measured = measure_gain(linked, BOOTSTRAP)
    assert measured["gain"].low > 0
    assert measured["share"].value > 0.7


def test_records_of_other_patients_bring_nothing(linked):
    measured = measure_gain(linked, BOOTSTRAP)
    auroc = np.mean([compute_auroc(of, linked.outcome) for of in linked.by_chance])
    assert measured["model/by_chance"].value == pytest.approx(auroc)
    assert measured["gain_by_chance"].low < 0.01


def test_under_the_null_nothing_is_gained_and_no_share_is_claimed(null):
    measured = measure_gain(null, BOOTSTRAP)
    assert measured["best/both"].value == pytest.approx(measured["best/record"].value)
    assert measured["gain"].low < 0
    assert measured["share"].value is None
    assert measured["model/by_chance"].value is None


def test_records_are_shuffled_within_a_split(monkeypatch, bags):
    seen = []

    def fit(_self, bags, _side):
        seen.append(bags)
        return np.zeros(1)

    monkeypatch.setattr(ControlMethods, "fit", fit)
    score_by_chance(bags, METHODS, 1)
    for split in ("train", "validation", "test"):
        before, after = (b.records[b.split == split] for b in (bags, seen[0]))
        assert not np.array_equal(before, after, equal_nan=True)
        np.testing.assert_array_equal(np.sort(before, axis=0), np.sort(after, axis=0))
    np.testing.assert_array_equal(seen[0].outcome, bags.outcome)


def test_null_has_the_same_tissue_and_records_with_another_outcome(cohort):
    other = draw_cohort(PARAMS.model_copy(update={"image_own": 0.0}), 1)
    np.testing.assert_array_equal(other.tissue.counts, cohort.tissue.counts)
    np.testing.assert_array_equal(other.record.markers, cohort.record.markers)
    assert (other.outcome != cohort.outcome).any()


@pytest.mark.parametrize(("source", "marked"), [("simulated", True), ("registry", False)])
def test_only_simulated_patients_are_marked(tmp_path, monkeypatch, linked, source, marked):
    footers = []
    monkeypatch.setattr(report, "save_drawing", lambda *a: footers.append(a[2]))
    measured = dict.fromkeys(COHORTS, measure_gain(linked, BOOTSTRAP))
    rules = Rules(0.05, 0.1, 10)
    write_positive_control(measured, "logistic", BOOTSTRAP.params, rules, tmp_path, source=source)
    table = (tmp_path / "tables" / "positive_control.md").read_text()
    assert ["SIMULATED" in footers[0], "Simulated" in table] == [marked, marked]


def test_report_states_gain_share_and_controls(tmp_path, linked, null):
    measured = {"linked": measure_gain(linked, BOOTSTRAP), "null": measure_gain(null, BOOTSTRAP)}
    rules = Rules(0.05, 0.1, 10)
    verdict = write_positive_control(
        measured, "logistic", BOOTSTRAP.params, rules, tmp_path, source="simulated"
    )
    assert verdict.startswith("YES. AUROC +0.")
    table = (tmp_path / "tables" / "positive_control.md").read_text()
    for arm in ("Image alone", "Record alone", "Both", "Both, records of other patients"):
        assert f"| {arm} |" in table
    assert table.count("Gain of both over the better side") == 2
    assert (tmp_path / "positive_control.png").stat().st_size > 10_000


def test_test_patients_are_scored_by_the_order_of_the_bags(linked, bags, cohort):
    test = bags.split == "test"
    np.testing.assert_array_equal(linked.outcome, cohort.outcome[test])
    np.testing.assert_allclose(linked.best["both"], compute_best(cohort, PARAMS)["both"][test])


def test_scores_are_read_by_patient(tmp_path, bags):
    values = np.arange(len(bags), dtype=np.float64)
    columns = {name: values.astype(int) for name in PATIENT_PREDICTIONS.columns}
    columns |= {n: values for n, k in PATIENT_PREDICTIONS.columns.items() if k == "float"}
    columns |= {"patient_id": bags.patient_ids.astype(str), "split": bags.split.astype(str)}
    table = pd.DataFrame(columns)[list(PATIENT_PREDICTIONS.columns)]
    write_table(table.iloc[::-1], tmp_path / "predictions.parquet", PATIENT_PREDICTIONS)
    read = read_scores(tmp_path, "record", bags)
    np.testing.assert_array_equal(read, values[bags.split == "test"])
