"""What the simulated hospital records: conditions with their codes, laboratory tests and drugs.

Codes, titles, item numbers, labels and reference ranges are those in use (ICD-9-CM, ICD-10-CM and
``d_labitems``). How often a laboratory test is missing was measured on the MIMIC-IV demo (275
admissions); other frequencies are plausible, not measured.
"""
# ruff: noqa: E501 -- one line a code, test or drug reads as the table it is.

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Panel = Literal["blood_count", "chemistry", "minerals", "liver", "coagulation", "marker", "text"]


@dataclass(frozen=True)
class Code:
    """One condition in both code versions.

    Attributes:
        icd9: Undotted ICD-9-CM code.
        icd10: Undotted ICD-10-CM code.
        title9: Its long title.
        title10: Its long title; empty where it is that of ICD-9.
    """

    icd9: str
    icd10: str
    title9: str
    title10: str = ""


@dataclass(frozen=True)
class Condition:
    """A lasting condition or an acute event.

    Attributes:
        name: Its name in the risk model.
        codes: Codes of which a patient carries one.
        logit: Log-odds of having it at age 60 and average frailty.
        per_decade: Added per ten years of age.
        frailty: Added per standard deviation of frailty.
        acute: Drawn anew at each admission; otherwise kept for life.
    """

    name: str
    codes: tuple[Code, ...]
    logit: float
    per_decade: float = 0.0
    frailty: float = 0.0
    acute: bool = False


@dataclass(frozen=True)
class Lab:
    """A laboratory test.

    Attributes:
        itemid: As in ``d_labitems``.
        label: As in ``d_labitems``.
        category: As in ``d_labitems``.
        panel: Tests of a panel are drawn together.
        unit: ``labevents.valueuom``; empty for none.
        low: Lower end of the reference range.
        high: Upper end of the reference range.
        decimals: Decimals printed.
        centre: Median of the population, in `unit`.
        spread: Standard deviation between admissions; of the logarithm where `skewed`.
        noise: Standard deviation between draws of an admission, likewise.
        frailty: Added per standard deviation of frailty, likewise.
        metastatic: Added if the cancer has spread, likewise.
        missing: Share of admissions at which it is never ordered; 0 for tumour markers, which are
            ordered draw by draw.
        skewed: Log-normal rather than normal.
        other_unit: A unit some results come in instead, with the factor from `unit`.
    """

    itemid: int
    label: str
    category: str
    panel: Panel
    unit: str
    low: float
    high: float
    decimals: int
    centre: float
    spread: float
    noise: float
    missing: float
    frailty: float = 0.0
    metastatic: float = 0.0
    skewed: bool = False
    other_unit: tuple[str, float] | None = None


@dataclass(frozen=True)
class TextLab:
    """A test whose result is words: no ``valuenum``.

    Attributes:
        itemid: As in ``d_labitems``.
        label: As in ``d_labitems``.
        fluid: As in ``d_labitems``.
        category: As in ``d_labitems``.
        comments: Results, written where the release writes them: into ``comments``.
    """

    itemid: int
    label: str
    fluid: str
    category: str
    comments: tuple[str, ...]


@dataclass(frozen=True)
class Drug:
    """A line of the formulary.

    Attributes:
        name: ``prescriptions.drug``.
        use: What decides whether it is ordered.
        probability: Share of the admissions with that use that get it.
        formulary: ``formulary_drug_cd``.
        gsn: Generic sequence number, zeros leading; empty where the release has none.
        ndc: National drug code; "0" where the release has none.
        strength: ``prod_strength``.
        dose: ``dose_val_rx`` and ``dose_unit_rx``.
        dispensed: ``form_val_disp`` and ``form_unit_disp``.
        per_day: ``doses_per_24_hrs``; 0 for none.
        route: ``route``.
    """

    name: str
    use: str
    probability: float
    formulary: str
    gsn: str
    ndc: str
    strength: str
    dose: tuple[str, str]
    dispensed: tuple[str, str]
    per_day: int
    route: str


BREAST_FEMALE: Final = (
    Code("1749", "C50912", "Malignant neoplasm of breast (female), unspecified", "Malignant neoplasm of unspecified site of left female breast"),
    Code("1749", "C50919", "Malignant neoplasm of breast (female), unspecified", "Malignant neoplasm of unspecified site of unspecified female breast"),
    Code("1744", "C50411", "Malignant neoplasm of upper-outer quadrant of female breast", "Malignant neoplasm of upper-outer quadrant of right female breast"),
    Code("1744", "C50412", "Malignant neoplasm of upper-outer quadrant of female breast", "Malignant neoplasm of upper-outer quadrant of left female breast"),
    Code("1742", "C50211", "Malignant neoplasm of upper-inner quadrant of female breast", "Malignant neoplasm of upper-inner quadrant of right female breast"),
    Code("1743", "C50311", "Malignant neoplasm of lower-inner quadrant of female breast", "Malignant neoplasm of lower-inner quadrant of right female breast"),
    Code("1745", "C50512", "Malignant neoplasm of lower-outer quadrant of female breast", "Malignant neoplasm of lower-outer quadrant of left female breast"),
    Code("1741", "C50111", "Malignant neoplasm of central portion of female breast", "Malignant neoplasm of central portion of right female breast"),
    Code("1748", "C50812", "Malignant neoplasm of other specified sites of female breast", "Malignant neoplasm of overlapping sites of left female breast"),
    Code("1740", "C50011", "Malignant neoplasm of nipple and areola of female breast", "Malignant neoplasm of nipple and areola, right female breast"),
)  # fmt: skip
BREAST_MALE: Final = (
    Code("1759", "C50929", "Malignant neoplasm of other and unspecified sites of male breast", "Malignant neoplasm of unspecified site of unspecified male breast"),
)  # fmt: skip
METASTASES: Final = (
    Code("1985", "C7951", "Secondary malignant neoplasm of bone and bone marrow", "Secondary malignant neoplasm of bone"),
    Code("1970", "C7800", "Secondary malignant neoplasm of lung", "Secondary malignant neoplasm of unspecified lung"),
    Code("1977", "C787", "Malignant neoplasm of liver, secondary", "Secondary malignant neoplasm of liver and intrahepatic bile duct"),
    Code("1983", "C7931", "Secondary malignant neoplasm of brain and spinal cord", "Secondary malignant neoplasm of brain"),
    Code("1963", "C773", "Secondary and unspecified malignant neoplasm of lymph nodes of axilla and upper limb", "Secondary and unspecified malignant neoplasm of axilla and upper limb lymph nodes"),
)  # fmt: skip
OTHER_CANCERS: Final = (
    Code("1539", "C189", "Malignant neoplasm of colon, unspecified site", "Malignant neoplasm of colon, unspecified"),
    Code("1629", "C3490", "Malignant neoplasm of bronchus and lung, unspecified", "Malignant neoplasm of unspecified part of unspecified bronchus or lung"),
)  # fmt: skip

CONDITIONS: Final = (
    Condition("hypertension", (Code("4019", "I10", "Unspecified essential hypertension", "Essential (primary) hypertension"),), -0.1, 0.4, 0.2),
    Condition("diabetes", (Code("25000", "E119", "Diabetes mellitus without mention of complication, type II or unspecified type, not stated as uncontrolled", "Type 2 diabetes mellitus without complications"),), -1.7, 0.15, 0.3),
    Condition("diabetes_complicated", (Code("25040", "E1122", "Diabetes with renal manifestations, type II or unspecified type, not stated as uncontrolled", "Type 2 diabetes mellitus with diabetic chronic kidney disease"),), -3.4, 0.15, 0.5),
    Condition("heart_failure", (Code("4280", "I509", "Congestive heart failure, unspecified", "Heart failure, unspecified"),), -2.4, 0.5, 0.6),
    Condition("arrhythmia", (Code("42731", "I4891", "Atrial fibrillation", "Unspecified atrial fibrillation"),), -2.1, 0.6, 0.3),
    Condition("lung_disease", (Code("496", "J449", "Chronic airway obstruction, not elsewhere classified", "Chronic obstructive pulmonary disease, unspecified"),), -2.1, 0.25, 0.4),
    Condition("renal_failure", (Code("5859", "N189", "Chronic kidney disease, unspecified"), Code("5853", "N183", "Chronic kidney disease, Stage III (moderate)", "Chronic kidney disease, stage 3 (moderate)")), -2.3, 0.45, 0.5),
    Condition("liver_disease", (Code("5715", "K7460", "Cirrhosis of liver without mention of alcohol", "Unspecified cirrhosis of liver"), Code("07054", "B182", "Chronic hepatitis C without mention of hepatic coma", "Chronic viral hepatitis C")), -3.2, -0.1, 0.3),
    Condition("hypothyroidism", (Code("2449", "E039", "Unspecified acquired hypothyroidism", "Hypothyroidism, unspecified"),), -1.8, 0.15),
    Condition("obesity", (Code("27800", "E669", "Obesity, unspecified"),), -1.9, -0.2),
    Condition("depression", (Code("311", "F329", "Depressive disorder, not elsewhere classified", "Major depressive disorder, single episode, unspecified"),), -1.5, -0.1, 0.1),
    Condition("deficiency_anaemia", (Code("2809", "D509", "Iron deficiency anemia, unspecified"),), -2.4, 0.1, 0.3),
    Condition("blood_loss_anaemia", (Code("2800", "D500", "Iron deficiency anemia secondary to blood loss (chronic)"),), -4.2, 0.1, 0.2),
    Condition("coagulopathy", (Code("2875", "D696", "Thrombocytopenia, unspecified"),), -2.7, 0.0, 0.4),
    Condition("weight_loss", (Code("2639", "E46", "Unspecified protein-calorie malnutrition"),), -2.4, 0.1, 0.8),
    Condition("peripheral_vascular", (Code("4439", "I739", "Peripheral vascular disease, unspecified"),), -3.0, 0.4, 0.2),
    Condition("valvular", (Code("4240", "I340", "Mitral valve disorders", "Nonrheumatic mitral (valve) insufficiency"),), -3.0, 0.4),
    Condition("pulmonary_circulation", (Code("4168", "I2720", "Other chronic pulmonary heart diseases", "Pulmonary hypertension, unspecified"), Code("41519", "I2699", "Other pulmonary embolism and infarction", "Other pulmonary embolism without acute cor pulmonale")), -3.2, 0.2, 0.4),
    Condition("rheumatoid", (Code("7140", "M069", "Rheumatoid arthritis", "Rheumatoid arthritis, unspecified"),), -3.4, 0.1),
    Condition("alcohol", (Code("30500", "F1010", "Alcohol abuse, unspecified", "Alcohol abuse, uncomplicated"),), -3.0, -0.4),
    Condition("drug_abuse", (Code("30590", "F1910", "Other, mixed, or unspecified drug abuse, unspecified", "Other psychoactive substance abuse, uncomplicated"),), -3.8, -0.6),
    Condition("psychosis", (Code("2989", "F29", "Unspecified psychosis", "Unspecified psychosis not due to a substance or known physiological condition"),), -4.0),
    Condition("paralysis", (Code("34290", "G8190", "Hemiplegia, unspecified, affecting unspecified side", "Hemiplegia, unspecified affecting unspecified side"),), -4.0, 0.2, 0.3),
    Condition("neurological", (Code("34590", "G40909", "Epilepsy, unspecified, without mention of intractable epilepsy", "Epilepsy, unspecified, not intractable, without status epilepticus"),), -3.0, 0.0, 0.2),
    Condition("peptic_ulcer", (Code("53390", "K279", "Peptic ulcer of unspecified site, unspecified as acute or chronic, without mention of hemorrhage or perforation, without mention of obstruction", "Peptic ulcer, site unspecified, unspecified as acute or chronic, without hemorrhage or perforation"),), -4.2, 0.1, 0.1),
    Condition("hiv", (Code("042", "B20", "Human immunodeficiency virus [HIV] disease"),), -5.0, -0.4),
    Condition("lymphoma", (Code("20280", "C8590", "Other malignant lymphomas, unspecified site, extranodal and solid organ sites", "Non-Hodgkin lymphoma, unspecified, unspecified site"),), -4.6, 0.1),
    Condition("coronary", (Code("41401", "I2510", "Coronary atherosclerosis of native coronary artery", "Atherosclerotic heart disease of native coronary artery without angina pectoris"),), -1.8, 0.5, 0.2),
    Condition("hyperlipidaemia", (Code("2724", "E785", "Other and unspecified hyperlipidemia", "Hyperlipidemia, unspecified"),), -0.6, 0.3),
    Condition("reflux", (Code("53081", "K219", "Esophageal reflux", "Gastro-esophageal reflux disease without esophagitis"),), -1.1, 0.1),
    Condition("smoker", (Code("V1582", "Z87891", "Personal history of tobacco use", "Personal history of nicotine dependence"),), -1.0, 0.1),
    Condition("osteoporosis", (Code("73300", "M810", "Osteoporosis, unspecified", "Age-related osteoporosis without current pathological fracture"),), -2.4, 0.6),
    Condition("hyponatraemia", (Code("2761", "E871", "Hyposmolality and/or hyponatremia", "Hypo-osmolality and hyponatremia"), Code("2768", "E876", "Hypopotassemia", "Hypokalemia")), -1.9, 0.1, 0.4, acute=True),
    Condition("kidney_injury", (Code("5849", "N179", "Acute kidney failure, unspecified"),), -2.0, 0.2, 0.5, acute=True),
    Condition("infection", (Code("0389", "A419", "Unspecified septicemia", "Sepsis, unspecified organism"), Code("486", "J189", "Pneumonia, organism unspecified", "Pneumonia, unspecified organism"), Code("5990", "N390", "Urinary tract infection, site not specified"), Code("6826", "L03115", "Cellulitis and abscess of leg, except foot", "Cellulitis of right lower limb"), Code("00845", "A047", "Intestinal infection due to Clostridium difficile", "Enterocolitis due to Clostridium difficile")), -0.9, 0.1, 0.4, acute=True),
    Condition("thrombosis", (Code("4539", "I82409", "Other venous embolism and thrombosis of unspecified site", "Acute embolism and thrombosis of unspecified deep veins of unspecified lower extremity"),), -2.8, 0.1, 0.2, acute=True),
    Condition("nausea", (Code("78702", "R112", "Nausea alone", "Nausea with vomiting, unspecified"),), -2.2, 0.0, 0.1, acute=True),
    Condition("acute_bleeding", (Code("2851", "D62", "Acute posthemorrhagic anemia"),), -2.3, 0.1, 0.3, acute=True),
    Condition("dehydration", (Code("27651", "E860", "Dehydration"),), -2.4, 0.1, 0.3, acute=True),
    Condition("respiratory_failure", (Code("51881", "J9601", "Acute respiratory failure", "Acute respiratory failure with hypoxia"),), -3.0, 0.1, 0.5, acute=True),
    Condition("fall", (Code("E8889", "W19XXXA", "Unspecified fall", "Unspecified fall, initial encounter"),), -3.0, 0.5, 0.2, acute=True),
)  # fmt: skip

LABS: Final = (
    Lab(51222, "Hemoglobin", "Hematology", "blood_count", "g/dL", 12.0, 16.0, 1, 11.3, 1.35, 0.45, 0.02, -0.55, -0.35, other_unit=("g/L", 10.0)),
    Lab(51221, "Hematocrit", "Hematology", "blood_count", "%", 36.0, 48.0, 1, 34.0, 4.0, 1.4, 0.02, -1.6, -1.0),
    Lab(51265, "Platelet Count", "Hematology", "blood_count", "K/uL", 150.0, 440.0, 0, 235.0, 0.38, 0.12, 0.02, 0.0, -0.05, skewed=True),
    Lab(51301, "White Blood Cells", "Hematology", "blood_count", "K/uL", 4.0, 11.0, 1, 8.0, 0.38, 0.18, 0.02, 0.08, 0.06, skewed=True, other_unit=("#/uL", 1000.0)),
    Lab(51250, "MCV", "Hematology", "blood_count", "fL", 82.0, 98.0, 0, 90.0, 6.0, 1.0, 0.02),
    Lab(51277, "RDW", "Hematology", "blood_count", "%", 10.5, 15.5, 1, 14.6, 1.5, 0.2, 0.02, 0.4, 0.4),
    Lab(50912, "Creatinine", "Chemistry", "chemistry", "mg/dL", 0.4, 1.1, 1, 0.9, 0.35, 0.12, 0.02, 0.1, skewed=True, other_unit=("umol/L", 88.4)),
    Lab(51006, "Urea Nitrogen", "Chemistry", "chemistry", "mg/dL", 6.0, 20.0, 0, 16.0, 0.42, 0.15, 0.02, 0.12, skewed=True),
    Lab(50983, "Sodium", "Chemistry", "chemistry", "mEq/L", 133.0, 145.0, 0, 138.5, 3.0, 1.6, 0.02, -0.6, -0.6, other_unit=("mmol/L", 1.0)),
    Lab(50971, "Potassium", "Chemistry", "chemistry", "mEq/L", 3.3, 5.1, 1, 4.1, 0.32, 0.28, 0.02),
    Lab(50902, "Chloride", "Chemistry", "chemistry", "mEq/L", 96.0, 108.0, 0, 102.5, 3.6, 1.8, 0.02, -0.3),
    Lab(50882, "Bicarbonate", "Chemistry", "chemistry", "mEq/L", 22.0, 32.0, 0, 25.5, 2.7, 1.5, 0.03, -0.3),
    Lab(50868, "Anion Gap", "Chemistry", "chemistry", "mEq/L", 8.0, 20.0, 0, 13.5, 2.2, 1.5, 0.03, 0.3),
    Lab(50931, "Glucose", "Chemistry", "chemistry", "mg/dL", 70.0, 100.0, 0, 115.0, 0.24, 0.18, 0.03, 0.03, skewed=True, other_unit=("mmol/L", 1 / 18.016)),
    Lab(50893, "Calcium, Total", "Chemistry", "minerals", "mg/dL", 8.4, 10.3, 1, 8.8, 0.5, 0.22, 0.12, -0.1, 0.1, other_unit=("mmol/L", 0.2495)),
    Lab(50960, "Magnesium", "Chemistry", "minerals", "mg/dL", 1.6, 2.6, 1, 1.9, 0.22, 0.15, 0.10),
    Lab(50970, "Phosphate", "Chemistry", "minerals", "mg/dL", 2.7, 4.5, 1, 3.4, 0.6, 0.4, 0.12),
    Lab(50862, "Albumin", "Chemistry", "liver", "g/dL", 3.5, 5.2, 1, 3.75, 0.42, 0.07, 0.45, -0.3, -0.25, other_unit=("g/L", 10.0)),
    Lab(50885, "Bilirubin, Total", "Chemistry", "liver", "mg/dL", 0.0, 1.5, 1, 0.5, 0.5, 0.15, 0.39, 0.06, 0.3, skewed=True, other_unit=("umol/L", 17.1)),
    Lab(50863, "Alkaline Phosphatase", "Chemistry", "liver", "IU/L", 35.0, 105.0, 0, 85.0, 0.38, 0.08, 0.40, 0.05, 0.45, skewed=True),
    Lab(50861, "Alanine Aminotransferase (ALT)", "Chemistry", "liver", "IU/L", 0.0, 40.0, 0, 24.0, 0.6, 0.15, 0.39, 0.0, 0.2, skewed=True),
    Lab(50878, "Asparate Aminotransferase (AST)", "Chemistry", "liver", "IU/L", 0.0, 40.0, 0, 27.0, 0.55, 0.15, 0.39, 0.04, 0.3, skewed=True),
    Lab(50954, "Lactate Dehydrogenase (LD)", "Chemistry", "liver", "IU/L", 94.0, 250.0, 0, 205.0, 0.3, 0.08, 0.64, 0.1, 0.35, skewed=True),
    Lab(51237, "INR(PT)", "Hematology", "coagulation", "", 0.9, 1.1, 1, 1.15, 0.16, 0.06, 0.17, 0.04, skewed=True),
    Lab(51274, "PT", "Hematology", "coagulation", "sec", 9.4, 12.5, 1, 12.8, 0.15, 0.05, 0.17, 0.04, skewed=True),
    Lab(50900, "Carcinoembyronic Antigen (CEA)", "Chemistry", "marker", "ng/mL", 0.0, 4.0, 1, 3.0, 0.8, 0.1, 0.00, 0.0, 1.4, skewed=True),
    Lab(50898, "Cancer Antigen 27.29", "Chemistry", "marker", "U/mL", 0.0, 38.0, 0, 28.0, 0.7, 0.1, 0.00, 0.0, 1.5, skewed=True),
    Lab(50892, "CA-125", "Chemistry", "marker", "U/mL", 0.0, 35.0, 0, 18.0, 0.7, 0.1, 0.00, 0.0, 0.9, skewed=True),
)  # fmt: skip

TEXT_LABS: Final = (
    TextLab(50920, "Estimated GFR (MDRD equation)", "Blood", "Chemistry", ("___", "Using this patient's age, gender, and serum creatinine value of ___.")),
    TextLab(51137, "Anisocytosis", "Blood", "Hematology", ("1+.", "NORMAL.", "OCCASIONAL.", "2+.")),
    TextLab(51506, "Urine Appearance", "Urine", "Hematology", ("Clear.", "Hazy.", "Cloudy.")),
    TextLab(51508, "Urine Color", "Urine", "Hematology", ("Yellow.", "Straw.", "Amber.")),
    TextLab(51487, "Nitrite", "Urine", "Hematology", ("NEG.", "NEG.", "NEG.", "POS.")),
    TextLab(51464, "Bilirubin", "Urine", "Hematology", ("NEG.", "NEG.", "SM .")),
)  # fmt: skip

DRUGS: Final = (
    Drug("Acetaminophen", "anyone", 0.75, "ACET325", "004489", "51079000220", "325mg Tablet", ("650", "mg"), ("2", "TAB"), 0, "PO/NG"),
    Drug("Docusate Sodium", "anyone", 0.5, "DOCU100", "003009", "00904224461", "100mg Capsule", ("100", "mg"), ("1", "CAP"), 2, "PO/NG"),
    Drug("Senna", "anyone", 0.4, "SENN187", "019964", "00904516561", "8.6 mg Tablet", ("8.6", "mg"), ("1", "TAB"), 0, "PO/NG"),
    Drug("0.9% Sodium Chloride", "anyone", 0.5, "NS100CG", "", "0", "100 mL Bag", ("1", "BAG"), ("1", "BAG"), 0, "IV"),
    Drug("Potassium Chloride", "anyone", 0.3, "MICROK10", "001275", "00245004101", "10mEq ER Tablet", ("40", "mEq"), ("4", "TAB"), 1, "PO"),
    Drug("Magnesium Sulfate", "anyone", 0.25, "MAG2PM", "016546", "00409672924", "2 g / 50 mL Premix Bag", ("2", "gm"), ("1", "BAG"), 0, "IV"),
    Drug("Pantoprazole", "anyone", 0.3, "PANT40", "027462", "00904623561", "40mg Tablet", ("40", "mg"), ("1", "TAB"), 1, "PO"),
    Drug("Lorazepam", "anyone", 0.2, "LORA2I", "003753", "00409198530", "2mg/mL Syringe", ("0.5", "mg"), ("0.25", "mL"), 1, "IV"),
    Drug("Furosemide", "heart_failure", 0.7, "FURO20I", "008205", "00409610202", "20mg/2mL Vial", ("20", "mg"), ("1", "VIAL"), 1, "IV"),
    Drug("Metoprolol Tartrate", "hypertension", 0.4, "METO5I", "019808", "00409177805", "5mg/5mL Vial", ("5", "mg"), ("1", "VIAL"), 1, "IV"),
    Drug("Lisinopril", "hypertension", 0.3, "LISI5", "000393", "68084006001", "5mg Tablet", ("5", "mg"), ("1", "TAB"), 1, "PO/NG"),
    Drug("Insulin", "diabetes", 0.8, "HUMU100I", "027413", "00002751001", "100 Units / mL - 10 mL Vial", ("0", "UNIT"), ("0", "VIAL"), 0, "SC"),
    Drug("MetFORMIN (Glucophage)", "diabetes", 0.3, "METF850", "016441", "51079097320", "850mg Tablet", ("850", "mg"), ("1", "TAB"), 2, "PO"),
    Drug("Simvastatin", "hyperlipidaemia", 0.5, "SIMV10", "016577", "51079045420", "10mg Tablet", ("20", "mg"), ("2", "TAB"), 1, "PO/NG"),
    Drug("Levothyroxine Sodium", "hypothyroidism", 0.8, "LEVO50", "006649", "00074455211", "50mcg Tablet", ("50", "mcg"), ("1", "TAB"), 1, "PO/NG"),
    Drug("Albuterol 0.083% Neb Soln", "lung_disease", 0.6, "ALBU3H", "005039", "49502069724", "0.083%;3mL Vial", ("1", "NEB"), ("1", "VIAL"), 0, "IH"),
    Drug("Ondansetron", "antiemetics", 0.75, "ONDAN4I", "061716", "00641607825", "2mg/mL-2mL", ("4", "mg"), ("1", "VIAL"), 0, "IV"),
    Drug("Prochlorperazine", "antiemetics", 0.3, "PROC10", "003846", "51079054220", "10 mg Tab", ("10", "mg"), ("1", "TAB"), 0, "PO"),
    Drug("Metoclopramide", "antiemetics", 0.2, "METO10I", "005229", "54868416700", "5mg/mL-2mL Vial", ("10", "mg"), ("1", "VIAL"), 0, "IV"),
    Drug("OxycoDONE (Immediate Release) ", "opioids", 0.6, "OXYC5", "004225", "00406055262", "5mg Tablet", ("5-10", "mg"), ("1-2", "TAB"), 0, "PO/NG"),
    Drug("Morphine Sulfate", "opioids", 0.4, "MORP2I", "070023", "00409189001", "2 mg Syringe", ("1-2", "mg"), ("0.5-1", "SYR"), 0, "IV"),
    Drug("HYDROmorphone (Dilaudid)", "opioids", 0.35, "HYDR1SYR", "062823", "00409128331", "1mg/1mL Syringe", ("0.5", "mg"), ("1", "SYR"), 0, "IV"),
    Drug("Heparin", "prophylaxis", 0.8, "HEPA5I", "006549", "63323026201", "5000 Units / mL- 1mL Vial", ("5000", "UNIT"), ("1", "mL"), 3, "SC"),
    Drug("Enoxaparin Sodium", "anticoagulants", 0.7, "LOVE40I", "039482", "00075062040", "40mg Syringe", ("40", "mg"), ("1", "SYR"), 1, "SC"),
    Drug("Warfarin", "anticoagulants", 0.4, "WARF5", "006562", "00056017275", "5mg Tablet", ("5", "mg"), ("1", "TAB"), 1, "PO/NG"),
    Drug("Vancomycin", "antibiotics", 0.5, "VANC1F", "043952", "00338355248", "1g Frozen Bag", ("1000", "mg"), ("1", "BAG"), 1, "IV"),
    Drug("Piperacillin-Tazobactam", "antibiotics", 0.3, "ZOSY4FPB", "040819", "00206886202", "4.5 g Frozen Bag", ("4.5", "g"), ("1", "BAG"), 3, "IV"),
    Drug("CefePIME", "antibiotics", 0.25, "CEFE2I", "024095", "60505068104", "2g Vial", ("2", "g"), ("1", "VIAL"), 1, "IV"),
    Drug("Ciprofloxacin HCl", "antibiotics", 0.3, "CIPR500", "009510", "68084007001", "500mg Tab", ("500", "mg"), ("1", "TAB"), 2, "PO/NG"),
    Drug("Dexamethasone", "steroids", 0.7, "DEXA4", "006789", "00054817525", "4mg Tab", ("4", "mg"), ("1", "TAB"), 2, "PO"),
    Drug("PredniSONE", "steroids", 0.4, "PRED10", "006749", "63739051910", "10 mg Tablet", ("10", "mg"), ("1", "TAB"), 1, "PO/NG"),
    Drug("Docetaxel", "chemotherapy", 0.45, "DOCE80I", "", "0", "80mg Vial", ("130", "mg"), ("13", "mL"), 1, "IV"),
    Drug("Cyclophosphamide", "chemotherapy", 0.45, "CYCL1000I", "", "0", "1000mg Vial", ("1050", "mg"), ("52.5", "mL"), 1, "IV"),
    Drug("DOXOrubicin", "chemotherapy", 0.3, "DOXO50I", "", "0", "50mg Vial", ("100", "mg"), ("50", "mL"), 1, "IV"),
    Drug("PACLitaxel", "chemotherapy", 0.3, "PACL100I", "", "0", "100mg Vial", ("140", "mg"), ("23.3", "mL"), 1, "IV"),
    Drug("Capecitabine", "chemotherapy", 0.15, "CAPE500", "", "0", "500mg Tablet", ("1500", "mg"), ("3", "TAB"), 2, "PO"),
    Drug("Tamoxifen Citrate", "endocrine", 0.35, "TAMO10", "008832", "00093078405", "10mg Tablet", ("20", "mg"), ("2", "TAB"), 1, "PO"),
    Drug("Anastrozole", "endocrine", 0.4, "ANAS1", "", "0", "1mg Tablet", ("1", "mg"), ("1", "TAB"), 1, "PO"),
    Drug("Letrozole", "endocrine", 0.35, "LETR2.5", "", "0", "2.5mg Tablet", ("2.5", "mg"), ("1", "TAB"), 1, "PO"),
    Drug("Exemestane", "endocrine", 0.1, "EXEM25", "", "0", "25mg Tablet", ("25", "mg"), ("1", "TAB"), 1, "PO"),
    Drug("Trastuzumab", "her2", 0.95, "TRAS440I", "", "0", "440mg Vial", ("420", "mg"), ("20", "mL"), 1, "IV"),
    Drug("Pertuzumab", "her2", 0.3, "PERT420I", "", "0", "420mg Vial", ("420", "mg"), ("14", "mL"), 1, "IV"),
    Drug("Filgrastim", "g_csf", 0.95, "GCSF480I", "046004", "55513054610", "480mcg Vial", ("480", "mcg"), ("1.6", "mL"), 1, "SC"),
    Drug("Zoledronic Acid", "bisphosphonates", 0.8, "ZOLE4I", "", "0", "4mg Vial", ("4", "mg"), ("5", "mL"), 1, "IV"),
    Drug("Pamidronate", "bisphosphonates", 0.3, "PAMI90I", "", "0", "90mg Vial", ("90", "mg"), ("10", "mL"), 1, "IV"),
)  # fmt: skip
