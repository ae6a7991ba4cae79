"""The folds of a cross-validation: their splits, audited, and their test predictions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from histofuse.core.errors import LeakageError
from histofuse.core.naming import show_count
from histofuse.core.tables import read_table
from histofuse.data.brecahad import FRAMES
from histofuse.data.leakage import audit_patches, audit_patients, require_clean
from histofuse.data.patches import load_index, load_meta
from histofuse.data.splits import PATCH_SPLITS, PATIENT_SPLITS
from histofuse.evaluation.predictions import Predictions, concatenate, load_predictions
from histofuse.params.splits import ImageSplitParams
from histofuse.training.protocols.crossval import MODELS, PATCHES, PATIENTS, Sources

TEST = "test"


@dataclass(frozen=True)
class FoldSplit:
    """The splits of one fold."""

    cases: Mapping[str, list[str]]
    patches: Mapping[str, Mapping[str, int]]  # split to class to patches
    patients: Mapping[str, int]


@dataclass(frozen=True)
class Folds:
    """All models over all folds."""

    tests: Mapping[str, Sequence[Predictions]]  # model to its test rows, fold by fold
    splits: Sequence[FoldSplit]


def load_folds(paths: Sequence[Path], names: Sequence[str], sources: Sources) -> Folds:
    """Load every fold's test predictions; LeakageError if its audit finds anything shared."""
    splits = [_audit_fold(path, sources) for path in paths]
    tests: dict[str, list[Predictions]] = {name: [] for name in names}
    for path in paths:
        for name in names:
            model = load_predictions(path / MODELS / name)
            require_unseen(model, path)
            tests[name].append(model.of(TEST))
    return Folds(tests, splits)


def _audit_fold(path: Path, sources: Sources) -> FoldSplit:
    patches = read_table(path / PATCHES, PATCH_SPLITS)
    patients = read_table(path / PATIENTS, PATIENT_SPLITS)
    # Was validation split from training by frame?
    rest = patches[patches["split"] != TEST]
    by_frame = (rest.groupby("case_id")["split"].nunique() > 1).any()
    params = ImageSplitParams(
        unit="case",
        validation_unit="frame" if by_frame else "case",
        folds=2,
        test_fold=0,
        validation_fold=0,
        classes_required=[],
    )
    index, frames = load_index(sources.patches), read_table(sources.frames, FRAMES)
    window_px = load_meta(sources.patches).window_px
    on_patches = audit_patches(patches, index, frames, window_px, params)
    on_patients = audit_patients(patients)
    require_clean(on_patches)
    require_clean(on_patients)
    cases = {str(s): sorted(set(ids)) for s, ids in patches.groupby("split")["case_id"]}
    return FoldSplit(cases, on_patches["counts"], on_patients["counts"])


def require_unseen(model: Predictions, where: Path) -> None:
    """Raise LeakageError if a test row's case, or patient, is among those a model was fitted on."""
    tested = model.split == TEST
    both = sorted(set(model.groups[tested].tolist()) & set(model.groups[~tested].tolist()))
    if both:
        shared = f"{show_count(both, model.group_unit)}, such as {both[0]}"
        raise LeakageError(
            f"{where}, {model.name}: {shared}, tested on and fitted on in one fold. "
            "Delete the folder and run make crossval."
        )


def pool(tests: Sequence[Predictions]) -> Predictions:
    """Put the test rows of all folds together. Raises LeakageError if a row is tested twice."""
    keys = np.concatenate([rows.keys for rows in tests])
    if len(set(keys.tolist())) != len(keys):
        raise LeakageError(f"{tests[0].name}: rows are tested in more than one fold.")
    return concatenate(tests)
