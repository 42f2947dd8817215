"""What a file that is no LIST seems to be is said, and the command that is printed makes a LIST of it."""

import os
import subprocess
from pathlib import Path

import pytest

from dynvid.grid.errors import ListError
from dynvid.runtime.video.listing import read_list

# name, contents, what it seems to be, the LIST that the command makes of it
SAMPLES = [
    ("k.csv", "label,youtube_id,time_start,time_end,split\nrope jumping,-3B32lodo2M,59,69,val\n", "of Kinetics",
     [("rope jumping/-3B32lodo2M_000059_000069.mp4", "rope jumping")]),
    ("k.csv", 'label,youtube_id,time_start,time_end,split,is_cc\n"air (a)",_db,4,14,val,0\n', "of Kinetics",
     [("air (a)/_db_000004_000014.mp4", "air (a)")]),
    ("t.txt", "A b/v_1.avi 1\r\nC/v_2.avi 2 \r\n", "rows 'path label'", [("A b/v_1.avi", "1"), ("C/v_2.avi", "2")]),
    ("t.txt", "a,b.mp4 1\n", "rows 'path label'", [("a,b.mp4", "1")]),
    ("hop_test_split1.txt", "a_hop.avi 1 \nb_hop.avi 2 \nc_hop.avi 0 \n", "a split of HMDB51", [("b_hop.avi", "hop")]),
    ("it's.list", "A/v_1.avi\r\nB/#2 c.avi\r\n", "one path a line", [("A/v_1.avi", None), ("B/#2 c.avi", None)]),
    ("l.csv", "video\tlabel\r\na.mp4\trun\r\n", "separated by tabs", [("a.mp4", "run")]),
    ("l.csv", "video\tlabel\r\na,b.mp4\tsay \"x\"\r\n", "separated by tabs", [("a,b.mp4", 'say "x"')]),
    ("l.csv", "label;video\nrun, up;a.mp4\n", "separated by semicolons", [("a.mp4", "run, up")]),
    ("l.csv", "video;label\na.mp4;0\n", "separated by semicolons", [("a.mp4", "0")]),
    ("s.csv", "100218;Lifting it, then letting it drop\n", "Something-Something",
     [("100218.webm", "Lifting it, then letting it drop")]),
    ("n.csv", "a.mp4,3\nb.avi,4\n", "a CSV without a header", [("a.mp4", "3"), ("b.avi", "4")]),
    ("p.csv", "split,path,label\nval,a.mp4,3\n", "names the videos in 'path'", [("a.mp4", "3")]),
    ("l.csv", "video,label\na.mp4,Müsli\n".encode("latin-1"), "text in Latin-1", [("a.mp4", "Müsli")]),
    ("l.csv", "video,label\na.mp4,Müsli\n".encode("utf-16"), "text in UTF-16", [("a.mp4", "Müsli")]),
]  # fmt: skip


def mended(path: Path) -> list[tuple[str, str | None]]:
    """Return the LIST that the printed command makes."""
    with pytest.raises(ListError, match="To make a LIST of it: ") as caught:
        read_list(path)
    subprocess.run(["sh", "-c", str(caught.value).partition("To make a LIST of it: ")[2]], check=True)
    made = path.with_name(f"{path.stem}.list.csv")
    return [(os.path.relpath(video.path, path.parent), video.label) for video in read_list(made)]


@pytest.mark.parametrize(("name", "content", "what", "made"), SAMPLES)
def test_the_printed_command_makes_a_list(tmp_path, name, content, what, made):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ListError, match=f"It seems to be .*{what}"):
        read_list(path)
    assert mended(path) == made


@pytest.mark.parametrize(
    "text", ["imgs 5 127\n", "test.mp4 0 3\n", "# 0\nimgs\n5\n", "\0\x81\n", "[{}]\n", "abseiling\n"]
)
def test_nothing_is_guessed_of_other_files(tmp_path, text):
    (tmp_path / "list.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(ListError, match="Expected a CSV in UTF-8"):
        read_list(tmp_path / "list.csv")


def published(tmp_path: Path, name: str) -> Path:
    """Return a copy of a published list, whose folder may be written."""
    path = tmp_path / Path(name).name
    path.write_bytes((Path(os.environ["DYNVID_LISTS"]) / name).read_bytes())
    return path


@pytest.mark.skipif("DYNVID_LISTS" not in os.environ, reason="DYNVID_LISTS: a folder of published lists")
@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("kinetics/kinetics-600_val.head.csv", None),
        ("kinetics/k400_quoted_is_cc.csv", 4),
        ("tsn/ucf101_splits/trainlist01.txt", 9537),
        ("tsn/hmdb51_splits/cartwheel_test_split1.txt", 30),
        ("something-something/v1-train.csv", None),
        *((f"shapes/{name}", None) for name in ("semicolon.csv", "latin1.csv", "no_header.csv", "ucf101_style.txt")),
    ],
)
def test_published_lists_of_other_formats(tmp_path, name, rows):
    made = mended(published(tmp_path, name))
    assert len(made) == rows if rows else made


@pytest.mark.skipif("DYNVID_LISTS" not in os.environ, reason="DYNVID_LISTS: a folder of published lists")
@pytest.mark.parametrize(
    ("name", "rows", "first", "label"),
    [
        ("tsn/ucf101_splits/testlist01.txt", 3783, "ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi", None),
        ("hmdb51_odd_names/names.txt", 536, "#122_Cleaning_Up_The_Beach_In_Chiba__Japan_pick_f_nm_np1_fr_bad_1.avi", None),
        ("shapes/tabs.tsv", 11, "../../dmlc_decord/examples/flipping_a_pancake.mkv", "0"),
        ("shapes/one_path_a_line.txt", 12, "../../dmlc_decord/examples/flipping_a_pancake.mkv", None),
    ],
)  # fmt: skip
def test_published_lists_that_are_read_as_they_are(tmp_path, name, rows, first, label):
    path = published(tmp_path, name)
    found = read_list(path)
    assert len(found) == rows
    assert os.path.relpath(found[0].path, path.parent) == os.path.normpath(first)
    assert {video.label is None for video in found} == {label is None}
    assert found[0].label == label
