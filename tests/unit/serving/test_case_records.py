"""Tables of patients that were not made by histofuse."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet

from histofuse.core.errors import InputError
from histofuse.serving.case_records import read_patients


def test_a_small_file_of_very_many_rows_is_refused_before_it_takes_memory(tmp_path, monkeypatch):
    path, rows = tmp_path / "patients.parquet", 2_000_000
    part = pa.table({"subject_id": np.zeros(rows, np.int64), "albumin": np.zeros(rows)})
    with parquet.ParquetWriter(path, part.schema, compression="zstd") as writer:
        for _ in range(10):
            writer.write_table(part, row_group_size=rows)
    monkeypatch.setattr(pd, "read_parquet", lambda _: pytest.fail("read"))
    with pytest.raises(InputError, match=r"patients\.parquet: .*20,000,000 rows in \d+ KiB"):
        read_patients(path)
