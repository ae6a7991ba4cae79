"""Stage ``model_names``: params.yaml -> the names of the models of images, records and pairs.

Reports list models by them, so that a model left over from earlier params stays out. What a model
was trained with reaches a report through its bundle.
"""

from pathlib import Path

from _stage import run_stage
from histofuse.core.artifacts import write_json
from histofuse.core.progress import report
from histofuse.params.base import load_file

PARAMS = Path("params.yaml")
OUT = Path("data/models.json")


def main() -> None:
    params = load_file(PARAMS)
    names = {section: list(params[section]) for section in ("image", "tabular")}
    # Pairs, for a mapping in JSON is sorted.
    rules = [(name, pairing["rule"]) for name, pairing in params["pairing"].items()]
    write_json(names | {"pairing": rules}, OUT)
    report(f"wrote {OUT}")


if __name__ == "__main__":
    run_stage(main)
