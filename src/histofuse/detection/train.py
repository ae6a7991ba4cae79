"""Training a detector: random crops, a heat map of the dots, averaged weights."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
import torch
from safetensors.torch import save
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from histofuse.core.artifacts import digest_file, digest_text, to_json, write_json, write_text
from histofuse.core.bundle import CONFIG, HISTORY, PREDICTIONS, WEIGHTS, writing_bundle
from histofuse.core.progress import report, track
from histofuse.core.seeding import derive_seed
from histofuse.core.tables import Contract, parse_columns, to_csv, write_table
from histofuse.detection.crops import UNLABELLED, Batch, Cropper, DottedFrame
from histofuse.detection.finder import THRESHOLD, NucleusFinder
from histofuse.detection.frames import FrameData
from histofuse.detection.network import (
    KIND,
    DetectorSpec,
    HeatNetwork,
    build_detector,
    describe_detector,
)
from histofuse.detection.scoring import choose_threshold, match_frames
from histofuse.features.augment import PatchGeometry
from histofuse.params.detector import DetectorParams, find_radius
from histofuse.params.image import SAFETENSORS
from histofuse.training.fitting.averaging import AveragedNetwork
from histofuse.training.fitting.fit import configuring_torch
from histofuse.training.fitting.processes import choose_device
from histofuse.training.fitting.recipe import (
    ParameterGroup,
    make_adam,
    make_schedule,
    resolve_precision,
)
from histofuse.training.recorder import Recorder

CANDIDATES: Final = Contract(
    name="candidates of the detector",
    columns=parse_columns("frame_id case_id split x_px:float y_px:float score:float"),
    key=("frame_id", "x_px", "y_px"),
    open_ended=True,
)
_NUCLEI: Final = 5.0  # how much more a place on a nucleus weighs in the loss than one between them
_SCALE: Final = 10.0  # of that loss, so that rates suit both
_RECORDED_STEPS: Final = 10
_WARMUP: Final = 0.1  # share of the steps

Losses = dict[str, float]


def train_detector(
    data: FrameData, params: DetectorParams, seed: int, recorder: Recorder, path: Path
) -> NucleusFinder:
    """Train on the training frames, choose the threshold on validation, and write a bundle.

    Raises InputError if the backbone, weights or precision are not available, or a frame cannot be
    read.
    """
    recorder.log_params({**params.model_dump(), "seed": seed})
    frames = data.reduce(data.list_frames("train"), params.reductions[0])
    network, history = fit_detector(
        frames, make_spec(params, data.classes, data.mpp), params, seed, recorder
    )
    finder = NucleusFinder(network, 0.0)
    candidates = find_candidates(finder, data, data.list_frames("validation", "test"))
    validation = data.list_frames("validation")
    radius = find_radius(params.radius_px, params.radius_um, data.mpp)
    matched = match_frames(candidates, data.dots, validation, radius)
    finder.threshold, f1 = choose_threshold(matched)
    report(f"threshold {finder.threshold:.2f}: F1 {f1:.3f} on {len(validation)} validation frames")
    with writing_bundle(path, path.name) as folder:
        state = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
        (folder / WEIGHTS).write_bytes(save(state))
        write_json({"score": finder.threshold, "validation_f1": f1}, folder / THRESHOLD)
        write_text(to_csv(pd.DataFrame(history)), folder / HISTORY)
        write_table(candidates, folder / PREDICTIONS, CANDIDATES)
        write_json(_describe(path.name, network, data, params, seed), folder / CONFIG)
    recorder.finish(path)
    return finder


def _describe(
    name: str, network: HeatNetwork, data: FrameData, params: DetectorParams, seed: int
) -> dict[str, object]:
    inputs = {"frames": digest_text(to_json([t.to_dict("list") for t in (data.table, data.dots)]))}
    if params.weights.endswith(SAFETENSORS):
        inputs["weights"] = digest_file(Path(params.weights))
    return {
        "kind": KIND,
        "name": name,
        "classes": data.classes,
        "params": params.model_dump(),
        "seed": seed,
        "architecture": describe_detector(network),
        "source": data.source,
        "inputs": inputs,
    }


def find_candidates(finder: NucleusFinder, data: FrameData, frames: Sequence[str]) -> pd.DataFrame:
    """Find the candidates of frames: a `CANDIDATES` table."""
    parts = [
        finder.find_candidates(data.read(frame)).assign(frame_id=frame)
        for frame in track(frames, "finding nuclei", total=len(frames))
    ]
    keys = data.table.set_index("frame_id")
    table = pd.concat(parts, ignore_index=True)
    table = table.assign(**{k: table["frame_id"].map(keys[k]) for k in ("case_id", "split")})
    return table.astype({"frame_id": "str", "case_id": "str", "split": "str"})


def fit_detector(
    frames: Sequence[DottedFrame],
    spec: DetectorSpec,
    params: DetectorParams,
    seed: int,
    recorder: Recorder,
) -> tuple[HeatNetwork, list[Losses]]:
    """Train a network on reduced frames; it comes back in eval mode on the CPU.

    Returns the network, and its mean losses, ten steps a row.
    """
    torch.manual_seed(derive_seed(seed, "detector", "init"))
    network = build_detector(spec, params.weights)
    device = choose_device()
    network.to(device).train()
    if not params.backbone_learning_rate:
        network.encoder.requires_grad_(False)
    average = AveragedNetwork(network, params.weight_averaging)
    history = []
    with configuring_torch(network, device, 1):
        losses = _step(network, average, frames, params, seed)
        rows: list[Losses] = []
        for step, row in enumerate(track(losses, "training", total=params.steps), start=1):
            rows.append(row)
            if step % _RECORDED_STEPS == 0 or step == params.steps:
                mean = {name: float(np.mean([r[name] for r in rows])) for name in row}
                recorder.log_metrics({f"train/{k}": v for k, v in mean.items()}, step=step)
                history.append({"round": float(step), **{f"train_{k}": v for k, v in mean.items()}})
                rows = []
    if params.weight_averaging:
        network.load_state_dict(average.network.state_dict())
    return network.requires_grad_(True).cpu().eval(), history


def make_spec(params: DetectorParams, classes: list[str], mpp: float | None) -> DetectorSpec:
    """Translate the params for frames of a resolution."""
    return DetectorSpec(
        backbone=params.backbone,
        classes=classes,
        normalisation=params.normalisation,
        width=params.width,
        reductions=params.reductions,
        smoothing_px=params.smoothing_px,
        spacing_px=params.spacing_px,
        border_px=params.border_px,
        views=params.views,
        mpp=mpp,
    )


def _step(
    network: HeatNetwork,
    average: AveragedNetwork,
    frames: Sequence[DottedFrame],
    params: DetectorParams,
    seed: int,
) -> Iterator[Losses]:
    """Take a step of training after another; yield the losses of each."""
    device = next(network.parameters()).device
    cropper, optimizer = _make_cropper(network, frames, params), _make_optimizer(network, params)
    precision = resolve_precision(params.precision)
    dtype = torch.float16 if precision == "fp16" else torch.bfloat16
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
    rates = [group["lr"] for group in optimizer.param_groups]
    warmup = int(_WARMUP * params.steps)
    schedule = make_schedule("cosine", params.steps, warmup_epochs=warmup)
    weights = _weigh_classes(frames, len(network.spec.classes)).to(device)
    generator = torch.Generator().manual_seed(derive_seed(seed, "detector", "crops"))
    for step in range(params.steps):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * schedule(step)
        batch = Batch(*(t.to(device) for t in cropper.draw(params.batch_size, generator)))
        with torch.autocast(device.type, dtype, enabled=precision != "fp32"):
            maps = network(batch.images)
        losses = _measure(maps.float(), batch, weights)
        optimizer.zero_grad()
        loss = losses["nuclei"] + params.class_weight * losses["classes"]
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        average.update()
        yield {name: value.item() for name, value in losses.items()}


def _make_cropper(
    network: HeatNetwork, frames: Sequence[DottedFrame], params: DetectorParams
) -> Cropper:
    side = params.crop_px
    # Of a crop turned and enlarged, a quarter of its side on each side is read at most.
    margin = side // 4
    cell_px = params.reductions[0] * network.stride
    return Cropper(
        [frame.mirror_borders(margin).fill_up(side + 2 * margin) for frame in frames],
        PatchGeometry(side, margin, side),
        network.spec.normalisation,
        params.augmentation,
        network.stride,
        params.sigma_px / cell_px,
    )


def _make_optimizer(network: HeatNetwork, params: DetectorParams) -> torch.optim.Adam:
    encoder = list(network.encoder.parameters())
    known = set(map(id, encoder))
    pyramid = [p for p in network.parameters() if id(p) not in known]
    groups = [ParameterGroup("pyramid", tuple(pyramid), params.head_learning_rate)]
    if params.backbone_learning_rate:
        groups.append(ParameterGroup("backbone", tuple(encoder), params.backbone_learning_rate))
    return make_adam(groups, params.weight_decay)


def _weigh_classes(frames: Sequence[DottedFrame], classes: int) -> Tensor:
    """Weigh classes by the root of their rarity: in full, few dots would rule the loss."""
    counts = np.bincount(np.concatenate([frame.labels for frame in frames]), minlength=classes)
    weights = torch.from_numpy(counts.max() / counts.clip(1)).float().sqrt()
    return weights / weights.mean()


def _measure(maps: Tensor, batch: Batch, weights: Tensor) -> dict[str, Tensor]:
    weighed = 1 + _NUCLEI * batch.heat
    nuclei = binary_cross_entropy_with_logits(maps[:, 0], batch.heat, weighed) * _SCALE
    labelled = batch.labels != UNLABELLED
    if not labelled.any():
        return {"nuclei": nuclei, "classes": nuclei.new_zeros(())}
    logits = maps[:, 1:].permute(0, 2, 3, 1)[labelled]
    return {"nuclei": nuclei, "classes": cross_entropy(logits, batch.labels[labelled], weights)}
