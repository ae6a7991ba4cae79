"""Rows of the fusion head: those that the encoders were fitted to, or validation in folds.

Run in a project in which `dvc repro` ran: it takes its pairs, embeddings and params. Each head is
trained once a seed; the encoders stay as they are. A pass over validation is shorter, so held-out
heads get more epochs and patience, for as many steps.

    python benchmarks/head_rows.py [--seeds 10]

Writes benchmarks/head_rows.md: scores on test with intervals over cases of the mean over seeds,
temperatures, and the leak, which is what label-aligned pairs score above label-blind ones.
"""

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import numpy as np

from histofuse.core.bundle import open_bundle
from histofuse.core.naming import show_ends
from histofuse.evaluation.metrics.bootstrap import Bootstrap, Resampled
from histofuse.evaluation.metrics.weighted import measure_rows
from histofuse.evaluation.predictions import read_predictions
from histofuse.params.base import load_section, load_seed
from histofuse.params.fusion import EncodersParams, FusionParams
from histofuse.params.intervals import IntervalParams
from histofuse.params.pairing import PairingParams
from histofuse.training.decision import load_decision
from histofuse.training.fusion import PairedEmbeddings, load_pairs, train_fusion
from histofuse.training.recorder import Recorder

OUT: Final = Path(__file__).with_suffix(".md")
RULES: Final = ("label_blind", "label_aligned")
ROWS: Final = ("in_sample", "held_out")
METRICS: Final = ("auroc/macro", "auroc/mitosis", "auprc/mitosis")

Heads = dict[tuple[str, str], tuple[Resampled, list[float], list[int]]]


def adapt(params: FusionParams, rows: str, data: PairedEmbeddings) -> FusionParams:
    """Choose the head's rows, and epochs and patience for as many steps."""
    splits = data.pairs["split"].value_counts()
    longer = splits["train"] / splits["validation"] if rows == "held_out" else 1
    scaled = {name: round(getattr(params, name) * longer) for name in ("epochs", "patience")}
    return params.model_copy(update={"head_rows": rows, **scaled})


def measure(
    data: PairedEmbeddings, params: FusionParams, seeds: range, bootstrap: Bootstrap
) -> tuple[Resampled, list[float], list[int]]:
    """Train a head a seed: mean scores on test, temperatures, epochs."""
    scores, temperatures, epochs = [], [], []
    for seed in seeds:
        with TemporaryDirectory() as folder:
            path = Path(folder) / "fusion_head_rows"
            epochs.append(train_fusion(data, params, seed, Recorder(), path).best_epoch)
            rows = read_predictions(open_bundle(path)).of("test")
            temperatures.append(load_decision(path).calibrator.scaling.temperature)
        scores.append(bootstrap.resample_metrics(rows, METRICS))
    parts = ("values", "draws", "left_out")
    means = {part: np.mean([getattr(s, part) for s in scores], axis=0) for part in parts}
    return replace(scores[0], **means), temperatures, epochs


def tabulate(heads: Heads) -> Iterator[str]:
    """Make the table of heads, and that of differences."""
    named = " | ".join(METRICS)
    yield f"| pairs | head's rows | {named} | temperature | epochs |\n|---|---|---|---|---|---|---|"
    for (rule, rows), (scores, temperatures, epochs) in heads.items():
        spread = f"{np.mean(temperatures):.2f} ± {np.std(temperatures):.2f}"
        cells = [rule, rows, *show(scores), spread, f"{np.median(epochs):g}"]
        yield f"| {' | '.join(cells)} |"
    yield f"\n| difference | {named} |\n|---|---|---|---|"
    for rule in RULES:
        better = heads[rule, "held_out"][0].minus_paired(heads[rule, "in_sample"][0])
        yield f"| held_out less in_sample, {rule} | {' | '.join(show(better, '+'))} |"
    for rows in ROWS:
        leak = heads["label_aligned", rows][0].minus_paired(heads["label_blind", rows][0])
        yield f"| leak, {rows} | {' | '.join(show(leak, '+'))} |"


def show(scores: Resampled, sign: str = "") -> list[str]:
    """Write each metric with its interval."""
    intervals = scores.intervals()
    return [
        f"{of.value:{sign}.3f} {show_ends(of.low, of.high, sign) or ''}"
        for of in intervals.values()
    ]


def describe_encoder(name: str, metric: str) -> str:
    """Compare an encoder's own scores on the rows that it was fitted to with those on others."""
    rows = read_predictions(open_bundle(Path("models") / name))
    measured = {split: measure_rows(rows.of(split), split) for split in rows.splits}
    scores = (f"{of[f'{split}/{metric}']:.3f} on {split}" for split, of in measured.items())
    return f"{name} alone, {metric}: {', '.join(scores)}."


def main() -> None:
    """Measure all heads and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    options = parser.parse_args()
    params = load_section(FusionParams, "fusion")
    bootstrap = Bootstrap(load_section(IntervalParams, "intervals"), load_seed())
    heads: Heads = {}
    for rule in RULES:
        pairing = load_section(PairingParams, f"pairing.{rule}")
        data = load_pairs(Path(f"data/pairs/{rule}.parquet"), Path("data/embeddings"), pairing)
        for rows in ROWS:
            chosen = adapt(params, rows, data)
            heads[rule, rows] = measure(data, chosen, range(options.seeds), bootstrap)
    cases = data.pairs.groupby("split")["case_id"].nunique()
    encoders = load_section(EncodersParams, "encoders")
    alone = describe_encoder(encoders.image, "auprc/mitosis")
    alone += " " + describe_encoder(encoders.patient, "auroc/macro")
    text = (
        "# Rows of the fusion head\n\n"
        f"{options.seeds} seeds of the head on the same embeddings: {cases['train']} cases of "
        f"training, {cases['validation']} of validation, {cases['test']} of test. Means over "
        "seeds with 95% intervals over test cases; temperatures ± standard deviation. Written by "
        f"`benchmarks/head_rows.py`. {alone}\n\n" + "\n".join(tabulate(heads)) + "\n"
    )
    OUT.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
