"""Fusion training on 22,000 pairs from embeddings made once, against encoders in the loop.

The peer runs both frozen encoders on every batch of every epoch, as code does that wraps them and
the head in one module; what its epoch takes is reckoned from part of one. The limit is the head's
matrix products alone.
Run: python benchmarks/fusion_training.py [--short]
"""

import importlib
import time
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from claims import Claim, best_seconds, main
from histofuse.features.embeddings import Embedded, Embeddings, number_rows
from histofuse.models.backbones import ImageModel, ImageSpec, build_model
from histofuse.models.fusion import FusionHead
from histofuse.models.mlp import Mlp, one_thread
from histofuse.params.base import load_section
from histofuse.params.fusion import FusionParams
from histofuse.training.fitting.batches import split_batches
from histofuse.training.fitting.fit import fit
from histofuse.training.fitting.history import FitResult
from histofuse.training.fitting.recipe import Rows
from histofuse.training.fusion import make_head, make_recipe

PAIRS, VALIDATION, PATCH_PX, FEATURES = 22_000, 2_000, 64, 60
CLASSES = ["mitosis", "tumour", "non_tumour"]
TRAINER = "histofuse.training.fitting.trainer"
LEAST_TIMES, MOST_SECONDS = 100, 15


def make_encoders() -> tuple[ImageModel, Mlp]:
    torch.manual_seed(0)
    spec = ImageSpec("resnet18", CLASSES, PATCH_PX, PATCH_PX, 0, "imagenet", 0.0)
    patient = Mlp(FEATURES, [256, 128], 1, 0.3)
    return build_model(spec, "none").eval(), patient.eval()


@torch.inference_mode()
def encode(encoders: tuple[ImageModel, Mlp], patches: Tensor, features: Tensor) -> list[Tensor]:
    image, patient = encoders
    return [image.embed(image.prepare(patches)), patient.embed(features)]


def make_rows(count: int, seed: int) -> Rows:
    """Draw embeddings as wide as the encoders', with a class in them to learn."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, len(CLASSES), (count,), generator=generator)
    image, patient = (torch.randn(count, width, generator=generator) for width in (512, 128))
    image[:, :3] += nn.functional.one_hot(labels, 3)
    return Rows((image, patient), labels)


def make_network(train: Rows, params: FusionParams) -> FusionHead:
    torch.manual_seed(0)
    image, patient = (_number(part) for part in train.inputs)
    return make_head(Embeddings(image, patient, {}), train, len(CLASSES), params)


def _number(values: Tensor) -> Embedded:
    import pandas as pd

    return number_rows(pd.DataFrame({"row_id": np.arange(len(values))}), values.numpy())


def time_ours(params: FusionParams) -> tuple[float, FitResult]:
    train, validation = make_rows(PAIRS, 1), make_rows(VALIDATION, 2)
    network = make_network(train, params)
    recipe = make_recipe(network, train, len(CLASSES), params, seed=0)
    recipe = replace(recipe, show_progress=False)
    start = time.perf_counter()
    with one_thread():
        result = fit(network, train, validation, recipe)
    return time.perf_counter() - start, result


def time_encoders(encoders: tuple[ImageModel, Mlp], batches: int, batch_size: int) -> float:
    """Seconds of the frozen encoders for an epoch, from a few of its batches."""
    patches = torch.randint(0, 256, (batch_size, PATCH_PX, PATCH_PX, 3), dtype=torch.uint8)
    features = torch.randn(batch_size, FEATURES)
    encode(encoders, patches, features)
    seconds = best_seconds(lambda: [encode(encoders, patches, features) for _ in range(batches)], 2)
    return seconds * PAIRS / (batches * batch_size)


def time_products(batch_size: int) -> float:
    """Seconds of an epoch's matrix products: forward, and backward to weights and inputs."""
    widths = [(640, 256), (256, 128), (128, 3)]
    layers = [
        (torch.randn(batch_size, i), torch.randn(i, o), torch.randn(batch_size, o))
        for i, o in widths
    ]

    def multiply() -> None:
        for n, (inputs, weights, outputs) in enumerate(layers):
            inputs @ weights, inputs.T @ outputs
            if n:
                outputs @ weights.T

    with one_thread():
        return best_seconds(lambda: [multiply() for _ in range(PAIRS // batch_size)])


@torch.inference_mode()
def check_same_answer(encoders: tuple[ImageModel, Mlp], params: FusionParams) -> None:
    """Embeddings kept and looked up give the logits of encoders run anew on other batches."""
    generator = torch.Generator().manual_seed(3)
    patches = torch.randint(0, 256, (64, PATCH_PX, PATCH_PX, 3), dtype=torch.uint8)
    features = torch.randn(64, FEATURES, generator=generator)
    kept = encode(encoders, patches, features)
    head = make_network(Rows((kept[0], kept[1]), torch.arange(64) % 3), params).eval()
    for rows in split_batches(torch.randperm(64, generator=generator), 24):
        anew = head(*encode(encoders, patches[rows], features[rows]))
        torch.testing.assert_close(head(kept[0][rows], kept[1][rows]), anew, rtol=1e-4, atol=1e-4)


def measure(short: bool) -> list[Claim]:
    """Time a fit of ours, which ends by its patience, and part of an epoch of the peer."""
    importlib.import_module(TRAINER)  # seconds of start-up that are no part of training
    params = load_section(FusionParams, "fusion")
    encoders = make_encoders()
    check_same_answer(encoders, params)
    batches = 4 if short else 24
    seconds, result = time_ours(params)
    epochs = len(result.history)
    encoding = time_encoders(encoders, batches, params.batch_size)
    peer = encoding * epochs + seconds
    limit = time_products(params.batch_size) * epochs
    by_encoders = (
        f"Of the peer, {batches * params.batch_size:,} pairs of one epoch were measured and "
        "multiplied; its head takes what ours takes. Making the embeddings once takes "
        f"{encoding:.1f} s more, in the stage before."
    )
    common = {
        "number": 5,
        "work": f"fusion training, {PAIRS:,} pairs, {epochs} epochs",
        "ours": f"{seconds:.1f} s",
        "limit": f"its matrix products alone: {limit:.1f} s",
    }
    times = Claim(
        **common,
        peer=f"encoders re-run every epoch: {peer:,.0f} s",
        ratio=peer / seconds,
        bar=f"≥ {LEAST_TIMES} × the peer",
        holds=peer / seconds >= LEAST_TIMES,
        note=by_encoders,
    )
    return [
        times,
        replace(
            times,
            peer="",
            ratio=seconds,
            bar=f"< {MOST_SECONDS} s",
            holds=seconds < MOST_SECONDS,
            note="",
        ),
    ]


if __name__ == "__main__":
    main(measure)
