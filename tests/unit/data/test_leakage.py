import pandas as pd
import pytest

from histofuse.core.errors import LeakageError
from histofuse.data.leakage import audit_patches, audit_patients, require_clean
from histofuse.params.splits import ImageSplitParams

CLASSES = ["mitosis"]


def make_params(unit):
    return ImageSplitParams(
        unit=unit,
        validation_unit=unit,
        folds=3,
        test_fold=0,
        validation_fold=0,
        classes_required=CLASSES,
    )


def audit(rows, unit="case", window_px=64, digests=None):
    """Audit patches given as (frame, x, y, split); the case is the frame's first letter."""
    table = pd.DataFrame(rows, columns=["frame_id", "x_px", "y_px", "split"])
    table["patch_id"] = [f"{i}" for i in range(len(table))]
    table["case_id"] = table["frame_id"].str[0]
    table["label"] = "mitosis"
    frame_ids = sorted(table["frame_id"].unique())
    frames = pd.DataFrame(
        {"frame_id": frame_ids, "pixels_sha256": [(digests or {}).get(f, f) for f in frame_ids]}
    )
    index = table[["patch_id", "x_px", "y_px"]]
    return audit_patches(
        table.drop(columns=["x_px", "y_px"]), index, frames, window_px, make_params(unit)
    )


CLEAN = [("a1", 50, 50, "train"), ("b1", 50, 50, "validation"), ("c1", 50, 50, "test")]


def test_disjoint_cases_are_clean():
    result = audit(CLEAN)
    assert not any(any(shared.values()) for shared in result["shared"].values())
    require_clean(result)


def test_spellings_of_a_case_share_it():
    rows = [("a1", 0, 0, "train"), ("A2", 0, 0, "test"), ("b1", 0, 0, "validation")]
    with pytest.raises(LeakageError, match="train-test share 1 case"):
        require_clean(audit(rows))


def test_windows_overlap_below_a_side_and_not_at_it():
    near = [("a1", 0, 0, "train"), ("a1", 63, 63, "test"), ("a1", 0, 200, "validation")]
    apart = [("a1", 0, 0, "train"), ("a1", 64, 0, "test"), ("a1", 0, 200, "validation")]
    assert audit(near)["shared"]["train-test"]["overlapping_patches"] == 1
    assert audit(apart)["shared"]["train-test"]["overlapping_patches"] == 0


def test_shared_case_is_forbidden_by_case_and_allowed_by_frame():
    rows = [("a1", 0, 0, "train"), ("a2", 0, 0, "test"), ("b1", 0, 0, "validation")]
    require_clean(audit(rows, unit="frame"))
    with pytest.raises(LeakageError, match="train-test share 1 case"):
        require_clean(audit(rows, unit="case"))


def test_one_picture_under_two_names_is_a_leak():
    with pytest.raises(LeakageError) as error:
        require_clean(audit(CLEAN, digests={"a1": "same", "c1": "same"}))
    assert "train-test share 1 identical frame; train-test share 1 overlapping patch" in str(
        error.value
    )


def test_patch_split_is_declared_leaky_and_counted():
    rows = [("a1", 0, 0, "train"), ("a1", 10, 0, "test"), ("a1", 20, 0, "validation")]
    result = audit(rows, unit="patch")
    assert result["leaky"]
    assert result["shared"]["train-test"]["overlapping_patches"] == 1
    require_clean(result)


def test_shared_patient_is_a_leak():
    splits = pd.DataFrame(
        {"subject_id": [1, 1, 2, 3], "split": ["train", "test", "validation", "test"]}
    )
    result = audit_patients(splits)
    assert result["counts"] == {"train": 1, "validation": 1, "test": 2}
    with pytest.raises(LeakageError, match="train-test share 1 patient"):
        require_clean(result)
