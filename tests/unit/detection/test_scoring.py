import numpy as np
import pandas as pd
import pytest

from histofuse.detection.scoring import (
    Detections,
    choose_threshold,
    compute_froc,
    count_classes,
    match_frames,
    measure_detections,
    split_hot_spots,
)
from histofuse.evaluation.metrics.bootstrap import Bootstrap
from histofuse.params.intervals import IntervalParams

CLASSES = ["mitosis", "tumour"]


def table(rows, columns):
    return pd.DataFrame(rows, columns=columns)


@pytest.fixture
def detections() -> Detections:
    """Two cases of a frame each: of four dots three are found; two answers are false."""
    frames = table([("a-1", "a"), ("b-1", "b")], ["frame_id", "case_id"])
    dots = table(
        [
            ("a-1", 10.0, 10.0, "mitosis"),
            ("a-1", 50.0, 10.0, "tumour"),
            ("b-1", 10.0, 10.0, "tumour"),
            ("b-1", 90.0, 90.0, "mitosis"),
        ],
        ["frame_id", "x_px", "y_px", "label"],
    )
    candidates = table(
        [
            ("a-1", 12.0, 10.0, 0.9, "mitosis", 0.8, 0.2),
            ("a-1", 14.0, 10.0, 0.8, "mitosis", 0.7, 0.3),  # a second answer to the same dot
            ("a-1", 50.0, 12.0, 0.7, "tumour", 0.1, 0.9),
            ("b-1", 11.0, 10.0, 0.6, "mitosis", 0.6, 0.4),  # found, of another class
            ("b-1", 30.0, 60.0, 0.1, "tumour", 0.2, 0.8),  # below the threshold
        ],
        ["frame_id", "x_px", "y_px", "score", "prediction", "p_mitosis", "p_tumour"],
    )
    return Detections(frames, candidates, dots, 0.5, 5.0)


def test_answers_and_dots_are_paired_one_to_one(detections):
    matched = detections.matched
    assert matched["score"].notna().sum() == 4
    assert matched.loc[matched["score"].notna(), "label"].notna().sum() == 3
    missed = matched[matched["score"].isna()]
    assert missed[["frame_id", "x_px", "label"]].values.tolist() == [["b-1", 90.0, "mitosis"]]


def test_scores_are_those_counted_by_hand(detections):
    params = IntervalParams(resamples=200, confidence=0.95, method="percentile", fewest_groups=2)
    found = measure_detections(detections, CLASSES, Bootstrap(params, 1))
    value = {name: interval.value for name, interval in found.items()}
    assert value["precision/nuclei"] == pytest.approx(3 / 4)
    assert value["recall/nuclei"] == pytest.approx(3 / 4)
    assert value["f1/nuclei"] == pytest.approx(3 / 4)
    assert value["precision/mitosis"] == pytest.approx(1 / 3)
    assert value["recall/mitosis"] == pytest.approx(1 / 2)
    assert value["f1/tumour"] == pytest.approx(2 / 3)
    # Hits at ranks 1, 3 and 4 of five candidates, of four dots.
    assert value["ap/nuclei"] == pytest.approx((1 + 2 / 3 + 3 / 4) / 4)
    assert found["f1/nuclei"].groups == 2


def test_sensitivity_at_few_false_answers(detections):
    # Mitoses by score times probability: 0.72 hit, 0.56, 0.36 and more false; one of two is found.
    assert compute_froc(detections, "mitosis") == [0.5] * 7
    assert compute_froc(detections, "nuclei")[:2] == [0.25, 0.25]
    assert compute_froc(detections, "nuclei")[2] == 0.75  # one false answer in two frames


def test_the_threshold_gives_the_highest_f1(detections):
    frames = detections.frames["frame_id"].tolist()
    matched = match_frames(detections.candidates, detections.dots, frames, 5.0)
    threshold, f1 = choose_threshold(matched)
    assert 0.1 < threshold <= 0.6
    assert f1 == pytest.approx(6 / 8)


def test_nothing_found_is_no_error(detections):
    none = Detections(detections.frames, detections.candidates.iloc[:0], detections.dots, 0.5, 5.0)
    matched = none.matched
    assert len(matched) == 4
    assert choose_threshold(matched) == (0.5, 0.0)


def test_counts_by_case_and_frame_hold_those_without_any(detections):
    frames = pd.concat(
        [detections.frames, table([("c-1", "c")], ["frame_id", "case_id"])], ignore_index=True
    )
    counts = count_classes(detections.matched, frames, "mitosis")
    assert counts["case"] == {"a": [1, 2], "b": [1, 1], "c": [0, 0]}


def test_hot_spots_are_where_dots_of_the_class_crowd():
    x = np.array([0.0, 20.0, 40.0, 500.0])
    matched = pd.DataFrame(
        {"frame_id": "a-1", "x_px": x, "y_px": 0.0, "score": [0.9, np.nan, 0.9, 0.9]}
        | {"label": "mitosis", "prediction": ["mitosis", None, "mitosis", "tumour"]}
    )
    regions = split_hot_spots(matched, "mitosis", 100.0)
    assert regions["hot_spots"] == {"found": 2, "missed": 1, "false": 0}
    assert regions["elsewhere"] == {"found": 0, "missed": 1, "false": 0}
