"""Weights a backbone starts from: a safetensors file whose keys must fit, or a download."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from histofuse.core.errors import Fault, FaultList, InputError

State = Mapping[str, Tensor]

# At most so many keys are named in a message.
_NAMED = 8


def load_state(path: Path) -> dict[str, Tensor]:
    """Load a safetensors file.

    Raises:
        InputError: If it is missing or is no safetensors file.
    """
    expected = "a safetensors file of weights"
    try:
        return load_file(path)
    except FileNotFoundError:
        raise InputError([Fault(path, "no such file", expected)]) from None
    except (SafetensorError, OSError) as error:
        raise InputError([Fault(path, f"not readable ({error})", expected)]) from None


def download_state(fetch: Callable[[], State], backbone: str) -> State:
    """Run a library's download of ImageNet weights.

    Raises:
        InputError: If the download fails, for whatever reason; says what to do instead.
    """
    try:
        return fetch()
    except Exception as error:
        fault = Fault(
            f"weights: imagenet, backbone {backbone}",
            f"could not be downloaded ({type(error).__name__}: {error})",
            "a connection to the library's weights, or weights in its cache",
            "Without one, bring them as a file: weights: <path>.safetensors, with the library's "
            "key names; or train from random weights: weights: none.",
        )
        raise InputError([fault]) from None


def load_weights(backbone: nn.Module, state: State, dropped: tuple[str, ...], where: str) -> None:
    """Load weights into a backbone in place; every key must fit.

    `dropped` are prefixes of keys that the backbone has no use for, those of the ImageNet
    classifier and of auxiliary heads; `where` names the source in messages.

    Raises:
        InputError: Listing missing, unexpected and mismatched keys.
    """
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
    faults = FaultList()
    remedy = "Give the backbone these weights were made for, or other weights."
    for keys, problem, expected in (
        (missing, "missing keys", "all keys of the backbone"),
        (unexpected, "unexpected keys", "no keys but the backbone's"),
        (mismatched, "shapes that do not fit, as", "the backbone's shapes"),
    ):
        if keys:
            rest = f" and {len(keys) - _NAMED} more" if len(keys) > _NAMED else ""
            listed = ", ".join(keys[:_NAMED])
            faults.add(where, f"{len(keys)} {problem} {listed}{rest}", expected, remedy)
    faults.raise_if_any()
    backbone.load_state_dict(dict(given), strict=False)
