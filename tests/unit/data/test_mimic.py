import gzip
from datetime import date, datetime

import polars as pl
import pytest

from histofuse.core.errors import InputError
from histofuse.data.mimic import identify_source, load_hospital
from histofuse.data.mimic_tables import TABLES, collect_rows, find_table, read_rows, scan_rows


@pytest.fixture
def hospital(write_tables, stay):
    return write_tables(
        patients=[{"subject_id": 1, "dod": "2150-03-01"}, {"subject_id": 2}],
        admissions=[
            stay(1, 11, "2150-01-01", "2150-01-05"),
            stay(2, 21, "2150-02-01", "2150-02-03"),
        ],
        diagnoses_icd=[
            {"subject_id": 1, "hadm_id": 11, "icd_code": "0389"},
            {"subject_id": 2, "hadm_id": 21, "icd_code": "C50.911", "icd_version": 10},
        ],
        labevents=[
            {"subject_id": 1, "hadm_id": 11, "valuenum": 1.5, "value": "___"},
            {"subject_id": 1, "itemid": 51222, "valuenum": 9},
            {"subject_id": 2, "hadm_id": 21},
        ],
        prescriptions=[{"subject_id": 1, "hadm_id": 11, "gsn": "004489", "ndc": "00904"}],
    )


def rewrite(root, table, change):
    path = root / "hosp" / f"{table}.csv.gz"
    path.write_bytes(gzip.compress(change(gzip.decompress(path.read_bytes()))))


def faults_of(call, *args):
    with pytest.raises(InputError) as error:
        call(*args)
    return [str(fault) for fault in error.value.faults]


def test_values_and_types_are_those_of_the_files(hospital):
    read = load_hospital(hospital)
    assert read.diagnoses["icd_code"].to_list() == ["0389", "C50911"]
    assert read.patients["dod"].to_list() == [date(2150, 3, 1), None]
    assert read.admissions["admittime"][1] == datetime(2150, 2, 1, 12)
    assert read.rows == {
        "patients": 2,
        "admissions": 2,
        "diagnoses_icd": 2,
        "labevents": 3,
        "prescriptions": 1,
    }


def test_rows_are_kept_by_every_wanted_value(hospital):
    keep = {"subject_id": [1], "itemid": [50912]}
    rows = read_rows(hospital, "labevents", ["hadm_id", "valuenum", "value"], keep)
    assert rows.rows() == [(11, 1.5, "___")]
    assert read_rows(hospital, "labevents", ["hadm_id"])["hadm_id"].to_list() == [11, None, 21]


def test_leading_zeros_survive(hospital):
    assert read_rows(hospital, "prescriptions", ["gsn", "ndc"]).rows() == [("004489", "00904")]


def test_a_scan_aggregates_like_a_read(hospital):
    path = find_table(hospital, "labevents")
    scan = scan_rows(hospital, "labevents", ["subject_id", "valuenum"], {"subject_id": [1]})
    assert collect_rows(scan.select(pl.col("valuenum").sum()), path).item() == 10.5


def test_plain_csv_reads_like_gzip(hospital):
    path = hospital / "hosp" / "labevents.csv.gz"
    path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
    path.unlink()
    assert load_hospital(hospital).rows["labevents"] == 3


def test_all_faults_of_all_tables_come_at_once(hospital):
    (hospital / "hosp" / "labevents.csv.gz").unlink()
    rewrite(hospital, "prescriptions", lambda text: text.replace(b"drug_type", b"kind"))
    rewrite(hospital, "diagnoses_icd", lambda text: text.replace(b"C50.911,10", b"C50911,11"))
    rewrite(hospital, "patients", lambda text: text.replace(b"2150-03-01", b"2150-02-30"))
    rewrite(hospital, "admissions", lambda text: text.replace(b"2,21,", b"3,11,"))
    faults = faults_of(load_hospital, hospital)
    wanted = [
        ("labevents.csv.gz", "no such file", "data.records.path"),
        ("prescriptions.csv.gz", "no column 'drug_type'", ""),
        ("diagnoses_icd.csv.gz, line 3, icd_version", "is '11'", "9 or 10"),
        ("patients.csv.gz, line 2, dod", "is '2150-02-30'", "YYYY-MM-DD"),
        ("admissions.csv.gz, hadm_id", "11 more than once", ""),
        ("admissions.csv.gz, subject_id", "3 not in patients", ""),
    ]
    for parts in wanted:
        assert any(all(part in fault for part in parts) for fault in faults), (parts, faults)


@pytest.mark.parametrize("table", ["admissions", "labevents", "prescriptions"])
@pytest.mark.parametrize("cut", [3, 12, 60])
def test_a_gzip_cut_short_is_an_error_that_names_the_file(hospital, table, cut):
    path = hospital / "hosp" / f"{table}.csv.gz"
    path.write_bytes(path.read_bytes()[:-cut])
    (fault,) = faults_of(load_hospital, hospital)
    assert path.name in fault and "cut short" in fault
    first = next(iter(TABLES[table].columns))
    (fault,) = faults_of(read_rows, hospital, table, [first])
    assert path.name in fault and "cut short" in fault


def test_a_long_gzip_cut_short_never_gives_fewer_rows(write_tables):
    rows = [{"subject_id": n, "valuenum": n % 97 / 7} for n in range(60_000)]
    root = write_tables(labevents=rows)
    path = root / "hosp" / "labevents.csv.gz"
    whole = path.read_bytes()
    for part in (0.2, 0.6, 0.95):
        path.write_bytes(whole[: int(len(whole) * part)])
        assert "cut short" in faults_of(read_rows, root, "labevents", ["itemid"])[0]
        scan = scan_rows(root, "labevents", ["subject_id"], {"subject_id": [1]})
        assert "cut short" in faults_of(collect_rows, scan, path)[0]


def test_plain_csv_cut_short_is_an_error_and_one_without_a_last_line_break_is_not(hospital):
    path = hospital / "hosp" / "labevents.csv.gz"
    whole = gzip.decompress(path.read_bytes())
    path.unlink()
    path.with_suffix("").write_bytes(whole[:-1])
    assert read_rows(hospital, "labevents", ["itemid"]).height == 3
    path.with_suffix("").write_bytes(whole[:-3])
    assert "unfinished" in faults_of(read_rows, hospital, "labevents", ["itemid"])[0]


def test_cells_that_do_not_parse_are_named_by_line(hospital):
    rewrite(hospital, "labevents", lambda text: text.replace(b",1.5,", b",high,"))
    (fault,) = faults_of(read_rows, hospital, "labevents", ["valuenum"])
    assert "line 2, valuenum: is 'high'" in fault
    scan = scan_rows(hospital, "labevents", ["valuenum"])
    assert "high" in faults_of(collect_rows, scan, find_table(hospital, "labevents"))[0]


@pytest.mark.parametrize(
    ("table", "old", "new", "fault"),
    [
        ("labevents", b",50912,", b",50912.5,", "line 2, itemid: is '50912.5'"),
        ("labevents", b",50912,", b",NULL,", "line 2, itemid: is 'NULL' (2 such rows)"),
        ("labevents", b"2150-01-01 08", b"01.01.2150 08", "line 2, charttime: is '01.01.2150"),
        ("labevents", b"\n,2,21", b"\n,1e-3,21", "line 4, subject_id: is '1e-3'"),
        ("prescriptions", b"\n1,", b"\n,", "line 2, subject_id: empty"),
        ("diagnoses_icd", b",0389,", b",389.0.0,", "line 2, icd_code: is '389.0.0'"),
        ("diagnoses_icd", b",0389,", b",38,", "line 2, icd_code: is '38'"),
        ("diagnoses_icd", b",0389,", b",4139.0,", "line 2, icd_code: is '4139.0'"),
        ("diagnoses_icd", b",C50.911,", b",50911,", "line 3, icd_code: is '50911'"),
        ("patients", b"gender", b"dod", "column 'dod' more than once"),
        ("labevents", b"2,21,", b"2,-1,", "line 4, hadm_id: is '-1'"),
        ("labevents", b"2,21,", b"2,0,", "line 4, hadm_id: is '0'"),
        ("diagnoses_icd", b"1,11,1,", b"1,11,0,", "line 2, seq_num: is '0'"),
        ("diagnoses_icd", b"2,21,", b"1,21,", "line 3: hadm_id 21 of subject_id 1"),
        ("admissions", b",0\n", b",2\n", "line 2, hospital_expire_flag: is '2' (2 such rows)"),
        ("admissions", b",0\n", b",-1\n", "line 2, hospital_expire_flag: is '-1'"),
        ("patients", b"2150-03-01", b"1900-01-01", "line 2, dod: is '1900-01-01'"),
        ("patients", b"2150-03-01", b"9999-12-31", "line 2, dod: is '9999-12-31'"),
        ("prescriptions", b",004489,", b",00,4489,", "line 2: 22 cells under 21 columns"),
        ("prescriptions", b",004489,", b",\xe9,", "line 2: is not UTF-8 text"),
        ("labevents", b",1.5,", b",1\xb5,", "line 2: is not UTF-8 text"),
    ],
)
def test_the_first_stage_names_file_line_and_column(hospital, table, old, new, fault):
    rewrite(hospital, table, lambda text: text.replace(old, new))
    faults = faults_of(load_hospital, hospital)
    assert any(f"{table}.csv.gz" in told and fault in told for told in faults), faults


def test_words_for_missing_are_counted(hospital):
    rewrite(hospital, "admissions", lambda text: text.replace(b",Other,", b",NULL,"))
    read = load_hospital(hospital)
    assert read.admissions["insurance"].to_list() == [None, None]
    (note,) = read.notes
    assert "NULL, NA or the like read as missing: 2 in admissions.insurance" in note


def test_codes_that_may_have_lost_their_zeros_are_said(hospital):
    assert load_hospital(hospital).notes == []
    rewrite(hospital, "diagnoses_icd", lambda text: text.replace(b",0389,", b",389,"))
    (note,) = load_hospital(hospital).notes
    assert "no ICD-9 code of diagnoses_icd begins with 0" in note


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le"])
def test_another_encoding_is_named(hospital, encoding):
    rewrite(hospital, "patients", lambda text: text.decode().encode(encoding))
    assert "is UTF-16 text" in faults_of(load_hospital, hospital)[0]


def test_a_compressed_file_of_another_name_is_named(hospital):
    path = hospital / "hosp" / "patients.csv.gz"
    path.rename(path.with_suffix(""))
    assert "patients.csv: is compressed by gzip" in faults_of(load_hospital, hospital)[0]


@pytest.mark.parametrize("table", ["patients", "admissions"])
def test_a_table_without_rows_is_a_fault_of_its_own(hospital, table):
    rewrite(hospital, table, lambda text: text.partition(b"\n")[0] + b"\n")
    assert f"{table}.csv.gz: no rows" in faults_of(load_hospital, hospital)[0]


def test_an_empty_required_cell_is_a_fault(hospital):
    rewrite(hospital, "admissions", lambda text: text.replace(b"2150-02-03 12:00:00", b""))
    (fault,) = faults_of(load_hospital, hospital)
    assert "line 3, dischtime: empty" in fault


def test_a_diagnosis_of_an_unknown_admission_is_a_fault(hospital):
    rewrite(hospital, "diagnoses_icd", lambda text: text.replace(b"1,11,", b"1,99,"))
    (fault,) = faults_of(load_hospital, hospital)
    assert "99 not in admissions" in fault


def test_unmarked_patients_are_taken_for_restricted(hospital):
    assert identify_source(hospital) == "restricted"
    (hospital / "SIMULATED.json").write_text('{"source": "simulated"}')
    assert identify_source(hospital) == "simulated"


@pytest.mark.real
def test_the_demo_is_recognised_and_whole(real_data):
    root = real_data / "mimic-iv-demo-2.2"
    assert identify_source(root) == "mimic-iv-demo"
    assert load_hospital(root).rows == {
        "patients": 100,
        "admissions": 275,
        "diagnoses_icd": 4_506,
        "labevents": 107_727,
        "prescriptions": 18_087,
    }


@pytest.mark.real
@pytest.mark.parametrize("table", TABLES)
def test_every_column_of_the_demo_parses(real_data, table):
    root = real_data / "mimic-iv-demo-2.2"
    columns = list(TABLES[table].columns)
    with gzip.open(find_table(root, table), "rt") as file:
        assert file.readline().rstrip("\n").split(",") == columns
    assert read_rows(root, table, columns).height > 0
