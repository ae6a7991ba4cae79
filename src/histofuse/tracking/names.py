"""Names in MLflow: experiments, tags, registered models, params and curves."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from histofuse.core.naming import flatten, name_fusion

EXPERIMENT: Final = "histofuse"
STUDIES_EXPERIMENT: Final = "histofuse-studies"  # separate from the models' runs
REGISTERED_PREFIX: Final = "histofuse-"

DIGEST_TAG: Final = "histofuse.bundle_digest"  # on runs and versions: the bundle behind them
CONTENT_TAG: Final = "histofuse.published"  # on runs: digest of all that was logged, set last
FILES_TAG: Final = "histofuse.files_digest"  # on versions: digest of the registered files
MODEL_TAG: Final = "histofuse.model_content"  # on runs: digest of the registered files
MODEL_NAME_TAG: Final = "histofuse.model"  # on runs: the name of the model's bundle
DIFFERENCE_TAG: Final = "histofuse.differs_in"  # on runs: from the model's run before
PROCESS_TAG: Final = "histofuse.process"  # on live runs: the process that writes them
PRODUCTION: Final = "production"  # the alias of the version in production
PRODUCTION_STAGE: Final = "Production"  # where MLflow has stages
PROMOTION: Final = "histofuse.promotion."  # prefix of the tags below, and folder of the records
CHAIN_TAG: Final = f"{PROMOTION}chain"  # on models: the versions in production one after another
WHEN_TAG: Final = f"{PROMOTION}when"  # on versions: when it was last promoted
INTENT_TAG: Final = f"{PROMOTION}intent"  # on versions: an unfinished promotion, as JSON
REGISTERED_TAG: Final = "histofuse.registered_model"  # on runs: name and version of their model
VERSION_TAG: Final = "histofuse.version"
VALIDATION_TAG: Final = "histofuse.validates"  # on validations elsewhere: the bundle's digest
VALIDATED_ON_TAG: Final = "histofuse.validated_on"  # and the name of the data set
FOCUS_TAG: Final = "histofuse.class_in_focus"  # on runs: the class whose scores lead the tables
STUDY_TAG: Final = "histofuse.study_id"  # on studies and their trials
SPEC_TAG: Final = "histofuse.study_spec"  # on studies: digest of the spec, with the trial count
RESULT_TAG: Final = "histofuse.study_result"  # on studies: digest of all trials, once complete
TRIAL_TAG: Final = "histofuse.trial"  # on trials: their number
TRIAL_DIGEST_TAG: Final = "histofuse.trial_digest"  # on trials: digest of params and result
STATE_TAG: Final = "histofuse.trial_state"  # on trials: COMPLETE, PRUNED or FAIL
MODEL_FOLDER: Final = "model"
BUNDLE_FOLDER: Final = "model/artifacts/bundle"
VERSION_FILE: Final = "registered_model_meta"  # MLflow's, in a copy of a model: which version
SCRATCH: Final = "histofuse-"  # how the names of temporary folders begin
SHOWN_DIGITS: Final = 12  # of a digest, where it is shown to people


@dataclass(frozen=True)
class Version:
    """One version of a registered model."""

    name: str
    number: int  # from 1 within a name
    digest: str  # of the bundle
    run_id: str
    source: str  # address of its files
    content: str | None  # digest of all that was logged to the run; None while incomplete
    files: str | None = None  # digest of its files; None if registered before it was recorded

    def __str__(self) -> str:
        """Write its name, digest and number: "histofuse-mlp 0123456789ab (version 2)"."""
        return f"{self.name} {self.short}"

    @property
    def short(self) -> str:
        """Its digest, the same in every clone, and its number, which is not."""
        return f"{self.digest[:SHOWN_DIGITS]} (version {self.number})"


@dataclass(frozen=True)
class ModelStatus:
    """Tags, aliases and stages of a registered model and its versions."""

    name: str
    tags: dict[str, str]
    aliases: dict[str, int]  # alias -> version
    stages: dict[int, str]  # version -> stage; empty where MLflow has none
    version_tags: dict[int, dict[str, str]]  # version -> its tags

    @property
    def production(self) -> int | None:
        """The version in production: that of the alias or, if there is none, of the stage."""
        if PRODUCTION in self.aliases:
            return self.aliases[PRODUCTION]
        staged = [number for number, stage in self.stages.items() if stage == PRODUCTION_STAGE]
        return max(staged, default=None)

    @property
    def cut_short(self) -> bool:
        """Whether a promotion was interrupted."""
        return any(INTENT_TAG in tags for tags in self.version_tags.values())

    @property
    def decided(self) -> bool:
        """Whether a version is or was in production in this registry."""
        return self.production is not None or CHAIN_TAG in self.tags


def name_registered(model: str, primary_rule: str | None = None) -> str:
    """Name the registered model of a bundle: "simple_cnn" -> "histofuse-simple-cnn".

    The fusion model of the primary pairing rule is ``histofuse-fusion``.
    """
    if primary_rule is not None and model == name_fusion(primary_rule):
        return f"{REGISTERED_PREFIX}fusion"
    return REGISTERED_PREFIX + model.replace("_", "-")


def name_curve(metric: str) -> str:
    """Name the curve of a metric watched in training.

    A metric's final value and its curve would otherwise share one name, and MLflow shows the last
    step as the value.
    """
    return f"curve/{metric}"


def name_end(metric: str, end: Literal["low", "high"]) -> str:
    """Name an end of a metric's interval: "interval_low/test.auprc.mitosis".

    With dots, so that a search for a metric in the UI finds that metric only.
    """
    return f"interval_{end}/{metric.replace('/', '.')}"


def name_params(values: Mapping[str, Any]) -> dict[str, str]:
    """Flatten params, and name learning rates alike in all models.

    That of the head is ``learning_rate.head``, next to ``learning_rate`` of models with one rate.
    """
    suffix = "_learning_rate"
    return {
        f"learning_rate.{name.removesuffix(suffix)}" if name.endswith(suffix) else name: value
        for name, value in flatten(values).items()
    }


def redact(uri: str) -> str:
    """Hide the password in an address, or in a message with an address.

    Up to the last @: a password may contain @ or a slash.
    """
    hidden = re.sub(r"(password=)[^&\s\"']+", r"\1…", uri, flags=re.IGNORECASE)
    return re.sub(r"//[^\s\"']*@", "//…@", hidden)
