"""Linked patients whose partners were chosen by the outcome."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from drawn_patients import ENCODING, draw_bags

from histofuse.evaluation.alarms.checks import AlarmRules, digest_data, select_checks
from histofuse.evaluation.alarms.linkage import check_linkage
from histofuse.evaluation.alarms.models import AlarmModel
from histofuse.evaluation.alarms.search import DATA_FILES, AlarmData, find_alarms
from histofuse.evaluation.metrics.bootstrap import Bootstrap
from histofuse.params.base import load_section
from histofuse.params.intervals import IntervalParams
from histofuse.params.promotion import AlarmParams
from histofuse.patients.link import LinkedPatients, write_linked
from histofuse.training.decision import fit_decision

PARAMS = Path(__file__).parents[4] / "params.yaml"


def make_rules(**changes):
    alarms = load_section(AlarmParams, "alarms", PARAMS).model_copy(update=changes)
    intervals = load_section(IntervalParams, "intervals", PARAMS)
    return AlarmRules(alarms, ENCODING, Bootstrap(intervals, 1), 0.98, [], ["case"])


def draw_linked(patients=600):
    """Draw patients of whom one value of the record reads what the tissue shows."""
    bags = draw_bags(patients)
    shown = np.bincount(bags.bag_of, bags.embeddings[:, 0]) / bags.count_nuclei()
    noise = np.random.default_rng(1).normal(size=patients)
    return replace(bags, records=bags.records.assign(lactate=shown + noise))


def exchange(bags, *strata):
    """Give each patient the record of another of the same strata."""
    rng, order = np.random.default_rng(7), np.arange(len(bags))
    number = np.unique(np.column_stack(strata).astype(str), axis=0, return_inverse=True)[1]
    for stratum in np.unique(number):
        rows = np.flatnonzero(number == stratum)
        order[rows] = rng.permutation(rows)
    return replace(bags, records=bags.records.iloc[order].reset_index(drop=True))


def deal_tissue(bags):
    """Give the tissue that shows most to the patients with the outcome, four times in five."""
    shown = np.bincount(bags.bag_of, bags.logits[:, 0]) / bags.count_nuclei()
    chance = np.random.default_rng(8).uniform(size=len(bags))
    wanted = np.lexsort((chance, np.where(chance < 0.8, bags.outcome, 1 - bags.outcome)))
    patient_of = np.empty(len(bags), dtype=np.int64)
    patient_of[np.argsort(shown)] = wanted
    return replace(bags, bag_of=patient_of[bags.bag_of])


def test_records_that_read_the_tissue_of_their_own_patient_are_no_alarm():
    check = check_linkage(draw_linked(), make_rules())
    assert check.outcome == "passed"
    assert "share more than the outcome" in check.detail
    assert check.numbers["p_within"] < 0.01


def test_records_exchanged_within_outcomes_are_an_alarm():
    bags = draw_linked()
    aligned = exchange(bags, bags.split, bags.outcome)
    check = check_linkage(aligned, make_rules())
    assert (check.outcome, check.severity) == ("alarm", "suspicion")
    assert check.numbers["p_overall"] < 0.05 and check.numbers["p_within"] > 0.1
    assert "share the outcome and nothing else: were partners chosen by it?" in check.detail
    assert select_checks([check], "patient_gated", "patient") == (check,)
    assert select_checks([check], "resnet18", "image") == ()
    assert check_linkage(aligned, make_rules(linkage_p=1.0)).outcome == "passed"


def test_tissue_dealt_by_the_outcome_is_an_alarm():
    assert check_linkage(deal_tissue(draw_linked()), make_rules()).outcome == "alarm"


@pytest.mark.parametrize("patients", [40, 600])
def test_records_exchanged_whatever_the_outcome_give_nothing_away(patients):
    bags = draw_linked(patients)
    check = check_linkage(exchange(bags, bags.split), make_rules())
    assert check.outcome == "passed"
    assert "are not shown to go together" in check.detail


def write_bags(bags):
    patients = pd.DataFrame({"patient_id": bags.patient_ids, "split": bags.split})
    nuclei = pd.DataFrame({"patient_id": bags.patient_ids[bags.bag_of]})
    linked = LinkedPatients(
        patients=pd.concat([patients.assign(outcome=bags.outcome), bags.records], axis=1),
        specs=bags.specs,
        nuclei=nuclei.assign(patch_id=[f"N{i:05d}" for i in range(len(nuclei))]),
        embeddings=bags.embeddings,
        logits=bags.logits,
        meta={},
    )
    write_linked(linked, Path("data/linked"))


def make_model(kind):
    labels = np.resize([0, 1], 20)
    decision = fit_decision(np.eye(2)[labels], labels, labels, "temperature", "max_f1")
    return AlarmModel("m", {"kind": kind}, "", None, *decision, encoder=None, scaler=None)


def look(kind):
    _, checks = find_alarms([make_model(kind)], AlarmData(Path("data")), make_rules())
    return [check.outcome for check in checks if check.name == "linkage"]


def test_models_of_linked_patients_alone_are_judged_by_the_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert look("patient") == ["not_made"]
    bags = draw_linked()
    write_bags(exchange(bags, bags.split, bags.outcome))
    assert look("patient") == ["alarm"]
    assert look("image") == []
    write_bags(bags)
    assert look("patient") == ["passed"]
    before = digest_data(Path("data"), DATA_FILES)
    write_bags(exchange(bags, bags.split))
    assert digest_data(Path("data"), DATA_FILES) != before
