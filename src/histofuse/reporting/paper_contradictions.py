"""The paper's figures against themselves and against the counts of its data sets.

Everything is computed from what the paper prints; nothing is measured here.

Source: paper.txt, Tables 1 to 3, Figures 3 and 6, sections 3.1, 4 and 5.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise, product
from typing import Final, Literal

MITOSIS, TUMOUR, NON_TUMOUR = "mitosis", "tumour", "non_tumour"
CLASSES: Final = (MITOSIS, TUMOUR, NON_TUMOUR)

Matrix = Mapping[str, Mapping[str, int]]  # true class -> predicted class -> patches
Outcome = Literal["consistent", "contradicts itself", "contradicts its data"]

# Source: paper.txt, 5.3 and Figure 6. Where its 5 and 4 wrong ones went it does not say.
_MITOSES: Final[Mapping[str, int]] = {MITOSIS: 31, TUMOUR: 0, NON_TUMOUR: 359}
_TUMOUR_CORRECT, _TUMOUR_WRONG = 23_682, 5
_NON_TUMOUR_CORRECT, _NON_TUMOUR_WRONG = 1_747, 4
_RESNET_MITOSES_AS_TUMOUR: Final = 15  # Source: paper.txt, 5.3 ("15 → 0")

# Source: paper.txt, Table 3.
_MACRO_AUCS: Final = {"simple_cnn": 0.999, "resnet18": 1.000, "fusion": 0.997}
_MITOSIS_AUCS: Final = {"simple_cnn": 1.000, "resnet18": 0.927, "fusion": 0.994}

# Source: counts over BreCaHAD's 162 JSON files; Aksac et al. 2019.
BRECAHAD: Final[Mapping[str, int]] = {MITOSIS: 112, TUMOUR: 20_117, NON_TUMOUR: 1_917}
BRECAHAD_FRAMES, BRECAHAD_CASES = 162, 17
BRECAHAD_FRAME_PX: Final = (1360, 1024)
BRECAHAD_NUCLEI: Final = sum(BRECAHAD.values())
MIMIC_PATIENTS: Final = 299_712  # Source: MIMIC-IV v2.2, hosp/patients.csv.gz
POINTS: Final = 6_700_000  # Source: paper.txt, 4.2


@dataclass(frozen=True)
class Span:
    """The least and the greatest value over all readings of the paper's matrix."""

    low: float
    high: float

    def __str__(self) -> str:
        low, high = f"{self.low:.3f}", f"{self.high:.3f}"
        return low if low == high else f"{low} to {high}"


@dataclass(frozen=True)
class Finding:
    """One thing the paper says, and what follows from its own figures or its data.

    Attributes:
        name: Short and unique; claims refer to it.
        says: What the paper says, with its place.
        follows: What was computed, with its numbers.
        outcome: Whether the two agree.
    """

    name: str
    says: str
    follows: str
    outcome: Outcome


def read_matrices() -> Iterator[Matrix]:
    """List every confusion matrix that the paper's sentence on Figure 6 allows."""
    for tumour, non_tumour in product(range(_TUMOUR_WRONG + 1), range(_NON_TUMOUR_WRONG + 1)):
        yield {
            MITOSIS: _MITOSES,
            TUMOUR: {
                MITOSIS: tumour,
                TUMOUR: _TUMOUR_CORRECT,
                NON_TUMOUR: _TUMOUR_WRONG - tumour,
            },
            NON_TUMOUR: {
                MITOSIS: non_tumour,
                TUMOUR: _NON_TUMOUR_WRONG - non_tumour,
                NON_TUMOUR: _NON_TUMOUR_CORRECT,
            },
        }


def measure_matrix(matrix: Matrix) -> dict[str, float]:
    """Compute accuracy, macro-F1 and each class's recall, precision and F1 (0 where undefined)."""
    total = sum(sum(row.values()) for row in matrix.values())
    scores = {"accuracy": sum(matrix[c][c] for c in CLASSES) / total}
    for c in CLASSES:
        predicted = sum(matrix[true][c] for true in CLASSES)
        actual = sum(matrix[c].values())
        scores[f"recall/{c}"] = matrix[c][c] / actual
        scores[f"precision/{c}"] = matrix[c][c] / predicted if predicted else 0.0
        scores[f"f1/{c}"] = 2 * matrix[c][c] / (actual + predicted)
    for name in ("recall", "f1"):
        scores[f"{name}/macro"] = sum(scores[f"{name}/{c}"] for c in CLASSES) / len(CLASSES)
    return scores


def measure_fusion() -> dict[str, Span]:
    """Measure the paper's fusion model by its own confusion matrix, over all readings of it."""
    readings = [measure_matrix(matrix) for matrix in read_matrices()]
    return {
        name: Span(min(r[name] for r in readings), max(r[name] for r in readings))
        for name in readings[0]
    }


def count_test_nuclei() -> dict[str, int]:
    """Count the nuclei of each class in the paper's test fold."""
    matrix = next(read_matrices())
    return {c: sum(matrix[c].values()) for c in CLASSES}


def count_cnn_parameters(window_px: int = 64, hidden: int = 256) -> int:
    """Count the parameters of the paper's simple CNN.

    Source: paper.txt, 3.1: three 3 × 3 convolutions (32, 64, 128), each halved by a max-pool, and
    two dense layers.
    """
    channels = (3, 32, 64, 128)
    convolutions = sum(9 * a * b + b for a, b in pairwise(channels))
    flat = channels[-1] * (window_px // 8) ** 2
    return convolutions + (flat + 1) * hidden + (hidden + 1) * len(CLASSES)


def agrees(printed: str, low: float, high: float) -> bool:
    """Tell whether a printed figure can be the rounding of some value from low to high."""
    half = 0.5 * 10 ** -len(printed.partition(".")[2])
    return low <= float(printed) + half and high >= float(printed) - half


def find_contradictions() -> list[Finding]:
    """Hold the paper against itself and its data."""
    return [*_compare_matrix(), *_compare_aucs(), *_compare_counts(), _check_parameters()]


def _compare_matrix() -> Iterator[Finding]:
    scores = measure_fusion()
    accuracy, f1, recall = (scores[n] for n in ("accuracy", "f1/macro", f"recall/{MITOSIS}"))
    yield Finding(
        "fusion accuracy",
        "Table 3: the fusion model's accuracy is 0.997",
        f"Its confusion matrix (Figure 6) gives {accuracy}",
        _judge(agrees("0.997", accuracy.low, accuracy.high)),
    )
    yield Finding(
        "fusion macro F1",
        "Table 3: the fusion model's macro F1 is 0.996",
        f"Its confusion matrix gives {f1}",
        _judge(agrees("0.996", f1.low, f1.high)),
    )
    yield Finding(
        "rare class recall",
        "Abstract and 1: fusion improves recall of rare, critical classes",
        f"By its confusion matrix fusion finds {_MITOSES[MITOSIS]} of "
        f"{sum(_MITOSES.values())} mitoses: recall {recall}, F1 {scores[f'f1/{MITOSIS}']}",
        _judge(recall.high >= 0.5),
    )
    total = sum(count_test_nuclei().values())
    ceiling = 1 - _RESNET_MITOSES_AS_TUMOUR / total
    yield Finding(
        "resnet accuracy",
        "Table 1: ResNet-18's accuracy is 1.0000",
        f"It takes {_RESNET_MITOSES_AS_TUMOUR} mitoses for tumour (5.3), so on {total:,} test "
        f"patches it can reach {ceiling:.4f} at most",
        _judge(agrees("1.0000", 0.0, ceiling)),
    )


def _compare_aucs() -> Iterator[Finding]:
    ceiling = (0.9275 + 1 + 1) / 3
    yield Finding(
        "resnet auc",
        "Tables 1 and 3: ResNet-18's macro AUC is 1.000 and its mitosis AUC 0.927",
        f"With 0.927 for one of three classes the mean can be {ceiling:.3f} at most",
        _judge(agrees("1.000", 0.0, ceiling)),
    )
    per_class = (0.994, 0.999, 1.000)
    low, high = (sum(min(1.0, v + d) for v in per_class) / 3 for d in (-0.0005, 0.0005))
    yield Finding(
        "fusion auc",
        "5.3: class AUCs of 0.994, 0.999 and 1.000, macro AUC 0.997",
        f"Their mean lies between {low:.4f} and {high:.4f}, rounding allowed for",
        _judge(agrees("0.997", low, high)),
    )
    yield Finding(
        "highest macro auc",
        "5.3: fusion has the highest macro AUC of all models (0.997)",
        "Table 3 prints 0.999 for the simple CNN and 1.000 for ResNet-18",
        _judge(max(_MACRO_AUCS.values()) <= _MACRO_AUCS["fusion"]),
    )
    yield Finding(
        "best mitosis auc",
        "5.3: fusion has the best mitosis AUC (0.994)",
        "Table 3 prints 1.000 for the simple CNN",
        _judge(max(_MITOSIS_AUCS.values()) <= _MITOSIS_AUCS["fusion"]),
    )
    yield Finding(
        "mitosis auc gain",
        "5.3: fusion gains 6.7 percentage points of mitosis AUC",
        f"0.994 − 0.927 = {0.994 - 0.927:.3f}",
        _judge(agrees("0.067", 0.994 - 0.927, 0.994 - 0.927)),
    )


def _compare_counts() -> Iterator[Finding]:
    test = count_test_nuclei()
    total = sum(test.values())
    yield Finding(
        "test nuclei",
        f"Figure 6: the test fold holds {total:,} nuclei",
        f"All of BreCaHAD holds {BRECAHAD_NUCLEI:,}",
        _judge_data(total <= BRECAHAD_NUCLEI),
    )
    yield Finding(
        "test mitoses",
        f"Figure 6: the test fold holds {test[MITOSIS]} mitoses",
        f"All of BreCaHAD holds {BRECAHAD[MITOSIS]}",
        _judge_data(test[MITOSIS] <= BRECAHAD[MITOSIS]),
    )
    yield Finding(
        "points",
        f"4.2: {POINTS / 1e6:.1f} million labelled points; 3.1: millions of patches, one a nucleus",
        f"BreCaHAD holds {BRECAHAD_NUCLEI:,} labelled nuclei: "
        f"{POINTS / BRECAHAD_NUCLEI:,.0f} times fewer",
        _judge_data(POINTS <= BRECAHAD_NUCLEI),
    )
    width, height = BRECAHAD_FRAME_PX
    yield Finding(
        "whole slides",
        "4.1: BreCaHAD contains whole-slide images",
        f"It holds {BRECAHAD_FRAMES} frames of {width} × {height} pixels from "
        f"{BRECAHAD_CASES} cases; a whole slide has some 100,000 pixels a side",
        _judge_data(max(BRECAHAD_FRAME_PX) >= 20_000),
    )
    yield Finding(
        "icu patients",
        "4.1: MIMIC-IV holds over 300,000 ICU patients",
        f"Version 2.2 lists {MIMIC_PATIENTS:,} patients, of the whole hospital and its emergency "
        "department",
        _judge_data(MIMIC_PATIENTS > 300_000),
    )


def _check_parameters() -> Finding:
    count = count_cnn_parameters()
    return Finding(
        "cnn parameters",
        "3.1: the simple CNN has about 2.2 million parameters",
        f"With windows of 64 pixels and 256 units it has {count:,}",
        _judge(agrees("2.2", count / 1e6, count / 1e6)),
    )


def _judge(holds: bool) -> Outcome:
    return "consistent" if holds else "contradicts itself"


def _judge_data(holds: bool) -> Outcome:
    return "consistent" if holds else "contradicts its data"
