from datetime import datetime, timedelta

import polars as pl
import pytest

from histofuse.core.errors import InputError
from histofuse.features.labs import (
    FATES,
    aggregate_labs,
    choose_labs,
    count_fates,
    load_labs,
    require_units,
    spread_labs,
)

ADMITTED = datetime(2150, 3, 1, 8)
PREDICTED = datetime(2150, 3, 2, 8)
SCHEMA = {
    "subject_id": pl.Int64,
    "hadm_id": pl.Int64,
    "itemid": pl.Int64,
    "charttime": pl.Datetime,
    "storetime": pl.Datetime,
    "valuenum": pl.Float64,
    "valueuom": pl.String,
}
INDEX = pl.DataFrame(
    {
        "subject_id": [1, 2],
        "hadm_id": [11, 21],
        "admittime": [ADMITTED, ADMITTED],
        "prediction_time": [PREDICTED, PREDICTED],
    }
)
HAEMOGLOBIN, HAEMOGLOBIN_GAS, CREATININE, SODIUM = 51222, 50811, 50912, 50983


def make_row(value, unit="g/dL", hours=1.0, itemid=HAEMOGLOBIN, hadm_id=11, stored=None, subject=1):
    chart = ADMITTED + timedelta(hours=hours)
    store = chart if stored is None else ADMITTED + timedelta(hours=stored)
    return (subject, hadm_id, itemid, chart, store, value, unit)


def run(rows, names=("haemoglobin",), lookback_hours=24.0):
    labs = choose_labs(names)
    events = pl.LazyFrame(rows, schema=SCHEMA, orient="row")
    aggregated = aggregate_labs(events, INDEX, labs, lookback_hours=lookback_hours).collect()
    return spread_labs(aggregated, INDEX, labs), count_fates(aggregated, labs)


def values_of(rows, **options):
    return run(rows, **options)[0].row(0)[2:]


def test_mean_min_max_over_all_itemids_of_a_lab():
    rows = [make_row(10.0), make_row(12.0), make_row(8.3, itemid=HAEMOGLOBIN_GAS)]
    assert values_of(rows) == (10.1, 8.3, 12.0)


def test_nothing_from_after_the_prediction_time_counts():
    late = [make_row(2.0, hours=24.0 + 1 / 60), make_row(3.0, hours=23.0, stored=25.0)]
    on_time = make_row(10.0, hours=24.0)
    # No storing time, as in some rows of the release: the drawing time alone decides.
    unstored = (1, 11, HAEMOGLOBIN, PREDICTED + timedelta(minutes=1), None, 4.0, "g/dL")
    assert values_of([on_time, *late, unstored]) == (10.0, 10.0, 10.0)
    known = (1, 11, HAEMOGLOBIN, PREDICTED, None, 12.0, "g/dL")
    assert values_of([on_time, known]) == (11.0, 10.0, 12.0)


def test_the_window_opens_the_lookback_before_admission():
    rows = [make_row(9.0, hours=-24.0, hadm_id=None), make_row(2.0, hours=-24.1, hadm_id=None)]
    assert values_of(rows) == (9.0, 9.0, 9.0)
    assert values_of(rows, lookback_hours=0.0) == (None, None, None)


def test_rows_without_admission_go_by_patient_and_time_and_foreign_ones_never_count():
    rows = [
        make_row(9.0, hadm_id=None),
        make_row(2.0, hadm_id=99),
        make_row(15.0, subject=2, hadm_id=None),
        make_row(3.0, subject=3, hadm_id=None),
    ]
    table, quality = run(rows)
    assert table["haemoglobin_mean"].to_list() == [9.0, 15.0]
    assert quality["rows"].to_list() == [2]


@pytest.mark.parametrize(
    ("lab", "itemid", "value", "unit", "expected", "fate"),
    [
        ("haemoglobin", HAEMOGLOBIN, 12.5, "g/dL", 12.5, "as_recorded"),
        ("haemoglobin", HAEMOGLOBIN, 12.5, None, 12.5, "as_recorded"),
        ("haemoglobin", HAEMOGLOBIN, 12.5, " G/DL ", 12.5, "as_recorded"),
        ("haemoglobin", HAEMOGLOBIN, 125.0, "g/L", 12.5, "unit_converted"),
        ("haemoglobin", HAEMOGLOBIN, 125.0, "g/dL", 12.5, "unit_corrected"),
        ("haemoglobin", HAEMOGLOBIN, 125.0, None, 12.5, "unit_corrected"),
        ("haemoglobin", HAEMOGLOBIN, 9999.0, "g/dL", None, "implausible"),
        ("haemoglobin", HAEMOGLOBIN, 9999.0, "g/L", None, "implausible"),
        # In a unit of its own a value is not taken for one in another.
        ("haemoglobin", HAEMOGLOBIN, 120.0, "mmol/L", None, "implausible"),
        ("haemoglobin", HAEMOGLOBIN, 0.0, "g/dL", None, "implausible"),
        ("haemoglobin", HAEMOGLOBIN, 12.5, "K/uL", None, "unknown_unit"),
        ("haemoglobin", HAEMOGLOBIN, None, "g/dL", None, "no_number"),
        ("haemoglobin", HAEMOGLOBIN, float("nan"), "g/dL", None, "no_number"),
        ("creatinine", CREATININE, 88.4, "umol/L", 1.0, "unit_converted"),
        ("creatinine", CREATININE, 88.4, "µmol/L", 1.0, "unit_converted"),  # micro sign
        ("creatinine", CREATININE, 88.4, "μmol/l", 1.0, "unit_converted"),  # Greek mu
        ("creatinine", CREATININE, 88.4, "mcmol/L", 1.0, "unit_converted"),
        ("haemoglobin", HAEMOGLOBIN, 12.5, "gm/dL", 12.5, "as_recorded"),
        ("platelets", 51265, 250.0, "10*9/L", 250.0, "as_recorded"),
        ("platelets", 51265, 250.0, "x10E3/µL", 250.0, "as_recorded"),
        ("platelets", 51265, 250.0, "10³/µL", 250.0, "as_recorded"),
        ("platelets", 51265, 250.0, "K/μL", 250.0, "as_recorded"),
        ("platelets", 51265, 250.0, "G/L", 250.0, "as_recorded"),
        ("alkaline_phosphatase", 50863, 2.0, "µkat/L", 120.0, "unit_converted"),
        ("alkaline_phosphatase", 50863, 120.0, "[IU]/L", 120.0, "as_recorded"),
        ("creatinine", CREATININE, 141.0, "mg/dL", 1.595, "unit_corrected"),
        ("sodium", SODIUM, 140.0, "mmol/L", 140.0, "as_recorded"),
        ("sodium", SODIUM, 14.0, "mEq/L", None, "implausible"),
    ],
)
def test_units_are_converted_errors_mended_and_each_fate_counted(
    lab, itemid, value, unit, expected, fate
):
    table, quality = run([make_row(value, unit, itemid=itemid)], names=(lab,))
    found = table[f"{lab}_mean"][0]
    assert found == (None if expected is None else pytest.approx(expected, abs=1e-4))
    counts = {name: quality[name][0] for name in FATES}
    assert counts == dict.fromkeys(FATES, 0) | {fate: 1}


@pytest.mark.parametrize(
    ("value", "unit", "told"),
    [
        (88.0, "mg/dL", "20 of 21 values: 20 seem to be in another unit"),
        (88.0, "mg/gal", "20 of 21 values: 20 are in an unknown unit"),
        (9999.0, "mg/dL", "20 of 21 values: 20 are implausible"),
    ],
)
def test_a_lab_that_is_mostly_in_another_unit_is_refused(value, unit, told):
    wrong = [make_row(value, unit, itemid=CREATININE)] * 20
    # What is plausible among them is not right either: 30 umol/L is no kidney failure.
    rows = [make_row(30.0, "mg/dL", itemid=CREATININE), *wrong]
    fates = run(rows, names=("creatinine",))[1]
    with pytest.raises(InputError, match=rf"labevents, creatinine: {told}.*ehr_features\.labs"):
        require_units(fates, "labevents")
    require_units(run(rows[:19], names=("creatinine",))[1], "labevents")
    noted = run([*rows, *[make_row(1.0, "mg/dL", itemid=CREATININE)] * 21], names=("creatinine",))
    require_units(noted[1], "labevents")


def test_a_lab_nobody_measured_is_null_and_counted_as_nothing():
    table, quality = run([], names=("haemoglobin", "albumin"))
    assert table.select(pl.exclude("subject_id", "hadm_id").is_null().all()).row(0) == (True,) * 6
    assert quality["rows"].to_list() == [0, 0]
    assert quality["lab"].to_list() == ["haemoglobin", "albumin"]


def test_the_mean_does_not_depend_on_the_order_of_rows():
    rows = [make_row(value / 10) for value in range(60, 171)]
    assert values_of(rows) == values_of(rows[::-1]) == (11.5, 6.0, 17.0)


def test_unknown_names_are_listed_together():
    with pytest.raises(InputError) as error:
        choose_labs(["haemoglobin", "hemoglobin", "ca_15_3"])
    assert len(error.value.faults) == 2
    assert "'hemoglobin'" in str(error.value)


def test_definitions_hold_together():
    labs = load_labs().values()
    itemids = [itemid for lab in labs for itemid in lab.itemids]
    assert len(itemids) == len(set(itemids))
    for lab in labs:
        assert lab.range.low <= lab.typical[0] < lab.typical[1] <= lab.range.high, lab.name
        assert 1.0 in lab.units.values(), lab.name
        # A correction must not be reachable by a value that is plausible as recorded.
        assert set(lab.mix_up) <= set(lab.units.values()), lab.name


@pytest.mark.real
def test_itemids_are_blood_tests_of_the_release(real_data):
    items = pl.read_csv(real_data / "mimic-iv-demo-2.2" / "hosp" / "d_labitems.csv.gz")
    fluid = dict(items.select("itemid", "fluid").iter_rows())
    defined = [itemid for lab in load_labs().values() for itemid in lab.itemids]
    assert {fluid[itemid] for itemid in defined} == {"Blood"}


@pytest.mark.real
def test_units_and_ranges_fit_the_real_rows(real_data):
    path = real_data / "mimic-iv-demo-2.2" / "hosp" / "labevents.csv.gz"
    events = pl.read_csv(path, columns=["itemid", "valuenum", "valueuom"])
    for lab in load_labs().values():
        rows = events.filter(pl.col("itemid").is_in(lab.itemids), pl.col("valuenum").is_not_null())
        units = {str(u).lower().replace(" ", "") for u in rows["valueuom"].drop_nulls().unique()}
        assert units <= set(lab.units), lab.name
        assert rows["valuenum"].is_between(lab.range.low, lab.range.high).mean() in (None, 1.0), (
            lab.name
        )
