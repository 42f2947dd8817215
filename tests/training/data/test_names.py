import pytest

from dynvid.training.data.groups import group_of
from dynvid.training.data.names import ClassNames, fold
from dynvid.training.data.splits import split_of, split_of_folder


def test_a_class_is_found_in_any_spelling():
    names = ClassNames(["skiing (not slalom)", "massaging person's head", "C", "C++", "走路"])
    for spelling in ("skiing_(not_slalom)", "skiing_not_slalom", "skiing_-not_slalom-", "Skiing (not slalom)"):
        assert names.find(spelling) == "skiing (not slalom)"
    assert names.find("massaging_persons_head") == "massaging person's head"
    assert names.find("C++") == "C++" and names.find("C") == "C" and names.find("c") is None  # c fits two
    assert names.find("走路") == "走路" and names.find("running") is None
    assert fold("Cafe\u0301 2") == fold("caf\u00e9_2") and fold("++") == "++"


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train", "train"), ("rawframes_train", "train"), ("kinetics400_val_list", "validation"), ("validate", "validation"),
        ("something-something-v2-test", "test"), ("testlist01", "test"), ("testifying", None), ("train_test", None),
        ("straining", None), ("", None),
    ],
)  # fmt: skip
def test_splits_are_told_by_words(name, split):
    assert split_of(name) == split


def test_a_folder_of_a_split_says_nothing_else():
    assert [split_of_folder(name) for name in ("train", "videos_val_256", "rawframes-test")] == [
        "train",
        "validation",
        "test",
    ]
    assert [split_of_folder(name) for name in ("training dog", "testing_food", "走路_train", "a")] == [None] * 4


@pytest.mark.parametrize(
    ("stem", "group"),
    [
        ("v_ApplyEyeMakeup_g08_c01", "v_ApplyEyeMakeup_g08"),
        ("AgentCodyBanks_climb_stairs_f_cm_np1_fr_med_9", "AgentCodyBanks"),
        ("-3B32lodo2M_000059_000069", "-3B32lodo2M"),
        ("holiday_1", None),
    ],
)
def test_groups_are_told_by_names(stem, group):
    assert group_of(stem, "climb_stairs") == group
