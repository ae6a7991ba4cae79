"""A version that was altered in the registry: refused wherever a model is opened."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from typer.testing import CliRunner

from histofuse.cli import app
from histofuse.commands import serve
from histofuse.commands.prediction.predict import locate_model
from histofuse.core.artifacts import digest_file, load_json, write_json
from histofuse.core.bundle import MANIFEST
from histofuse.core.errors import HistofuseError, RegistryError
from histofuse.core.tables import read_table
from histofuse.features.specs import FEATURES
from histofuse.serving.http.app import find_artifacts
from histofuse.serving.http.endpoint import Endpoint
from histofuse.serving.predict import open_predictor
from histofuse.tracking.names import FILES_TAG
from histofuse.tracking.publish import publish_all
from histofuse.tracking.registry import fetch_model
from histofuse.tracking.store import open_store

LOGISTIC = "histofuse-logistic-regression"
FUSION = "histofuse-fusion"


def run(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)))


def find(name, number=1):
    found = open_store().list_versions()
    return next(v for v in found if (v.name, v.number) == (name, number))


def reseal(bundle):
    """Write a manifest that fits the files as they are now."""
    manifest = load_json(bundle / MANIFEST)
    present = (name for name in manifest["files"] if (bundle / name).is_file())
    manifest["files"] |= {name: digest_file(bundle / name) for name in present}
    write_json(manifest, bundle / MANIFEST)


def soften(bundle):
    """Change a calibrator so that other probabilities come out."""
    path = bundle / "calibrator.json"
    path.write_text(path.read_text().replace("0.", "3.").replace("1.", "5."))
    reseal(bundle)


def in_production(name):
    open_store().set_alias(name, "production", 1)
    return Path(find(name).source)


def predict(name):
    with TemporaryDirectory() as scratch:
        rows = read_table(Path("data/ehr/features.parquet"), FEATURES)
        return open_predictor(*locate_model(name, Path(scratch))).predict(rows)


DOORS = {
    "predict": predict,
    "serve": lambda name: serve.serve(name, "127.0.0.1", 5999, 1),
    "verify": lambda name: run("verify", name),
    "promote": lambda name: run("promote", name),
}


def knock(door, name):
    """Give what a door says when it refuses."""
    try:
        result = DOORS[door](name)
    except HistofuseError as error:
        return str(error)
    assert result.exit_code == 1, result.output
    return result.output


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("part", ["bundle", "encoders/image", "encoders/patient"])
def test_resealed_calibrator_is_refused_at_every_door(published, door, part):
    source = in_production(FUSION)
    soften(source / "artifacts" / part)
    said = knock(door, FUSION)
    assert f"{find(FUSION)} was altered in the registry" in said
    assert "its digest is" in said


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("file", ["model.py", "MLmodel", "requirements.txt", "extra.py"])
def test_changed_code_is_refused_and_never_run(published, door, file):
    source = in_production(LOGISTIC)
    with (source / file).open("a") as code:
        code.write("\nopen('stolen', 'w')\n")
    assert "such as MLmodel or model.py, were changed" in knock(door, LOGISTIC)
    assert not Path("stolen").exists()


def test_code_of_a_version_without_that_record_is_not_run(published, tmp_path):
    source = in_production(LOGISTIC)
    (source / "model.py").write_text("open('stolen', 'w')")
    open_store().untag_version(LOGISTIC, 1, FILES_TAG)
    rows = read_table(Path("data/ehr/features.parquet"), FEATURES)
    assert len(predict(LOGISTIC)) == len(rows)
    served = Endpoint(find_artifacts(fetch_model(LOGISTIC, open_store(), tmp_path)))
    assert len(served.answer(rows)) == len(rows)
    assert "was not recorded" in knock("verify", LOGISTIC)
    assert not Path("stolen").exists()


def test_rollback_to_an_altered_version_is_refused(published):
    run("promote", LOGISTIC)
    published.train_tabular(c=0.11)
    publish_all()
    run("promote", LOGISTIC)
    soften(Path(find(LOGISTIC, 1).source) / "artifacts/bundle")
    result = run("rollback", LOGISTIC)
    assert result.exit_code == 1
    assert "version 1, which was in production before, was altered" in result.output
    assert open_store().read_status(LOGISTIC).production == 2


def test_registry_names_altered_versions(published):
    source = in_production(FUSION)
    assert "altered" not in run("registry").output
    soften(source / "artifacts/encoders/image")
    (line,) = [row for row in run("registry").output.splitlines() if "altered" in row]
    assert line.startswith(f"! {FUSION} version 1 was altered: its digest is")
    listed = {row["model"]: row["altered"] for row in json.loads(run("registry", "--json").output)}
    assert listed.pop(FUSION)
    assert set(listed.values()) == {""}


def test_version_that_was_not_registered_by_publish_is_not_opened(published):
    client = open_store().client
    client.create_registered_model("histofuse-evil")
    client.create_model_version("histofuse-evil", find(LOGISTIC).source, find(LOGISTIC).run_id)
    client.set_registered_model_alias("histofuse-evil", "production", "1")
    for door in ("predict", "serve", "verify"):
        assert "it has: no version of that name" in knock(door, "evil")


def test_verified_version_is_described(published):
    in_production(FUSION)
    result = run("verify")
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert lines[0].startswith(f"{find(FUSION)}: its ")
    assert [line.split()[:2] for line in lines[2:]] == [
        ["encoder", "image"],
        ["encoder", "patient"],
    ]


def test_compiled_code_next_to_the_script_is_named(published):
    source = in_production(LOGISTIC)
    (source / "__pycache__").mkdir()
    (source / "__pycache__/model.cpython-311.pyc").write_bytes(b"")
    assert "__pycache__ holds compiled code" in knock("verify", LOGISTIC)
    assert len(predict(LOGISTIC))


@pytest.mark.parametrize("address", ["{}/1", "{}@production", "{}/Production", "{}/latest"])
def test_addresses_of_a_version(published, tmp_path, address):
    in_production(LOGISTIC)
    open_store().put_in_production_stage(LOGISTIC, 1)
    folder = fetch_model(f"models:/{address.format(LOGISTIC)}", open_store(), tmp_path)
    assert digest_file(folder / "artifacts/bundle" / MANIFEST) == find(LOGISTIC).digest


@pytest.mark.parametrize(
    "address", ["runs:/1/model", "models:/x", "file:/etc", "./models", "models:/a/b/c"]
)
def test_addresses_that_name_no_version_are_refused(published, tmp_path, address):
    with pytest.raises(RegistryError, match="expected models:/NAME/VERSION"):
        fetch_model(address, open_store(), tmp_path)
