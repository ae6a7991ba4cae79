import shutil
from pathlib import Path

import pytest

from histofuse.core.errors import RegistryError
from histofuse.tracking.publish import publish_all
from histofuse.tracking.registry import (
    find_at,
    list_models,
    name_address,
    pull_bundle,
    register_bundles,
)
from histofuse.tracking.store import open_store


@pytest.fixture
def digests(project):
    return register_bundles([Path("models/resnet18"), Path("models/mlp")])


def test_encoders_are_registered_by_digest_and_completed_by_publish(digests):
    assert set(digests) == {"histofuse-resnet18", "histofuse-mlp"}
    assert publish_all().written == ["histofuse-resnet18", "histofuse-mlp"]
    assert register_bundles([Path("models/mlp")]) == {"histofuse-mlp": digests["histofuse-mlp"]}
    assert [v.number for v in open_store().list_versions()] == [1, 1]


def test_pulled_bundle_is_the_one_that_was_registered(digests):
    shutil.rmtree("models")
    bundle = pull_bundle("histofuse-mlp", digests["histofuse-mlp"])
    assert bundle.path == Path(".histofuse/registry") / digests["histofuse-mlp"]
    assert (bundle.path / "weights.safetensors").read_bytes() == b"weights"


def test_altered_bundle_is_pulled_again(digests):
    bundle = pull_bundle("histofuse-mlp", digests["histofuse-mlp"])
    (bundle.path / "weights.safetensors").write_bytes(b"altered")
    again = pull_bundle("histofuse-mlp", digests["histofuse-mlp"])
    assert (again.path / "weights.safetensors").read_bytes() == b"weights"


def test_restricted_bundle_is_pulled_without_its_rows(project, make):
    make.restricted()
    digests = register_bundles([Path("models/mlp")])
    bundle = pull_bundle("histofuse-mlp", digests["histofuse-mlp"])
    assert not (bundle.path / "predictions.parquet").exists()


def test_lost_registry_is_restored_from_the_bundle_dvc_holds(digests, clone, capsys):
    clone()
    pull_bundle("histofuse-mlp", digests["histofuse-mlp"])
    assert "published again from models/mlp" in capsys.readouterr().err
    assert [v.name for v in open_store().list_versions()] == ["histofuse-mlp"]


def test_unknown_digest_is_named(digests):
    with pytest.raises(RegistryError) as error:
        pull_bundle("histofuse-mlp", "0" * 64)
    message = str(error.value)
    assert "histofuse-mlp" in message
    assert "0" * 64 in message
    assert digests["histofuse-mlp"][:12] in message
    assert "dvc pull" in message


def test_versions_are_listed_with_alias_and_stage(digests, make):
    make.bundle("mlp", "tabular", weights=b"other")
    store = open_store()
    store.set_alias("histofuse-resnet18", "production", 1)
    store.set_alias("histofuse-resnet18", "trial", 1)
    store.put_in_production_stage("histofuse-resnet18", 1)

    mlp, resnet = list_models()

    assert (mlp.model, mlp.digest) == ("histofuse-mlp", digests["histofuse-mlp"])
    assert (mlp.in_models, mlp.aliases, mlp.stage, mlp.promoted) == (False, (), None, None)
    assert resnet.digest == digests["histofuse-resnet18"]
    assert (resnet.in_models, resnet.aliases) == (True, ("production", "trial"))
    assert (resnet.stage, resnet.cut_short) == ("Production", False)


def test_a_name_with_a_typo_is_answered_with_those_like_it(digests):
    with pytest.raises(RegistryError, match="no version of that name, but histofuse-mlp"):
        find_at(name_address("mpl"), open_store())


def test_a_bundle_where_a_registered_model_is_due_is_said(digests):
    bundle = str(Path("models/mlp"))
    with pytest.raises(RegistryError, match="expected a registered model, not a folder"):
        find_at(bundle, open_store())


def test_what_is_not_in_production_is_told_to_be_promoted(project):
    publish_all()
    address = "models:/histofuse-mlp@production"
    with pytest.raises(RegistryError, match=r"no version is in production.*histofuse promote hist"):
        find_at(address, open_store())
    open_store().set_alias("histofuse-mlp", "production", 1)
    assert find_at(address, open_store()).number == 1
