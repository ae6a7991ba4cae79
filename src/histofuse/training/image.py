"""Training and using image networks. Source: paper 3.1."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, Final, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float32, Int64
from torch import nn

from histofuse.core.artifacts import digest_file, digest_folder, write_json
from histofuse.core.bundle import CONFIG, HISTORY, MANIFEST, PREDICTIONS, WEIGHTS, writing_bundle
from histofuse.core.code import digest_code
from histofuse.core.errors import FaultList, InputError
from histofuse.core.progress import track
from histofuse.core.seeding import derive_seed
from histofuse.core.stage import require_one_process
from histofuse.core.tables import (
    Contract,
    keep_on_disk,
    parse_columns,
    read_table,
    release_memory,
    write_parts,
)
from histofuse.data.patches import INDEX, META, PATCH_INDEX, PatchMeta, ShardReader, load_meta
from histofuse.data.splits import PATCH_SPLITS
from histofuse.features.augment import DRAWN, augment_patches
from histofuse.features.embeddings import number_rows, write_image_embeddings
from histofuse.models.backbones import (
    MAPS,
    ImageModel,
    ImageSpec,
    build_model,
    describe_model,
    save_weights,
)
from histofuse.models.encoders import resolve_encoder
from histofuse.models.stages import choose_gradcam_layer, count_unfrozen, freeze_backbone
from histofuse.params.image import (
    PINNED,
    SAFETENSORS,
    AnyImageParams,
    EncoderParams,
    FinetuneParams,
    GradientParams,
    LpFtParams,
    ProbeParams,
    SolvedHeadParams,
)
from histofuse.training.calibrate import check_method
from histofuse.training.decision import (
    Decision,
    choose_focus_class,
    fit_decision,
    list_decision_splits,
    write_decision,
)
from histofuse.training.distance import fit_distance, write_distance
from histofuse.training.fitting.checkpoints import make_checkpoint_key, resumable
from histofuse.training.fitting.fit import fit
from histofuse.training.fitting.history import FitResult, measure, write_history
from histofuse.training.fitting.losses import adjust_logits, make_focal_loss
from histofuse.training.fitting.processes import Draws
from histofuse.training.fitting.recipe import (
    Inputs,
    ParameterGroup,
    Recipe,
    Rows,
    compute_class_weights,
    make_schedule,
    read_recipe,
)
from histofuse.training.fitting.stored import StoredRows, iterate_rows
from histofuse.training.probe import Probe, fit_probe, put_head
from histofuse.training.recorder import Recorder

IMAGE_PREDICTIONS = Contract(
    name="image predictions",
    columns=parse_columns("patch_id case_id frame_id split label prediction"),
    key=("patch_id",),
    open_ended=True,
)
# A trained network, its validation predictions, and what brings its logits to calibrated
# probabilities -> how its maps are computed.
ChooseMaps = Callable[[ImageModel, pd.DataFrame, Callable[..., Any]], dict[str, Any]]

_INDEXED: Final = ("patch_id", "frame_id", "case_id", "label", "shard", "row")
# Fixed, so that the same patches in the same order give the same bytes.
_BATCH = 256
_ROWS_AT_ONCE = 2**18
_MOST_ROWS = 2**31 - 1  # of a shard, and shards: what an int32 holds
# Values of embeddings that are kept in memory: 16 MiB.
_MOST_IN_MEMORY = 2**22


@dataclass(frozen=True)
class PatchData:
    """Patches on disk, and their index with the column ``split``, sorted by ``patch_id``."""

    folder: Path
    table: pd.DataFrame
    meta: PatchMeta
    digests: dict[str, str]

    def select(self, split: str) -> pd.DataFrame:
        """Select the rows of one split."""
        return self.table[self.table["split"] == split]

    def number_labels(self, table: pd.DataFrame) -> Int64[np.ndarray, " n"]:
        """Turn class names into numbers, in the order of the classes."""
        return pd.Categorical(table["label"], categories=self.meta.classes).codes.astype(np.int64)

    def load_rows(self, split: str) -> Rows:
        """Load the labels of a split; its uint8 patches are read when a batch is selected."""
        rows, columns = self.table["split"] == split, ["label", "shard", "row"]
        table = self.table.loc[rows, columns]
        stored = store_patches(ShardReader(self.folder), table)
        return Rows((stored,), torch.from_numpy(self.number_labels(table)))


def store_patches(reader: ShardReader, index: pd.DataFrame) -> StoredRows:
    """Give access to the patches of an index, uint8 (batch, stored_px, stored_px, 3)."""
    shards, rows = (index[column].to_numpy() for column in ("shard", "row"))
    return StoredRows(lambda batch: reader.read(shards[batch], rows[batch]), len(index))


def load_patch_data(folder: Path, splits: Path) -> PatchData:
    """Join the patches of a folder with their splits, a `PATCH_SPLITS` table, by key.

    Raises InputError if a file is missing, the patches of the two differ, or a label is no class.
    """
    meta = load_meta(folder)
    index = _read_sorted(folder / INDEX, PATCH_INDEX, _INDEXED)
    split_of = _read_sorted(splits, PATCH_SPLITS, ("patch_id", "split"))
    faults = FaultList()
    if not index["patch_id"].equals(split_of["patch_id"]):
        _compare_patches(index, split_of, (folder / INDEX, splits), faults)
    for label in sorted(set(index["label"].unique()) - set(meta.classes)):
        expected = f"one of {', '.join(meta.classes)}"
        faults.add(folder / INDEX, f"label {label!r} is no class", expected)
    for column in ("shard", "row"):
        if not index[column].between(0, _MOST_ROWS).all():
            faults.add(folder / INDEX, f"{column}s beyond 0 to {_MOST_ROWS:,}", "those of patches")
    faults.raise_if_any()
    table = index.assign(split=split_of["split"]).astype({"shard": "int32", "row": "int32"})
    table["patch_id"] = keep_on_disk(table["patch_id"])
    del index, split_of
    release_memory()
    digests = {"patches": digest_folder(folder), "splits": digest_file(splits)}
    return PatchData(folder, table, meta, digests)


def _read_sorted(path: Path, contract: Contract, columns: Sequence[str]) -> pd.DataFrame:
    """Read columns by ``patch_id``; words recur, but for the ids, and take a few bytes a patch."""
    table = read_table(path, contract, categories=True, columns=columns)
    return table.sort_values("patch_id", ignore_index=True)


def _compare_patches(
    index: pd.DataFrame, split_of: pd.DataFrame, paths: tuple[Path, Path], faults: FaultList
) -> None:
    known, split = pd.Index(index["patch_id"]), pd.Index(split_of["patch_id"])
    for path, other, alone in (
        (*paths, known.difference(split)),
        (*paths[::-1], split.difference(known)),
    ):
        if len(alone):
            problem = f"{len(alone)} patches, such as {alone[0]}, are not in {other}"
            faults.add(path, problem, "the same patches in both", "Run dvc repro split_patches.")


def train_image(
    data: PatchData,
    params: AnyImageParams,
    seed: int,
    recorder: Recorder,
    path: Path,
    *,
    embeddings: Path | None = None,
    choose_maps: ChooseMaps | None = None,
) -> FitResult:
    """Train one network, calibrate it on rows that it did not learn from, and write its bundle.

    A killed run resumes after its last complete epoch and ends in the same bytes. The last part of
    `path` is the model's name. Embeddings of all patches are written to the folder `embeddings`, if
    it is given; what `choose_maps` returns is `MAPS` of ``config.json``. Raises InputError if the
    backbone, weights or precision are not available, or a split is empty.
    """
    check_method(params.calibration)
    if isinstance(params, ProbeParams):
        require_one_process("Run it with python: the head of a probe is solved in one process.")
    recorder.log_params({**params.model_dump(), "seed": seed})
    model = create_model(path.name, data.meta, params, seed)
    inputs = {**data.digests, **_digest_weights(params)}
    key = make_checkpoint_key(params.model_dump(), seed, inputs, digest_code(__name__))
    with resumable(path.name, key) as checkpoints:
        if isinstance(params, ProbeParams):
            result, outputs, learnt = _probe(path.name, model, data, params, seed)
        else:
            result, outputs, learnt = _finetune(
                path.name, model, data, params, seed, checkpoints, recorder
            )
        unseen = data.table["split"].isin(list_decision_splits(params.strategy)).to_numpy()
        labels = data.number_labels(data.table)[unseen]
        cases = data.table["case_id"].to_numpy(dtype=object)[unseen]
        logits = outputs.logits[unseen]
        decision = fit_decision(logits, labels, cases, params.calibration, params.threshold)
        rows = (data.table["split"] == "validation").to_numpy()
        if choose_maps:
            (shown,) = _tabulate(decision, data, outputs.logits, rows, len(data.table))
            learnt[MAPS] = choose_maps(model, shown, decision.calibrator.probabilities)
        with writing_bundle(path, path.name) as folder:
            save_weights(model, folder / WEIGHTS)
            write_decision(decision, folder, data.meta.source)
            train = (data.table["split"] == "train").to_numpy()
            write_distance(fit_distance(outputs.embeddings, train, rows), folder)
            write_history(result, folder / HISTORY)
            everything = np.ones(len(rows), dtype=bool)
            parts = _tabulate(decision, data, outputs.logits, everything, _ROWS_AT_ONCE)
            write_parts(parts, folder / PREDICTIONS, IMAGE_PREDICTIONS)
            config = _describe(path.name, model, data, params, seed)
            write_json({**config, "inputs": inputs, **learnt}, folder / CONFIG)
        if embeddings:
            origin = {"encoder": digest_file(path / MANIFEST), "patches": data.digests["patches"]}
            image = number_rows(data.table[["patch_id"]], outputs.embeddings)
            write_image_embeddings(image, origin, embeddings)
    recorder.finish(path)
    return result


def _tabulate(
    decision: Decision, data: PatchData, logits: np.ndarray, rows: np.ndarray, at_once: int
) -> Iterator[pd.DataFrame]:
    """Yield predictions of the rows of a mask, some at once: a table of all takes much memory."""
    columns = ["patch_id", "case_id", "frame_id", "split", "label"]
    chosen = np.flatnonzero(rows)
    for first in range(0, len(chosen), at_once):
        part = chosen[first : first + at_once]
        keys = data.table[columns].iloc[part].astype("str")
        yield decision.tabulate(keys, data.meta.classes, logits[part])


class _Trained(NamedTuple):
    """A network's history, its outputs for all patches, and what ``config.json`` says of it."""

    result: FitResult
    outputs: "Outputs"
    learnt: dict[str, Any]


def _finetune(  # noqa: PLR0917
    name: str,
    model: ImageModel,
    data: PatchData,
    params: GradientParams,
    seed: int,
    checkpoints: Path,
    recorder: Recorder,
) -> _Trained:
    learnt = {}
    if isinstance(params, LpFtParams):
        probe = _solve_head(name, model, data, data.select("train"), params, seed)[0]
        learnt = {"probe": probe.describe()}
    train, validation = data.load_rows("train"), data.load_rows("validation")
    recipe = make_recipe(name, model, train, params, seed)
    result = fit(model, train, validation, recipe, checkpoints, recorder)
    kept = {"best_epoch": result.best_epoch, "monitor": recipe.monitor}
    release_memory()
    outputs = apply_network(model, data.folder, data.table)
    return _Trained(result, outputs, {"training": kept, **learnt})


def _solve_head(  # noqa: PLR0917
    name: str,
    model: ImageModel,
    data: PatchData,
    table: pd.DataFrame,
    params: SolvedHeadParams,
    seed: int,
) -> tuple[Probe, Float32[np.ndarray, "n width"]]:
    """Solve the head on the rows of a table that are not test rows; compute features of all."""
    _require_classes(data)
    features = apply_network(model, data.folder, table).embeddings
    known = (table["split"] != "test").to_numpy()
    rows, seed = table[known], derive_seed(seed, "image", name)
    # Where the splits share frames, as in the paper's protocol, the folds may do so as well.
    shared = rows.groupby("frame_id", observed=True)["split"].nunique().max() > 1
    keys = rows[["patch_id"]] if shared else rows
    probe = fit_probe(features[known], data.number_labels(rows), keys, params, seed)
    put_head(model, probe.head)
    return probe, features


def _probe(
    name: str, model: ImageModel, data: PatchData, params: ProbeParams, seed: int
) -> _Trained:
    """Solve the head on training and validation rows; their logits are those of folds held out.

    Nothing stops early, so validation need not be kept from the head.
    """
    probe, features = _solve_head(name, model, data, data.table, params, seed)
    split, labels = data.table["split"].to_numpy(), data.number_labels(data.table)
    logits = apply_head(model, features)
    weights = compute_class_weights(torch.from_numpy(labels[split == "train"]), logits.shape[1])
    row = {"epoch": 1.0} | _measure("train", logits, labels, split, weights)
    logits[split != "test"] = probe.held_out
    row |= _measure("validation", logits, labels, split, weights)
    note = f"mean AP of {probe.folds} folds of training, by {probe.unit}"
    kept = {"best_epoch": 1, "monitor": "mean_ap", "note": note}
    learnt = {"training": kept, "probe": probe.describe()}
    return _Trained(FitResult([row], 1), Outputs(features, logits), learnt)


def _measure(
    part: str, logits: np.ndarray, labels: np.ndarray, split: np.ndarray, weights: torch.Tensor
) -> dict[str, float]:
    rows = split == part
    scores = measure(logits[rows], labels[rows], weights.numpy())
    return {f"{part}_{name}": value for name, value in scores.items()}


def _require_classes(data: PatchData) -> None:
    faults, labels = FaultList(), set(data.select("train")["label"])
    for name in data.meta.classes:
        if name not in labels:
            faults.add("split 'train'", f"no patch of class {name!r}", "patches of all classes")
    if data.select("validation").empty:
        faults.add("split 'validation'", "holds no rows", "at least one")
    faults.raise_if_any()


def _describe(
    name: str, model: ImageModel, data: PatchData, params: AnyImageParams, seed: int
) -> dict[str, Any]:
    return {
        "kind": "image",
        "name": name,
        "classes": data.meta.classes,
        "focus_class": choose_focus_class(data.meta.classes, data.select("train")["label"]),
        "params": params.model_dump(),
        "seed": seed,
        "architecture": describe_model(model),
        "source": data.meta.source,
        "stain_normalisation": data.meta.stain_normalisation,
    }


def create_model(name: str, meta: PatchMeta, params: AnyImageParams, seed: int) -> ImageModel:
    """Build the network of a section; its random weights come from the seed and the name."""
    encoder = resolve_encoder(params)
    spec = ImageSpec(
        backbone=encoder.backbone,
        classes=meta.classes,
        input_px=encoder.input_px,
        patch_px=meta.patch_px,
        margin_px=meta.margin_px,
        patch_um=meta.patch_um,
        normalisation=encoder.normalisation,
        model_kwargs=encoder.model_kwargs,
        pooling=params.pooling,
        **_describe_head(params),
    )
    torch.manual_seed(derive_seed(seed, "image", name, "init"))
    model = build_model(spec, encoder.weights)
    model.gradcam_layer = choose_gradcam_layer(model, params.minimum_map_px)
    return model


def _describe_head(params: AnyImageParams) -> dict[str, Any]:
    if isinstance(params, FinetuneParams):
        return {"dropout": params.dropout}
    solved = {"levels": params.levels, "rotations": params.rotations, "standardised": True}
    return {"dropout": 0.0, **solved}


def make_recipe(
    name: str, model: ImageModel, train: Rows, params: GradientParams, seed: int
) -> Recipe:
    """Translate the params into a recipe for the loop."""
    loss, classes = make_focal_loss(params.focal_gamma), len(model.spec.classes)
    adjusted = params.imbalance == "logit_adjustment"
    if adjusted:
        loss = adjust_logits(loss, torch.bincount(train.labels, minlength=classes) / len(train))
    head, backbone = (tuple(part.parameters()) for part in (model.head, model.backbone))
    steps = {"step_epochs": params.step_epochs, "step_factor": params.step_factor}
    return Recipe(
        **read_recipe(params, train.labels, classes),
        monitor=params.monitor,
        seed=derive_seed(seed, "image", name),
        groups=(
            ParameterGroup("head", head, params.head_learning_rate),
            ParameterGroup("backbone", backbone, params.backbone_learning_rate),
        ),
        schedule=make_schedule(params.schedule, params.epochs, **steps),
        loss=loss,
        # Such logits ignore the shares of the classes, and so does this measure of them.
        measured_weights=compute_class_weights(train.labels, classes) if adjusted else None,
        weight_averaging=params.weight_averaging,
        prepare=partial(_prepare, model, params),
        begin_epoch=partial(_begin_epoch, params),
        precision=params.precision,
    )


def _prepare(
    model: ImageModel, params: GradientParams, inputs: Inputs, draws: Draws | None
) -> Inputs:
    (stored,), spec = inputs, model.spec
    if draws is None:
        return (model.prepare(stored),)
    drawn, scale = draws.uniform(DRAWN), spec.normalisation
    return (augment_patches(stored, spec.geometry, scale, params.augmentation, drawn),)


def _begin_epoch(params: GradientParams, network: nn.Module, epoch: int) -> None:
    assert isinstance(network, ImageModel)
    if not params.frozen_epochs:
        network.train()
        return
    unfrozen = count_unfrozen(epoch, params.frozen_epochs, params.unfreeze_every_epochs)
    freeze_backbone(network, unfrozen)


def _digest_weights(params: EncoderParams) -> dict[str, str]:
    if params.weights.startswith(PINNED):
        return {"weights": params.weights.removeprefix(PINNED)}
    path = Path(params.weights)
    return {"weights": digest_file(path)} if path.suffix == SAFETENSORS else {}


class Outputs(NamedTuple):
    """Outputs of a network for patches, in fp32."""

    embeddings: Float32[np.ndarray, "n width"]
    logits: Float32[np.ndarray, "n classes"]


@torch.inference_mode()
def apply_network(model: ImageModel, folder: Path, index: pd.DataFrame) -> Outputs:
    """Compute the embeddings and raw logits of stored patches, in the order of `index`.

    Raises InputError if the patches of `folder` are of another size than the model's.
    """
    reader = ShardReader(folder)
    _check_sides(model.spec, reader.meta, folder)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device).eval()
    embeddings = _allocate(len(index), model.embedding_dim)
    logits = _allocate(len(index), len(model.spec.classes))
    batches = torch.arange(len(index)).split(_BATCH) if len(index) else ()
    read = iterate_rows((store_patches(reader, index),), batches, device)
    steps = track(zip(batches, read, strict=True), "running the network", total=len(batches))
    for rows, (stored,) in steps:
        embedding = model.embed(model.prepare(stored))
        embeddings[rows.numpy()] = embedding.float().cpu().numpy()
        logits[rows.numpy()] = model.head(embedding).float().cpu().numpy()
    model.cpu()
    return Outputs(embeddings, logits)


def _allocate(n: int, width: int) -> Float32[np.ndarray, "n width"]:
    """Allocate rows: many in a file without a name, so that memory does not grow with them."""
    if n * width < _MOST_IN_MEMORY:
        return np.empty((n, width), np.float32)
    with TemporaryFile() as file:
        return np.memmap(file, np.float32, "w+", shape=(n, width))


@torch.inference_mode()
def apply_head(
    model: ImageModel, embeddings: Float32[np.ndarray, "n width"]
) -> Float32[np.ndarray, "n classes"]:
    """Compute raw logits of embeddings."""
    parts = torch.from_numpy(embeddings).split(_BATCH)
    return torch.cat([model.head(part) for part in parts]).numpy()


def _check_sides(spec: ImageSpec, meta: PatchMeta, folder: Path) -> None:
    actual = meta.patch_px, meta.margin_px, meta.patch_um
    expected = spec.patch_px, spec.margin_px, spec.patch_um
    if actual != expected:
        problem = "patches of {} px with a margin of {} px and a side of {} µm".format(*actual)
        trained_on = "{} px, {} px and {} µm, on which the model was trained".format(*expected)
        remedy = "Cut the patches again, or train again."
        raise InputError.of(folder / META, problem, trained_on, remedy)
