from histofuse.core.artifacts import write_json
from histofuse.reporting.estimates import collect_honest, collect_protocol
from histofuse.reporting.inputs import ARTIFACTS, find_run
from histofuse.reporting.paper import AREA, Estimate

ENTRY = {"value": 0.5, "low": 0.25, "high": 0.75}
AUPRC = ("fusion", "auprc/mitosis", "")


def test_honest_measurements_are_of_the_primary_pairing_with_their_intervals(project):
    found = collect_honest(find_run(project))
    assert found["resnet18", "accuracy", ""] == Estimate(0.9, 0.8, 0.9500000000000001)
    assert found["fusion", "auprc/mitosis", "resnet18"] == Estimate(0.01, -0.02, 0.03)
    assert not [key for key in found if "label_aligned" in key[0]]
    # Without pairs opposite ends are subtracted: 0.70 - 0.85, 0.85 - 0.70.
    less = found["xgboost", "auroc/macro", "mlp"]
    assert (round(less.low, 6), round(less.high, 6)) == (-0.15, 0.15)


def test_cross_validation_takes_the_place_of_one_split(project):
    models = {
        "fusion_label_blind": {"leaky": "", "pooled": {"auprc/mitosis": ENTRY}},
        "fusion_label_aligned": {"leaky": "pairs", "pooled": {"auprc/mitosis": {"value": 1.0}}},
    }
    less = {"fusion_label_blind": {"image_model": "resnet18", "metrics": {"f1/macro": ENTRY}}}
    known = {"models": models, "minus_image_model": less}
    write_json(known, project / ARTIFACTS["crossval"].path)

    found = collect_honest(find_run(project))
    assert found[AUPRC] == Estimate(0.5, 0.25, 0.75)
    assert found["fusion", "f1/macro", "resnet18"] == Estimate(0.5, 0.25, 0.75)
    assert found["resnet18", "accuracy", ""].value == 0.9


def test_papers_protocol_is_its_split_and_pairs_that_follow_the_label(project):
    arms = {"paper_protocol": {"metrics": {"accuracy": ENTRY, "f1/macro": {"value": None}}}}
    known = {"models": {"resnet18": arms}}
    write_json(known, project / ARTIFACTS["protocol"].path)

    found = collect_protocol(find_run(project))
    assert found["resnet18", "accuracy", ""] == Estimate(0.5, 0.25, 0.75)
    assert ("resnet18", "f1/macro", "") not in found
    assert found[AUPRC].value == 0.4


def test_map_is_compared_with_the_area(project):
    path = project / "reports/explain/gradcam/resnet18/faithfulness.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json({"cam_mass_inside": ENTRY}, path)
    found = collect_honest(find_run(project))
    assert found["resnet18", "cam_mass_inside", AREA] == Estimate(0.5, 0.25, 0.75)
