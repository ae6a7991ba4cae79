"""Stage ``assess``: every bundle -> calibration, decision curves, prediction sets, subgroups."""

from pathlib import Path

from _stage import run_stage
from histofuse.core.artifacts import load_json, replacing_folder, write_json
from histofuse.core.naming import show_count
from histofuse.core.progress import report, track
from histofuse.core.tables import read_table
from histofuse.evaluation.assessment.assess import assess_model, describe_assessments
from histofuse.evaluation.assessment.figures import draw_assessment
from histofuse.evaluation.assessment.tables import make_assessment_tables
from histofuse.evaluation.metrics.bootstrap import Bootstrap
from histofuse.evaluation.performance.results import Context, evaluate_model
from histofuse.evaluation.performance.tables import write_tables
from histofuse.evaluation.predictions import load_predictions
from histofuse.features.specs import FEATURES
from histofuse.params.base import load_section, load_seed
from histofuse.params.evaluation import AssessmentParams, EvaluationParams
from histofuse.params.intervals import IntervalParams
from histofuse.training.decision import load_decision

MODELS = Path("models")
NAMES = Path("data/models.json")
PATCH_METADATA = Path("data/patches/meta.json")
COHORT_METADATA = Path("data/cohort/meta.json")
PATCH_AUDIT = Path("data/splits/patches_audit.json")
EHR_FEATURES = Path("data/ehr/features.parquet")
OUTPUT = Path("reports/assessment")


def main() -> None:
    reported = load_section(EvaluationParams, "evaluation")
    params = load_section(AssessmentParams, "assessment")
    bootstrap = Bootstrap(load_section(IntervalParams, "intervals"), load_seed())
    names = load_json(NAMES)
    sources = (PATCH_METADATA, COHORT_METADATA)
    context = Context.load(sources, PATCH_AUDIT, reported, dict(names["pairing"]))
    features = read_table(EHR_FEATURES, FEATURES)
    models = context.list_models(names["image"], names["tabular"])
    assessments = []
    for name in track(models, "assessing", total=len(models)):
        result = evaluate_model(load_predictions(MODELS / name), context)
        calibrator = load_decision(MODELS / name).calibrator
        assessments.append(
            assess_model(result, calibrator, features, context, params, bootstrap=bootstrap)
        )
    report(f"assessed {show_count(assessments, 'models')} on {context.split}")

    tables = make_assessment_tables(assessments, context, params, bootstrap.params)
    with replacing_folder(OUTPUT) as folder:
        write_json(
            describe_assessments(assessments, context, params, bootstrap.params),
            folder / "assessment.json",
        )
        write_tables(tables, folder / "tables")
        for a in track(assessments, "drawing figures", total=len(assessments)):
            place = folder / "figures" / a.result.name
            draw_assessment(a, context.split, bootstrap.params.confidence, place)
    of = show_count(assessments, "models")
    report(f"wrote {show_count(tables, 'tables')} and figures of {of} in {OUTPUT}")


if __name__ == "__main__":
    run_stage(main)
