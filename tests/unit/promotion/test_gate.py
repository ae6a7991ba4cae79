import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from histofuse.evaluation.alarms.checks import make_check, skip_check
from histofuse.evaluation.alarms.data import check_image_split, check_patient_split
from histofuse.evaluation.alarms.models import (
    check_pairing,
    check_shared_rows,
    check_too_good,
    check_training_rows,
    tabulate_rows,
)
from histofuse.evaluation.metrics.weighted import measure_rows
from histofuse.evaluation.predictions import Predictions
from histofuse.explain.estimates import write_scores
from histofuse.params.base import load_section
from histofuse.params.promotion import Limits, PromotionParams
from histofuse.promotion.evidence import list_validations, read_faithfulness
from histofuse.promotion.gate import FILES, Evidence, Scored, decide
from histofuse.tracking.names import VALIDATED_ON_TAG, VALIDATION_TAG
from histofuse.tracking.store import open_store

CLASSES = ["mitosis", "tumour", "non_tumour"]
PARAMS = PromotionParams(
    external_validation="optional",
    resamples=300,
    confidence=0.95,
    interval="bca",
    fewest_groups=10,
    few_groups="leave_one_out",
    tolerance=1e-4,
    split_units=["case"],
    alarm_at=0.98,
    alarm_metrics=["auroc/macro", "f1/macro"],
    faithfulness_minimums={},
    margins=Limits(
        patients={"auroc/minority": 0.03},
        patches={"auroc/macro": 0.02, "auprc/minority": 0.05},
        admissions={"auroc/minority": 0.02, "brier": 0.02},
    ),
    encoder_margins={"auroc/macro": 0.02, "auprc/minority": 0.05, "brier": 0.02},
    side_margins={"auroc/minority": 0.0},
    minimums=Limits(
        patients={"auroc/minority": 0.5},
        patches={"auroc/macro": 0.5, "recall/minority": 0.0},
        admissions={"auroc/minority": 0.5, "brier": 0.25},
    ),
    detector={"f1": 0.5, "gain": 0.0},
)
CANDIDATE, OTHER = "1" * 64, "2" * 64  # digests of bundles
PAIRS = ("train-test", "train-validation", "validation-test")


def predict(kind="image", seed=0, skill=0.4, groups=20, n=600, names="g") -> Predictions:
    """What a model says of three splits; labels and keys are the same whatever the seed."""
    classes = ["no_death", "death"] if kind in ("tabular", "patient") else CLASSES
    k = len(classes)
    labels = np.random.default_rng(7).permutation(np.arange(3 * n) % k)
    raw = np.random.default_rng(seed).random((3 * n, k)) + skill * np.eye(k)[labels]
    p = raw / raw.sum(axis=1, keepdims=True)
    split = np.repeat(["train", "validation", "test"], n)
    group = [
        f"{s}-{names}{i * groups // n}" for s in ("train", "validation", "test") for i in range(n)
    ]
    config = {"kind": kind, "classes": classes, "inputs": {"splits": "aa", "encoded": "aa"}}
    config["focus_class"] = "mitosis" if classes is CLASSES else "death"
    if kind == "fusion":
        config |= {"pairing": {"rule": "label_blind"}, "leaky": False}
    if kind == "patient":
        config["architecture"] = {"kind": "gated"}
    return Predictions(
        name="m",
        config=config,
        history=pd.DataFrame(),
        keys=np.array([f"p{i}" for i in range(3 * n)], dtype=object),
        split=split.astype(object),
        labels=labels,
        probabilities=p,
        predictions=p.argmax(axis=1),
        groups=np.array(group, dtype=object),
        subjects=np.array([f"{g}-patient" for g in group]) if kind == "fusion" else None,
    )


def register(rows: Predictions, version=2, **changes) -> Scored:
    values = {
        "version": version,
        "digest": "0123456789abcdef" * 4,
        "config": rows.config,
        "bundle_fault": "",
        "scored": rows.of("test"),
        "scoring_fault": "",
        "stored": rows,
    }
    return Scored(**(values | changes))


def audit(unit="case", leaky=False, **shared):
    counts = {"cases": 0, "frames": 0, "overlapping_patches": 0, **shared}
    forbidden = {"case": list(counts), "frame": [c for c in counts if c != "cases"], "patch": []}
    return {
        "unit": unit,
        "validation_unit": unit,
        "leaky": leaky,
        "shared": dict.fromkeys(PAIRS, counts),
        "forbidden": dict.fromkeys(PAIRS, forbidden[unit]),
    }


AUDIT = audit()
PATIENT_AUDIT = {
    "shared": {pair: {"patients": 0} for pair in PAIRS},
    "forbidden": {pair: ["patients"] for pair in PAIRS},
}


def check_for_alarms(kind, candidate, patch_audit, patient_audit, params):
    """Make the alarm checks that rest on what a test may change."""
    if kind == "fusion":
        yield check_pairing("m", candidate.config)
    if kind in ("image", "fusion"):
        yield from check_image_split(patch_audit, params.split_units)
    if kind in ("tabular", "fusion"):
        yield check_patient_split(patient_audit)
    stored, scored = candidate.stored, candidate.scored
    if stored is not None and scored is not None:
        yield check_shared_rows(stored, params.split_units)
        yield check_training_rows(stored, tabulate_rows(scored), params.split_units)
        yield check_too_good(scored, params.alarm_at, params.alarm_metrics)


def collect(
    kind="image", patch_audit=AUDIT, patient_audit=PATIENT_AUDIT, split_units=("case",), **changes
) -> Evidence:
    candidate = changes.get("candidate") or register(predict(kind))
    params = PARAMS.model_copy(update={"split_units": split_units})
    alarms = check_for_alarms(kind, candidate, patch_audit, patient_audit, params)
    values = {
        "candidate": candidate,
        "production": None,
        "files": frozenset(FILES[kind]),
        "signature": True,
        "card": True,
        "seed": 1,
        "alarms": tuple(alarms),
        "encoder": candidate.scored if kind == "fusion" else None,
        "alone": {"image": candidate.scored} if kind == "patient" else {},
    }
    return Evidence(**(values | changes))


def refuse(evidence: Evidence, **changes) -> dict[str, str]:
    """Name the checks that refuse, with what they say."""
    verdict = decide(evidence, PARAMS.model_copy(update=changes))
    json.dumps(verdict.to_dict(), allow_nan=False)
    assert verdict.passed == (not verdict.refusals) == verdict.to_dict()["passed"]
    assert len(verdict.lines()) == len(verdict.checks)
    return {check.name: check.detail for check in verdict.refusals}


def test_params_of_the_project_are_read():
    params = load_section(PromotionParams, "promotion")
    assert "auprc/minority" in params.margins.patches
    assert params.split_units == ["case"]


@pytest.mark.parametrize("kind", ["image", "tabular", "fusion", "patient"])
def test_good_model_passes_with_nothing_in_production(kind):
    assert refuse(collect(kind)) == {}


@pytest.mark.parametrize("kind", ["image", "tabular", "fusion", "patient"])
def test_model_passes_against_itself(kind):
    rows = predict(kind)
    assert refuse(collect(kind, production=register(rows, version=1))) == {}


def test_checks_are_all_there_in_their_order():
    evidence = collect("fusion", production=register(predict("fusion", seed=1), version=1))
    names = [check.name for check in decide(evidence, PARAMS).checks]
    assert names == [
        "bundle", "files", "evaluated", "alarms", "minimum[auroc/macro]", "minimum[recall/mitosis]",
        "not_worse_than_encoder[auroc/macro]", "not_worse_than_encoder[auprc/mitosis]",
        "not_worse_than_encoder[brier]", "not_worse_than_encoder[decisions]",
        "not_worse[auroc/macro]", "not_worse[auprc/mitosis]", "not_worse[decisions]",
    ]  # fmt: skip


def test_same_evidence_same_verdict():
    evidence = collect(production=register(predict(seed=1), version=1))
    assert decide(evidence, PARAMS) == decide(evidence, PARAMS)
    reseeded = decide(replace(evidence, seed=2), PARAMS)
    for one, other in zip(decide(evidence, PARAMS).checks, reseeded.checks, strict=True):
        drawn = one.name.startswith(("minimum", "not_worse")) and "decisions" not in one.name
        assert (one.numbers.get("low") != other.numbers.get("low")) == drawn


def test_all_that_is_wrong_is_said_at_once():
    rows = predict("fusion", skill=0.0)
    rows.config["leaky"] = True
    candidate = register(rows, bundle_fault="weights.safetensors has sha256 12…, expected 34…")
    better = register(predict("fusion", seed=1), version=1)
    evidence = collect(
        "fusion",
        candidate=candidate,
        production=better,
        encoder=better.scored,
        card=False,
        patch_audit=None,
    )

    assert list(refuse(evidence)) == [
        "bundle", "files", "alarm[pairing]", "alarm[shared[images]]", "minimum[auroc/macro]",
        "not_worse_than_encoder[auroc/macro]", "not_worse_than_encoder[auprc/mitosis]",
        "not_worse_than_encoder[brier]", "not_worse[auroc/macro]", "not_worse[auprc/mitosis]",
    ]  # fmt: skip


# --- bundle and files ---------------------------------------------------------------------------


def test_faulty_bundle_is_refused_and_needs_no_scores():
    fault = "weights.safetensors is missing"
    candidate = register(
        predict(), bundle_fault=fault, scored=None, scoring_fault=fault, stored=None, config={}
    )
    production = register(predict(seed=1), version=1)
    evidence = collect(candidate=candidate, production=production, alarms=None, alarms_fault=fault)
    refused = refuse(evidence)

    assert refused["bundle"] == fault
    assert fault in refused["evaluated"]
    assert {"alarms", "minimum", "not_worse"} <= set(refused)


@pytest.mark.parametrize(
    ("kind", "missing"),
    [(kind, name) for kind, names in FILES.items() for name in names if kind != "detector"],
)
def test_each_missing_file_is_named(kind, missing):
    refused = refuse(collect(kind, files=frozenset(FILES[kind]) - {missing}))
    assert refused == {"files": f"lacks {missing}"}


def test_feature_order_is_asked_of_whatever_reads_records():
    assert "bundle/feature_order.json" in FILES["tabular"]
    assert "encoders/patient/feature_order.json" in FILES["fusion"]


def test_missing_signature_and_card_are_named_together():
    refused = refuse(collect(signature=False, card=False))
    assert refused == {"files": "lacks signature, model card"}


# --- evaluated ----------------------------------------------------------------------------------


def test_scores_of_today_must_be_those_of_the_bundle():
    rows = predict()
    today = rows.of("test")
    today.probabilities[:3] += [[0.01, -0.01, 0.0]]
    refused = refuse(collect(candidate=register(rows, scored=today)))

    assert list(refused) == ["evaluated"]
    assert "3 of the 600 stored probabilities" in refused["evaluated"]
    assert "by 0.01" in refused["evaluated"]


def test_scores_are_compared_by_key():
    rows = predict()
    today = rows.of("test").take(np.random.default_rng(0).permutation(600))
    assert refuse(collect(candidate=register(rows, scored=today))) == {}


def test_another_patient_for_the_same_patch_is_another_row():
    rows = predict("fusion")
    today = rows.of("test")
    today.probabilities[:] = predict("fusion", seed=5).of("test").probabilities
    paired_anew = replace(today, subjects=np.array([f"new{i}" for i in range(600)]))

    assert "evaluated" in refuse(collect("fusion", candidate=register(rows, scored=today)))
    assert refuse(collect("fusion", candidate=register(rows, scored=paired_anew))) == {}


def test_nothing_to_score_is_refused():
    rows = predict()
    none = rows.take(np.array([], dtype=np.int64))
    refused = refuse(collect(candidate=register(rows, scored=none)))

    assert "holds no rows" in refused["evaluated"]
    assert "not defined" in refused["minimum[auroc/macro]"]


# --- leakage ------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [{"leaky": True}, {"pairing": {"rule": "label_aligned"}}])
def test_pairs_chosen_by_the_label_are_refused(change):
    rows = predict("fusion")
    rows.config.update(change)
    assert list(refuse(collect("fusion", candidate=register(rows)))) == ["alarm[pairing]"]


def test_pairing_that_is_not_stated_is_refused():
    rows = predict("fusion")
    del rows.config["pairing"]
    refused = refuse(collect("fusion", candidate=register(rows)))
    assert refused == {"alarm[pairing]": "rule not stated"}


@pytest.mark.parametrize("kind", ["image", "fusion"])
@pytest.mark.parametrize("unit", ["frame", "patch"])
def test_images_split_by_another_unit_than_the_case_are_refused(kind, unit):
    refused = refuse(collect(kind, patch_audit=audit(unit, leaky=unit == "patch")))
    assert list(refused) == ["alarm[split_unit]"]
    assert f"split by {unit}" in refused["alarm[split_unit]"]


def test_unit_may_be_allowed_but_not_what_it_forbids():
    units = ["case", "frame"]
    by_frame = collect(patch_audit=audit("frame", cases=3), split_units=units)
    assert refuse(by_frame) == {}

    shared = audit("frame", cases=3, overlapping_patches=9)
    refused = refuse(collect(patch_audit=shared, split_units=units))
    assert "train-test share 9 overlapping patches" in refused["alarm[shared[images]]"]


def test_shared_cases_are_counted():
    refused = refuse(collect(patch_audit=audit(cases=2)))
    assert "train-test share 2 cases" in refused["alarm[shared[images]]"]


def test_shared_patients_are_refused_where_records_are_read():
    shared = {
        "shared": {pair: {"patients": 4} for pair in PAIRS},
        "forbidden": {pair: ["patients"] for pair in PAIRS},
    }
    assert refuse(collect("image", patient_audit=shared)) == {}
    for kind in ("tabular", "fusion"):
        refused = refuse(collect(kind, patient_audit=shared))
        assert "train-test share 4 patients" in refused["alarm[shared[patients]]"]


def test_split_without_an_audit_is_refused():
    refused = refuse(collect("fusion", patch_audit=None, patient_audit=None))
    assert set(refused) == {"alarm[shared[images]]", "alarm[shared[patients]]"}


def move_cases(rows: Predictions, count: int) -> Predictions:
    """Rename test cases to cases that were training in the model's own day."""
    names = {f"test-g{i}": f"train-g{i}" for i in range(count)}
    groups = np.array([names.get(g, g) for g in rows.groups], dtype=object)
    return replace(rows, groups=groups)


def test_model_that_was_trained_on_what_is_test_today_is_refused():
    rows = predict()
    refused = refuse(collect(candidate=register(rows, scored=move_cases(rows.of("test"), 2))))

    assert list(refused) == ["alarm[training_rows]"]
    assert "2 of 20 test cases were in its training" in refused["alarm[training_rows]"]


def test_frames_count_where_a_split_by_frame_is_allowed():
    rows = predict()
    frames = np.array([f"{split}-{i // 30}/{i:04d}" for i, split in enumerate(rows.split)])
    rows = replace(rows, keys=frames.astype(object))
    today = move_cases(rows.of("test"), 20)  # every case is known, no frame is
    changes = {"patch_audit": audit("frame"), "split_units": ["case", "frame"]}
    assert refuse(collect(candidate=register(rows, scored=today), **changes)) == {}

    moved = today.keys.copy()
    moved[:30] = [f"train-0/{i:04d}" for i in range(30)]
    known = register(rows, scored=replace(today, keys=moved))
    refused = refuse(collect(candidate=known, **changes))
    assert "1 of 20 test frames" in refused["alarm[training_rows]"]

    # The comparison, too, leaves out frames and not cases.
    production = replace(known, version=1)
    evidence = collect(candidate=known, production=production, **changes)
    check = decide(evidence, PARAMS.model_copy(update={"split_units": ["frame"]})).checks[-2]
    assert check.numbers["groups"] == 19


def test_patient_of_a_pair_counts_as_seen_too():
    rows = predict("fusion")
    today = rows.of("test")
    subjects = today.subjects.copy()
    subjects[:40] = "train-g0-patient"
    today = replace(today, subjects=subjects)
    refused = refuse(collect("fusion", candidate=register(rows, scored=today)))

    assert "1 of 20 test patients" in refused["alarm[training_rows]"]


def test_without_stored_rows_the_recorded_alarms_decide():
    candidate, recorded = register(predict(), stored=None), collect().alarms

    assert refuse(collect(candidate=candidate, alarms=recorded)) == {}
    none = skip_check("training_rows", "m", ("image",), "the bundle holds no predictions")
    refused = refuse(collect(candidate=candidate, alarms=(*recorded, none)))
    assert list(refused) == ["alarm[training_rows]"]
    assert list(refuse(collect(candidate=candidate, alarms=None))) == ["alarms"]


def test_too_good_a_score_is_an_alarm():
    refused = refuse(collect(candidate=register(predict(skill=5.0))))
    assert list(refused) == ["alarm[too_good]"]
    assert "auroc/macro 1.000, f1/macro 1.000" in refused["alarm[too_good]"]


def test_alarms_that_were_not_computed_are_refused():
    for none in (None, ()):
        refused = refuse(collect(alarms=none))
        assert list(refused) == ["alarms"]
        assert "dvc repro alarms" in refused["alarms"]
    assert "cannot be read" in refuse(collect(alarms=None, alarms_fault="cannot be read"))["alarms"]


def test_each_alarm_is_refused_by_its_name_with_its_words():
    loud = make_check("feature", None, ("tabular",), True, "told tells the target", {"a": 1.0})
    unmade = skip_check("scaler", "m", ("tabular",), "no embeddings")
    quiet = make_check("encoder", "m", ("tabular",), False, "is that of training rows")
    refused = refuse(collect("tabular", alarms=(loud, unmade, quiet)))
    assert refused == {
        "alarm[feature]": "told tells the target",
        "alarm[scaler]": "not checked: no embeddings",
    }


@pytest.mark.parametrize(
    ("found", "passes"),
    [
        ({"value": 0.3, "low": 0.1, "high": 0.4, "n": 32}, True),
        ({"value": 0.3, "low": -0.1, "high": 0.4, "n": 32}, False),
        ({"value": 0.3, "low": None, "high": None, "n": 3}, True),
        ({"value": None, "low": None, "high": None, "n": 0}, False),
        (None, False),
    ],
)
def test_lower_end_of_faithfulness_is_compared_with_its_limit(found, passes):
    evidence = collect(faithfulness=None if found is None else {"mass": found})
    refused = refuse(evidence, faithfulness_minimums={"image": {"mass": 0.0}, "fusion": {"x": 1.0}})
    assert list(refused) == ([] if passes else ["faithfulness[mass]"])
    assert refuse(evidence) == {}


def test_explanations_of_another_bundle_are_no_evidence(tmp_path):
    score = {"mass": {"value": 0.3, "low": 0.1, "high": 0.4, "n": 32}}
    write_scores(score, "ab" * 32, tmp_path / "gradcam/resnet18/faithfulness.json")
    assert read_faithfulness("resnet18", "ab" * 32, tmp_path) == score
    assert read_faithfulness("resnet18", "cd" * 32, tmp_path) is None
    assert read_faithfulness("simple_cnn", "ab" * 32, tmp_path) is None


# --- minimums -----------------------------------------------------------------------------------


def test_chance_is_not_enough():
    refused = refuse(collect(candidate=register(predict(skill=0.0))))
    assert list(refused) == ["minimum[auroc/macro]"]
    assert "over 20 cases; must be above 0.5" in refused["minimum[auroc/macro]"]


def test_minority_that_is_never_found_is_refused():
    rows = predict()
    rows = replace(rows, predictions=np.maximum(rows.predictions, 1))
    assert list(refuse(collect(candidate=register(rows)))) == ["minimum[recall/mitosis]"]


def test_error_must_lie_below_its_limit():
    good = refuse(collect("tabular", candidate=register(predict("tabular", skill=0.4))))
    bad = refuse(collect("tabular", candidate=register(predict("tabular", skill=0.0))))
    assert good == {}
    assert set(bad) == {"minimum[auroc/death]", "minimum[brier]"}
    assert "must be below 0.25" in bad["minimum[brier]"]


# --- a fusion model against its own image encoder -----------------------------------------------


def decide_by(rows, bias):
    """Decide on mitosis more or less often, without another probability."""
    return replace(rows, predictions=np.add(rows.probabilities, (bias, 0, 0)).argmax(axis=1))


def test_fusion_that_is_worse_than_its_own_encoder_is_refused_and_the_better_let_through():
    encoder = predict(seed=1, skill=0.5).of("test")
    weak = decide_by(predict("fusion", seed=2, skill=0.2), 0.3)
    # Better at every threshold, and at its own it finds fewer of the rare class than the weak one.
    better = decide_by(predict("fusion", seed=3, skill=0.6), -0.2)

    refused = refuse(collect("fusion", candidate=register(weak), encoder=encoder))
    assert set(refused) == {
        f"not_worse_than_encoder[{m}]" for m in ("auroc/macro", "auprc/mitosis", "brier")
    }
    assert "of its image encoder: -0." in refused["not_worse_than_encoder[auroc/macro]"]

    evidence = collect(
        "fusion",
        candidate=register(better),
        production=register(weak, version=1),
        encoder=encoder,
    )
    assert refuse(evidence) == {}
    checks = {check.name: check for check in decide(evidence, PARAMS).checks}
    numbers = checks["not_worse[decisions]"].numbers["recall/mitosis"]
    assert numbers["new"] < numbers["production"] - 0.05
    assert "each at its own thresholds: shown" in checks["not_worse[decisions]"].detail
    numbers = checks["not_worse_than_encoder[brier]"].numbers
    assert numbers["new"] < numbers["encoder"]
    assert numbers["high"] < 0


@pytest.mark.parametrize(("skill", "passes"), [(0.5, True), (0.25, False)])
def test_precision_is_compared_at_the_recall_of_the_other(skill, passes):
    old = predict(seed=1, skill=0.5)
    new = decide_by(predict(seed=2, skill=skill), -0.4)  # at its own thresholds it finds few
    precision = {"precision/minority": 0.15}
    margins = Limits(patches=precision, admissions=precision, patients=precision)
    evidence = collect(candidate=register(new), production=register(old, version=7))
    params = PARAMS.model_copy(update={"margins": margins})
    checks = {c.name: c for c in decide(evidence, params).checks}

    check = checks["not_worse[precision/mitosis]"]
    assert check.passed == passes
    rows, focus = new.of("test"), old.of("test")
    own = rows.labels == 0
    found = (focus.predictions[own] == 0).sum()
    score = rows.probabilities[:, 0]
    threshold = np.sort(score[own])[-found]
    assert check.numbers["new"] == pytest.approx(found / (score >= threshold).sum())
    assert f"both at recall {found / own.sum():.3f}" in check.detail
    decided = checks["not_worse[decisions]"].numbers["recall/mitosis"]
    assert decided["new"] < decided["production"]


def test_a_rival_that_finds_nothing_sets_no_threshold():
    old = decide_by(predict(seed=1), -9)
    precision = {"precision/minority": 0.15}
    margins = Limits(patches=precision, admissions=precision, patients=precision)
    evidence = collect(production=register(old, version=7))
    params = PARAMS.model_copy(update={"margins": margins})
    (check,) = (c for c in decide(evidence, params).checks if "precision/mitosis]" in c.name)
    assert check.numbers["new"] == check.numbers["production"]


@pytest.mark.parametrize("kind", ["image", "tabular", "fusion"])
def test_a_first_version_of_any_kind_has_limits(kind):
    params = load_section(PromotionParams, "promotion")
    unsure = predict(kind, skill=0.0)
    refused = [c.name for c in decide(collect(kind, candidate=register(unsure)), params).refusals]
    focus = unsure.focus_class
    assert any(name.startswith("minimum[auroc/") for name in refused)
    wrong = predict(kind)
    flipped = wrong.probabilities**8
    flipped /= flipped.sum(axis=1, keepdims=True)
    wrong = replace(wrong, probabilities=0.02 + 0.94 * flipped)
    checks = decide(collect(kind, candidate=register(wrong)), params).checks
    assert f"minimum[ece/{focus}]" in {c.name for c in checks}


def test_small_loss_is_refused_only_if_the_interval_is_sure_of_it():
    encoder = predict(seed=1).of("test")
    noise = np.random.default_rng(0).normal(0, 0.02, encoder.probabilities.shape)
    blurred = np.clip(encoder.probabilities * 0.9 + 0.1 / 3, 1e-3, 1)  # all less sure: Brier rises
    shaken = np.clip(encoder.probabilities + noise, 1e-3, 1)
    fused = predict("fusion")

    def refuse_as(probabilities, metric):
        p = probabilities / probabilities.sum(axis=1, keepdims=True)
        candidate = register(fused, scored=replace(fused.of("test"), probabilities=p), stored=None)
        evidence = collect("fusion", candidate=candidate, encoder=encoder)
        checks = {c.name: c for c in decide(evidence, PARAMS).checks}
        return checks[f"not_worse_than_encoder[{metric}]"]

    sure = refuse_as(blurred, "brier")
    assert 0 < sure.numbers["low"] < sure.numbers["value"] < 0.02
    assert not sure.passed
    unsure = refuse_as(shaken, "auprc/mitosis")
    assert unsure.numbers["low"] < 0 < unsure.numbers["high"]
    assert unsure.passed


def test_patient_model_that_loses_to_one_side_alone_is_refused_and_the_better_let_through():
    strong, weak = predict("patient", seed=1, skill=0.4), predict("patient", seed=2, skill=0.2)
    sides = {"image": weak.of("test"), "record": strong.of("test")}

    refused = refuse(collect("patient", candidate=register(weak), alone=sides))
    assert set(refused) == {"not_worse_than_record[auroc/death]"}
    assert "of its own answer from the record alone: -0." in next(iter(refused.values()))

    sides["record"] = weak.of("test")
    assert refuse(collect("patient", candidate=register(strong), alone=sides)) == {}

    unknown = collect("patient", candidate=register(strong), alone={}, alone_fault="no patches")
    assert (
        "not scored on the current test split: no patches" in refuse(unknown)["not_worse_than_side"]
    )


def test_patient_model_of_one_side_is_compared_with_no_side():
    rows = predict("patient")
    rows.config["architecture"] = {"kind": "side"}

    assert refuse(collect("patient", candidate=register(rows), alone={})) == {}


def test_encoder_is_compared_on_the_pairs_of_the_fusion_model_only():
    fused, encoder = predict("fusion").of("test"), predict().of("test")
    rest = np.arange(len(fused)) >= 100
    unlike = encoder.probabilities[:, ::-1]
    encoder = replace(encoder, probabilities=np.where(rest[:, None], encoder.probabilities, unlike))
    candidate = register(predict("fusion"), scored=fused.take(np.flatnonzero(rest)))
    evidence = collect("fusion", candidate=candidate, encoder=encoder)
    checks = {c.name: c for c in decide(evidence, PARAMS).checks}
    assert checks["not_worse_than_encoder[auroc/macro]"].numbers["value"] == 0.0


def test_encoder_that_cannot_be_scored_refuses_the_fusion_model():
    evidence = collect("fusion", encoder=None, encoder_fault="its weights are damaged")
    assert refuse(evidence) == {
        "not_worse_than_encoder": "its image encoder was not scored on the current test split: "
        "its weights are damaged"
    }


# --- against production -------------------------------------------------------------------------


def test_worse_than_production_is_refused_with_the_numbers():
    new, old = predict(skill=0.2), predict(seed=1, skill=0.5)
    refused = refuse(collect(candidate=register(new), production=register(old, version=7)))

    def measure(rows):
        rows = rows.of("test")
        return measure_rows(rows, "test")["test/auroc/macro"]

    assert set(refused) == {"not_worse[auroc/macro]", "not_worse[auprc/mitosis]"}
    expected = f"{measure(new):.3f} against {measure(old):.3f} of 0123456789ab (version 7)"
    assert refused["not_worse[auroc/macro]"].startswith(expected)
    assert "over 20 cases; margin 0.02" in refused["not_worse[auroc/macro]"]


def test_better_than_production_passes():
    new, old = predict(skill=0.5), predict(seed=1, skill=0.2)
    assert refuse(collect(candidate=register(new), production=register(old, version=1))) == {}


def test_margin_is_compared_with_the_conservative_end():
    new, old = predict(seed=1), predict()
    evidence = collect(candidate=register(new), production=register(old, version=1))
    (check,) = (c for c in decide(evidence, PARAMS).checks if c.name == "not_worse[auroc/macro]")
    low = check.numbers["low"]
    assert check.numbers["conservative"] == low < check.numbers["value"] < check.numbers["high"]

    def with_margin(margin):
        margins = PARAMS.margins.model_copy(update={"patches": {"auroc/macro": margin}})
        return refuse(evidence, margins=margins)

    assert with_margin(-low + 1e-6) == {}
    assert list(with_margin(max(0.0, -low - 1e-6))) == ["not_worse[auroc/macro]"]


def test_larger_error_than_production_is_refused():
    new, old = predict("tabular", skill=0.1), predict("tabular", seed=1, skill=0.4)
    production = register(old, version=1)
    refused = refuse(collect("tabular", candidate=register(new), production=production))
    assert "not_worse[brier]" in refused
    verdict = decide(collect("tabular", candidate=register(new), production=production), PARAMS)
    numbers = next(c for c in verdict.checks if c.name == "not_worse[brier]").numbers
    assert numbers["value"] < numbers["conservative"] == numbers["high"]

    production = register(new, version=1)
    assert refuse(collect("tabular", candidate=register(old), production=production)) == {}


def few(kind="image", **changes):
    return predict(kind, groups=3, **changes)


def test_with_three_cases_each_is_left_out():
    new, old = register(few(seed=1)), register(few(), version=1)
    evidence = collect(candidate=new, production=old)
    check = next(c for c in decide(evidence, PARAMS).checks if c.name.startswith("not_worse"))
    rows = (new.scored, old.scored)

    def difference(kept):
        values = [measure_rows(r.take(np.flatnonzero(kept)), "t")["t/auroc/macro"] for r in rows]
        return values[0] - values[1]

    groups = rows[0].groups
    worst = min(difference(groups != g) for g in np.unique(groups))
    assert check.numbers["conservative"] == pytest.approx(worst)
    assert check.numbers["rule"] == "leave_one_out"
    assert "3 cases, too few for an interval" in check.detail


def test_rule_for_few_cases_is_a_choice():
    evidence = collect(candidate=register(few()), production=register(few(), version=1))

    assert refuse(evidence, few_groups="leave_one_out") == {}
    assert refuse(evidence, few_groups="point") == {}
    assert set(refuse(evidence, few_groups="refuse")) == {
        "minimum[auroc/macro]", "minimum[recall/mitosis]",
        "not_worse[auroc/macro]", "not_worse[auprc/mitosis]",
    }  # fmt: skip
    assert refuse(evidence, few_groups="refuse", fewest_groups=3) == {}


def test_better_by_the_point_but_not_without_one_case_is_refused():
    """The gain comes from one case alone; in the others the model has become worse."""
    old, new = few(skill=0.3), few(seed=1, skill=0.2)
    gain = new.groups == "test-g0"
    new.probabilities[gain] = few(seed=1, skill=0.6).probabilities[gain]
    new = replace(new, predictions=new.probabilities.argmax(axis=1))
    evidence = collect(candidate=register(new), production=register(old, version=1))

    assert refuse(evidence, few_groups="point") == {}
    assert "not_worse[auroc/macro]" in refuse(evidence)


def test_one_case_cannot_be_left_out():
    evidence = collect(candidate=register(predict(groups=1)))
    refused = refuse(evidence)
    assert set(refused) == {"minimum[auroc/macro]", "minimum[recall/mitosis]"}
    assert "not defined without 1 of them" in refused["minimum[auroc/macro]"]
    assert refuse(evidence, few_groups="point") == {}


def test_class_of_few_cases_has_no_interval_however_many_cases_there_are():
    rows = predict(groups=20)
    held = np.isin(rows.groups, ["test-g0", "test-g1"]) | (rows.split != "test")
    rows = replace(rows, labels=np.where(held, rows.labels, np.maximum(rows.labels, 1)))
    evidence = collect(candidate=register(rows))
    check = next(c for c in decide(evidence, PARAMS).checks if "recall" in c.name)

    assert check.numbers["rule"] == "leave_one_out"
    assert check.numbers["low"] is None
    assert "of the resamples" in check.detail
    assert "minimum[recall/mitosis]" in refuse(evidence, few_groups="refuse")


def test_class_of_one_case_alone_is_no_evidence():
    rows = predict(groups=20)
    held = (rows.groups == "test-g0") | (rows.split != "test")
    rows = replace(rows, labels=np.where(held, rows.labels, np.maximum(rows.labels, 1)))
    evidence = collect(candidate=register(rows), production=register(rows, version=1))
    refused = refuse(evidence)

    assert "not_worse[auprc/mitosis]" in refused
    assert "not defined without 1 of them" in refused["minimum[recall/mitosis]"]
    assert refuse(evidence, few_groups="point") == {}


def test_production_that_cannot_be_scored_refuses():
    production = register(
        predict(), version=3, scored=None, scoring_fault="predicts death, not readmission"
    )
    refused = refuse(collect(production=production))
    assert refused == {
        "not_worse": "0123456789ab (version 3) in production could not be scored: "
        "predicts death, not readmission"
    }


def test_production_of_other_classes_refuses():
    old = predict()
    old.config["classes"] = CLASSES[::-1]
    refused = refuse(collect(production=register(old, version=3)))
    assert "cannot be compared with 0123456789ab (version 3)" in refused["not_worse"]


def test_cases_production_was_trained_on_are_left_out_of_the_comparison():
    """It knows those by heart, and would win on them."""
    old = predict(seed=1, skill=0.3)
    today = old.of("test")
    by_heart = np.isin(today.groups, [f"test-g{i}" for i in range(8)])
    today.probabilities[by_heart] = np.eye(3)[today.labels[by_heart]]
    today = replace(today, predictions=today.probabilities.argmax(axis=1))
    new = predict(skill=0.5)

    fooled = register(old, version=1, scored=today)
    assert "not_worse[auroc/macro]" in refuse(collect(production=fooled, candidate=register(new)))
    # In its own day the first eight of today's test cases were training.
    day = replace(
        old, split=np.where(np.isin(old.groups, today.groups[by_heart]), "train", old.split)
    )
    fair = register(old, version=1, scored=today, stored=day)
    verdict = decide(collect(production=fair, candidate=register(new)), PARAMS)
    check = next(c for c in verdict.checks if c.name == "not_worse[auroc/macro]")
    assert check.numbers["groups"] == 12
    assert check.passed
    assert "trained on 8 of the 20 test cases, which are left out" in check.detail


def test_patients_production_was_trained_on_are_left_out_too():
    old = predict("fusion", seed=1)
    today = old.of("test")
    known = np.isin(today.groups, ["test-g0", "test-g1"])
    today = replace(today, subjects=np.where(known, "train-g0-patient", today.subjects))
    # Its patients are known to production alone; the candidate has not met them.
    candidate = register(predict("fusion"))
    production = register(old, version=1, scored=today)
    verdict = decide(collect("fusion", candidate=candidate, production=production), PARAMS)

    assert verdict.checks[-2].numbers["groups"] == 18
    assert "trained on 2 of the 20 test cases" in verdict.checks[-1].detail


def test_production_trained_on_the_whole_test_split_is_not_compared():
    old = predict(seed=1, skill=0.6)
    day = replace(old, split=np.full(len(old), "train", dtype=object))
    evidence = collect(production=register(old, version=1, stored=day))
    verdict = decide(evidence, PARAMS)

    assert verdict.passed
    assert "not comparable" in verdict.checks[-1].detail


def test_details_name_no_case_and_no_patient():
    for kind in ("image", "tabular", "fusion"):
        old = register(predict(kind, seed=1), version=1)
        verdict = decide(collect(kind, production=old), PARAMS)
        text = json.dumps(verdict.to_dict())
        assert "test-g" not in text and "patient-" not in text and '"p12' not in text


@pytest.fixture
def store(project):
    return open_store()


def validate(store, digest, status="FINISHED"):
    tags = {VALIDATION_TAG: digest, VALIDATED_ON_TAG: "elsewhere"}
    store.end_run(store.create_run("validation", tags).info.run_id, status)


def decide_on(store, rule="required"):
    """Name the refusals of a version that passes whatever else is asked of it."""
    evidence = replace(collect(), validated_on=list_validations(store, CANDIDATE))
    return refuse(evidence, external_validation=rule)


def test_version_is_promoted_only_once_it_was_validated_elsewhere(store):
    refused = {"external_validation": "not validated elsewhere: histofuse validate"}
    assert decide_on(store) == refused
    validate(store, CANDIDATE)
    assert decide_on(store) == {}


def test_validation_of_another_bundle_or_a_failed_one_does_not_count(store):
    validate(store, OTHER)
    validate(store, CANDIDATE, "FAILED")
    assert list(decide_on(store)) == ["external_validation"]


def test_nothing_is_asked_where_the_validation_is_optional(store):
    assert decide_on(store, "optional") == {}


@pytest.mark.parametrize("kind", ["patient", "detector"])
def test_what_cannot_be_validated_is_refused_with_the_param_to_set(kind):
    candidate = Scored(1, "ab" * 32, {"kind": kind}, "", None, "")
    evidence = Evidence(candidate, None, frozenset(), True, True, 0)

    def refusals(rule):
        params = PARAMS.model_copy(update={"external_validation": rule})
        return {check.name: check.detail for check in decide(evidence, params).refusals}

    said = refusals("required")["external_validation"]
    assert f"cannot measure a {kind} model" in said
    assert "set promotion.external_validation to [image, tabular, fusion]" in said
    assert "external_validation" not in refusals(["image", "tabular", "fusion"])


# --- detectors ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("measured", "expected"),
    [
        ({"f1": (0.7, 0.6, 0.8), "gain": (0.1, 0.05, 0.2)}, {}),
        ({"f1": (0.7, 0.4, 0.8), "gain": (0.1, 0.05, 0.2)}, {"minimum[f1]": "0.4"}),
        ({"f1": (0.7, 0.6, 0.8), "gain": (0.1, -0.01, 0.2)}, {"minimum[gain]": "-0.01"}),
        ({"f1": (0.7, None, None), "gain": (0.1, 0.05, 0.2)}, {"minimum[f1]": "no interval"}),
        (None, {"minimum": "evaluate_detector"}),
    ],
)
def test_a_detector_must_find_enough_and_more_than_the_baseline(measured, expected):
    detector = Scored(1, "ab" * 32, {"kind": "detector"}, "", None, "")
    intervals = measured and {
        name: dict(zip(("value", "low", "high"), ends, strict=True))
        for name, ends in measured.items()
    }
    evidence = Evidence(
        detector, None, frozenset(FILES["detector"]), True, True, 0, detection=intervals
    )
    refusals = {c.name: c.detail for c in decide(evidence, PARAMS).refusals}
    assert refusals.keys() == expected.keys()
    assert all(part in refusals[name] for name, part in expected.items())
