"""Methods of fusion x cohorts over seeds: gain, what is lost with one side, parameters, seconds.

Cohorts are drawn as in positive_control.py, and differ in what there is to gain:

- positive: image and record each know of the outcome what the other does not.
- null: without the image's own part; nothing can be gained.
- aligned: the null, each tissue paired with the record of another patient of the same outcome. The
  label leaks into the pairs: a gain is the pairing's own doing.

    python benchmarks/patient_methods.py [--seeds 20] [--pool FOLDER]

`--pool` is that of positive_control.py. Writes benchmarks/patient_methods.md.
"""

import argparse
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import numpy as np
import pandas as pd

from histofuse.core.bundle import open_bundle
from histofuse.core.naming import name_model, name_patient_model
from histofuse.core.seeding import make_rng
from histofuse.evaluation.metrics.bootstrap import Bootstrap
from histofuse.evaluation.patients import SIDES, VIEWS, Comparison, compare_methods
from histofuse.evaluation.predictions import Predictions, arrange_patients
from histofuse.params.base import load_section
from histofuse.params.ehr import EncodingParams
from histofuse.params.fusion import EncodersParams
from histofuse.params.intervals import IntervalParams
from histofuse.params.patients import AllPatientParams, AnyPatientParams
from histofuse.params.simulation import LinkedSimulationParams
from histofuse.patients.bags import PatientBags
from histofuse.patients.train import tabulate, train_method
from histofuse.training.recorder import Recorder
from positive_control import Pool

HERE: Final = Path(__file__).parent
CLASSES: Final = ["no_outcome", "outcome"]
BAR: Final = 0.01  # how far from the model of one side a method may be that is given this side


@dataclass(frozen=True)
class Cohorts:
    """Draws the cohorts of a seed."""

    pool: Pool
    params: LinkedSimulationParams

    def draw(self, seed: int) -> dict[str, PatientBags]:
        """Draw the patients of each cohort: the same tissue in all."""
        null = self.params.model_copy(update={"image_own": 0.0})
        without = self.pool.draw(null, seed)[1]
        linked = self.pool.draw(self.params, seed)[1]
        return {"positive": linked, "null": without, "aligned": align(without, seed)}


def align(bags: PatientBags, seed: int) -> PatientBags:
    """Give each patient the record of another of the same split and outcome."""
    rng = make_rng(seed, "patient_methods", "align")
    order = np.arange(len(bags))
    for split in np.unique(bags.split):
        for outcome in (0, 1):
            rows = np.flatnonzero((bags.split == split) & (bags.outcome == outcome))
            order[rows] = rng.permutation(rows)
    return replace(bags, records=bags.records.iloc[order].reset_index(drop=True))


def predict(
    bags: PatientBags, params: AnyPatientParams, encoding: EncodingParams, seed: int, name: str
) -> Mapping[str, Predictions]:
    """Train a method and predict all patients, by the sides given."""
    trained = train_method(bags, params, encoding, seed, Recorder())
    parameters = trained.fitted.model.parameters
    config = {
        "kind": "patient",
        "classes": CLASSES,
        "focus_class": CLASSES[1],
        "architecture": {"parameters": parameters},
    }
    about = {"name": name, "config": config, "history": pd.DataFrame(), "digest": ""}
    table = tabulate(trained, bags)
    return {view: arrange_patients(table, about, view) for view in VIEWS}


def measure(
    bags: PatientBags, methods: Mapping[str, AnyPatientParams], encoding: EncodingParams, seed: int
) -> tuple[Comparison, dict[str, float]]:
    """Compare all methods on a cohort, and count the CPU-seconds of each."""
    models, seconds = {}, {}
    for key, params in methods.items():
        name, started = name_patient_model(key), time.process_time()
        models[name] = predict(bags, params, encoding, seed, name)
        seconds[name] = time.process_time() - started
    bootstrap = Bootstrap(load_section(IntervalParams, "intervals"), seed)
    return compare_methods(models, "test", bootstrap), seconds


# --- report -------------------------------------------------------------------------------------


def tabulate_methods(
    results: Mapping[str, list[Comparison]], seconds: list[dict[str, float]]
) -> str:
    """Make the table of methods and cohorts."""
    cohorts = list(results)
    head = ["method", *(f"{c}: AUROC | gain | gains" for c in cohorts), "parameters", "seconds"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * (3 + 3 * len(cohorts))]
    for name in results[cohorts[0]][0].methods:
        cells = [name_model(name)]
        for of in results.values():
            measured = [comparison.methods[name] for comparison in of]
            views = [m.views.get("both") or next(iter(m.views.values())) for m in measured]
            gains = [m.gain for m in measured if m.gain]
            clear = sum((gain.low or 0) > 0 for gain in gains)
            cells += [show([v.value for v in views]), show([g.value for g in gains], sign="+")]
            cells += [f"{clear} of {len(gains)}" if gains else "–"]
        cells += [f"{results[cohorts[0]][0].methods[name].parameters:,}"]
        cells += [f"{np.mean([s[name] for s in seconds]):.1f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def show(values: list[float | None], sign: str = "") -> str:
    """Write mean and standard deviation over seeds."""
    known = [value for value in values if value is not None]
    return f"{np.mean(known):{sign}.3f} ± {np.std(known):.3f}" if known else "–"


def tabulate_sides(of: list[Comparison]) -> tuple[str, bool]:
    """Make the table of one side given, against the model of that side."""
    lines = ["| method | image: AUROC | less the image's model | record: AUROC | less the record's "
             "model | |", "|" + "---|" * 6]  # fmt: skip
    all_hold = True
    for name in (n for n, m in of[0].methods.items() if m.gain):
        cells, holds = [name_model(name)], True
        for side in SIDES:
            behind = [c.methods[name].behind[side].value for c in of]
            cells += [show([c.methods[name].views[side].value for c in of]), show(behind, "+")]
            holds &= float(np.mean([b for b in behind if b is not None])) >= -BAR
        all_hold &= holds
        lines.append("| " + " | ".join([*cells, "holds" if holds else "**falls short**"]) + " |")
    return "\n".join(lines), all_hold


def main() -> int:
    """Measure all seeds and write the tables; fails where a method falls short with one side."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--pool", type=Path, help="folder that keeps the embeddings")
    options = parser.parse_args()
    params = load_section(LinkedSimulationParams, "simulation.linked")
    methods = load_section(AllPatientParams, "patients").root
    encoding = load_section(EncodingParams, "encoding")
    encoder = open_bundle(Path("models") / load_section(EncodersParams, "encoders").image)
    with TemporaryDirectory() as scratch:
        folder = options.pool or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        cohorts = Cohorts(Pool(params, encoder, folder), params)
    results: dict[str, list[Comparison]] = {}
    seconds: list[dict[str, float]] = []
    for seed in range(options.seeds):
        for cohort, bags in cohorts.draw(seed).items():
            comparison, took = measure(bags, methods, encoding, seed)
            results.setdefault(cohort, []).append(comparison)
            seconds.append(took)
        print(f"seed {seed}: default {results['positive'][-1].default}", flush=True)
    sides, holds = tabulate_sides(results["positive"])
    chosen = pd.Series([c.default for c in results["positive"]]).value_counts()
    text = (
        "# Methods of fusion at patient level\n\n"
        f"{options.seeds} seeds of {params.patients} patients; mean ± standard deviation over "
        "seeds. Gain: less the better model of one side; gains: seeds in which the whole 95% "
        "interval lies above zero. Seconds are of a CPU. Cohorts are described in "
        "`benchmarks/patient_methods.py`, which wrote this.\n\n"
        f"{tabulate_methods(results, seconds)}\n\n"
        "The simplest method that no other beats by a whole interval, over seeds: "
        f"{', '.join(f'{name_model(str(n))} {k}' for n, k in chosen.items())}.\n\n"
        f"## One side given\n\nBar: mean at most {BAR} below the model of that side.\n\n{sides}\n"
    )
    (HERE / "patient_methods.md").write_text(text, encoding="utf-8")
    print(text)
    return int(not holds)


if __name__ == "__main__":
    raise SystemExit(main())
