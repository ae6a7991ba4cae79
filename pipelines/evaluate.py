"""Stage ``evaluate``: predictions of every bundle -> metrics, tables and figures."""

from collections.abc import Sequence
from pathlib import Path

from _stage import run_stage
from histofuse.core.artifacts import load_json, replacing_folder, write_json
from histofuse.core.errors import InputError
from histofuse.core.naming import show_count
from histofuse.core.progress import report, track
from histofuse.evaluation.metrics.bootstrap import Bootstrap
from histofuse.evaluation.performance.comparison import compare_fusion, describe_pairs
from histofuse.evaluation.performance.diagnoses import compare_diagnoses, refit_model
from histofuse.evaluation.performance.figures import draw_comparison_figure, draw_model_figures
from histofuse.evaluation.performance.intervals import (
    Intervals,
    choose_headline,
    describe_intervals,
    estimate_intervals,
)
from histofuse.evaluation.performance.plots import write_plot_data
from histofuse.evaluation.performance.results import Context, Result, evaluate_model, summarise
from histofuse.evaluation.performance.tables import (
    Table,
    make_diagnoses_table,
    make_tables,
    write_tables,
)
from histofuse.evaluation.performance.training import make_training_table
from histofuse.evaluation.predictions import load_predictions
from histofuse.params.base import PARAMS_FILE, load_section, load_seed, load_value
from histofuse.params.evaluation import EvaluationParams
from histofuse.params.intervals import IntervalParams
from histofuse.params.promotion import PromotionParams
from histofuse.training.tabular import load_table

MODELS = Path("models")
NAMES = Path("data/models.json")
PATCH_METADATA = Path("data/patches/meta.json")
COHORT_METADATA = Path("data/cohort/meta.json")
PRIOR_DIAGNOSES = Path("data/encoded/prior_diagnoses")  # where params ask for later ones too
PATCH_AUDIT = Path("data/splits/patches_audit.json")
TABLES = Path("reports/tables")
FIGURES = Path("reports/figures")
PLOTS = Path("reports/plots")  # what `dvc plots` draws
METRICS = Path("reports/metrics.json")
HEADLINE = Path("reports/headline.json")  # in git, for DVC to compare


def main() -> None:
    params = load_section(EvaluationParams, "evaluation")
    names = load_json(NAMES)
    alarm_at = load_value(PromotionParams, "promotion.alarm_at")
    sources = (PATCH_METADATA, COHORT_METADATA)
    context = Context.load(sources, PATCH_AUDIT, params, dict(names["pairing"]), alarm_at)
    models = context.list_models(names["image"], names["tabular"])
    results = [evaluate_model(load_predictions(MODELS / name), context) for name in models]
    report(f"read predictions of {show_count(results, 'models')}")

    comparison = compare_fusion(results, context)
    bootstrap = Bootstrap(load_section(IntervalParams, "intervals"), load_seed())
    intervals = estimate_intervals(results, comparison, context, bootstrap)
    tables = make_tables(results, comparison, context, intervals)
    if PRIOR_DIAGNOSES.is_dir():
        tables.append(measure_prior(results, params.diagnoses_model, context, intervals, bootstrap))
    if (training := make_training_table(results)).rows:
        tables.append(training)
    with replacing_folder(TABLES) as folder:
        write_tables(tables, folder)
    with replacing_folder(FIGURES) as folder:
        for result in track(results, "drawing figures", total=len(results)):
            draw_model_figures(result, params.split, intervals, folder / result.name)
        if comparison:
            path = folder / "comparison" / "fusion_vs_resnet.png"
            draw_comparison_figure(comparison, params.split, intervals, path)
    with replacing_folder(PLOTS) as folder:
        for result in results:
            write_plot_data(result, params.split, folder)
    summary = summarise(results, describe_pairs(comparison, context))
    summary["intervals"] = describe_intervals(intervals, params.split)
    write_json(summary, METRICS)
    write_json(choose_headline(results, intervals, context), HEADLINE)
    report(f"wrote {HEADLINE}, {METRICS}, {len(tables)} tables in {TABLES}, figures in {FIGURES}")


def measure_prior(
    results: Sequence[Result],
    name: str,
    context: Context,
    intervals: Intervals,
    bootstrap: Bootstrap,
) -> Table:
    """Train a model again with the diagnoses of earlier admissions only."""
    chosen = [r for r in results if r.name == name and r.model.kind == "tabular"]
    if not chosen:
        known = ", ".join(r.name for r in results if r.model.kind == "tabular")
        where = f"{PARAMS_FILE}, evaluation.diagnoses_model"
        raise InputError.of(where, f"no model {name!r}", f"one of {known}")
    kind = chosen[0].model.config["architecture"]["kind"]
    table = load_table(PRIOR_DIAGNOSES, COHORT_METADATA, kind)
    prior = refit_model(chosen[0].model, table)
    measured = compare_diagnoses(chosen[0].model, prior, context.split, bootstrap)
    return make_diagnoses_table(chosen[0], measured, context, intervals)


if __name__ == "__main__":
    run_stage(main)
