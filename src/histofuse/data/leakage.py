"""The leakage audit: cases, frames, patches and patients shared between splits."""

from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from scipy.spatial import KDTree

from histofuse.core.errors import LeakageError
from histofuse.core.ids import SPLITS, identify
from histofuse.core.naming import show_count
from histofuse.params.splits import ImageSplitParams


def audit_patches(
    splits: pd.DataFrame,
    index: pd.DataFrame,
    frames: pd.DataFrame,
    window_px: int,
    params: ImageSplitParams,
) -> dict[str, Any]:
    """Count what each pair of splits shares: cases, frames, identical frames, overlapping windows.

    Two spellings of a case or a frame are one (`core.ids.identify`); two frames of one digest of
    the decoded pixels are one picture under two names. `window_px` is the side of what a model may
    see around a centre, margin included.

    Returns a JSON-ready audit: for each pair ``"train-test"`` the counts, which of them are
    forbidden under the declared units, whether the split is leaky, and the class counts of each
    split.
    """
    table = splits.merge(index[["patch_id", "x_px", "y_px"]], on="patch_id", validate="1:1")
    table = table.merge(frames[["frame_id", "pixels_sha256"]], on="frame_id", validate="m:1")
    pairs = {f"{a}-{b}": (a, b) for a, b in combinations(SPLITS, 2)}
    counts = pd.crosstab(table["split"], table["label"]).reindex(list(SPLITS), fill_value=0)
    return {
        "unit": params.unit,
        "validation_unit": params.validation_unit,
        "leaky": "patch" in (params.unit, params.validation_unit),
        "shared": {name: _count_shared(table, *pair, window_px) for name, pair in pairs.items()},
        "forbidden": {name: _forbidden(params, *pair) for name, pair in pairs.items()},
        "counts": counts.to_dict("index"),
    }


def audit_patients(splits: pd.DataFrame) -> dict[str, Any]:
    """Count the patients each pair of splits shares (`data.splits.PATIENT_SPLITS`)."""
    patients = splits.groupby("split")["subject_id"].agg(set)
    empty: set[int] = set()
    shared = {
        f"{a}-{b}": {"patients": len(patients.get(a, empty) & patients.get(b, empty))}
        for a, b in combinations(SPLITS, 2)
    }
    return {
        "leaky": False,
        "shared": shared,
        "forbidden": {pair: ["patients"] for pair in shared},
        "counts": {split: len(patients.get(split, empty)) for split in SPLITS},
    }


def require_clean(audit: dict[str, Any]) -> None:
    """Stop with a LeakageError on anything shared that the declared unit forbids.

    A split by patch is declared leaky and passes: what it shares is in the audit.
    """
    breaches = [
        f"{pair} share {show_count(audit['shared'][pair][what], what.replace('_', ' '))}"
        for pair, forbidden in audit["forbidden"].items()
        for what in forbidden
        if audit["shared"][pair][what]
    ]
    if breaches:
        raise LeakageError(
            f"the splits leak: {'; '.join(breaches)}. Remove the duplicates from the data, or "
            "declare the unit under which they are split in splits.images."
        )


def _forbidden(params: ImageSplitParams, a: str, b: str) -> list[str]:
    unit = params.unit if "test" in (a, b) else params.validation_unit
    of_frame = ["frames", "identical_frames", "overlapping_patches"]
    return {"case": ["cases", *of_frame], "frame": of_frame, "patch": []}[unit]


def _count_shared(table: pd.DataFrame, a: str, b: str, window_px: int) -> dict[str, int]:
    left, right = table[table["split"] == a], table[table["split"] == b]
    columns = {"cases": "case_id", "frames": "frame_id", "identical_frames": "pixels_sha256"}
    shared = {
        what: len(set.intersection(*({*map(identify, t[name].unique())} for t in (left, right))))
        for what, name in columns.items()
    }
    return {**shared, "overlapping_patches": _count_overlapping(left, right, window_px)}


def _count_overlapping(left: pd.DataFrame, right: pd.DataFrame, window_px: int) -> int:
    total = 0
    for picture, these in right.groupby("pixels_sha256"):
        those = left.loc[left["pixels_sha256"] == picture, ["x_px", "y_px"]]
        if those.empty:
            continue
        # Two squares overlap when their centres are nearer than a side in the maximum norm.
        distance, _ = KDTree(those.to_numpy()).query(these[["x_px", "y_px"]].to_numpy(), p=np.inf)
        total += int((distance < window_px).sum())
    return total
