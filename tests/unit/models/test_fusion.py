import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from histofuse.core.artifacts import write_json
from histofuse.core.bundle import open_bundle, writing_bundle
from histofuse.core.errors import BundleError
from histofuse.models.fusion import FusionHead, load_fusion_model
from histofuse.models.standardiser import Standardiser


def make_head():
    torch.manual_seed(0)
    return FusionHead(512, 128, [256, 128], 3, dropout=0.3)


def test_layers_are_the_papers():
    shapes = [tuple(p.shape) for name, p in make_head().named_parameters() if "weight" in name]
    assert shapes == [(256, 640), (128, 256), (3, 128)]


def test_forward_by_hand():
    head = FusionHead(1, 1, [2], 2, dropout=0.5).eval()
    weights = {
        "layers.0.0.weight": [[1.0, 2.0], [-1.0, 0.0]],
        "layers.0.0.bias": [0.5, 0.0],
        "layers.1.weight": [[1.0, 1.0], [2.0, 0.0]],
        "layers.1.bias": [0.0, -1.0],
    }
    state = head.state_dict() | {name: torch.tensor(values) for name, values in weights.items()}
    head.load_state_dict(state)
    head.image_scaler.mean.fill_(1.0)
    head.image_scaler.scale.fill_(2.0)

    logits = head(torch.tensor([[5.0]]), torch.tensor([[3.0]]))

    # The image is standardised to 2. Hidden: relu(2 + 6 + 0.5) = 8.5 and relu(-2) = 0.
    assert logits.tolist() == [[8.5, 16.0]]


def test_standardiser_learns_mean_and_spread_and_leaves_constants():
    scaler = Standardiser(2)
    values = torch.tensor([[1.0, 5.0], [3.0, 5.0]])
    assert torch.equal(scaler(values), values)
    scaler.fit(values)
    assert scaler(values).tolist() == [[-1.0, 0.0], [1.0, 0.0]]


def test_standardised_values_are_clipped_to_what_was_fitted_rounded_outward():
    scaler = Standardiser(1)
    scaler.fit(torch.tensor([[0.0], [1.0], [1.0], [1.0], [2.0]]))  # spread 0.63: -1.58 to 1.58
    far = torch.tensor([[2.2], [1e30], [-1e30]])
    assert scaler(far)[:, 0].tolist() == pytest.approx([1.8974, 2.0, -2.0], abs=1e-4)


def write_bundle(path, kind="fusion"):
    head = make_head().eval()
    head.image_scaler.fit(torch.randn(9, 512))
    with writing_bundle(path, path.name) as folder:
        save_file(head.state_dict(), folder / "weights.safetensors")
        architecture = {"image_dim": 512, "patient_dim": 128, "hidden": [256, 128], "dropout": 0.3}
        config = {"kind": kind, "classes": ["a", "b", "c"], "architecture": architecture}
        write_json(config, folder / "config.json")
    return head, open_bundle(path)


def test_bundle_gives_the_network_back(tmp_path):
    head, bundle = write_bundle(tmp_path / "fusion_x")
    image = np.random.default_rng(0).random((5, 512), dtype=np.float32)
    patient = np.random.default_rng(1).random((5, 128), dtype=np.float32)
    with torch.no_grad():
        expected = head(torch.from_numpy(image), torch.from_numpy(patient)).numpy()
    np.testing.assert_array_equal(load_fusion_model(bundle).logits(image, patient), expected)


def test_other_kinds_are_refused(tmp_path):
    _, bundle = write_bundle(tmp_path / "x", kind="image")
    with pytest.raises(BundleError, match="kind 'image', expected fusion"):
        load_fusion_model(bundle)
