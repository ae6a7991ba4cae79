"""Stage ``controls``: arms of pairing beside each other, shuffled labels, shuffled images."""

from pathlib import Path

import numpy as np
import pandas as pd

from _stage import run_stage
from histofuse.core.artifacts import load_json, replacing_folder, to_json
from histofuse.core.naming import name_fusion
from histofuse.core.progress import report
from histofuse.evaluation.controls.measure import (
    IMAGE,
    Controls,
    Shuffled,
    compare_arms,
    describe_controls,
    measure_shuffles,
)
from histofuse.evaluation.controls.report import draw_controls, make_control_tables
from histofuse.evaluation.controls.verdicts import judge
from histofuse.evaluation.drawing import save_drawing
from histofuse.evaluation.focus import find_minority_class
from histofuse.evaluation.metrics.bootstrap import Bootstrap
from histofuse.evaluation.performance.tables import write_tables
from histofuse.evaluation.predictions import Predictions, load_predictions, name_admissions
from histofuse.params.base import load_section, load_seed
from histofuse.params.controls import ControlParams
from histofuse.params.fusion import EncodersParams, FusionParams
from histofuse.params.intervals import IntervalParams
from histofuse.params.pairing import PairingParams, PairingsParams
from histofuse.params.tabular import AllTabularParams, AnyTabularParams
from histofuse.params.tune import apply_values
from histofuse.studies.results import BEST_PARAMS, read_best_params
from histofuse.training.controls import Answers, run_fusion_control, run_tabular_control
from histofuse.training.fusion import PairedEmbeddings, load_pairs
from histofuse.training.tabular import load_table

MODELS = Path("models")
PAIRS = Path("data/pairs")
EMBEDDINGS = Path("data/embeddings")
ENCODED = Path("data/encoded")
COHORT_FACTS = Path("data/cohort/meta.json")
PATCH_FACTS = Path("data/patches/meta.json")
STUDIES = Path("studies")
OUT = Path("reports/controls")


def main() -> None:
    params = load_section(ControlParams, "controls")
    pairings = load_section(PairingsParams, "pairing").root
    bootstrap = Bootstrap(load_section(IntervalParams, "intervals"), load_seed())
    encoder = load_section(EncodersParams, "encoders").image
    rows = {IMAGE: load_predictions(MODELS / encoder).of("test")}
    rows |= {
        p.rule: load_predictions(MODELS / name_fusion(name)).of("test")
        for name, p in pairings.items()
    }
    report(f"read predictions of {len(rows)} arms")
    minority = find_minority_class(rows[IMAGE])
    metrics = [m.replace("minority", minority) for m in params.metrics]
    # A linked pairing holds the patches of linked patients alone.
    rows[IMAGE] = restrict(rows[IMAGE], list(rows.values()))

    arms, differences = compare_arms(rows, metrics, bootstrap)
    shuffled = run_fusion_controls(pairings, params, metrics, bootstrap)
    left, admissions = run_record_control(params, bootstrap)
    shuffled["shuffled_targets"] = left
    sizes = {"patches": rows[IMAGE].describe_size(), "admissions": admissions}
    controls = Controls(tuple(metrics), arms, differences, shuffled, sizes)
    verdicts = judge(controls)

    simulated = "simulated" in (load_json(PATCH_FACTS)["source"], load_json(COHORT_FACTS)["source"])
    source = "SIMULATED DATA" if simulated else "real data, paired by rule"
    footer = f"{source}  ·  test split  ·  {sizes['patches']}; squares: means of {params.repeats}"
    footer += " shuffles"
    with replacing_folder(OUT) as folder:
        (folder / "controls.json").write_text(to_json(describe_controls(controls, verdicts)))
        tables = make_control_tables(controls, verdicts, bootstrap.params, simulated=simulated)
        write_tables(tables, folder / "tables")
        save_drawing(draw_controls, (controls,), footer, folder / "controls.png")
    for verdict in verdicts:
        report(f"{verdict.question} {verdict.answer.upper()}. {verdict.sentence}")
    report(f"wrote {OUT}")


def restrict(image: Predictions, arms: list[Predictions]) -> Predictions:
    """Take the patches that every arm holds."""
    shared = np.all([np.isin(image.keys, arm.keys) for arm in arms], axis=0)
    return image.take(np.flatnonzero(shared))


def run_fusion_controls(
    pairings: dict, params: ControlParams, metrics: list[str], bootstrap: Bootstrap
) -> dict[str, dict[str, Shuffled]]:
    """Train heads on shuffled images under each rule, and on shuffled labels under the first."""
    fusion = load_section(FusionParams, "fusion")
    fusion = apply_values(fusion, read_best_params(STUDIES / fusion.study / BEST_PARAMS))
    found: dict[str, dict[str, Shuffled]] = {}
    for number, (name, pairing) in enumerate(pairings.items()):
        data = load_pairs(PAIRS / f"{name}.parquet", EMBEDDINGS, PairingParams(pairing))
        named = {"shuffled_images": f"shuffled_images[{pairing.rule}]"}
        if not number:
            named = {"shuffled_labels": "shuffled_labels"} | named
        for control, title in named.items():
            answers = run_fusion_control(data, fusion, control, params.repeats, bootstrap.seed)
            test = take_test_pairs(data)
            found[title] = measure_shuffles(test, answers, metrics, bootstrap)
            report(f"trained {len(answers)} heads: {title}")
    return found


def take_test_pairs(data: PairedEmbeddings) -> Predictions:
    """Take the test pairs in their order, with true labels and no predictions yet."""
    pairs = data.pairs[data.pairs["split"] == "test"]
    labels = np.array([data.classes.index(label) for label in pairs["label"]], dtype=np.int64)
    config = {"kind": "fusion", "classes": data.classes}
    return make_rows(config, pairs["patch_id"], labels, pairs["case_id"].to_numpy(dtype=object))


def run_record_control(
    params: ControlParams, bootstrap: Bootstrap
) -> tuple[dict[str, Shuffled], str]:
    """Train a model of the record on shuffled targets; describe the test split with it."""
    model: AnyTabularParams = load_section(AllTabularParams, "tabular").root[params.tabular]
    model = apply_values(model, read_best_params(STUDIES / model.study / BEST_PARAMS))
    table = load_table(ENCODED, COHORT_FACTS, model.kind)
    answers: list[Answers] = run_tabular_control(table, model, params.repeats, bootstrap.seed)
    rows = table.rows[table.rows["split"] == "test"]
    keys = name_admissions(rows["subject_id"].to_numpy(), rows["hadm_id"].to_numpy())
    config = {"kind": "tabular", "classes": [f"no_{table.target}", table.target]}
    target = rows["target"].to_numpy(dtype=np.int64)
    test = make_rows(config, keys, target, rows["subject_id"].to_numpy())
    metrics = [m.replace("minority", table.target) for m in params.metrics]
    return measure_shuffles(test, answers, metrics, bootstrap), test.describe_size()


def make_rows(config: dict, keys, labels: np.ndarray, groups: np.ndarray) -> Predictions:
    """Make test rows without predictions."""
    n, k = len(labels), len(config["classes"])
    return Predictions(
        name=config["kind"],
        config=config,
        history=pd.DataFrame(),
        keys=np.asarray(keys, dtype=object),
        split=np.full(n, "test", dtype=object),
        labels=labels,
        probabilities=np.full((n, k), 1 / k),
        predictions=np.zeros(n, dtype=np.int64),
        groups=groups,
        subjects=None,
    )


if __name__ == "__main__":
    run_stage(main)
