"""The network by value: the order of its layers, and what inference leaves out."""

import numpy as np
import torch

from histofuse.models.mlp import Mlp, compute_embeddings, compute_logits, load_mlp, write_mlp


def make_network(outputs=1):
    torch.manual_seed(0)
    network = Mlp(4, [6, 3], outputs, dropout=0.5)
    # Batch statistics that are not the identity.
    network.train()
    for _ in range(5):
        network(torch.randn(32, 4) * 2 + 1)
    return network.eval()


def test_a_block_is_linear_relu_batch_norm():
    network = make_network()
    x = np.random.default_rng(0).normal(size=(7, 4)).astype(np.float32)
    hidden = x
    for block in network.blocks:
        linear, norm = block[0], block[2]
        hidden = np.maximum(
            hidden @ linear.weight.detach().numpy().T + linear.bias.detach().numpy(), 0
        )
        mean, var = norm.running_mean.numpy(), norm.running_var.numpy()
        scale, shift = norm.weight.detach().numpy(), norm.bias.detach().numpy()
        hidden = (hidden - mean) / np.sqrt(var + norm.eps) * scale + shift
    np.testing.assert_allclose(compute_embeddings(network, x), hidden, atol=1e-5)


def test_two_outputs_give_their_difference_as_logit():
    network = make_network(outputs=2)
    x = np.random.default_rng(0).normal(size=(7, 4)).astype(np.float32)
    with torch.no_grad():
        both = network(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(compute_logits(network, x), both[:, 1] - both[:, 0], atol=1e-6)


def test_inference_knows_no_dropout_and_no_batch():
    network = make_network()
    x = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    network.train()
    together = compute_logits(network, x)
    alone = np.concatenate([compute_logits(network, row[None]) for row in x])
    np.testing.assert_allclose(together, alone, atol=1e-6)


def test_a_file_brings_the_network_back(tmp_path):
    network = make_network(outputs=2)
    write_mlp(network, tmp_path / "w.safetensors")
    architecture = {"n_features": 4, "hidden": [6, 3], "outputs": 2, "dropout": 0.5}
    again = load_mlp(tmp_path / "w.safetensors", architecture)
    x = np.random.default_rng(0).normal(size=(7, 4)).astype(np.float32)
    np.testing.assert_array_equal(compute_logits(again, x), compute_logits(network, x))
    assert not again.training
