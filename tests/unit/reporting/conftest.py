"""A made-up run: every file that the report reads, as small as possible."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from histofuse.core.artifacts import write_json, write_text
from histofuse.reporting import pictures

PARAMS = """
seed: 1
evaluation: {split: test, primary_rule: label_blind, diagnoses_model: mlp}
image: {resnet18: {}}
tabular: {mlp: {}, xgboost: {}}
encoders: {image: resnet18, patient: mlp}
intervals: {fewest_groups: 10}
controls: {gain_margin: 0.05, chance_margin: 0.1}
pairing: {label_blind: {}, label_aligned: {}}
"""
TABLE = """**Table 1. Image models, test split.**

| Model | Mitosis AUPRC | Accuracy |
| --- | ---: | ---: |
| ResNet-18 | 0.400 [0.300, 0.500] | 0.900 |

- In brackets 95% intervals.
"""
ATTRITION = """step,name,description,patients,admissions,removed_patients,removed_admissions
1,everyone,all,100,120,0,0
2,adult,adults,97,117,3,3
3,diagnosis,with the diagnosis,60,60,37,57
"""
MODELS = ("resnet18", "mlp", "xgboost", "fusion_label_blind", "fusion_label_aligned")


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """Keep shrunk pictures out of this checkout."""
    monkeypatch.setattr(pictures, "CACHE", tmp_path_factory.mktemp("pictures"))


def put(root: Path, path: str, content) -> None:
    target = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    match content:
        case str():
            write_text(content, target)
        case dict() if path.endswith(".parquet"):
            pq.write_table(pa.table(content), target)
        case _:
            write_json(content, target)


def put_picture(root: Path, path: str, side: int = 40) -> None:
    target = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((side, side, 3), 200, np.uint8)).save(target)


def make_metrics():
    score = {"test/auprc/mitosis": 0.4, "test/auroc/macro": 0.8, "test/accuracy": 0.9}
    ends = {
        name: {"low": value - 0.1, "high": value + 0.05, "groups": 12}
        for name, value in score.items()
    }
    sizes = {"n": 30, "cases": 2, "classes": {"mitosis": 3, "tumour": 27}}
    declared = {"data": "simulated", "leaky": "no", "focus_class": "mitosis"}
    aligned = declared | {"leaky": "pairing follows the label"}
    pair = {"image_model": "resnet18"}
    less = {"test/auprc/mitosis": {"value": 0.01, "low": -0.02, "high": 0.03, "groups": 12}}
    between = {"test/auroc/macro": {"value": -0.03, "low": -0.08, "high": 0.01, "groups": 40}}
    return {
        "models": dict.fromkeys(MODELS, score),
        "declared": dict.fromkeys(MODELS, declared) | {"fusion_label_aligned": aligned},
        "split_sizes": {"patches": dict.fromkeys(("train", "validation", "test"), sizes)},
        "paired": {
            "fusion_label_blind": pair | {"leaky": False},
            "fusion_label_aligned": pair | {"leaky": True},
        },
        "intervals": {
            "models": dict.fromkeys(MODELS, ends),
            "minus_image_model": {"fusion_label_blind": less, "fusion_label_aligned": less},
            "between_models": {"mlp - xgboost": between},
        },
    }


def fill_project(root: Path, images: str = "simulated", patients: str = "simulated") -> Path:
    put(root, "params.yaml", PARAMS)
    put(root, "dvc.lock", "schema: '2.0'\n")
    put(root, "reports/metrics.json", make_metrics())
    put(root, "reports/tables/table1_image.md", TABLE)
    for name in MODELS:
        put_picture(root, f"reports/figures/{name}/roc.png")
    put(root, "data/cohort/meta.json", make_cohort(patients))
    put(root, "data/cohort/attrition.csv", ATTRITION)
    people = list(range(60))
    put(
        root,
        "data/cohort/cohort.parquet",
        {
            "subject_id": people,
            "hadm_id": people,
            "target": [int(n % 4 == 0) for n in people],
            "age_years": [50.0 + n % 7 for n in people],
            "sex": ["M" if n < 4 else "F" for n in people],
            "race": ["WHITE"] * 60,
            "insurance": ["Other"] * 60,
        },
    )
    splits = ["train"] * 40 + ["validation"] * 10 + ["test"] * 10
    put(
        root,
        "data/splits/patients.parquet",
        {"subject_id": people, "hadm_id": people, "split": splits},
    )
    put(root, "data/splits/patches.parquet", {"patch_id": ["a"], "split": ["train"]})
    none = {"train-test": {"cases": 0}}
    audit = {"leaky": False, "unit": "case", "shared": none, "forbidden": {"train-test": ["cases"]}}
    put(root, "data/splits/patches_audit.json", audit)
    put(root, "data/splits/patients_audit.json", audit)
    put(root, "data/patches/meta.json", make_patches(images))
    labels = ["mitosis", "tumour"]
    put(root, "data/patches/index.parquet", {"label": labels, "shard": [0, 0], "row": [0, 1]})
    np.save(root / "data/patches/shard-00000.npy", np.zeros((2, 12, 12, 3), np.uint8))
    feature = {"name": "albumin", "description": "Albumin", "unit": "g/dL", "group": "laboratory"}
    put(root, "data/ehr/features.json", [feature])
    put(root, "data/ehr/features.parquet", {"albumin": [1.0] * 45 + [None] * 15})
    masked = {"masked": [{"name": "dod", "group": "feature", "reason": "is the outcome"}]}
    put(root, "data/ehr/masked.json", masked)
    heads = "lab,rows,unit_converted,implausible,unknown_unit,no_number"
    put(root, "data/ehr/lab_quality.csv", f"{heads}\nalbumin,50,4,3,2,1\n")
    left_out = {"name": "solid_tumour", "reason": "repeats metastatic_cancer", "missing": 0.0}
    put(root, "data/encoded/encoder.json", {"feature_order": ["albumin"], "dropped": [left_out]})
    for name in ("waterfall_high_risk", "mean_abs_shap"):
        put_picture(root, f"reports/explain/shap/mlp/{name}.png")
    put_picture(root, "reports/explain/fusion/fusion_label_blind/case_card_0.png")
    for kind in ("contact_sheet", "examples"):
        put_picture(root, f"reports/explain/gradcam/resnet18/{kind}_mitosis.png")
    return root


def make_cohort(source):
    return {
        "source": source,
        "target": "mortality_1y",
        "description": "death within a year",
        "patients": 60,
        "admissions": 60,
        "positives": 15,
        "prediction_time": "discharge",
    }


def make_patches(source):
    return {
        "source": source,
        "classes": ["mitosis", "tumour"],
        "patch_px": 8,
        "margin_px": 2,
        "stain_normalisation": "none",
    }


@pytest.fixture
def project(tmp_path):
    """A project with all mandatory artifacts."""
    return fill_project(tmp_path)


@pytest.fixture
def make_project():
    """Make a project: folder, source of the images, source of the patients."""
    return fill_project


@pytest.fixture
def table():
    """The Markdown of a table."""
    return TABLE


@pytest.fixture
def change():
    """Change values of a JSON file of a project."""

    def change_file(root: Path, path: str, **values) -> None:
        put(root, path, json.loads((root / path).read_text()) | values)

    return change_file
