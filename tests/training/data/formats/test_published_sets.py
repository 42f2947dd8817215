"""UCF101, HMDB51, Kinetics and Something-Something: splits and bad lines; the published files, where they are."""

import json
import os
from collections import Counter
from pathlib import Path

import pytest
from data_layouts import write

from dynvid.grid.errors import ListError, UsageError
from dynvid.models.labels import read_labels
from dynvid.training.data.names import ClassNames, fold
from dynvid.training.data.source import read_annotations


def lines(*content):
    return "\n".join(content)


KINETICS = "label,youtube_id,time_start,time_end,split"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("trainlist01.txt", "A/v_1.avi 1\nv_2.avi 1", r"line 2: 'v_2.avi 1', expected Class/v_name.avi"),
        ("trainlist01.txt", "A/v_1.avi 1\nA/v_2.avi 2", "line 2: class A is 2, but 1 before"),
        ("testlist01.txt", "A/v_1.avi", r"has no trainlist01.txt of UCF101; lists there: testlist01.txt"),
        ("hop_test_split1.txt", "a_hop.avi 3", "line 1: 'a_hop.avi 3', expected a file name, then 0, 1 or 2"),
        ("k.csv", f"{KINETICS}\nair drumming,abc,1,x,val", "line 2: time_start '1' and time_end 'x', expected seconds"),
        ("k.csv", f"{KINETICS}\na, b,abc,1,2,val", "line 2: 6 fields, expected 5. Quote the label"),
        ("k.csv", f"{KINETICS}\na,abc,1,2,most", "line 2: split 'most', expected train, val or test"),
        ("k.csv", f"{KINETICS}\na,,1,2,val", "line 2: no youtube_id"),
        ("k.csv", "youtube_id,time_start,time_end,split\nabc,1,2,test", "no clip has a label"),
        ("train.json", '[{"id": "1", "template": "a"},', "is not JSON"),
        ("train.json", '{"id": "1", "template": "a"}', "expected a list of clips"),
        ("train.json", '[{"id": "1", "template": 3}]', "clip 1: expected an object with 'id'"),
        ("train.json", '[{"id": "1", "template": "a"}, {"id": "2"}]', "clip 2: no 'template'"),
        ("rows.csv", "1;a\n2;b", "expected train, validation or test in its name"),
    ],
)
def test_a_malformed_file_is_named_with_its_line(tmp_path, name, text, message):
    write(tmp_path / name, [text])
    with pytest.raises(ListError, match=message):
        read_annotations(tmp_path / name)


def test_numbers_of_ucf101_must_be_those_of_its_classes_from_1(tmp_path):
    write(tmp_path / "classInd.txt", ["1 A", "2 B"])
    write(tmp_path / "trainlist01.txt", ["A/v_1.avi 0", "B/v_2.avi 1"])
    with pytest.raises(ListError, match="line 1: class A has number 0, expected 1, counted from 1"):
        read_annotations(tmp_path)
    (tmp_path / "classInd.txt").unlink()
    write(tmp_path / "trainlist01.txt", ["B/v_1.avi 1", "A/v_2.avi 2"])
    assert read_annotations(tmp_path)[1].classes == ("B", "A")


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (("trainlist02.txt", "trainlist01.txt"), "A/v_1.avi 1"),
        (("hop_test_split2.txt", "hop_test_split1.txt"), "a.avi 1"),
    ],
)
def test_a_file_of_a_split_stands_for_that_split(tmp_path, names, text):
    for name in names:
        write(tmp_path / name, [text])
    assert "split 2 of" in read_annotations(tmp_path / names[0])[1].recognised
    assert "split 1 of" in read_annotations(tmp_path)[1].recognised
    assert "split 2 of" in read_annotations(tmp_path, split=2)[1].recognised
    with pytest.raises(UsageError, match=f"--split 1 of '{names[0]}': leave --split out"):
        read_annotations(tmp_path / names[0], split=1)
    with pytest.raises(ListError, match="has no .*3.txt"):
        read_annotations(tmp_path, split=3)


def test_test_sets_without_labels_are_read(tmp_path):
    write(tmp_path / "train.csv", [KINETICS, "a,x,1,2,train"])
    write(tmp_path / "test.csv", ["youtube_id,time_start,time_end,split", "y,1,2,test"])
    assert [entry.label for entry in read_annotations(tmp_path)[1].entries] == [None, "a"]
    v2 = tmp_path / "v2"
    write(v2 / "train.json", [json.dumps([{"id": "1", "template": "Putting [a], (b)"}])])
    write(v2 / "test.json", [json.dumps([{"id": 2}])])
    assert [(e.split, e.clip, e.label) for e in read_annotations(v2)[1].entries] == [
        ("test", "2", None), ("train", "1", "Putting a, (b)"),
    ]  # fmt: skip
    v1 = tmp_path / "v1"
    write(v1 / "v1-train.csv", ["1;Putting a, b"])
    write(v1 / "v1-test.csv", ["2"])
    assert {(e.split, e.clip, e.label) for e in read_annotations(v1)[1].entries} == {
        ("test", "2", None), ("train", "1", "Putting a, b"),
    }  # fmt: skip


LISTS = Path(os.environ.get("DYNVID_LISTS", ""))
published = pytest.mark.skipif("DYNVID_LISTS" not in os.environ, reason="DYNVID_LISTS: a folder of published lists")


@published
def test_ucf101_as_published():
    format, found = read_annotations(LISTS / "tsn/ucf101_splits")
    assert format == "ucf101" and len(found.classes) == 101 and found.classes[36] == "HandstandPushups"
    assert Counter(entry.split for entry in found.entries) == {"train": 9537, "test": 3783}
    known = ClassNames(found.classes)
    assert all(known.find(entry.label) == entry.label for entry in found.entries)
    train, test = ({e.group for e in found.entries if e.split == split} for split in ("train", "test"))
    assert len(train) > 1000 and None not in train | test and not train & test
    (stem,) = {e.names[0] for e in found.entries if e.clip.endswith("HandstandPushups/v_HandStandPushups_g01_c01.avi")}
    assert stem == "v_HandStandPushups_g01_c01"
    with pytest.raises(ListError, match=r"no trainlist02.txt of UCF101; lists there: testlist01.txt, testlist02.txt"):
        read_annotations(LISTS / "tsn/ucf101_splits", split=2)


@published
def test_hmdb51_as_published():
    format, found = read_annotations(LISTS / "tsn/hmdb51_splits")
    assert format == "hmdb51" and found.classes == ("brush_hair", "cartwheel", "climb_stairs")
    assert Counter((entry.label, entry.split) for entry in found.entries) == {
        (name, split): count for name in found.classes for split, count in (("train", 70), ("test", 30))
    }
    assert found.notes == ("26 clips are in neither part of split 1",)
    train, test = ({e.group for e in found.entries if e.split == split} for split in ("train", "test"))
    assert None not in train | test and not train & test


@published
@pytest.mark.parametrize(
    ("name", "format", "classes", "counts"),
    [
        ("kinetics/k400_quoted_is_cc.csv", "kinetics", 4, {"validation": 4}),
        ("kinetics/kinetics-600_val.head.csv", "kinetics", 9, {"validation": 21}),
        ("something-something/validation.json", "something-v2", 3, {"validation": 3}),
        ("something-something/v1-train.csv", "something-v1", 3, {"train": 3}),
        ("mmaction2/tests_data_annotations_video_test_list.txt", "list", None, {"test": 2}),
        ("mmaction2/tests_data_annotations_rawframe_test_list.txt", "list", None, {"test": 2}),
        ("mmaction2/tests_data_annotations_rawframe_test_list_with_offset.txt", "list", None, {"test": 2}),
        *((f"shapes/{name}", "list", None, {"train": count}) for name, count in (
            ("bom_crlf.csv", 11), ("labels_float.csv", 11), ("no_header.csv", 12), ("semicolon.csv", 11),
            ("tabs.tsv", 11), ("ucf101_style.txt", 12), ("twice.csv", 3),
        )),
    ],
)  # fmt: skip
def test_lists_as_people_have_them(name, format, classes, counts):
    found = read_annotations(LISTS / name)
    assert found[0] == format and Counter(entry.split for entry in found[1].entries) == counts
    assert (found[1].classes and len(found[1].classes)) == classes


@published
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mmaction2/tests_data_annotations_video_test_list_multi_label.txt", "line 1: 2 labels"),
        ("mmaction2/tests_data_annotations_rawframe_test_list_multi_label.txt", "line 2: 3 numbers, elsewhere 2"),
        ("mmaction2/tests_data_annotations_proposal_test_list.txt", "of no known format"),
        ("mmaction2/tests_data_annotations_hvu_video_test_anno.json", "of no known format"),
        ("shapes/comma_label_unquoted.csv", "line 2: 1 fields, expected 2"),
        ("shapes/latin1.csv", "not text in UTF-8"),
        ("shapes/videos.jsonl", "of no known format"),
    ],
)
def test_lists_that_cannot_be_used(name, message):
    with pytest.raises(ListError, match=message):
        read_annotations(LISTS / name)


@published
@pytest.mark.parametrize(
    ("name", "count"), [("hmdb51", 51), ("kinetics_k400", 400), ("kinetics_k700", 700), ("sthv1", 174), ("sthv2", 174), ("ucf101", 101)]
)  # fmt: skip
def test_label_maps_stay_distinct_in_all_spellings(name, count):
    words = name.split("_")
    path = LISTS / f"mmaction2/tools_data_{words[0]}_label_map{''.join(f'_{word}' for word in words[1:])}.txt"
    labels = read_labels(path)
    assert len(labels) == len(set(map(fold, labels))) == count
