"""Stage ``explain_tabular``: a model on health records -> SHAP report.

Single patients are shown only where the source of the records allows it.
"""

from pathlib import Path

import pandas as pd

from _stage import run_stage
from histofuse.core.bundle import open_bundle
from histofuse.core.privacy import may_show_patients
from histofuse.core.progress import report
from histofuse.core.tables import read_table
from histofuse.evaluation.metrics.bootstrap import Bootstrap
from histofuse.explain.shap_values.report import TableName, write_shap_report
from histofuse.features.encoding import ENCODED
from histofuse.features.specs import load_specs
from histofuse.params.base import load_section, load_seed
from histofuse.params.explain import ExplainParams
from histofuse.params.intervals import IntervalParams

MODELS = Path("models")
ENCODED_FOLDER = Path("data/encoded")
SPECS = Path("data/ehr/features.json")
OUT = Path("reports/explain/shap")


def main(model: str) -> None:
    params = load_section(ExplainParams, "explain")
    bootstrap = Bootstrap(load_section(IntervalParams, "intervals"), load_seed())
    bundle = open_bundle(MODELS / model)
    encoded: dict[TableName, pd.DataFrame] = {
        "imputed": read_table(ENCODED_FOLDER / "imputed.parquet", ENCODED),
        "with_missing": read_table(ENCODED_FOLDER / "with_missing.parquet", ENCODED),
    }
    row_level = may_show_patients([bundle.config["source"]])
    report(f"read {model} and {len(encoded['imputed']):,} encoded admissions")

    write_shap_report(
        bundle,
        encoded,
        load_specs(SPECS),
        OUT / model,
        params,
        bootstrap=bootstrap,
        row_level=row_level,
    )


if __name__ == "__main__":
    run_stage(main)
