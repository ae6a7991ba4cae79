import pytest

from histofuse.core.bundle import list_bundles, open_bundle, writing_bundle
from histofuse.core.errors import BundleError


@pytest.fixture
def bundle(tmp_path):
    with writing_bundle(tmp_path / "resnet18", "resnet18") as folder:
        (folder / "config.json").write_text('{"kind": "image"}')
        (folder / "weights.safetensors").write_bytes(b"\x00\x01")
        (folder / "predictions.parquet").write_bytes(b"rows")
    return open_bundle(tmp_path / "resnet18")


def test_same_files_have_the_same_digest_wherever_they_lie(bundle, tmp_path):
    with writing_bundle(tmp_path / "elsewhere", "resnet18") as folder:
        for name in bundle.files:
            (folder / name).write_bytes((bundle.path / name).read_bytes())

    assert open_bundle(tmp_path / "elsewhere").digest == bundle.digest
    assert bundle.config == {"kind": "image"}


def test_every_mismatch_is_named(bundle):
    (bundle.path / "weights.safetensors").write_bytes(b"\x00\x02")
    (bundle.path / "config.json").unlink()
    (bundle.path / "stray.txt").touch()

    with pytest.raises(BundleError) as error:
        open_bundle(bundle.path)

    message = str(error.value)
    assert "config.json is missing" in message
    assert "stray.txt is not in the manifest" in message
    assert "weights.safetensors has sha256" in message


def test_wrong_digest_is_refused(bundle):
    with pytest.raises(BundleError, match=f"its digest is {bundle.digest}, expected {'0' * 64}"):
        open_bundle(bundle.path, digest="0" * 64)


def test_rows_may_stay_behind_only_where_allowed(bundle):
    (bundle.path / "predictions.parquet").unlink()

    assert open_bundle(bundle.path, row_level=False).digest == bundle.digest
    with pytest.raises(BundleError, match=r"predictions\.parquet is missing"):
        open_bundle(bundle.path)


def test_folder_without_manifest_is_refused(tmp_path):
    with pytest.raises(BundleError, match=r"no manifest\.json"):
        open_bundle(tmp_path)


def test_bundles_are_found_next_to_each_other_and_in_folders_of_several(tmp_path):
    for name in ("mlp", "patients/patient_gated", "patients/patient_image"):
        with writing_bundle(tmp_path / name, name) as folder:
            (folder / "config.json").write_text("{}")
    (tmp_path / "empty").mkdir()

    found = [path.relative_to(tmp_path).as_posix() for path in list_bundles(tmp_path)]
    assert found == ["mlp", "patients/patient_gated", "patients/patient_image"]
