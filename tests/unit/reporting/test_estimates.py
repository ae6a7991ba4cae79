from histofuse.core.artifacts import write_json
from histofuse.evaluation.metrics.sides import Estimate
from histofuse.explain.estimates import write_scores
from histofuse.reporting.estimates import collect_honest, collect_protocol, find_simulated
from histofuse.reporting.inputs import ARTIFACTS, find_run
from histofuse.reporting.paper import AREA

ENTRY = {"value": 0.5, "low": 0.25, "high": 0.75, "groups": 17}
AUPRC = ("fusion", "auprc/mitosis", "")


def test_honest_measurements_are_of_the_primary_pairing_with_their_intervals(project):
    found = collect_honest(find_run(project))
    assert found["resnet18", "accuracy", ""] == Estimate(0.9, 0.8, 0.9500000000000001, 12)
    assert found["fusion", "auprc/mitosis", "resnet18"] == Estimate(0.01, -0.02, 0.03, 12)
    assert not [key for key in found if "label_aligned" in key[0]]


def test_differences_are_the_paired_ones_in_either_direction(project, change):
    found = collect_honest(find_run(project))
    assert found["xgboost", "auroc/macro", "mlp"] == Estimate(0.03, -0.01, 0.08, 40)
    assert found["mlp", "auroc/macro", "xgboost"] == Estimate(-0.03, -0.08, 0.01, 40)


def test_models_that_cannot_be_paired_have_no_difference(project, change):
    intervals = find_run(project).metrics["intervals"] | {"between_models": {}}
    change(project, "reports/metrics.json", intervals=intervals)
    found = collect_honest(find_run(project))
    assert ("xgboost", "auroc/macro", "") in found
    assert not [key for key in found if key[2] == "mlp"]


def test_cross_validation_takes_the_place_of_one_split(project):
    models = {
        "fusion_label_blind": {"leaky": "", "pooled": {"auprc/mitosis": ENTRY}},
        "fusion_label_aligned": {"leaky": "pairs", "pooled": {"auprc/mitosis": {"value": 1.0}}},
    }
    less = {"fusion_label_blind": {"image_model": "resnet18", "metrics": {"f1/macro": ENTRY}}}
    between = {"xgboost - mlp": {"auroc/macro": ENTRY}}
    known = {"models": models, "minus_image_model": less, "between_models": between}
    write_json(known, project / ARTIFACTS["crossval"].path)

    found = collect_honest(find_run(project))
    assert found[AUPRC] == Estimate(0.5, 0.25, 0.75, 17)
    assert found["fusion", "f1/macro", "resnet18"] == Estimate(0.5, 0.25, 0.75, 17)
    assert found["xgboost", "auroc/macro", "mlp"] == Estimate(0.5, 0.25, 0.75, 17)
    assert found["resnet18", "accuracy", ""].value == 0.9


def test_papers_protocol_is_what_its_stage_measured_and_nothing_else(project):
    assert collect_protocol(find_run(project)) is None
    arms = {"paper_protocol": {"metrics": {"accuracy": ENTRY, "f1/macro": {"value": None}}}}
    write_json({"models": {"resnet18": arms}}, project / ARTIFACTS["protocol"].path)

    found = collect_protocol(find_run(project))
    assert found == {("resnet18", "accuracy", ""): Estimate(0.5, 0.25, 0.75, 17)}


def test_models_of_simulated_data_are_named_as_the_claims_name_them(project, change):
    names = {"resnet18", "mlp", "xgboost", "fusion", "fusion_label_aligned"}
    assert find_simulated(find_run(project)) == names
    declared = find_run(project).metrics["declared"]
    real = declared | {"resnet18": declared["resnet18"] | {"data": "brecahad"}}
    change(project, "reports/metrics.json", declared=real)
    assert find_simulated(find_run(project)) == names - {"resnet18"}


def test_map_is_compared_with_the_area(project):
    path = project / "reports/explain/gradcam/resnet18/faithfulness.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_scores({"cam_mass_inside": ENTRY}, "ab" * 32, path)
    found = collect_honest(find_run(project))
    assert found["resnet18", "cam_mass_inside", AREA] == Estimate(0.5, 0.25, 0.75, 17)
