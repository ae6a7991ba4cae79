import shutil
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd

from histofuse.core.artifacts import write_json
from histofuse.core.bundle import open_bundle
from histofuse.promotion.evidence import read_detection
from histofuse.tracking.interface import encode_png
from histofuse.tracking.publish import publish_all
from histofuse.tracking.registry import fetch_model
from histofuse.tracking.store import open_store

INTERVAL = {"value": 0.9, "low": 0.8, "high": 0.95}


def test_a_detector_is_registered_with_its_report_and_answers(
    project, bundle, finder, tissue, tmp_path
):
    held = Path("models/detector")
    shutil.move(bundle, held)
    digest = open_bundle(held).digest
    report = {
        "detector": digest,
        "declared": {"detector": {"digest": digest}},
        "models": {"detector": {"test/f1/nuclei": 0.9}},
        "intervals": {"models": {"detector": {"test/f1/nuclei": INTERVAL}}},
        "arms": {"chain": {"f1/nuclei": INTERVAL}},
        "gain": INTERVAL | {"low": 0.1},
    }
    picture = Path("reports/detection/figures/detector/found_nuclei.png")
    picture.parent.mkdir(parents=True)
    picture.write_bytes(b"picture")
    write_json(report, Path("reports/detection/metrics.json"))
    assert "histofuse-detector" in publish_all().written

    store = open_store()
    (version,) = store.list_versions("histofuse-detector")
    run = store.client.get_run(version.run_id)
    assert run.data.metrics["test/f1/nuclei"] == 0.9
    assert run.data.metrics["interval_low/test.f1.nuclei"] == 0.8
    shown = store.client.list_artifacts(version.run_id, "figures")
    assert [file.path for file in shown] == ["figures/found_nuclei.png"]
    assert read_detection(digest) == {"f1": INTERVAL, "gain": INTERVAL | {"low": 0.1}}
    assert read_detection("0" * 64) is None

    folder = fetch_model("models:/histofuse-detector/1", store, tmp_path)
    model = mlflow.pyfunc.load_model(str(folder))
    answer = model.predict(pd.DataFrame({"image": [encode_png(tissue)]}))
    assert np.allclose(answer["x_px"][0], finder.find(tissue)["x_px"])
    assert answer["model"][0].startswith("histofuse-detector")
