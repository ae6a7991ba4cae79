"""Runs a `Recipe` through Lightning's trainer."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from contextlib import ExitStack
from pathlib import Path

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

from histofuse.training.fitting.checkpoints import LAST
from histofuse.training.fitting.cpu import training_faster_on_cpu
from histofuse.training.fitting.history import FitResult, find_best, is_finished
from histofuse.training.fitting.module import FitModule
from histofuse.training.fitting.processes import read_launch, sharing_batch_norm
from histofuse.training.fitting.recipe import Recipe, Rows, resolve_precision
from histofuse.training.recorder import Recorder

PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
logging.getLogger("lightning.fabric").setLevel(logging.ERROR)


def run_fit(
    network: nn.Module,
    train: Rows,
    validation: Rows,
    recipe: Recipe,
    *,
    checkpoints: Path | None,
    recorder: Recorder,
) -> FitResult:
    """Run `fit` once its arguments were checked."""
    module = FitModule(network, train, validation, recipe, recorder)
    trainer = _make_trainer(recipe, checkpoints)
    last = checkpoints / LAST if checkpoints and (checkpoints / LAST).is_file() else None
    if last:
        state = torch.load(last, map_location="cpu", weights_only=True, mmap=True)
        module.on_load_checkpoint(state)
        del state
    if not is_finished(module.history, recipe):
        with ExitStack() as stack:
            if not torch.cuda.is_available():
                stack.enter_context(training_faster_on_cpu(network))
                if trainer.world_size > 1:  # on GPUs Lightning has PyTorch do the same
                    stack.enter_context(sharing_batch_norm(network))
            stack.enter_context(warnings.catch_warnings())
            # Hints on loader workers and on what logs where; batches here are row numbers.
            warnings.filterwarnings("ignore", module=r"lightning\.")
            warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\).*")
            # Graphs are recorded on a stream of their own, replayed on another.
            warnings.filterwarnings("ignore", message=r"The AccumulateGrad node's stream")
            trainer.fit(module, ckpt_path=last, weights_only=True)
    if trainer.global_rank != 0:
        # Rank 0 alone writes the bundle.
        sys.exit(0)
    network.cpu().load_state_dict(module.best_state)
    network.eval()
    return FitResult(module.history, find_best(module.history, recipe.monitor) + 1)


def _make_trainer(recipe: Recipe, checkpoints: Path | None) -> pl.Trainer:
    gpus = torch.cuda.device_count()
    # Apple's GPU has no deterministic kernels and no autocast worth having: CPU is the baseline.
    accelerator = "gpu" if gpus else "cpu"
    devices, nodes = max(1, gpus), 1
    if recipe.devices != "auto":
        devices = recipe.devices
    elif launched := read_launch():
        devices, nodes = launched
    # With deterministic kernels torch would fill all new memory with NaN.
    torch.utils.deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]
    if not gpus:
        # Lightning makes torch load NVML at each of Adam's checks for a GPU, which protects forks
        # from an initialised driver. Without a GPU torch's own check is safe and cheap.
        os.environ.pop("PYTORCH_NVML_BASED_CUDA_CHECK", None)
    several = devices * nodes > 1
    # What is frozen changes from epoch to epoch, so the reducer must look for unused parameters.
    strategy = "ddp_find_unused_parameters_true" if several else "auto"
    return pl.Trainer(
        accelerator=accelerator,
        devices=devices,
        num_nodes=nodes,
        strategy=strategy,
        sync_batchnorm=several and bool(gpus),
        use_distributed_sampler=False,  # training_step shares out batches among ranks
        precision=PRECISIONS[resolve_precision(recipe.precision)],  # pyright: ignore[reportArgumentType]
        deterministic="warn" if gpus else True,
        max_epochs=recipe.epochs,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=checkpoints is not None,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=_save_each_epoch(checkpoints) if checkpoints else None,
        default_root_dir=checkpoints or os.devnull,
    )


def _save_each_epoch(folder: Path) -> ModelCheckpoint:
    return ModelCheckpoint(
        dirpath=folder,
        filename=Path(LAST).stem,
        save_on_train_epoch_end=True,
        enable_version_counter=False,
    )
