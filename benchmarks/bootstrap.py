"""Intervals on every metric by 2,000 resamples of cases: weights along rows, against a loop.

The peer is the loop people write: put the rows of the drawn cases together, call scikit-learn once
a metric. It runs a few of the same resamples; its time for all of them is in proportion.
Run: python benchmarks/bootstrap.py [rows] [resamples] [resamples of the peer]
"""

import sys
import time
from collections.abc import Iterator

import numpy as np
import pandas as pd
from sklearn import metrics as peer

from claims import peak_mib
from histofuse.evaluation.metrics.bootstrap import Bootstrap
from histofuse.evaluation.metrics.classification import TOP_LABEL, find_top_label
from histofuse.evaluation.metrics.weighted import name_metrics
from histofuse.evaluation.predictions import Predictions
from histofuse.params.intervals import IntervalParams

ROWS = int(sys.argv[1]) if len(sys.argv) > 1 else 22_000
RESAMPLES = int(sys.argv[2]) if len(sys.argv) > 2 else 2_000
PEER_RESAMPLES = int(sys.argv[3]) if len(sys.argv) > 3 else 50
SEED = 1


def make_predictions(kind: str, share: tuple[float, ...], groups: int) -> Predictions:
    rng = np.random.default_rng(0)
    k = len(share)
    labels = rng.choice(k, ROWS, p=share)
    logits = 1.5 * np.eye(k)[labels] + np.log(share) + rng.normal(size=(ROWS, k))
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return Predictions(
        name=kind,
        config={"kind": kind, "classes": [f"c{i}" for i in range(k)]},
        history=pd.DataFrame(),
        keys=np.arange(ROWS).astype(object),
        split=np.full(ROWS, "test", dtype=object),
        labels=labels,
        probabilities=p,
        predictions=p.argmax(axis=1),
        groups=np.arange(ROWS) % groups,
        subjects=None,
    )


def make_bootstrap(resamples: int) -> Bootstrap:
    return Bootstrap(
        IntervalParams(resamples=resamples, confidence=0.95, method="bca", fewest_groups=10), SEED
    )


def loop_over_resamples(rows: Predictions) -> Iterator[dict[str, float]]:
    names, group = np.unique(rows.groups, return_inverse=True)
    members = [np.flatnonzero(group == g) for g in range(len(names))]
    weights = np.concatenate(list(make_bootstrap(PEER_RESAMPLES).draw_weights(len(names))))
    for times in weights:
        drawn = np.concatenate([np.tile(m, t) for m, t in zip(members, times, strict=True) if t])
        yield measure_by_sklearn(rows.take(drawn))


def calibration_error(p: np.ndarray, happened: np.ndarray) -> float:
    place = np.minimum((p * 10).astype(np.int64), 9)
    return float(np.abs(np.bincount(place, p - happened, 10)).sum() / len(p))


def measure_by_sklearn(rows: Predictions) -> dict[str, float]:
    labels, p, called, k = rows.labels, rows.probabilities, rows.predictions, len(rows.classes)
    each = peer.precision_recall_fscore_support(labels, called, labels=range(k), zero_division=0)
    ranked = {
        "auroc": [peer.roc_auc_score(labels == c, p[:, c]) for c in range(k)],
        "auprc": [peer.average_precision_score(labels == c, p[:, c]) for c in range(k)],
        "ece": [calibration_error(p[:, c], labels == c) for c in range(k)],
    }
    found = {
        "accuracy": peer.accuracy_score(labels, called),
        "brier": peer.brier_score_loss(labels, p if k > 2 else p[:, 1]),
        TOP_LABEL: calibration_error(*find_top_label(p, labels)),
    }
    counted = dict(zip(("precision", "recall", "f1"), each, strict=False))
    for name, values in (counted | ranked).items():
        found |= {f"{name}/c{c}": values[c] for c in range(k)} | {f"{name}/macro": np.mean(values)}
    return found


def compare(title: str, rows: Predictions) -> None:
    names = name_metrics(rows.classes)
    start = time.perf_counter()
    make_bootstrap(RESAMPLES).estimate_metrics(rows)
    seconds = time.perf_counter() - start

    start = time.perf_counter()
    loop = pd.DataFrame(loop_over_resamples(rows))[list(names)].to_numpy()
    peer_seconds = (time.perf_counter() - start) / len(loop) * RESAMPLES

    found = make_bootstrap(RESAMPLES).resample_metrics(rows)
    np.testing.assert_allclose(found.draws[: len(loop)], loop, rtol=1e-9)
    print(f"{title}: {ROWS:,} rows, {RESAMPLES:,} resamples, {len(names)} metrics with BCa")
    print(f"  weights along rows  {seconds:8.2f} s")
    print(f"  scikit-learn, loop  {peer_seconds:8.2f} s in proportion to {len(loop)} resamples")
    print(
        f"  the same numbers on {len(loop)} resamples; {peer_seconds / seconds:.0f} times as fast"
    )


def main() -> None:
    compare("17 cases", make_predictions("image", (0.005, 0.905, 0.09), 17))
    compare("a patient a row", make_predictions("tabular", (0.8, 0.2), ROWS))
    print(f"peak memory {peak_mib():,.0f} MiB, imports included")


if __name__ == "__main__":
    main()
