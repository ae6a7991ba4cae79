"""Boosted trees: scikit-learn's as plain arrays with a predictor of their own, and XGBoost's."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Float64, Int64
from safetensors.numpy import load_file, save_file

if TYPE_CHECKING:
    import xgboost
    from sklearn.ensemble import GradientBoostingClassifier

# XGBoost sums gradients in an order that depends on the number of threads; a fixed number makes
# the same model on every machine.
XGBOOST_THREADS = 2
CHUNK_ROWS = 4096


@dataclass(frozen=True)
class BoostedTrees:
    """Regression trees whose leaf values, learning rate included, add up to the logit.

    All trees lie one after the other in the same arrays, each from one of `roots`. A leaf is its
    own child on both sides, so that every row may take as many steps as the deepest tree has; its
    feature is 0, as is the value of other nodes. Rows go left at or below the threshold.
    """

    roots: Int64[np.ndarray, " trees"]
    left: Int64[np.ndarray, " nodes"]
    right: Int64[np.ndarray, " nodes"]
    feature: Int64[np.ndarray, " nodes"]
    threshold: Float64[np.ndarray, " nodes"]
    value: Float64[np.ndarray, " nodes"]
    intercept: Float64[np.ndarray, " 1"]
    steps: Int64[np.ndarray, " 1"]

    def predict_logits(self, x: Float[np.ndarray, "n features"]) -> Float64[np.ndarray, " n"]:
        """Add up the leaves each row falls into."""
        return self.intercept[0] + self.predict_leaves(x).sum(axis=1)

    def predict_stages(self, x: Float[np.ndarray, "n features"]) -> Float64[np.ndarray, "n trees"]:
        """Predict the logits after the first tree, the second, and so on."""
        return self.intercept[0] + np.cumsum(self.predict_leaves(x), axis=1)

    def predict_leaves(self, x: Float[np.ndarray, "n features"]) -> Float64[np.ndarray, "n trees"]:
        """Find what each tree adds to a row's logit, in float32, as thresholds were learnt."""
        x = np.asarray(x, dtype=np.float32)
        chunks = [x[i : i + CHUNK_ROWS] for i in range(0, len(x), CHUNK_ROWS)]
        none = np.empty((0, len(self.roots)))
        return np.concatenate([none, *map(self._predict_chunk, chunks)])

    def _predict_chunk(self, x: np.ndarray) -> Float64[np.ndarray, "n trees"]:
        rows = np.arange(len(x))[:, None]
        node = np.tile(self.roots, (len(x), 1))
        for _ in range(int(self.steps[0])):
            goes_left = x[rows, self.feature[node]] <= self.threshold[node]
            node = np.where(goes_left, self.left[node], self.right[node])
        return self.value[node]


def extract_trees(model: "GradientBoostingClassifier") -> BoostedTrees:
    """Take the trees out of a fitted binary classifier of scikit-learn."""
    trees = [tree.tree_ for tree in model.estimators_[:, 0]]
    roots = np.cumsum([0, *(t.node_count for t in trees)])[:-1]
    pairs = list(zip(trees, roots.tolist(), strict=True))
    return BoostedTrees(
        roots=roots.astype(np.int64),
        left=np.concatenate([_children(t, t.children_left, r) for t, r in pairs]),
        right=np.concatenate([_children(t, t.children_right, r) for t, r in pairs]),
        feature=np.concatenate([np.maximum(t.feature, 0) for t in trees]).astype(np.int64),
        threshold=np.concatenate([t.threshold for t in trees]),
        value=np.concatenate([_leaf_values(t) for t in trees]) * model.learning_rate,
        intercept=np.array([find_prior(model)]),
        steps=np.array([max(t.max_depth for t in trees)], dtype=np.int64),
    )


def find_prior(model: "GradientBoostingClassifier") -> float:
    """Find the logit before any tree."""
    prior = model.init_.class_prior_[1]  # type: ignore[union-attr]
    return float(np.log(prior / (1 - prior)))


def _children(tree: Any, children: np.ndarray, root: int) -> Int64[np.ndarray, " nodes"]:
    here = np.arange(tree.node_count)
    return (np.where(children < 0, here, children) + root).astype(np.int64)


def _leaf_values(tree: Any) -> Float64[np.ndarray, " nodes"]:
    return np.where(tree.children_left < 0, tree.value[:, 0, 0], 0.0)


def write_trees(trees: BoostedTrees, path: Path) -> None:
    """Write the arrays as safetensors."""
    save_file({f.name: getattr(trees, f.name) for f in fields(trees)}, path)


def load_trees(path: Path) -> BoostedTrees:
    """Read back what `write_trees` wrote."""
    return BoostedTrees(**load_file(path))


def make_matrix(
    x: np.ndarray, target: np.ndarray | None = None, weight: np.ndarray | None = None
) -> "xgboost.DMatrix":
    """Hand rows to XGBoost; NaN means missing."""
    import xgboost

    x = np.asarray(x, dtype=np.float32)
    return xgboost.DMatrix(x, label=target, weight=weight, missing=np.nan, nthread=XGBOOST_THREADS)


def load_booster(path: Path) -> "xgboost.Booster":
    """Load an XGBoost model from its ``.ubj`` file."""
    import xgboost

    booster = xgboost.Booster(params={"nthread": XGBOOST_THREADS})
    booster.load_model(path)
    return booster
