"""One seed in params.yaml, and independent streams derived from it by name."""

import hashlib

import numpy as np

MAX_SEED = 2**32


def derive_seed(seed: int, *names: str | int) -> int:
    """Derive a seed in [0, 2**32) for a named stream.

    Streams with different names are independent: random numbers drawn in one place do not change
    those drawn elsewhere.
    """
    text = "/".join(map(str, (seed, *names)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") % MAX_SEED


def make_rng(seed: int, *names: str | int) -> np.random.Generator:
    """Make a NumPy generator for a named stream."""
    return np.random.default_rng(derive_seed(seed, *names))
