"""One training epoch of ResNet-18 with all augmentations, against the usual recipe.

The peer is what papers describe: ImageFolder of PNGs, PIL transforms, DataLoader workers, fp32. The
limit is the same step on a batch that lies ready on the device: no augmentation, no data. Where
there is a GPU, all three run on it, and the share of its peak is given too.
Run: python benchmarks/training_epoch.py [--short]
"""

import math
import os
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.optim import Adam
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode
from torchvision import models, transforms
from torchvision.datasets import ImageFolder

from claims import Claim, best_seconds, main
from histofuse.data.patches import PatchMeta
from histofuse.models.backbones import ImageModel
from histofuse.params.base import load_section
from histofuse.params.image import FinetuneParams
from histofuse.training.fitting.cpu import multiplying_small_maps
from histofuse.training.fitting.fit import fit
from histofuse.training.fitting.recipe import Rows, resolve_precision
from histofuse.training.image import create_model, make_recipe
from histofuse.training.recorder import Recorder

CLASSES = ["mitosis", "tumour", "non_tumour"]
STORED_PX, PATCH_PX = 96, 64
META = PatchMeta(PATCH_PX, (STORED_PX - PATCH_PX) // 2, STORED_PX, CLASSES, "simulated", "none")
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if GPU else "cpu")
WORKERS = min(16, os.cpu_count() or 1)
ROUNDS = REPEATS = 2
WARM_STEPS = 10 if GPU else 1
MATRIX = 8192
ADAM = {"lr": 1e-3, "weight_decay": 1e-4}

TO_INPUT = [transforms.ToTensor(), transforms.Normalize(MEAN, STD)]


class Size(NamedTuple):
    """One row: what goes in and how much of it.

    Attributes:
        input_px: Side of the network's input.
        batch: Patches a step; of the peer too.
        patches: Patches an epoch of ours.
        peer_patches: Patches an epoch of the peer, whose rate is what counts; 0 runs none.
        peer_bar: How many times the peer's rate ours is to be; 0 where no bar is set.
    """

    input_px: int
    batch: int
    patches: int
    peer_patches: int
    peer_bar: float


def list_sizes(short: bool) -> list[Size]:
    if GPU:  # the batch of the params and one that fills the chip
        part = 4 if short else 1
        return [
            Size(64, 64, 16384 // part, 0, 0),
            Size(64, 1024, 65536 // part, 0, 0),
            # Two batches of the peer for each worker, so that all of them have work.
            Size(224, 64, 8192 // part, 2 * WORKERS * 64, 3),
            Size(224, 256, 16384 // part, 2 * WORKERS * 256, 3),
        ]
    if short:
        return [Size(64, 64, 512, 256, 2), Size(224, 64, 128, 64, 2.5)]
    return [Size(64, 64, 4096, 2048, 2), Size(224, 64, 1024, 512, 2.5)]


def make_rows(count: int) -> Rows:
    generator = torch.Generator().manual_seed(0)
    shape = (count, STORED_PX, STORED_PX, 3)
    patches = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    return Rows((patches,), torch.arange(count) % len(CLASSES))


def load_params(size: Size) -> FinetuneParams:
    section = load_section(FinetuneParams, "image.resnet18")
    return section.model_copy(update={"input_px": size.input_px, "batch_size": size.batch})


# --- ours ---------------------------------------------------------------------------------------


class Stopwatch(Recorder):
    """Notes when each epoch ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        self.ends.append(time.perf_counter())

    def best_epoch_seconds(self) -> float:
        return float(np.diff(self.ends).min())


def time_ours(rows: Rows, params: FinetuneParams) -> float:
    """Seconds of an epoch through `fit`, validation (of a few rows) and metrics included."""
    model = create_model("resnet18", META, params, seed=0)
    recipe = make_recipe("resnet18", model, rows, params, seed=0)
    # The first epoch, with all that starts up in it, ends before the first second is counted.
    recipe = replace(recipe, epochs=1 + REPEATS, patience=9, show_progress=False)
    watch = Stopwatch()
    few = Rows((rows.inputs[0][: len(CLASSES)],), rows.labels[: len(CLASSES)])
    fit(model, rows, few, recipe, recorder=watch)
    return watch.best_epoch_seconds()


# --- the limit and the peer ---------------------------------------------------------------------


def time_limit(params: FinetuneParams, steps: int) -> float:
    """Seconds of bare steps that compute as ours do."""
    choose_kernels(deterministic=True)
    model = create_model("resnet18", META, params, seed=0).train().to(DEVICE)
    bf16 = resolve_precision(params.precision) == "bf16"
    step = make_step(model, Adam(model.parameters(), fused=True, **ADAM), bf16=bf16)
    batch = make_batch(params)
    with nullcontext() if GPU else multiplying_small_maps(model):
        time_steps(step, [batch] * WARM_STEPS)
        return min(time_steps(step, [batch] * steps) for _ in range(REPEATS))


def choose_kernels(*, deterministic: bool) -> None:
    """Undo what `fit` has set, or set it."""
    torch.use_deterministic_algorithms(deterministic, warn_only=True)
    torch.backends.cudnn.deterministic = deterministic


def make_batch(params: FinetuneParams) -> tuple[Tensor, Tensor]:
    images = torch.randn(params.batch_size, 3, params.input_px, params.input_px, device=DEVICE)
    labels = torch.arange(params.batch_size, device=DEVICE) % len(CLASSES)
    return images.to(memory_format=torch.channels_last), labels


def make_step(
    network: Callable[[Tensor], Tensor], optimiser: Adam, *, bf16: bool
) -> Callable[[Tensor, Tensor], None]:
    criterion = nn.CrossEntropyLoss()

    def step(images: Tensor, labels: Tensor) -> None:
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=bf16):
            logits = network(images)
        loss = criterion(logits.float(), labels)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()

    return step


def time_steps(
    step: Callable[[Tensor, Tensor], None], batches: Iterable[tuple[Tensor, Tensor]]
) -> float:
    synchronise()
    start = time.perf_counter()
    for images, labels in batches:
        step(images.to(DEVICE, non_blocking=True), labels.to(DEVICE, non_blocking=True))
    synchronise()
    return time.perf_counter() - start


def synchronise() -> None:
    if GPU:
        torch.cuda.synchronize()


class Peer:
    """The usual recipe over a folder of PNGs, its workers up and its files in the page cache."""

    def __init__(self, rows: Rows, params: FinetuneParams, folder: Path) -> None:
        write_png(rows, folder)
        turn = transforms.Compose(
            [
                transforms.RandomHorizontalFlip(),
                transforms.RandomVerticalFlip(),
                transforms.RandomRotation(20),
                transforms.CenterCrop(PATCH_PX),
                transforms.RandomResizedCrop(params.input_px, scale=(0.8, 1.0)),
                transforms.ColorJitter(0.1, 0.1, 0.05, 0.02),
                *TO_INPUT,
            ]
        )
        self.loader = DataLoader(
            ImageFolder(str(folder), turn),
            params.batch_size,
            shuffle=True,
            num_workers=WORKERS,
            persistent_workers=True,
            pin_memory=GPU,
            drop_last=True,
        )
        model = models.resnet18(num_classes=len(CLASSES)).train().to(DEVICE)
        self.step = make_step(model, Adam(model.parameters(), fused=False, **ADAM), bf16=False)
        time_steps(self.step, islice(self.loader, WARM_STEPS))

    def time_epoch(self) -> float:
        choose_kernels(deterministic=False)
        return min(time_steps(self.step, self.loader) for _ in range(REPEATS))


def write_png(rows: Rows, folder: Path) -> None:
    for name in CLASSES:
        (folder / name).mkdir()
    for n, (patch, label) in enumerate(zip(rows.inputs[0].numpy(), rows.labels, strict=True)):
        Image.fromarray(patch).save(folder / CLASSES[label] / f"{n:06}.png", compress_level=1)


# --- the same answer ----------------------------------------------------------------------------


def check_same_answer(rows: Rows, params: FinetuneParams) -> None:
    """Without what is random, ours and the peer's recipe give the same images and logits."""
    model = create_model("resnet18", META, params, seed=0).eval()
    peer = models.resnet18(num_classes=len(CLASSES)).eval()
    peer.load_state_dict(rename(model))
    bicubic = transforms.InterpolationMode.BICUBIC
    plain = transforms.Compose(
        [
            transforms.CenterCrop(PATCH_PX),
            transforms.Resize(params.input_px, interpolation=bicubic),
            *TO_INPUT,
        ]
    )
    stored = rows.inputs[0][:8]
    theirs = torch.stack([plain(Image.fromarray(patch)) for patch in stored.numpy()])
    ours = model.prepare(stored)
    # To a grey level, or two in a pixel of 100,000: both round between rows and columns.
    assert (ours - theirs).abs().max() < 2.5 / 255 / min(STD)
    assert (ours - theirs).abs().mean() < 0.1 / 255 / min(STD)
    with torch.inference_mode():
        torch.testing.assert_close(model(ours), peer(ours), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(model(ours), peer(theirs), rtol=0.02, atol=0.02)


def rename(model: ImageModel) -> dict[str, Tensor]:
    backbone = model.backbone.state_dict()
    head = model.head[1].state_dict()
    return {**backbone, **{f"fc.{name}": value for name, value in head.items()}}


# --- the chip -----------------------------------------------------------------------------------


def count_flops(params: FinetuneParams) -> int:
    """Count what a step's forward and backward passes multiply and add, a patch."""
    model = create_model("resnet18", META, params, seed=0).train()
    images = torch.zeros(2, 3, params.input_px, params.input_px)
    with FlopCounterMode(display=False) as counter:
        model(images).sum().backward()
    return counter.get_total_flops() // 2


def measure_peak() -> float:
    """FLOP/s of a large bf16 matrix product."""
    left, right = (torch.randn(MATRIX, MATRIX, device=DEVICE).bfloat16() for _ in range(2))

    def multiply() -> None:
        for _ in range(20):
            left @ right
        synchronise()

    multiply()
    return 20 * 2 * MATRIX**3 / best_seconds(multiply)


# --- claims -------------------------------------------------------------------------------------


class Rates(NamedTuple):
    """Patches a second, the best of a few rounds.

    Attributes:
        ours: Through `fit`.
        peer: The usual recipe.
        limit: Bare steps.
    """

    ours: float
    peer: float
    limit: float


def measure_rates(size: Size, params: FinetuneParams, scratch: Path) -> Rates:
    rows = make_rows(size.patches)
    check_same_answer(rows, params)
    peer = Peer(make_rows(size.peer_patches), params, scratch) if size.peer_patches else None
    steps, peer_steps = size.patches // size.batch, size.peer_patches // size.batch
    rounds = [
        # One after the other in each round, so that a busy machine slows all of them.
        (
            time_ours(rows, params),
            peer.time_epoch() if peer else math.inf,
            time_limit(params, steps),
        )
        for _ in range(ROUNDS)
    ]
    ours, peers, limit = (min(column) for column in zip(*rounds, strict=True))
    trained = steps * size.batch
    return Rates(trained / ours, peer_steps * size.batch / peers, trained / limit)


def make_claims(size: Size, rates: Rates, share: str) -> list[Claim]:
    where = torch.cuda.get_device_name() if GPU else "CPU"
    work = f"an epoch of ResNet-18 at {size.input_px} px, batch {size.batch}, {where}"
    limit_bar = 1.10
    over = rates.limit / rates.ours
    ours = f"{rates.ours:,.0f} patches/s{share}"
    against_limit = Claim(
        number=4,
        work=work,
        ours=ours,
        peer="",
        limit=f"step on a resident batch, no augmentation: {rates.limit:,.0f} patches/s",
        ratio=over,
        bar=f"≤ {limit_bar:.2f} × the time of the limit",
        holds=over <= limit_bar,
    )
    if not size.peer_bar:
        return [against_limit]
    times = rates.ours / rates.peer
    against_peer = replace(
        against_limit,
        peer=f"PNG, PIL, {WORKERS} workers, fp32: {rates.peer:,.0f} patches/s",
        limit="",
        ratio=times,
        bar=f"≥ {size.peer_bar:g} × the peer",
        holds=times >= size.peer_bar,
    )
    return [against_peer, against_limit]


def describe_share(params: FinetuneParams, rate: float, peak: float) -> str:
    reached = rate * count_flops(params)
    return f", {reached / 1e12:.1f} TFLOP/s = {reached / peak:.1%} of {peak / 1e12:.0f}"


def measure(short: bool) -> list[Claim]:
    """Measure each size."""
    peak = measure_peak() if GPU else 0.0
    claims = []
    for size in list_sizes(short):
        params = load_params(size)
        with TemporaryDirectory() as scratch:
            rates = measure_rates(size, params, Path(scratch))
        share = describe_share(params, rates.ours, peak) if GPU else ""
        claims += make_claims(size, rates, share)
    return claims


if __name__ == "__main__":
    main(measure)
