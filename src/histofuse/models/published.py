"""Encoders that others publish: a repository of the Hugging Face hub, or a folder laid out alike.

Either holds timm's ``config.json`` and a file of weights. A hub's files are named by the commit,
and weights by their SHA-256, so that nothing changes beneath a run.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from histofuse.core.artifacts import digest_file, load_json
from histofuse.core.errors import InputError
from histofuse.params.image import FOLDER, PINNED

HUB: Final = "hf-hub:"
_REPOSITORY: Final = re.compile(r"([\w.-]+/[\w.-]+)@([0-9a-f]{40})")
_PAGE: Final = "https://huggingface.co"
_CONFIG: Final = "config.json"
_WEIGHTS: Final = ("model.safetensors", "pytorch_model.bin", "open_clip_pytorch_model.bin")


@dataclass(frozen=True)
class PublishedEncoder:
    """What ``config.json`` says: a name of timm, its builder's arguments, and its input."""

    architecture: str
    model_kwargs: dict[str, Any]
    config: dict[str, Any]


def is_published(backbone: str) -> bool:
    """Say whether a backbone is named by repository or folder."""
    return backbone.startswith((HUB, FOLDER))


def check_name(backbone: str) -> None:
    """Check that the name of a repository has its commit, or that a folder exists."""
    if backbone.startswith(HUB):
        _split(backbone)
    elif not Path(backbone.removeprefix(FOLDER)).is_dir():
        where = f"params.yaml, backbone {backbone}"
        raise InputError.of(where, "no such folder", "a folder of a model")


def read_published(backbone: str) -> PublishedEncoder:
    """Read the configuration of a repository or folder.

    Raises InputError if it is not reachable, or is not timm's.
    """
    import timm

    path = _locate(backbone, _CONFIG)
    expected = "config.json of a model of timm, with its architecture"
    if path is None:
        raise InputError.of(backbone, f"has no {_CONFIG}", expected)
    content = load_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("architecture"), str):
        remedy = "Models for the library transformers need a port to timm (docs/encoders.md)."
        raise InputError.of(path, "names no architecture", expected, remedy)
    architecture = content["architecture"]
    if not timm.is_model(architecture):
        problem = f"architecture {architecture!r} is not in timm {timm.__version__}"
        raise InputError.of(backbone, problem, "a model of timm")
    # Older files hold both in one.
    config, arguments = content.get("pretrained_cfg", content), content.get("model_args") or {}
    if not isinstance(config, dict) or not isinstance(arguments, dict):
        raise InputError.of(path, "pretrained_cfg or model_args is no object", expected)
    return PublishedEncoder(architecture, arguments, config)


def find_weights(backbone: str, weights: str) -> Path:
    """Find the file of weights with the digest that is asked for.

    Raises InputError if it is not reachable, or no file has this digest.
    """
    wanted, found = weights.removeprefix(PINNED), []
    for name in _WEIGHTS:
        if (path := _locate(backbone, name)) is None:
            continue
        if (digest := digest_file(path)) == wanted:
            return path
        found.append(f"{name} has {digest}")
    problem = f"no file of weights has the SHA-256 {wanted}; {', '.join(found) or 'there is none'}"
    raise InputError.of(backbone, problem, f"one of {', '.join(_WEIGHTS)} with this digest")


def _locate(backbone: str, file: str) -> Path | None:
    """Find a file, downloaded if need be; None where repository or folder has no such file."""
    check_name(backbone)
    if backbone.startswith(HUB):
        return _download(backbone, file)
    path = Path(backbone.removeprefix(FOLDER)) / file
    return path if path.is_file() else None


def _download(backbone: str, file: str) -> Path | None:
    from huggingface_hub import errors, hf_hub_download, try_to_load_from_cache

    repository, commit = _split(backbone)
    if cached := try_to_load_from_cache(repository, file, revision=commit):
        # A commit's files do not change; that it has none of this name is kept too.
        return Path(cached) if isinstance(cached, str) else None
    page = f"{_PAGE}/{repository}"
    try:
        return Path(hf_hub_download(repository, file, revision=commit))
    except errors.RemoteEntryNotFoundError:
        return None
    except errors.GatedRepoError:
        problem, remedy = "access is granted on request only", f"Ask for it at {page}, then log in:"
    except errors.RevisionNotFoundError:
        problem, remedy = f"has no commit {commit}", f"See {page}/commits/main. To log in:"
    except errors.RepositoryNotFoundError:
        problem, remedy = "no such repository, or not for everyone", f"See {page}. To log in:"
    except Exception as error:
        cause = str(error.__cause__ or error).partition("\n")[0]
        problem = f"{file} could not be downloaded ({type(error).__name__}: {cause})"
        remedy = f"Connect to {_PAGE}. To log in:"
    remedy += f" hf auth login. Or bring the files of {page}/tree/{commit}, and name their folder."
    raise InputError.of(backbone, problem, f"files to read, or {FOLDER}<folder>", remedy)


def _split(backbone: str) -> tuple[str, str]:
    name = backbone.removeprefix(HUB)
    if match := _REPOSITORY.fullmatch(name):
        return match[1], match[2]
    where, problem = f"params.yaml, backbone {backbone}", "names no commit of a repository"
    remedy = f"Commits are listed at {_PAGE}/{name.partition('@')[0]}/commits/main."
    expected = f"{HUB}<org>/<model>@<commit of 40 hexadecimal digits>"
    raise InputError.of(where, problem, expected, remedy)
