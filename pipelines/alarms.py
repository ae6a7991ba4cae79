"""Stage ``alarms``: data and bundles -> checks for leaks and implausible scores."""

from pathlib import Path

from _stage import run_stage
from histofuse.core.artifacts import load_json, write_json
from histofuse.core.bundle import list_bundles
from histofuse.core.naming import name_fusion, show_count
from histofuse.core.progress import report
from histofuse.evaluation.alarms.checks import AlarmRules, describe_alarms, digest_data
from histofuse.evaluation.alarms.models import read_model
from histofuse.evaluation.alarms.search import DATA_FILES, AlarmData, find_alarms
from histofuse.evaluation.metrics.bootstrap import Bootstrap
from histofuse.params.base import load_section, load_seed, load_value
from histofuse.params.ehr import EncodingParams
from histofuse.params.fusion import EncodersParams
from histofuse.params.intervals import IntervalParams
from histofuse.params.promotion import AlarmParams, PromotionParams

DATA = Path("data")
MODELS = Path("models")
PATIENTS = Path("models/patients")
NAMES = Path("data/models.json")
OUT = Path("reports/alarms.json")


def main() -> None:
    rules = AlarmRules(
        alarms=load_section(AlarmParams, "alarms"),
        alarm_at=load_value(PromotionParams, "promotion.alarm_at"),
        alarm_metrics=load_value(PromotionParams, "promotion.alarm_metrics"),
        split_units=load_value(PromotionParams, "promotion.split_units"),
        encoding=load_section(EncodingParams, "encoding"),
        bootstrap=Bootstrap(load_section(IntervalParams, "intervals"), load_seed()),
    )
    patient = MODELS / load_value(EncodersParams, "encoders.patient")
    names = load_json(NAMES)
    pairings = dict(names["pairing"])
    listed = [*names["image"], *names["tabular"], *map(name_fusion, pairings)]
    folders = [*(MODELS / name for name in listed), *list_bundles(PATIENTS)]
    models = [read_model(folder, patient) for folder in folders]
    report(f"read {show_count(models, 'models')}")

    alarms, checks = find_alarms(models, AlarmData(DATA), rules)

    facts = {m.name: {"digest": m.digest, "kind": m.kind} for m in models}
    pairs = [f"pairs/{rule}.parquet" for rule in pairings]
    data = digest_data(DATA, [*DATA_FILES, *pairs])
    write_json(describe_alarms(checks, facts, data), OUT)
    for check in checks:
        if check.outcome != "passed":
            report(check.line())
    report(f"wrote {OUT}: {show_count(alarms, 'alarms')} in {show_count(checks, 'checks')}")


if __name__ == "__main__":
    run_stage(main)
