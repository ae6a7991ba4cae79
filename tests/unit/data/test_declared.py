"""Any table of patients by a declaration: what is read, what is refused, and who is censored."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest
from declared_records import TABLE, write_declared
from hypothesis import given
from hypothesis import strategies as st

from histofuse.core.errors import InputError
from histofuse.core.tables import check_table
from histofuse.data.cohort import COHORT
from histofuse.data.declared.cohort import build_declared_cohort, weigh
from histofuse.data.declared.draft import draft_declaration
from histofuse.data.declared.table import read_declared
from histofuse.params.records import load_declaration

COLUMN = {
    "kind": "in_column",
    "name": "died",
    "description": "death",
    "column": "died",
    "positive": ["1"],
    "negative": ["0"],
}


def build(folder):
    return build_declared_cohort(read_declared(folder))


def test_the_cohort_by_value(tmp_path):
    cohort = build(write_declared(tmp_path))
    check_table(cohort.table, COHORT, "cohort")
    shown = cohort.table[["patient_id", "subject_id", "target"]].to_numpy().tolist()
    assert shown == [
        ["P-10", 1, 1],
        ["P-02", 2, 0],  # followed beyond the horizon
        ["P-04", 4, 1],  # on the horizon
        ["P-05", 5, 0],
        ["P-06", 6, 0],  # relapsed after it
    ]
    assert cohort.censored == 1
    assert [(s["name"], s["patients"]) for s in cohort.attrition.steps] == [
        ("everyone", 7),
        ("target_recorded", 6),
        ("outcome_known", 5),
    ]
    assert cohort.describe()["left_out"] == {"remarks": "free text"}


def test_the_target_may_stand_in_a_column(tmp_path):
    changes = {"target": COLUMN, "gives_away": {"months": "later", "status": "later"}}
    cohort = build(write_declared(tmp_path, **changes))
    assert cohort.table["target"].tolist() == [1, 0, 0, 0, 0, 0, 0]
    assert cohort.censored is None


def test_whole_numbers_stay_the_ids_and_rows_may_be_visits(tmp_path):
    table = TABLE.replace("patient,", "patient,visit,").replace("P-10,", "007.0,2,")
    for n, patient in enumerate(("02", "03", "04", "05", "06", "07")):
        table = table.replace(f"P-{patient},", f"{7 + n // 3},{n + 10},")
    cohort = build(write_declared(tmp_path, table, key__visit="visit"))
    assert cohort.table[["subject_id", "hadm_id"]].to_numpy().tolist() == [
        [7, 2], [7, 10], [7, 12], [8, 13], [8, 14],
    ]  # fmt: skip


def test_tables_between_tabs_with_lines_above_the_header_join_their_patients(tmp_path):
    (tmp_path / "data_clinical_patient.txt").write_text(
        '#Patient\tMonths\n#x\ty\nPATIENT_ID\tmonths\tstatus\tremarks\nP-1\t30\t0:FREE\t"half\n'
        "P-2\t3\t1:RELAPSED\t\n"
    )
    samples = (
        "#Patient\tSample\n#STRING\tSTRING\nPATIENT_ID\tSAMPLE_ID\tage\tgrade\ttherapy\tdied\n"
        "P-1\tP-1-A\t50\tlow\tyes\t0\nP-2\tP-2-A\t60\thigh\tnone\t1\nP-1\tP-1-B\t51\tlow\tyes\t0\n"
    )
    changes = {
        "key": {"patient": "PATIENT_ID", "visit": "SAMPLE_ID"},
        "patients_table": {"file": "data_clinical_patient.txt", "key": "PATIENT_ID"},
    }
    cohort = build(write_declared(tmp_path, samples, "data_clinical_sample.txt", **changes))
    assert cohort.table["visit_id"].tolist() == ["P-1-A", "P-1-B", "P-2-A"]
    assert cohort.table["target"].tolist() == [0, 0, 1]


def test_parquet_gives_what_csv_gives(tmp_path):
    of_csv = build(write_declared(tmp_path / "csv")).table
    folder = write_declared(tmp_path / "parquet", name="patients.parquet")
    pd.read_csv(tmp_path / "csv/patients.csv").to_parquet(folder / "patients.parquet")
    pd.testing.assert_frame_equal(build(folder).table, of_csv)


def test_columns_that_are_not_declared_are_refused_or_left_out_by_name(tmp_path):
    table = TABLE.replace("remarks", "postcode")
    changes = {"left_out": {}}
    with pytest.raises(InputError, match="not declared: postcode"):
        read_declared(write_declared(tmp_path, table, **changes))
    folder = write_declared(tmp_path, table, **changes, undeclared="leave_out")
    assert read_declared(folder).left_out == {"postcode": "not declared"}


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("12.5,", "-3,", "line 3, months: is below 0; expected months from the prediction on"),
        ("12.5,", "a year,", "line 3, months: is 'a year'; expected a number of months"),
        ("1:Relapsed", "1:Relapse", r"line 3, status: is '1:Relapse'.*Did you mean 1:RELAPSED\?"),
        ("P-03,,", "P-03,,,x", "line 4: 9 cells under 8 columns"),
        ("P-03,", "p 2,", "line 4, patient: the same as in line 2; .*key.visit"),
        ("P-03,", ",", "line 4, patient: no id"),
        ("age,", "aeg,", "no column 'age' in patients.csv; .*Did you mean aeg"),
    ],
)
def test_a_bad_cell_is_named(tmp_path, old, new, problem):
    folder = write_declared(tmp_path, TABLE.replace(old, new), undeclared="leave_out")
    with pytest.raises(InputError, match=problem):
        build(folder)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"numeric": {}, "ordinal": {}, "categorical": {}}, "names no column to predict from"),
        ({"target__horizon": 500}, "all 2 rows have target 1|all 3 rows have target 1"),
        ({"target__horizon": 1}, "all 6 rows have target 0"),
        ({"target__unit": "month"}, "target.unit: is 'month'; expected 'days', 'months' or"),
        ({"numeric__age_years__column": "months"}, "age_years cannot be a feature"),
        ({"left_out": {"age": "no"}}, "age_years cannot be a feature"),
        ({"numeric__age_years__unit": "TODO"}, "numeric.age_years.unit: TODO; expected a value"),
        ({"target__happened": [1]}, "happened.0: is 1; expected a valid string"),
        ({"typo": 1}, "typo: unknown key"),
        ({"target__censored": ["0:FREE", "1:relapsed "]}, "status means one thing"),
        ({"ordinal__grade__levels": {"low": 1, "Low": 2}}, "grade means one thing"),
    ],
)
def test_a_bad_declaration_is_named(tmp_path, changes, problem):
    with pytest.raises(InputError, match=problem):
        build(write_declared(tmp_path, **changes))


def test_a_lacking_declaration_or_table_is_named(tmp_path):
    with pytest.raises(InputError, match="histofuse describe-table FILE drafts one"):
        read_declared(tmp_path)
    (write_declared(tmp_path) / "patients.csv").unlink()
    with pytest.raises(InputError, match=r"patients.csv: no such file"):
        read_declared(tmp_path)


# --- censoring ----------------------------------------------------------------------------------

times = st.lists(st.tuples(st.integers(0, 9), st.booleans()), min_size=2, max_size=40)


@given(times, st.integers(1, 8))
def test_weights_are_those_of_mass_passed_on(rows, horizon):
    """Efron: who is censored before the horizon hands its mass to those still at risk."""
    time = np.array([t for t, _ in rows], dtype=float)
    event = np.array([e for _, e in rows])
    mass = np.ones(len(rows))
    for moment in np.unique(time[~event & (time < horizon)]):
        leaving = ~event & (time == moment)
        staying = time > moment
        if not staying.any():
            return  # nobody is left to stand for them
        mass[staying] += mass[leaving].sum() * mass[staying] / mass[staying].sum()
        mass[leaving] = 0.0
    weights = weigh(pl.Series(time), pl.Series(event.astype(float)), float(horizon)).to_numpy()
    np.testing.assert_allclose(weights, mass, atol=1e-9)
    assert weights.sum() == pytest.approx(len(rows))


def test_weighted_rows_stand_for_the_censored(tmp_path):
    cohort = build(write_declared(tmp_path, target__censoring="weighted"))
    weights = dict(zip(cohort.table["patient_id"], cohort.table["weight"], strict=True))
    assert weights == pytest.approx(dict.fromkeys(("P-02", "P-04", "P-05", "P-06", "P-10"), 1.2))


# --- the draft ----------------------------------------------------------------------------------


def test_a_draft_is_refused_until_a_person_finishes_it(tmp_path):
    folder = write_declared(tmp_path)
    (folder / "records.yaml").write_text(draft_declaration(folder / "patients.csv"))
    with pytest.raises(InputError) as error:
        load_declaration(folder / "records.yaml")
    unfinished = {str(fault.where).split(", ")[1] for fault in error.value.faults}
    assert {"access", "target.horizon", "numeric.age.unit", "numeric.age.low"} <= unfinished
    assert "gives_away.TODO" in unfinished
    text = draft_declaration(folder / "patients.csv")
    assert "high: TODO   # observed 33 to 200" in text
    assert "'[Not Available]'" in text


PROSE = "a line of prose\n" + "and, after it, others that hold, here and there, commas\n" * 200


@pytest.mark.parametrize(
    ("name", "raw", "said"),
    [
        ("README.md", b"# title\n\nWords, and words.\n" * 50, "an empty line in place of a header"),
        ("notes.md", PROSE.encode(), "200 of 200 rows are longer than the header, the first in"),
        ("a.txt", b"one column of words\nof which nothing is a table\n", "has one column"),
        ("a.csv", b"<!DOCTYPE html>\n<html><body>Sign in</body></html>\n", "is a page of HTML"),
        ("a.csv", b'{"a": 1, "b": 2}\n', "is JSON"),
        ("a.json", b'[\n  {"a": 1, "b": 2}\n]\n', "is JSON"),
        ("a.csv", b"PK\x03\x04\x14\x00", "is a ZIP archive, as .xlsx files are"),
        ("a.png", b"\x89PNG\r\n\x1a\n\x00", "is a picture"),
        ("a.csv.gz", b"\x1f\x8b\x08\x00", "is compressed by gzip"),
        ("a.csv", b"PAR1\x15\x04", "is Parquet, but not named .parquet"),
        ("a.parquet", b"a,b\n1,2\n", "cannot be read"),
        ("a.csv", b"17,4.5\n18,3.9\n", "has numbers alone in its first line"),
        ("a.csv", b"", "is empty"),
        ("a.csv", None, "is a folder"),
        ("a.parquet", None, "is a folder"),
    ],
)
def test_what_is_no_table_is_refused_by_one_fault(tmp_path, name, raw, said):
    path = tmp_path / name
    path.mkdir() if raw is None else path.write_bytes(raw)
    with pytest.raises(InputError) as caught:
        draft_declaration(path)
    (fault,) = caught.value.faults
    assert said in fault.problem
    assert fault.where == path


# --- real data ----------------------------------------------------------------------------------


@pytest.mark.skipif(not find_spec("lifelines"), reason="lifelines, which ships GBSG2, is missing")
def test_gbsg2_counts():
    import lifelines.datasets

    table = Path(lifelines.datasets.__file__).with_name("gbsg2.csv")
    assert "observed 21 to 80" in draft_declaration(table)
