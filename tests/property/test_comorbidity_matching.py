"""Fast matching of diagnosis codes against a slow oracle that reads the tables literally."""

import json
from pathlib import Path

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from histofuse.features import comorbidity
from histofuse.features.comorbidity import load_grouping, mask_admissions, unpack_mask


def read_words(name, version):
    path = Path(comorbidity.__file__).parent / f"{name}.json"
    groups = json.loads(path.read_text("utf-8"))["groups"]
    return {group: value[f"icd{version}"].split() for group, value in groups.items()}


GROUPINGS = ("elixhauser_ahrq", "elixhauser_quan")
WORDS = {(name, version): read_words(name, version) for name in GROUPINGS for version in (9, 10)}
PREFIXES = {
    version: sorted(
        {w.strip("!") for name in GROUPINGS for ws in WORDS[name, version].values() for w in ws}
    )
    for version in (9, 10)
}
TAILS = st.text("0123456789AX", max_size=3)


def oracle(name, code, version):
    """Groups whose longest matching word is no exclusion."""
    found = set()
    for group, words in WORDS[name, version].items():
        matching = [word for word in words if code.startswith(word.removeprefix("!"))]
        longest = max(matching, key=lambda word: len(word.removeprefix("!")), default="!")
        if not longest.startswith("!"):
            found.add(group)
    return found


@st.composite
def diagnoses(draw):
    """A code near a table's prefix, or any; its version; one of three admissions."""
    version = draw(st.sampled_from((9, 10)))
    head = draw(st.sampled_from(PREFIXES[version]) | st.text("0123456789BCEIKV", max_size=4))
    cut = draw(st.integers(0, 2))
    return draw(st.integers(1, 3)), head[: len(head) - cut] + draw(TAILS), version


@given(rows=st.lists(diagnoses(), min_size=1, max_size=12), name=st.sampled_from(sorted(GROUPINGS)))
@settings(max_examples=150, deadline=None)
def test_masks_of_admissions_equal_the_oracle(rows, name):
    grouping = load_grouping(name)
    table = pl.DataFrame(
        [(subject, subject * 10, code[:7], version) for subject, code, version in rows],
        schema=["subject_id", "hadm_id", "icd_code", "icd_version"],
        orient="row",
    )
    flags = unpack_mask(mask_admissions(table, grouping), grouping, hierarchy=False)
    for row in flags.to_dicts():
        expected = set().union(
            *(oracle(name, c[:7], v) for s, c, v in rows if s == row["subject_id"])
        )
        assert {group for group in grouping.groups if row[group]} == expected
