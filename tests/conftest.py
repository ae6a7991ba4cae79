"""Fixtures shared by all tests."""

import os
from pathlib import Path

import pytest

REAL_DATA_VARIABLE = "HISTOFUSE_REAL_DATA"


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real input; set but unusable is a failure, unset a skip."""
    value = os.environ.get(REAL_DATA_VARIABLE)
    if not value:
        pytest.skip(f"{REAL_DATA_VARIABLE} is not set: no real data to test on")
    folder = Path(value).resolve()
    assert (folder / "brecahad" / "images").is_dir(), f"{folder} holds no brecahad/images"
    assert (folder / "mimic-iv-demo-2.2" / "hosp").is_dir(), f"{folder} holds no MIMIC-IV demo"
    return folder
