"""One patient is planted among restricted ones, and nothing of them may reach MLflow."""

import sqlite3
from pathlib import Path

import pandas as pd
import pytest

from histofuse.core.artifacts import load_json, write_json
from histofuse.core.bundle import open_bundle
from histofuse.core.privacy import may_show_patients
from histofuse.evaluation.metrics.bootstrap import Bootstrap
from histofuse.explain.shap_values.report import write_shap_report
from histofuse.features.specs import load_specs
from histofuse.params.base import load_section, load_seed
from histofuse.params.explain import ExplainParams
from histofuse.params.intervals import IntervalParams
from histofuse.tracking.connection import DATABASE
from histofuse.tracking.publish import publish_all

SUBJECT, ADMISSION, CASE = 77_777_777, 88_888_888, "Case_909"
# Of the patient alone: the category, the only value of their stratum, the case.
SIGNS = (str(SUBJECT), str(ADMISSION), CASE, "zebracare", "7.7771")
TABLES = ("data/ehr/features", "data/cohort/cohort", "data/splits/patients")


def change(path, edit):
    table = pd.read_parquet(path)
    edit(table)
    table.to_parquet(path)


def plant(source):
    """Make both sides of a source, and one training patient and one case unlike the others."""
    first = int(pd.read_parquet("data/splits/patients.parquet").query("split == 'train'").index[0])
    for table in TABLES:

        def rename(rows):
            rows.loc[first, ["subject_id", "hadm_id"]] = SUBJECT, ADMISSION

        change(f"{table}.parquet", rename)

    def stand_out(rows):
        rows["sex"] = "F"
        rows.loc[first, ["age_years", "albumin", "insurance"]] = 19.0, 7.7771, "zebracare"

    change("data/ehr/features.parquet", stand_out)
    for table in ("data/patches/index", "data/splits/patches"):

        def rename_case(rows):
            for column in ("patch_id", "frame_id", "case_id"):
                rows[column] = rows[column].str.replace("Case_1(?!\\d)", CASE, regex=True)

        change(f"{table}.parquet", rename_case)
    for meta in ("data/cohort/meta.json", "data/patches/meta.json"):
        write_json(load_json(Path(meta)) | {"source": source}, Path(meta))


def explain(model):
    bundle = open_bundle(Path("models") / model)
    encoded = {n: pd.read_parquet(f"data/encoded/{n}.parquet") for n in ("imputed", "with_missing")}
    write_shap_report(
        bundle,
        encoded,
        load_specs(Path("data/ehr/features.json")),
        Path("reports/explain/shap") / model,
        load_section(ExplainParams, "explain"),
        bootstrap=Bootstrap(load_section(IntervalParams, "intervals"), load_seed()),
        row_level=may_show_patients([bundle.config["source"]]),
    )


def read_store():
    """Read all that MLflow holds: every file, and every cell of its database as text."""
    for file in Path("mlruns").rglob("*"):
        if file.suffix == ".parquet":
            yield file.as_posix(), pd.read_parquet(file).to_csv()
        elif file.is_file() and file != DATABASE:
            yield file.as_posix(), file.read_bytes().decode("latin-1")
    with sqlite3.connect(DATABASE) as database:
        yield from (("the database", line) for line in database.iterdump())


@pytest.mark.parametrize("source", ["restricted", "simulated"])
def test_planted_patient_is_nowhere_in_the_store_of_a_restricted_source(small_project, source):
    plant(source)
    small_project.encode()
    small_project.pair()
    small_project.train_image()
    small_project.train_tabular()
    small_project.train_tabular("mlp")
    small_project.embed()
    for rule in ("label_blind", "label_aligned"):
        small_project.train_fusion(rule)
    explain("mlp")
    publish_all()

    found = {(sign, where) for where, text in read_store() for sign in SIGNS if sign in text}
    files = [name for name, _ in read_store()]
    assert any(name.endswith("mean_abs_shap.csv") for name in files)
    if source == "restricted":
        assert not found
        assert not [name for name in files if "beeswarm" in name or "predictions" in name]
    else:
        assert {sign for sign, _ in found} >= {str(SUBJECT), CASE}
