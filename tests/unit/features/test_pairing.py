import numpy as np
import pandas as pd
import pytest

from histofuse.core.errors import InputError, LeakageError
from histofuse.core.tables import check_table
from histofuse.features.pairing import PAIRS, join_targets, make_pairs, require_disjoint
from histofuse.params.pairing import LEAKY_RULES, PairingParams, PairingsParams

BLIND = PairingParams.model_validate({"rule": "label_blind", "level": "case"})
BLIND_PATCH = PairingParams.model_validate({"rule": "label_blind", "level": "patch"})
PERMUTED = PairingParams.model_validate({"rule": "permuted"})
SHARES = {"mitosis": 1.0, "tumour": 0.5, "non_tumour": 0.0}
ALIGNED = PairingParams.model_validate({"rule": "label_aligned", "positive_share": SHARES})
SPLIT_OF_CASE = ("train", "train", "train", "validation", "test")


def make_patches(per_case=40):
    rows = [
        (f"Case_{c}-01/{p:04d}", f"Case_{c}-01", f"Case_{c}", label, split)
        for c, split in enumerate(SPLIT_OF_CASE)
        for p, label in enumerate(
            ["mitosis"] * 4 + ["non_tumour"] * 6 + ["tumour"] * (per_case - 10)
        )
    ]
    return pd.DataFrame(rows, columns=["patch_id", "frame_id", "case_id", "label", "split"])


def make_patients(per_split=10, admissions=1):
    rows = [
        (1000 * s + p, 10 * (1000 * s + p) + a, split, int(p % 5 == 0))
        for s, split in enumerate(("train", "validation", "test"), start=1)
        for p in range(per_split)
        for a in range(admissions)
    ]
    return pd.DataFrame(rows, columns=["subject_id", "hadm_id", "split", "target"])


def test_each_case_gets_a_patient_of_its_own():
    pairs = make_pairs(make_patches(), make_patients(), BLIND, seed=1)
    check_table(pairs, PAIRS, "pairs")

    of_case = pairs.groupby("case_id")["subject_id"].agg(["nunique", "first"])
    assert (of_case["nunique"] == 1).all()
    assert of_case["first"].is_unique


def test_patients_are_used_again_once_all_have_a_case():
    pairs = make_pairs(make_patches(), make_patients(per_split=2), BLIND, seed=1)
    cases = pairs[pairs["split"] == "train"].groupby("subject_id")["case_id"].nunique()
    assert sorted(cases) == [1, 2]


def test_patch_level_uses_all_patients_evenly():
    pairs = make_pairs(make_patches(), make_patients(), BLIND_PATCH, seed=1)
    used = pairs[pairs["split"] == "test"]["subject_id"].value_counts()
    assert used.tolist() == [4] * 10


@pytest.mark.parametrize("seed", range(5))
def test_second_admissions_wait_for_all_patients(seed):
    patients = make_patients(per_split=3, admissions=4)
    pairs = make_pairs(make_patches(), patients, BLIND, seed)
    assert pairs[pairs["split"] == "train"]["subject_id"].nunique() == 3


@pytest.mark.parametrize("params", [BLIND, BLIND_PATCH, PERMUTED])
def test_blind_rules_do_not_see_labels(params):
    patches = make_patches()
    other = patches.assign(label=patches["label"].to_numpy()[::-1])
    patients = make_patients()
    swapped = patients.assign(target=1 - patients["target"])

    pairs = make_pairs(patches, patients, params, seed=1)
    again = make_pairs(other, swapped, params, seed=1)

    assert pairs["hadm_id"].tolist() == again["hadm_id"].tolist()


def test_permuted_keeps_the_patients_and_breaks_the_cases():
    blind = make_pairs(make_patches(), make_patients(), BLIND, seed=1)
    null = make_pairs(make_patches(), make_patients(), PERMUTED, seed=1)

    for split in ("train", "validation", "test"):
        before, after = (p.loc[p["split"] == split, "hadm_id"] for p in (blind, null))
        assert before.value_counts().to_dict() == after.value_counts().to_dict()
    per_case = null[null["split"] == "train"].groupby("case_id")["subject_id"]
    assert (per_case.nunique() == 3).all()
    assert per_case.value_counts().between(5, 22).all()


def test_aligned_pairs_hold_the_shares_in_every_split():
    patients = make_patients()
    pairs = make_pairs(make_patches(), patients, ALIGNED, seed=1)

    target = pairs.merge(patients, on=["subject_id", "hadm_id"])
    shares = target.groupby(["split_x", "label"])["target"].mean()
    for split in ("train", "validation", "test"):
        assert shares[split].to_dict() == SHARES


def test_aligned_is_the_leaky_rule():
    assert frozenset({"label_aligned"}) == LEAKY_RULES


def test_aligned_wants_a_share_for_each_class():
    params = PairingParams.model_validate(
        {"rule": "label_aligned", "positive_share": {"mitosis": 1.0, "tumor": 0.5}}
    )
    with pytest.raises(InputError) as error:
        make_pairs(make_patches(), make_patients(), params, seed=1)
    assert len(error.value.faults) == 2
    assert "no share for class 'tumour', but for ['tumor']" in str(error.value)


def test_split_without_patients_of_the_target_is_named():
    patients = make_patients()
    patients.loc[patients["split"] == "test", "target"] = 0
    with pytest.raises(InputError, match="split 'test', target 1: no patients"):
        make_pairs(make_patches(), patients, ALIGNED, seed=1)


@pytest.mark.parametrize("params", [BLIND, BLIND_PATCH, PERMUTED, ALIGNED])
def test_order_of_rows_changes_nothing_and_the_seed_does(params):
    patches, patients = make_patches(), make_patients()
    pairs = make_pairs(patches, patients, params, seed=1)
    shuffled = make_pairs(
        patches.sample(frac=1, random_state=0), patients.sample(frac=1, random_state=1), params, 1
    )
    pd.testing.assert_frame_equal(pairs, shuffled)
    assert not pairs.equals(make_pairs(patches, patients, params, seed=2))


def test_choice_is_the_same_on_every_machine():
    pairs = make_pairs(make_patches(), make_patients(), BLIND, seed=1)
    assert pairs.groupby("case_id")["subject_id"].first().tolist() == [1009, 1005, 1002, 2005, 3006]


def break_patient(pairs):
    of_test = pairs["split"] == "test"
    pairs.loc[of_test.to_numpy(), ["subject_id", "hadm_id"]] = (1000, 10000)
    return pairs


def break_patch(pairs):
    return pairs.assign(split=np.where(pairs["case_id"] == "Case_0", "test", pairs["split"]))


def drop_pair(pairs):
    return pairs.iloc[1:]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (break_patient, "40 pairs not in the split of their patient, such as subject_id 1000"),
        (break_patch, "40 pairs not in the split of their patch, such as patch_id Case_0"),
        (drop_pair, "199 pairs for 200 patches"),
    ],
)
def test_guard_stops_what_crosses(damage, message):
    patches, patients = make_patches(), make_patients()
    pairs = make_pairs(patches, patients, BLIND, seed=1)
    require_disjoint(pairs, patches, patients)
    with pytest.raises(LeakageError, match=message):
        require_disjoint(damage(pairs), patches, patients)


def test_cases_split_by_frame_get_a_patient_in_each_split():
    patches = make_patches().assign(case_id="Case_0")
    pairs = make_pairs(patches, make_patients(), BLIND, seed=1)
    assert (pairs.groupby("split")["subject_id"].nunique() == 1).all()
    assert pairs["subject_id"].nunique() == 3


def test_targets_are_joined_by_key():
    cohort = make_patients().drop(columns="split")
    splits = make_patients()[["subject_id", "hadm_id", "split"]]
    joined = join_targets(splits, cohort.iloc[::-1])
    pd.testing.assert_frame_equal(joined, make_patients())


# --- linked -------------------------------------------------------------------------------------


def link(tmp_path, text):
    path = tmp_path / "crosswalk.csv"
    path.write_text(text)
    return path


def make_linked(path, patients=None):
    params = PairingParams.model_validate({"rule": "linked"})
    patients = make_patients() if patients is None else patients
    return make_pairs(make_patches(), patients, params, seed=1, crosswalk=path)


LINKED = "case_id,subject_id\nCase_0,1001\nCase_1,1002\nCase_2,1002\nCase_3,2001\nCase_4,3001\n"


def test_crosswalk_decides(tmp_path):
    pairs = make_linked(link(tmp_path, LINKED))
    of_case = pairs.groupby("case_id")["subject_id"].first()
    assert of_case.tolist() == [1001, 1002, 1002, 2001, 3001]
    assert pairs["hadm_id"].equals(10 * pairs["subject_id"])


def test_cases_without_a_patient_are_left_out(tmp_path):
    pairs = make_linked(link(tmp_path, LINKED.replace("Case_1,1002", "Case_9,1002")))
    assert sorted(pairs["case_id"].unique()) == ["Case_0", "Case_2", "Case_3", "Case_4"]


def test_crosswalk_names_the_admission(tmp_path):
    text = LINKED.replace("\n", ",\n").replace("subject_id,", "subject_id,hadm_id")
    text = text.replace("1001,", "1001,10011").replace("1002,", "1002,10020")
    text = text.replace("2001,", "2001,20010").replace("3001,", "3001,30011")
    patients = make_patients(admissions=2)
    pairs = make_linked(link(tmp_path, text), patients)
    of_case = pairs.groupby("case_id")["hadm_id"].first()
    assert of_case.tolist() == [10011, 10020, 10020, 20010, 30011]


def test_all_faults_of_a_crosswalk_are_listed(tmp_path):
    text = (
        "case_id,subject_id,hadm_id\n"
        "Case_0,1001,\n"
        "Case_0,1002,10020\n"
        "Case_9,1003,10030\n"
        "Case_1,77,\n"
        "Case_2,1004,5\n"
        "Case_3,x,\n"
    )
    with pytest.raises(InputError) as error:
        make_linked(link(tmp_path, text), make_patients(admissions=2))

    message = str(error.value)
    assert len(error.value.faults) == 4
    for part in (
        "line 2: no hadm_id for 1001; expected one of the index admissions [10010, 10011]",
        "line 3: case_id 'Case_0' again",
        "line 6: unknown hadm_id 5 of 1004",
        "line 7, subject_id: is 'x'; expected a whole number",
    ):
        assert part in message


@pytest.mark.parametrize(
    ("text", "message"), [("case,subject_id\n", "no column 'case_id'"), (None, "no such file")]
)
def test_unusable_crosswalk_is_said(tmp_path, text, message):
    path = link(tmp_path, text or "")
    if text is None:
        path.unlink()
    with pytest.raises(InputError, match=message):
        make_linked(path)


def test_link_across_splits_is_leakage(tmp_path):
    text = LINKED.replace("Case_4,3001", "Case_4,1001")
    with pytest.raises(LeakageError, match="Case_4 is in test, its patient 1001 in train") as error:
        make_linked(link(tmp_path, text))
    assert "they then follow their cases" in str(error.value)


@pytest.mark.parametrize(
    "values",
    [
        {"rule": "label_blind", "level": "frame"},
        {"rule": "label_blind"},
        {"rule": "label_aligned", "positive_share": {"mitosis": 1.5}},
        {"rule": "linked", "crosswalk": "crosswalk.csv"},
        {"rule": "random"},
    ],
)
def test_nonsense_params_are_refused(values):
    with pytest.raises(ValueError):
        PairingParams.model_validate(values)


def test_all_rules_load_by_name():
    rules = PairingsParams.model_validate({"a": {"rule": "permuted"}}).root
    assert rules["a"].rule == "permuted"
