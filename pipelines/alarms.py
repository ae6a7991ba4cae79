"""Stage ``alarms``: data and bundles -> checks for leaks and implausible scores."""

from pathlib import Path

from _stage import run_stage
from histofuse.core.artifacts import write_json
from histofuse.core.naming import name_fusion
from histofuse.core.progress import report
from histofuse.evaluation.alarms.checks import AlarmRules, describe_alarms, digest_data
from histofuse.evaluation.alarms.models import read_model
from histofuse.evaluation.alarms.search import DATA_FILES, AlarmData, find_alarms
from histofuse.evaluation.metrics.bootstrap import Bootstrap
from histofuse.params.base import load_keys, load_section, load_seed
from histofuse.params.ehr import EncodingParams
from histofuse.params.fusion import EncodersParams
from histofuse.params.intervals import IntervalParams
from histofuse.params.promotion import AlarmParams, PromotionParams

DATA = Path("data")
MODELS = Path("models")
OUT = Path("reports/alarms.json")


def main() -> None:
    rules = AlarmRules(
        alarms=load_section(AlarmParams, "alarms"),
        promotion=load_section(PromotionParams, "promotion"),
        encoding=load_section(EncodingParams, "encoding"),
        bootstrap=Bootstrap(load_section(IntervalParams, "intervals"), load_seed()),
    )
    patient = MODELS / load_section(EncodersParams, "encoders").patient
    names = [*load_keys("image"), *load_keys("tabular"), *map(name_fusion, load_keys("pairing"))]
    models = [read_model(MODELS / name, patient) for name in names]
    report(f"read {len(models)} models")

    alarms, checks = find_alarms(models, AlarmData(DATA), rules)

    facts = {m.name: {"digest": m.digest, "kind": m.kind} for m in models}
    pairs = [f"pairs/{rule}.parquet" for rule in load_keys("pairing")]
    data = digest_data(DATA, [*DATA_FILES, *pairs])
    write_json(describe_alarms(checks, facts, data), OUT)
    for check in checks:
        if check.outcome != "passed":
            report(check.line())
    report(f"wrote {OUT}: {len(alarms)} alarms in {len(checks)} checks")


if __name__ == "__main__":
    run_stage(main)
