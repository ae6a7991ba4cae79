"""Does fusion gain on linked patients, and nothing under the null? Over many seeds.

One encoder serves all seeds: that of the default run. A pool of tissue is rendered and embedded
once. Each seed draws its patients from the pool, and their records, outcomes and splits anew, for
the default params and for the null (``image_own: 0``). So two seeds share some tissue, and nothing
else: rendering all anew would take minutes a seed.

    python benchmarks/positive_control.py [--seeds 20] [--pool FOLDER]

`--pool` keeps the embeddings for the next call. Needs the models of `dvc repro train_image`. Writes
benchmarks/positive_control.md.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from histofuse.core.artifacts import digest_text
from histofuse.core.bundle import Bundle, open_bundle
from histofuse.core.naming import show_interval
from histofuse.core.seeding import make_rng
from histofuse.data.patches import PatchMeta, load_index
from histofuse.data.simulate.linked.achievable import SIDES
from histofuse.data.simulate.linked.cohort import (
    CLASSES,
    LinkedCohort,
    Tissue,
    draw_outcome,
    draw_tissue,
)
from histofuse.data.simulate.linked.files import Cutting, simulate_linked, tabulate_patients
from histofuse.evaluation.metrics.bootstrap import Bootstrap, Interval
from histofuse.evaluation.positive_control.measure import (
    ControlMethods,
    measure_gain,
    score_by_chance,
    score_cohort,
)
from histofuse.models.backbones import load_image_model
from histofuse.params.base import load_section
from histofuse.params.ehr import EncodingParams
from histofuse.params.evaluation import PositiveControlParams
from histofuse.params.fusion import EncodersParams
from histofuse.params.intervals import IntervalParams
from histofuse.params.patients import AllPatientParams
from histofuse.params.simulation import LinkedSimulationParams
from histofuse.patients.bags import PatientBags, describe_record
from histofuse.training.image import apply_network

HERE = Path(__file__).parent
PARTS = 5  # of the pool, each as large as a cohort
SHARD_PATCHES = 4096
TISSUE = {
    "patients",
    "nuclei_per_patient",
    "mitosis_fraction",
    "grade_effect",
    "pleomorphism_correlation",
    "look_variation",
    "severity_in_tissue",
}
BARS = {"gains": 0.8, "gains under the null": 0.15, "share": 0.7}

Params = LinkedSimulationParams
Measured = Mapping[str, Interval]


class Pool:
    """Tissue of many patients, embedded once."""

    def __init__(self, params: Params, encoder: Bundle, folder: Path) -> None:
        """Render and embed what `folder` does not hold yet."""
        tissues = [draw_tissue(params, seed) for seed in range(PARTS)]
        parts = [_embed(params, seed, encoder, folder) for seed in range(PARTS)]
        self.tissue = Tissue(
            *(np.concatenate([getattr(t, f.name) for t in tissues]) for f in fields(Tissue))
        )
        shape = len(self.tissue.own), params.nuclei_per_patient, -1
        self.embeddings, self.logits = (
            np.concatenate([part[k] for part in parts]).reshape(shape) for k in range(2)
        )

    def draw(self, params: Params, seed: int) -> tuple[LinkedCohort, PatientBags]:
        """Draw patients of the pool, with records, outcomes and splits of their own."""
        rng = make_rng(seed, "positive_control", "patients")
        chosen = rng.permutation(len(self.tissue.own))[: params.patients]
        tissue = Tissue(*(getattr(self.tissue, f.name)[chosen] for f in fields(Tissue)))
        cohort = LinkedCohort(tissue, *draw_outcome(tissue, params, seed))
        table = tabulate_patients(cohort, params, seed)
        records = table[table.columns[3:]]
        nuclei = params.nuclei_per_patient
        bags = PatientBags(
            embeddings=self.embeddings[chosen].reshape(len(chosen) * nuclei, -1),
            logits=self.logits[chosen].reshape(len(chosen) * nuclei, -1),
            bag_of=np.repeat(np.arange(len(chosen)), nuclei),
            records=records,
            specs=describe_record(records),
            outcome=cohort.outcome,
            split=table["split"].to_numpy(dtype=object),
            patient_ids=table["patient_id"].to_numpy(dtype=object),
        )
        return cohort, bags


def _embed(params: Params, seed: int, encoder: Bundle, folder: Path) -> list[np.ndarray]:
    drawn = digest_text(params.model_dump_json(include=TISSUE))[:8]  # of other params, other tissue
    kept = folder / f"{encoder.digest[:12]}-{drawn}-{seed}.npz"
    if not kept.is_file():
        with TemporaryDirectory(dir=folder) as scratch:
            cutting = Cutting(_describe_patches(encoder), SHARD_PATCHES)
            simulate_linked(params, cutting, seed, Path(scratch) / "linked")
            index = load_index(Path(scratch) / "linked")
            model = load_image_model(encoder)
            outputs = apply_network(model, Path(scratch) / "linked", index)
        np.savez(kept, embeddings=outputs.embeddings, logits=outputs.logits)
    with np.load(kept) as arrays:
        return [arrays["embeddings"], arrays["logits"]]


def _describe_patches(encoder: Bundle) -> PatchMeta:
    spec = load_image_model(encoder).spec
    stored_px = spec.patch_px + 2 * spec.margin_px
    sizes = spec.patch_px, spec.margin_px, stored_px
    return PatchMeta(*sizes, list(CLASSES), "simulated", "none", spec.patch_um)


def measure_seed(
    pool: Pool, params: Params, methods: ControlMethods, bootstrap: Bootstrap
) -> Measured:
    """Measure one draw, with records by chance once."""
    cohort, bags = pool.draw(params, methods.seed)
    scores = score_cohort(bags, cohort, params, methods)
    return measure_gain(replace(scores, by_chance=score_by_chance(bags, methods, 1)), bootstrap)


# --- report -------------------------------------------------------------------------------------


def tabulate(linked: list[Measured], null: list[Measured]) -> str:
    """Make the table of seeds."""
    arms = ("model/image", "model/record", "model/both", "model/by_chance", "best/both")
    lines = [
        "| seed | image | record | both | records by chance | achievable | gain | achievable gain "
        "| share | null: both | null: gain |",
        "|" + "---|" * 11,
    ]
    for seed, (of, without) in enumerate(zip(linked, null, strict=True)):
        cells = [f"{seed}", *(f"{of[arm].value:.3f}" for arm in arms), show(of["gain"])]
        cells += [f"{of['achievable_gain'].value:.3f}", f"{of['share'].value:.0%}"]
        cells += [f"{without['model/both'].value:.3f}", show(without["gain"])]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def show(interval: Interval) -> str:
    """Write a gain with its interval."""
    return show_interval(interval.value, interval.low, interval.high, "+")


def summarise(linked: list[Measured], null: list[Measured]) -> tuple[str, bool]:
    """Hold the seeds against the bars."""
    gains, by_null = (sum((of["gain"].low or 0) > 0 for of in cohort) for cohort in (linked, null))
    share, gain, achievable, chance = (
        float(np.nanmean(np.array([of[name].value for of in linked], dtype=np.float64)))
        for name in ("share", "gain", "achievable_gain", "gain_by_chance")
    )
    n = len(linked)
    rows = [
        ("Lower end of the gain above zero", f"{gains} of {n}", f"≥ {BARS['gains']:.0%}",
         gains >= BARS["gains"] * n),
        ("The same under the null", f"{by_null} of {n}", f"≤ {BARS['gains under the null']:.0%}",
         by_null <= BARS["gains under the null"] * n),
        ("Mean share of the achievable gain", f"{share:.0%}", f"≥ {BARS['share']:.0%}",
         share >= BARS["share"]),
    ]  # fmt: skip
    lines = ["| what | measured | bar | |", "|---|---|---|---|"]
    lines += [f"| {a} | {b} | {c} | {'holds' if d else '**falls short**'} |" for a, b, c, d in rows]
    lines.append(
        f"\nMean gain {gain:+.3f} of {achievable:+.3f} achievable; records "
        f"of other patients, over image alone {chance:+.3f}."
    )
    return "\n".join(lines), all(row[3] for row in rows)


def main() -> int:
    """Measure all seeds and write the table; fails where a bar does not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--pool", type=Path, help="folder that keeps the embeddings")
    options = parser.parse_args()
    params = load_section(Params, "simulation.linked")
    control = load_section(PositiveControlParams, "positive_control")
    every = load_section(AllPatientParams, "patients").root
    sides = {side: every[getattr(control, side)] for side in SIDES}
    encoding = load_section(EncodingParams, "encoding")
    encoder = open_bundle(Path("models") / load_section(EncodersParams, "encoders").image)

    started = time.process_time()
    with TemporaryDirectory() as scratch:
        folder = options.pool or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        pool = Pool(params, encoder, folder)
    pooled = time.process_time() - started
    without = params.model_copy(update={"image_own": 0.0})
    measured: tuple[list[Measured], list[Measured]] = ([], [])
    for seed in range(options.seeds):
        bootstrap = Bootstrap(load_section(IntervalParams, "intervals"), seed)
        methods = ControlMethods(sides, encoding, seed)
        for into, drawn in zip(measured, (params, without), strict=True):
            into.append(measure_seed(pool, drawn, methods, bootstrap))
        print(f"seed {seed}: {show(measured[0][-1]['gain'])}, null {show(measured[1][-1]['gain'])}")
    summary, holds = summarise(*measured)
    text = (
        "# Positive control over seeds\n\n"
        f"{params.patients} patients of {params.nuclei_per_patient} nuclei a seed, fusion: "
        f"{control.both}, encoder: {encoder.name}. In brackets 95% intervals over test patients. "
        f"Pool {pooled / 60:.1f}, all seeds {(time.process_time() - started - pooled) / 60:.1f} "
        "CPU-minutes. Written by `benchmarks/positive_control.py`.\n\n"
        f"{summary}\n\n{tabulate(*measured)}\n"
    )
    (HERE / "positive_control.md").write_text(text, encoding="utf-8")
    print(summary)
    return int(not holds)


if __name__ == "__main__":
    raise SystemExit(main())
