"""Stage ``explain_fusion``: the primary fusion model -> maps through its head, shares, case cards.

Cards show single patients: they are made only where the source of the records allows it.
"""

from pathlib import Path

import pandas as pd

from _stage import run_stage
from histofuse.core.artifacts import replacing_folder
from histofuse.core.bundle import PREDICTIONS, open_bundle
from histofuse.core.naming import name_fusion, show_count
from histofuse.core.privacy import may_show_patients
from histofuse.core.progress import report
from histofuse.core.tables import read_table
from histofuse.evaluation.metrics.bootstrap import Bootstrap
from histofuse.explain.estimates import list_concerns
from histofuse.explain.fusion.cards import write_cards
from histofuse.explain.fusion.report import open_fused_cases, write_modalities
from histofuse.explain.maps.gallery import write_gallery
from histofuse.explain.shap_values.report import TableName
from histofuse.features.embeddings import load_embeddings
from histofuse.features.encoding import ENCODED
from histofuse.features.specs import load_specs
from histofuse.params.base import load_section, load_seed
from histofuse.params.evaluation import EvaluationParams
from histofuse.params.explain import ExplainParams
from histofuse.params.intervals import IntervalParams
from histofuse.training.fusion import FUSION_PREDICTIONS

MODELS = Path("models")
PATCHES = Path("data/patches")
EMBEDDINGS = Path("data/embeddings")
ENCODED_FOLDER = Path("data/encoded")
SPECS = Path("data/ehr/features.json")
ASSESSMENT = Path("reports/assessment/assessment.json")
OUT = Path("reports/explain/fusion")


def main() -> None:
    params = load_section(ExplainParams, "explain")
    bootstrap = Bootstrap(load_section(IntervalParams, "intervals"), load_seed())
    rule = load_section(EvaluationParams, "evaluation").primary_rule
    bundle = open_bundle(MODELS / name_fusion(rule))
    encoders = {
        side: open_bundle(MODELS / facts["name"], digest=facts["digest"])
        for side, facts in bundle.config["encoders"].items()
    }
    encoded: dict[TableName, pd.DataFrame] = {
        "imputed": read_table(ENCODED_FOLDER / "imputed.parquet", ENCODED),
        "with_missing": read_table(ENCODED_FOLDER / "with_missing.parquet", ENCODED),
    }
    cases = open_fused_cases(
        bundle,
        encoders,
        load_embeddings(EMBEDDINGS),
        encoded=encoded,
        specs=load_specs(SPECS),
        predictions=read_table(bundle.path / PREDICTIONS, FUSION_PREDICTIONS),
    )
    row_level = may_show_patients([bundle.config["source"]])
    report(f"read {bundle.name} and its predictions of {len(cases.predictions):,} test pairs")

    out = OUT / bundle.name
    patches = cases.make_patches(PATCHES)
    with replacing_folder(out) as folder:
        tests = write_gallery(patches, folder, params, bootstrap)
        write_modalities(cases, folder, params, bootstrap)
        cards = write_cards(cases, patches, ASSESSMENT, folder, params) if row_level else []
    for concern in list_concerns(tests):
        report(f"concern: {concern}")
    figures = show_count(len(list(out.rglob("*.png"))), "figures")
    report(f"wrote {out}: {figures}, {len(cards)} of them case cards")


if __name__ == "__main__":
    run_stage(main)
