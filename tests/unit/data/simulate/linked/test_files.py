"""Files of linked patients."""

import numpy as np
import pandas as pd
import pytest

from histofuse.core.artifacts import load_json
from histofuse.core.tables import read_table
from histofuse.data.patches import PatchMeta, load_index, read_patches
from histofuse.data.simulate.linked import files
from histofuse.data.simulate.linked.cohort import CLASSES, draw_cohort
from histofuse.data.simulate.linked.files import Cutting, simulate_linked
from histofuse.params.base import load_section
from histofuse.params.simulation import LinkedSimulationParams

PARAMS = load_section(LinkedSimulationParams, "simulation.linked").model_copy(
    update={"patients": 20, "nuclei_per_patient": 3, "missing": 0.3}
)
META = PatchMeta(16, 4, 24, list(CLASSES), "simulated", "none")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("linked") / "linked"
    simulate_linked(PARAMS, Cutting(META, shard_patches=32), 1, folder)
    return folder


def test_nuclei_are_in_the_order_of_the_patches(folder):
    nuclei, index = pd.read_parquet(folder / "nuclei.parquet"), load_index(folder)
    assert list(nuclei.columns) == ["patient_id", "patch_id"]
    assert nuclei["patch_id"].tolist() == index["patch_id"].tolist()
    assert nuclei["patient_id"].tolist() == index["case_id"].tolist()
    assert nuclei.groupby("patient_id").size().tolist() == [3] * 20


def test_nuclei_are_of_the_classes_drawn(folder):
    index = load_index(folder)
    counts = pd.crosstab(index["case_id"], index["label"]).reindex(columns=CLASSES, fill_value=0)
    np.testing.assert_array_equal(counts, draw_cohort(PARAMS, 1).tissue.counts)


def test_each_patch_shows_tissue(folder):
    patches = read_patches(folder, load_index(folder))
    assert patches.shape == (60, 24, 24, 3)
    assert (patches.std(axis=(1, 2, 3)) > 2).all()


def test_patients_have_a_split_an_outcome_and_a_record_with_gaps(folder):
    table = read_table(folder / "patients.parquet", files.LINKED_PATIENTS)
    assert table["split"].value_counts().to_dict() == {"test": 10, "train": 8, "validation": 2}
    assert set(table["outcome"]) <= {0, 1}
    assert table[[*files.RECORD_COLUMNS]].isna().to_numpy().mean() == pytest.approx(0.3, abs=0.15)


def test_achievable_is_of_each_side_and_both(folder):
    achievable = load_json(folder / "achievable.json")
    assert {part: set(sides) for part, sides in achievable.items()} == {
        "test": {"image", "record", "both"},
        "expected": {"image", "record", "both"},
    }


def test_the_same_seed_gives_the_same_bytes(folder, tmp_path):
    again = tmp_path / "again"
    simulate_linked(PARAMS, Cutting(META, shard_patches=32), 1, again)
    for path in sorted(folder.iterdir()):
        assert path.read_bytes() == (again / path.name).read_bytes(), path.name
