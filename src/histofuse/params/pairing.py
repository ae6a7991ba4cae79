"""Section ``pairing``: how patches and unrelated patients are paired.

Source: paper 3.3 ("batching was aligned by patient identifiers wherever possible") and 6 ("not
paired at the patient level ... simulating rather than directly implementing").
"""

from typing import Annotated, Final, Literal

from pydantic import Field

from histofuse.params.base import Section, SectionOf, Share

# Rules under which the patient says something about the label because the rule saw to it.
LEAKY_RULES: Final = frozenset({"label_aligned"})


class LabelBlindParams(Section):
    """A patient of the same split for each case, or each patch, whatever the labels."""

    rule: Literal["label_blind"]
    level: Literal["case", "patch"]


class PermutedParams(Section):
    """The null: the patients of the case-level pairing, shuffled over the patches of a split."""

    rule: Literal["permuted"]


class LabelAlignedParams(Section):
    """The simulation of truly paired data; the pairing itself carries the label."""

    rule: Literal["label_aligned"]
    # Class to the share of its patches that get a patient whose target is 1.
    positive_share: Annotated[dict[str, Share], Field(min_length=1)]


class LinkedParams(Section):
    """Truly paired data, linked by the table ``data.crosswalk``."""

    rule: Literal["linked"]


AnyPairing = Annotated[
    LabelBlindParams | PermutedParams | LabelAlignedParams | LinkedParams,
    Field(discriminator="rule"),
]


class PairingParams(SectionOf[AnyPairing]):
    """Section ``pairing.<name>``: one rule."""


class PairingsParams(SectionOf[dict[str, AnyPairing]]):
    """Section ``pairing``: all rules by name."""
