from datetime import datetime, timedelta

import polars as pl
import pytest

from histofuse.core.errors import InputError
from histofuse.features.treatments import (
    choose_treatments,
    flag_treatments,
    load_treatments,
    select_orders,
)

# Spellings of hosp/prescriptions.drug with their routes.
VECTORS = [
    ("Tamoxifen Citrate", "PO", "endocrine"),
    ("TamOXIFEN Citrate", "PO", "endocrine"),
    ("Letrozole *NF*", "PO", "endocrine"),
    ("Fulvestrant", "IM", "endocrine"),
    ("Ondansetron ODT", "PO", "antiemetics"),
    ("Prochlorperazine", "PR", "antiemetics"),
    ("Scopolamine Patch", "TD", "antiemetics"),
    ("Fosaprepitant", "IV", "antiemetics"),
    ("Zoledronic Acid", "IV", "bisphosphonates"),
    ("Pamidronate", "IV", "bisphosphonates"),
    ("PACLitaxel", "IV", "chemotherapy"),
    ("PACLitaxel (Protein-Bound)", "IV", "chemotherapy"),
    ("DOXOrubicin", "IV", "chemotherapy"),
    ("CARBOplatin", "IV", "chemotherapy"),
    ("Fluorouracil", "IV", "chemotherapy"),
    ("Fluorouracil 5% Cream", "TP", ""),
    ("RiTUXimab", "IV", "chemotherapy"),
    ("rituximab-abbs", "IV", "chemotherapy"),
    ("Pembrolizumab", "IV", "chemotherapy"),
    ("Ruxolitinib", "PO", "chemotherapy"),
    ("Everolimus", "PO", "chemotherapy"),
    ("imatinib mesylate", "PO", "chemotherapy"),
    ("SORAfenib *NF*", "PO", "chemotherapy"),
    ("PAZOPanib", "PO", "chemotherapy"),
    ("Carfilzomib", "IV", "chemotherapy"),
    ("niraparib", "PO", "chemotherapy"),
    ("alpelisib", "PO", "chemotherapy"),
    ("Brentuximab Vedotin", "IV", "chemotherapy"),
    ("Blinatumomab", "IV", "chemotherapy"),
    ("axicabtagene ciloleucel", "IV", "chemotherapy"),
    ("Arsenic Trioxide", "IV", "chemotherapy"),
    ("Thioguanine", "PO", "chemotherapy"),
    ("Tretinoin", "PO", "chemotherapy"),
    ("Tretinoin 0.025% Cream", "TP", ""),
    ("Bicalutamide", "PO", "endocrine"),
    ("Abiraterone Acetate", "PO", "endocrine"),
    ("Degarelix", "SC", "endocrine"),
    ("Lapatinib", "PO", "her2"),
    ("Tofacitinib", "PO", ""),
    ("Baricitinib", "PO", ""),
    ("NiMODipine", "PO", ""),
    ("Tacrolimus", "PO", ""),
    ("Sirolimus", "PO", ""),
    ("Infliximab", "IV", ""),
    ("Denosumab (Prolia)", "SC", "bisphosphonates"),
    ("Rasburicase", "IV", ""),
    ("ALEMTUZumab", "IV", "chemotherapy"),
    ("Syringe (Chemo)", "IV", "chemotherapy"),
    ("Potassium Chloride Replacement (Oncology)", "PO", ""),
    ("Trastuzumab", "IV", "her2"),
    ("Ado-Trastuzumab Emtansine", "IV", "her2"),
    ("fam-trastuzumab deruxtecan-nxki", "IV", "her2"),
    ("Dexamethasone", "IV", "steroids"),
    ("Dexamethasone Sod Phosphate", "IV", "steroids"),
    ("MethylPREDNISolone Sodium Succ", "IV", "steroids"),
    ("PredniSONE", "PO/NG", "steroids"),
    ("Hydrocortisone Na Succ.", "IV", "steroids"),
    ("Dexamethasone Ophthalmic Soln 0.1%", "RIGHT EAR", ""),
    ("Dexamethasone Ophth", None, ""),
    ("PrednisoLONE Acetate 1% Ophth. Susp.", "BOTH EYES", ""),
    ("Hydrocortisone Cream 2.5%", "TP", ""),
    ("Hydrocortisone ", "PR", ""),
    ("Fludrocortisone Acetate", "PO", ""),
    ("Fluticasone Propionate NASAL", "NU", ""),
    ("HYDROmorphone (Dilaudid)", "IV", "opioids"),
    ("OxyCODONE (Immediate Release) ", "PO", "opioids"),
    ("OxyCODONE--Acetaminophen (5mg-325mg)", "PO/NG", "opioids"),
    ("Fentanyl Patch", "TD", "opioids"),
    ("Naloxone", "IV", ""),
    ("Methylnaltrexone", "SUBCUT", ""),
    ("Guaifenesin-CODEINE Phosphate", "PO/NG", ""),
    ("Heparin", "SC", "anticoagulants"),
    ("Enoxaparin Sodium", "SC", "anticoagulants"),
    ("Heparin Flush (10 units/ml)", "IV", ""),
    ("Heparin Dwell (1000 Units/mL)", "DWELL", ""),
    ("Heparin (CRRT Machine Priming)", "DIALYS", ""),
    ("CeftriaXONE", "IV", "antibiotics"),
    ("CefePIME", "IV", "antibiotics"),
    ("Sulfameth/Trimethoprim DS", "PO", "antibiotics"),
    ("*NF* Ertapenem Sodium", "IV", "antibiotics"),
    ("MetRONIDAZOLE (FLagyl)", "IV", "antibiotics"),
    ("Ciprofloxacin 0.3% Ophth Soln", "LEFT EAR", ""),
    ("Erythromycin 0.5% Ophth Oint", "BOTH EYES", ""),
    ("Vancomycin Enema", "PR", ""),
    ("Fluconazole", "PO", ""),
    ("Filgrastim-sndz", "SC", "g_csf"),
    ("Pegfilgrastim", "SC", "g_csf"),
    ("Nystatin", "PO", ""),
    ("Imipenem-Cilastatin", "IV", "antibiotics"),
    ("Atorvastatin", "PO", "statins"),
    ("Furosemide", "IV", "diuretics"),
    ("Insulin", "SC", "insulin"),
    ("Insulin Syringe U-500", "SC", ""),
    ("Insulin (Regular) for Hyperkalemia", "IV", ""),
    ("Metoprolol Tartrate", "PO", "antihypertensives"),
    ("Dorzolamide 2%/Timolol 0.5% Ophth.", "LEFT EYE", ""),
    ("NORepinephrine", "IV DRIP", "vasopressors"),
    ("Desmopressin Acetate", "IV", ""),
    ("Epinephrine 1:1000", "IM", ""),
    ("Racepinephrine", "IH", ""),
    ("LORazepam", "IV", "benzodiazepines"),
    ("NexIUM", "ORAL", "proton_pump_inhibitors"),
    ("Escitalopram Oxalate", "PO", "antidepressants"),
]


@pytest.mark.parametrize(("drug", "route", "expected"), VECTORS)
def test_drugs_fall_into_their_group_and_no_other(drug, route, expected):
    found = {name for name, t in load_treatments().items() if t.holds(drug, route)}
    assert found == set(expected.split())


def test_every_group_has_a_vector():
    assert set(load_treatments()) == {expected for _, _, expected in VECTORS} - {""}


ADMITTED = datetime(2150, 3, 1, 8)
INDEX = pl.DataFrame(
    {
        "subject_id": [2, 1],
        "hadm_id": [21, 11],
        "admittime": [ADMITTED, ADMITTED],
        "prediction_time": [ADMITTED + timedelta(days=1)] * 2,
    }
)
SCHEMA = {
    "subject_id": pl.Int64,
    "starttime": pl.Datetime,
    "drug_type": pl.String,
    "drug": pl.String,
    "route": pl.String,
}


def flag(*rows, lookback_days=30.0):
    prescriptions = pl.LazyFrame(rows, schema=SCHEMA, orient="row")
    orders = select_orders(prescriptions, INDEX, lookback_days=lookback_days).collect()
    treatments = choose_treatments(["chemotherapy", "endocrine"])
    return flag_treatments(orders, INDEX, treatments).select("hadm_id", "chemotherapy", "endocrine")


def order(days, drug="Tamoxifen", kind="MAIN", route="PO", subject=1):
    start = None if days is None else ADMITTED + timedelta(days=days)
    return (subject, start, kind, drug, route)


@pytest.mark.parametrize(
    ("row", "counts"),
    [
        (order(0.5), True),
        (order(1.0), True),
        (order(1.001), False),  # after the prediction time
        (order(-30.0), True),
        (order(-30.001), False),
        (order(None), False),
        (order(0.5, route=None), True),
        (order(0.5, kind="BASE"), False),
        (order(0.5, kind="Base"), False),
        (order(0.5, kind=None), True),
        (order(0.5, subject=3), False),
        (order(0.5, drug=None), False),
    ],
)
def test_an_order_counts_if_it_starts_within_the_window(row, counts):
    assert flag(row).rows() == [(21, 0, 0), (11, 0, int(counts))]


def test_groups_and_patients_are_kept_apart():
    table = flag(order(0.1), order(0.2), order(0.1, drug="Docetaxel", route="IV", subject=2))
    assert table.rows() == [(21, 1, 0), (11, 0, 1)]


def test_unknown_names_are_listed_together():
    with pytest.raises(InputError) as error:
        choose_treatments(["steroids", "statin", "leeches"])
    assert len(error.value.faults) == 2
