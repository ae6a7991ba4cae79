"""Stage ``train_tabular``: encoded health records -> the bundle of one tabular model."""

from pathlib import Path

from histofuse.core.artifacts import digest_file, load_json
from histofuse.core.progress import report, run_stage
from histofuse.core.tables import read_table
from histofuse.features.encoding import ENCODED
from histofuse.models.tabular import name_table
from histofuse.params.base import load_section, load_seed
from histofuse.params.tabular import TabularParams
from histofuse.tracking.recorder import open_recorder
from histofuse.training.tabular import EncodedTable, describe_training, train_tabular

ENCODED_FOLDER = Path("data/encoded")
COHORT_FACTS = Path("data/cohort/meta.json")
MODELS = Path("models")


def main(model: str) -> None:
    params = load_section(TabularParams, f"tabular.{model}").root
    path = ENCODED_FOLDER / f"{name_table(params.kind)}.parquet"
    encoder = ENCODED_FOLDER / "encoder.json"
    rows, facts = read_table(path, ENCODED), load_json(COHORT_FACTS)
    table = EncodedTable(
        rows=rows,
        features=[column for column in rows.columns if column not in ENCODED.columns],
        encoder=encoder,
        target=facts["target"],
        source=facts["source"],
        digests={"encoded": digest_file(path), "encoder": digest_file(encoder)},
    )
    report(
        f"read {len(rows):,} rows of {len(table.features)} features,"
        f" {int(rows['target'].sum()):,} with {table.target}"
    )

    with open_recorder(run_name=model) as recorder:
        train_tabular(table, params, load_seed(), recorder, MODELS / model)
    report(f"wrote {MODELS / model}: {describe_training(MODELS / model)}")


if __name__ == "__main__":
    run_stage(main)
