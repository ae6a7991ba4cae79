import warnings

import numpy as np
import pytest
from mapie.classification import SplitConformalClassifier
from sklearn.base import BaseEstimator, ClassifierMixin

from histofuse.core.seeding import derive_seed
from histofuse.evaluation.assessment.conformal import list_scores, measure_coverage, predict_set
from histofuse.evaluation.metrics.bootstrap import Bootstrap, ClusterBootstrap
from histofuse.evaluation.metrics.weighted import Clusters
from histofuse.params.intervals import IntervalParams
from histofuse.training.conformal import fit_conformal, predict_sets

BOOTSTRAP = Bootstrap(
    IntervalParams(resamples=200, confidence=0.9, method="percentile", fewest_groups=10), seed=1
)
CLASSES = ["a", "b", "c"]


def draw(seed, n):
    rng = np.random.default_rng(seed)
    p = rng.dirichlet([0.3, 2, 1], n)
    return p, np.array([rng.choice(3, p=row) for row in p])


class Given(ClassifierMixin, BaseEstimator):
    """A classifier whose features are its probabilities, for MAPIE to wrap."""

    def __init__(self, classes):
        self.classes = classes
        self.classes_ = np.arange(classes)
        self.n_features_in_ = classes

    def fit(self, X, y):  # noqa: N803
        return self

    def predict_proba(self, X):  # noqa: N803
        return X

    def predict(self, X):  # noqa: N803
        return X.argmax(axis=1)

    def __sklearn_is_fitted__(self):
        return True


def conformalise(probabilities, labels, score, coverage, seed):
    mapie = SplitConformalClassifier(
        Given(probabilities.shape[1]),
        confidence_level=coverage,
        conformity_score=score,
        random_state=derive_seed(seed, "conformal"),
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*less labels than your training.*")
        return mapie.conformalize(probabilities, labels)


@pytest.mark.parametrize("score", ["lac", "aps"])
def test_sets_are_mapies(score):
    given, (p, _) = draw(0, 400), draw(1, 500)
    rule = fit_conformal(*given, score, 0.9, 1)
    expected = conformalise(*given, score, 0.9, 1).predict_set(p)[1][:, :, 0]
    assert (predict_sets(p, rule.score, rule.quantiles) == expected).all()
    # A row whose score is the quantile itself is covered too.
    own = conformalise(*given, score, 0.9, 1).predict_set(given[0])[1][:, :, 0]
    assert (predict_sets(given[0], rule.score, rule.quantiles) == own).all()


def test_by_class_each_class_has_a_bar_from_its_own_rows():
    p, labels = draw(0, 600)
    rule = fit_conformal(p, labels, "lac_by_class", 0.9, 1)
    for c in range(3):
        scores = np.sort(1 - p[labels == c, c])
        assert rule.quantiles[c] == pytest.approx(scores[int(np.ceil((len(scores) + 1) * 0.9)) - 1])
        assert rule.rows[c] == len(scores)


def test_exchangeable_rows_are_covered_as_promised_and_by_class_in_each_class():
    found = {s: [] for s in ("lac", "aps", "lac_by_class")}
    for seed in range(40):
        given, (p, labels) = draw(2 * seed, 300), draw(2 * seed + 1, 300)
        for score, covered in found.items():
            rule = fit_conformal(*given, score, 0.9, 1)
            sets = predict_sets(p, rule.score, rule.quantiles)[np.arange(300), labels]
            covered.append([sets.mean(), sets[labels == 0].mean()])
    for score, covered in found.items():
        assert np.mean(covered, axis=0)[0] >= 0.89, score
    rare = {score: np.mean(covered, axis=0)[1] for score, covered in found.items()}
    assert rare["lac"] < 0.8 < 0.88 < rare["lac_by_class"]


def test_a_class_with_too_few_rows_is_in_every_set():
    p, labels = draw(0, 400)
    keep = (labels != 0) | (np.cumsum(labels == 0) <= 5)
    rule = fit_conformal(p[keep], labels[keep], "lac_by_class", 0.9, 1)
    assert rule.quantiles[0] is None
    assert predict_sets(p, rule.score, rule.quantiles)[:, 0].all()


def test_of_two_classes_there_is_no_aps():
    assert list_scores(np.array([0, 1, 2])) == ["lac", "aps", "lac_by_class"]
    assert list_scores(np.array([0, 1, 1])) == ["lac", "lac_by_class"]


def test_what_is_measured_is_what_the_sets_do():
    given, (p, labels) = draw(0, 400), draw(1, 300)
    bootstrap = ClusterBootstrap(BOOTSTRAP, Clusters(np.arange(300) // 5, 60, "cases"))
    rule = fit_conformal(*given, "lac_by_class", 0.8, 1)
    coverage = measure_coverage(rule, p, labels, CLASSES, bootstrap)
    sets = predict_sets(p, rule.score, rule.quantiles)

    found = {name: i.value for name, i in coverage.intervals.items()}
    for c, name in enumerate(CLASSES):
        assert found[f"coverage/{name}"] == pytest.approx(sets[labels == c, c].mean())
    assert found["coverage/all"] == pytest.approx(sets[np.arange(300), labels].mean())
    assert found["mean_size"] == pytest.approx(sets.sum(axis=1).mean())
    assert found["empty"] == pytest.approx((~sets.any(axis=1)).mean())
    assert found["full"] == pytest.approx(sets.all(axis=1).mean())

    quantile = dict(zip(CLASSES, coverage.rule.quantiles, strict=True))
    written = {"classes": CLASSES, "score": "lac_by_class", "quantile": quantile}
    for row, held in zip(p[:50], sets, strict=False):
        assert predict_set(row.tolist(), written) == [
            c for c, i in zip(CLASSES, held, strict=True) if i
        ]
