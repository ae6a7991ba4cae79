"""One training epoch of ResNet-18 with all augmentations, against the usual recipe.

The peer is what papers describe: ImageFolder, PIL transforms, DataLoader workers, fp32. The limit
is the same step on a batch that is already prepared: no augmentation, no data.
Run: python benchmarks/training_epoch.py [patches at 64 px]
"""

import sys
import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader
from torchvision import models, transforms
from torchvision.datasets import ImageFolder

from histofuse.data.patches import PatchMeta
from histofuse.params.base import load_section
from histofuse.params.image import ImageParams
from histofuse.training.image import create_model, make_recipe
from histofuse.training.loop import Rows, fit, resolve_precision

PATCHES = int(sys.argv[1]) if len(sys.argv) > 1 else 2048
CLASSES = ["mitosis", "tumour", "non_tumour"]
STORED_PX, PATCH_PX, BATCH = 96, 64, 64
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def make_rows(count: int) -> Rows:
    generator = torch.Generator().manual_seed(0)
    shape = (count, STORED_PX, STORED_PX, 3)
    patches = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    return Rows((patches,), torch.arange(count) % len(CLASSES))


def time_ours(rows: Rows, params: ImageParams) -> float:
    """Seconds an epoch: what two more of them take."""
    meta = PatchMeta(PATCH_PX, (STORED_PX - PATCH_PX) // 2, STORED_PX, CLASSES, "simulated", "none")
    one_batch = Rows((rows.inputs[0][:BATCH],), rows.labels[:BATCH])
    seconds = []
    for epochs in (1, 3):
        model = create_model("resnet18", meta, params, seed=0)
        recipe = make_recipe("resnet18", model, rows, params, seed=0)
        start = time.perf_counter()
        fit(model, rows, one_batch, replace(recipe, epochs=epochs, patience=9, show_progress=False))
        seconds.append(time.perf_counter() - start)
    return (seconds[1] - seconds[0]) / 2


def time_limit(count: int, params: ImageParams) -> float:
    meta = PatchMeta(PATCH_PX, 0, PATCH_PX, CLASSES, "simulated", "none")
    model = create_model("resnet18", meta, params, seed=0).train()
    model = model.to(memory_format=torch.channels_last)
    images = torch.randn(BATCH, 3, params.input_px, params.input_px)
    images = images.to(memory_format=torch.channels_last)
    bf16 = resolve_precision(params.precision) == "bf16"
    return time_steps(model, [(images, torch.arange(BATCH) % 3)] * (count // BATCH), bf16=bf16)


def time_peer(rows: Rows, input_px: int, folder: Path) -> float:
    write_png(rows, folder)
    turn = transforms.Compose(
        [
            transforms.RandomHorizontalFlip(),
            transforms.RandomVerticalFlip(),
            transforms.RandomRotation(20),
            transforms.CenterCrop(PATCH_PX),
            transforms.RandomResizedCrop(input_px, scale=(0.8, 1.0)),
            transforms.ColorJitter(0.1, 0.1, 0.05, 0.02),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )
    data = ImageFolder(str(folder), turn)
    loader = DataLoader(data, BATCH, shuffle=True, num_workers=2, persistent_workers=True)
    model = models.resnet18(num_classes=len(CLASSES))
    for _ in loader:  # the workers are up and the files in the page cache
        break
    return time_steps(model.train(), loader, bf16=False)


def write_png(rows: Rows, folder: Path) -> None:
    for name in CLASSES:
        (folder / name).mkdir()
    for n, (patch, label) in enumerate(zip(rows.inputs[0].numpy(), rows.labels, strict=True)):
        Image.fromarray(patch).save(folder / CLASSES[label] / f"{n}.png")


def time_steps(model: nn.Module, batches: object, *, bf16: bool) -> float:
    optimiser = torch.optim.Adam(model.parameters(), 1e-3, weight_decay=1e-4)
    criterion = nn.CrossEntropyLoss()
    start = time.perf_counter()
    for images, labels in batches:  # type: ignore[attr-defined]
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            logits = model(images)
        loss = criterion(logits.float(), labels)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
    return time.perf_counter() - start


def main() -> None:
    section = load_section(ImageParams, "image.resnet18")
    print(f"{'px':>4} {'patches':>8} {'ours':>9} {'peer':>9} {'limit':>9}   patches/s")
    for input_px, count in ((64, PATCHES), (224, PATCHES // 4)):
        params = section.model_copy(update={"input_px": input_px})
        rows = make_rows(count)
        with TemporaryDirectory() as scratch:
            peer = time_peer(rows, input_px, Path(scratch))
        limit, ours = time_limit(count, params), time_ours(rows, params)
        rates = " ".join(f"{count / seconds:9.0f}" for seconds in (ours, peer, limit))
        print(f"{input_px:>4} {count:>8} {rates}")
        print(f"     {peer / ours:.2f} × the peer; {ours / limit:.2f} × the time of the bare step")
    assert np.isfinite(peer)


if __name__ == "__main__":
    main()
