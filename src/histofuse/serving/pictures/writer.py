"""Tables written part by part, as Parquet or CSV."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pandas as pd

from histofuse.core.artifacts import replacing_file
from histofuse.core.tables import to_csv

Write = Callable[[pd.DataFrame], None]


@contextmanager
def open_writer(path: Path) -> Iterator[Write]:
    """Yield a function that adds rows; the file appears under its name once all are written."""
    with replacing_file(path) as temporary, ExitStack() as stack:
        yield (_write_parquet if path.suffix == ".parquet" else _write_csv)(temporary, stack)


def _write_parquet(path: Path, stack: ExitStack) -> Write:
    import pyarrow as pa
    from pyarrow import parquet

    writer: parquet.ParquetWriter | None = None

    def write(rows: pd.DataFrame) -> None:
        nonlocal writer
        table = pa.Table.from_pandas(rows, preserve_index=False)
        if writer is None:
            writer = stack.enter_context(parquet.ParquetWriter(path, table.schema))
        writer.write_table(table.cast(writer.schema))

    return write


def _write_csv(path: Path, stack: ExitStack) -> Write:
    file = stack.enter_context(path.open("w", encoding="utf-8", newline=""))

    def write(rows: pd.DataFrame) -> None:
        file.write(to_csv(rows, header=file.tell() == 0))

    return write
