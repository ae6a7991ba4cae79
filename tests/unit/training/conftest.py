"""Encoded tables with a known risk, as the encoder would write them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from histofuse.training.tabular import EncodedTable

FEATURES = [f"f{i}" for i in range(8)]


def make_encoded(
    tmp_path: Path, n: int = 400, seed: int = 0, missing: float = 0.0, intercept: float = -1.0
) -> EncodedTable:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, len(FEATURES))).astype(np.float32)
    risk = 1 / (1 + np.exp(-(1.5 * x[:, 0] - x[:, 1] + intercept)))
    rows = pd.DataFrame(np.where(rng.random(x.shape) < missing, np.nan, x), columns=FEATURES)
    rows = rows.astype("float32")
    rows.insert(0, "target", (rng.random(n) < risk).astype(np.int64))
    rows.insert(0, "split", np.resize(["train"] * 8 + ["validation", "test"], n))
    rows.insert(0, "hadm_id", np.arange(n) + 20_000_000)
    rows.insert(0, "subject_id", np.arange(n) + 10_000_000)
    encoder = tmp_path / "encoder.json"
    encoder.write_text("{}\n")
    return EncodedTable(rows, FEATURES, encoder, "mortality_1y", "simulated", {"encoded": "0" * 64})


@pytest.fixture
def encoded(tmp_path) -> Callable[..., EncodedTable]:
    return lambda **wishes: make_encoded(tmp_path, **wishes)
