"""The same clips in every layout that people have give the same classes and counts, whatever traps are planted."""

import os
from collections import Counter

import pytest
from data_layouts import LAYOUTS, MISSING, TRAINED, Clips, kinetics, something_v1, something_v2, write

from dynvid.grid.errors import ListError, UsageError
from dynvid.training.data.report import report_of
from dynvid.training.data.scan import scan
from dynvid.training.data.source import FORMATS, read_annotations, read_source

SCANNED = ("kinetics, official", "something v1", "ucf101", "folder frames label", "class folders, tsm")


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return Clips(tmp_path_factory.mktemp("clips"))


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_gives_the_same_classes_and_counts(clips, tmp_path, name):
    build, options = LAYOUTS[name]
    layout = build(clips, tmp_path, **options)
    found = read_source(layout.source, **layout.options)
    assert found.format == layout.format and list(found.classes) == layout.classes
    listed = layout.listed == TRAINED + 1
    assert found.listed == {"train": layout.listed, layout.other: 13}
    assert {split: len(records) for split, records in found.splits.items()} == {"train": 25, layout.other: 13}
    kinds = Counter(problem.kind for problem in found.problems)
    assert kinds == ({"missing": 1, "listed twice": 1} if listed else {})
    labels = {split: Counter(record.label for record in records) for split, records in found.splits.items()}
    assert sorted(labels["train"].values()) == [1] + [2] * 12 and set(labels[layout.other].values()) == {1}
    assert set(labels["train"]) == set(labels[layout.other]) == set(found.classes)
    assert all(record.path.exists() for records in found.splits.values() for record in records)
    if name not in SCANNED:
        return
    scanned = scan(found)
    assert [p.kind for p in scanned.problems if p not in found.problems] == ["unreadable"]
    assert len(scanned.splits["train"]) == 24
    report = report_of(scanned)
    assert report["splits"]["train"] == {
        "listed": layout.listed,
        "found": 26 if listed else 25,
        "missing": int(listed),
        "unreadable": 1,
        "usable": 24,
        "is_list": found.splits["train"][0].frames is None,
    }


def test_ids_that_differ_only_by_case_are_two_clips(clips, tmp_path):
    found = read_source(kinetics(clips, tmp_path).source)
    names = [record.path.name for record in found.splits["train"]]
    assert {"aBcDeFgHiJk_000001_000011.mp4", "AbCdEfGhIjK_000002_000012.mp4"} <= set(names)
    assert found.splits["train"][1].group == "aBcDeFgHiJk"
    (missing,) = (problem for problem in found.problems if problem.kind == "missing")
    assert missing[:3] == ("train", "missing", f"-{MISSING:010d}_{MISSING:06d}_{MISSING + 10:06d}")


def test_two_published_sets_in_one_folder_are_not_chosen_between(clips, tmp_path):
    something_v1(clips, tmp_path)
    something_v2(clips, tmp_path)
    with pytest.raises(ListError, match=r"something-v2 and something-v1: choose one by --format"):
        read_source(tmp_path)
    assert read_source(tmp_path, format="something-v2").format == "something-v2"


def test_labels_of_the_user_set_the_order_and_the_spelling(clips, tmp_path):
    layout = kinetics(clips, tmp_path / "k")
    names = [name.upper().replace(" ", "-") for name in sorted(layout.classes, reverse=True)]
    write(tmp_path / "names.txt", names)
    found = read_source(layout.source, labels=tmp_path / "names.txt")
    assert list(found.classes) == names and {record.label for record in found.splits["train"]} == set(names)
    write(tmp_path / "names.txt", names[1:])
    found = read_source(layout.source, labels=tmp_path / "names.txt")
    unknown = [problem for problem in found.problems if problem.kind == "class not among the labels"]
    assert len(unknown) == 3 and {problem.detail for problem in unknown} == {sorted(layout.classes)[-1]}


@pytest.mark.parametrize("name", FORMATS)
def test_a_wrong_format_is_said_in_one_sentence(tmp_path, name):
    write(tmp_path / "notes.txt", ["some text"])
    with pytest.raises(ListError, match=r"expected|Expected|has no|split files there"):
        read_annotations(tmp_path, format=name)


def test_arguments_that_a_format_has_no_use_for_are_refused(clips, tmp_path):
    layout = kinetics(clips, tmp_path)
    for options, match in (
        ({"split": 2}, "--split 2: the format kinetics has no numbered splits"),
        ({"first_label": 1}, "--first-label 1: expected 0 or 1, and only of lists"),
        ({"format": "kinetic"}, "format 'kinetic': expected auto, ucf101"),
    ):
        with pytest.raises(UsageError, match=match):
            read_source(layout.source, **options)
    with pytest.raises(ListError, match="is not a folder"):
        read_source(layout.source, videos=tmp_path / "none")
    with pytest.raises(ListError, match=r"has no usable clip in .*; missing: 40 of 40, first '-0.*--videos"):
        read_source(layout.source, videos=tmp_path / "annotations")


def test_a_source_that_is_nothing_known_is_refused(tmp_path):
    with pytest.raises(ListError, match="No such file"):
        read_source(tmp_path / "none")
    with pytest.raises(ListError, match="of no known format"):
        read_source(tmp_path)
    write(tmp_path / "readme.txt", ["Some words about videos"])
    with pytest.raises(ListError, match="of no known format"):
        read_source(tmp_path / "readme.txt")


def test_every_folder_is_listed_once(clips, tmp_path, monkeypatch):
    layout = kinetics(clips, tmp_path)
    listed = Counter()
    scandir = os.scandir

    def counting(path):
        listed[os.fspath(path)] += 1
        return scandir(path)

    monkeypatch.setattr("dynvid.training.data.disk.os.scandir", counting)
    read_source(layout.source)
    assert len(listed) == 17 and set(listed.values()) == {1}  # the root, annotations, train, 13 classes, val
