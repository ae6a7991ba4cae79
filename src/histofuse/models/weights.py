"""Weights a backbone starts from: a safetensors file whose keys must fit, or a download."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from histofuse.core.errors import FaultList, InputError
from histofuse.params.image import SAFETENSORS

State = Mapping[str, Tensor]

# At most so many keys are named in a message.
_NAMED = 8


def load_state(path: Path) -> dict[str, Tensor]:
    """Load a file of weights, without what could run code.

    Raises InputError if it is missing or holds no weights.
    """
    expected = "a safetensors file of weights"
    try:
        if path.suffix == SAFETENSORS:
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
        return {key: value for key, value in state.items() if isinstance(value, Tensor)}
    except FileNotFoundError:
        raise InputError.of(path, "no such file", expected) from None
    except (SafetensorError, OSError, UnpicklingError, RuntimeError, AttributeError) as error:
        raise InputError.of(path, f"not readable ({error})", expected) from None


def download_state(fetch: Callable[[], State], backbone: str) -> State:
    """Run a library's download of ImageNet weights; if it fails, say what to do instead."""
    try:
        return fetch()
    except Exception as error:
        where, problem = f"weights: imagenet, backbone {backbone}", type(error).__name__
        expected = "a connection to the library's weights, or weights in its cache"
        remedy = (
            "Without one, bring them as a file: weights: <path>.safetensors, with the library's"
        )
        remedy += " key names; or train from random weights: weights: none."
        problem = f"could not be downloaded ({problem}: {error})"
        raise InputError.of(where, problem, expected, remedy) from None


def load_weights(
    backbone: nn.Module,
    state: State,
    dropped: tuple[str, ...],
    where: str,
    convert: Callable[[State], State] | None = None,
) -> None:
    """Load weights into a backbone in place; every key must fit.

    `dropped` are prefixes of keys that the backbone has no use for, such as the classifier's;
    `where` names the source in messages; `convert` is tried on weights that do not fit as they are.
    Raises InputError listing missing, unexpected and mismatched keys.
    """
    faults = _list_misfits(backbone, state, dropped, where)
    if faults.faults and convert:
        with suppress(Exception):
            converted = convert(state)
            if not _list_misfits(backbone, converted, dropped, where).faults:
                state, faults = converted, FaultList()
    faults.raise_if_any()
    given = {key: value for key, value in state.items() if not key.startswith(dropped)}
    backbone.load_state_dict(given, strict=False)


def _list_misfits(
    backbone: nn.Module, state: State, dropped: tuple[str, ...], where: str
) -> FaultList:
    own = backbone.state_dict()
    given = {key: value for key, value in state.items() if not key.startswith(dropped)}
    # The counter of a batch norm is not a weight, and older files lack it.
    missing = [k for k in own if k not in given and not k.endswith("num_batches_tracked")]
    unexpected = [k for k in given if k not in own]
    mismatched = [
        f"{k} {list(given[k].shape)} for {list(own[k].shape)}"
        for k in own
        if k in given and given[k].shape != own[k].shape
    ]
    broken = [k for k in own if k in given and not given[k].isfinite().all()]
    faults = FaultList()
    remedy = "Give the backbone these weights were made for, or other weights."
    for keys, problem, expected in (
        (missing, "missing keys", "all keys of the backbone"),
        (unexpected, "unexpected keys", "no keys but the backbone's"),
        (mismatched, "shapes that do not fit, as", "the backbone's shapes"),
        (broken, "keys with values that are NaN or infinite,", "finite numbers"),
    ):
        if keys:
            rest = f" and {len(keys) - _NAMED} more" if len(keys) > _NAMED else ""
            listed = ", ".join(keys[:_NAMED])
            faults.add(where, f"{len(keys)} {problem} {listed}{rest}", expected, remedy)
    return faults
