"""What classify refuses before it opens the bundle."""

import shutil

import pytest
from command_line import dynvid, refused
from samples import write_noise


@pytest.mark.parametrize(
    ("output", "report"),
    [
        ("same.html", "same.html"),
        ("sub/../same.html", "same.html"),
        ("link.html", "same.html"),
        ("x.parquet", "link_to_lines.html"),
        ("x.jsonl", "link_to_sidecar.html"),
    ],
)
def test_the_page_does_not_take_the_place_of_the_results(tmp_path, monkeypatch, output, report):
    if output.endswith(".parquet"):
        pytest.importorskip("pyarrow")
    monkeypatch.chdir(tmp_path)
    for link, target in (
        ("link.html", "same.html"),
        ("link_to_lines.html", "x.parquet.jsonl"),
        ("link_to_sidecar.html", "x.jsonl.run.json"),
    ):
        (tmp_path / link).symlink_to(target)
    said = refused(2, "classify", "none.bundle", "a.mp4", "-o", output, "--report", report)
    assert f"-o and --report are both written to '{report}': give two places" in said


@pytest.mark.parametrize("videos", [["a.mp4"], ["s3://bucket/a.mp4"], ["clips"], ["a.mp4", "b.mp4"]])
def test_a_video_after_ray_is_no_address(videos):
    said = refused(2, "classify", "none.bundle", "-o", "out", "--ray", *videos)
    assert f"--ray took '{videos[0]}' as its address: expected auto, local or HOST:PORT" in said


@pytest.mark.parametrize("address", ["auto", "local", "10.0.0.1:6379", "ray://head:10001"])
def test_an_address_of_a_cluster_is_taken(address):
    assert "--ray writes to a folder: give -o OUT" in refused(2, "classify", "b", "a.mp4", "--ray", address)


@pytest.mark.parametrize("page", ["file/page.html", "folder.html", "x" * 300 + ".html", "/proc/page.html"])
def test_a_page_that_cannot_be_written_is_refused_before_the_work(tmp_path, monkeypatch, page):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "folder.html").mkdir()
    assert f"--report '{page}' cannot be written" in refused(6, "classify", "none.bundle", "a.mp4", "--report", page)


def test_looking_whether_a_page_can_be_written_leaves_nothing(tmp_path):
    page = tmp_path / "pages" / "page.html"
    assert "none.bundle" in refused(4, "classify", "none.bundle", "a.mp4", "--report", page)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["classify", "explain"])
@pytest.mark.parametrize(
    ("video", "kind", "given"),
    [
        ("clips/*.mp4", "a glob pattern", "'clips/*.mp4'"),
        ("[ab].mp4", "a glob pattern", "'[ab].mp4'"),
        (".", "a folder", "."),
    ],
)
def test_what_names_many_videos_is_to_be_given_as_a_list(tmp_path, monkeypatch, command, video, kind, given):
    monkeypatch.chdir(tmp_path)
    said = refused(2, command, "none.bundle", video)
    assert said == f"Error: VIDEO '{video}' is {kind}, which names a list: give --data {given}"


@pytest.mark.parametrize("name", ["a[1].npy", "s3://bucket/*.mp4", "x" * 5000 + "*"])
def test_a_file_with_wildcards_in_its_name_and_a_uri_are_videos(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a[1].npy").touch()
    assert ("is a glob pattern" in dynvid("classify", "none.bundle", name).stderr) == name.startswith("x")


HOSTILE = "a\nb\x1b[31m\r\u2028"


@pytest.mark.parametrize("command", ["classify", "explain"])
def test_names_and_labels_with_control_characters_stay_in_their_line(tiny_bundle, tmp_path, command):
    write_noise(tmp_path, 1)
    shutil.copy(tmp_path / "0.npy", tmp_path / f"{HOSTILE}.npy")
    (tmp_path / "list.csv").write_text(f'video,label\n"{HOSTILE}.npy","{HOSTILE}"\n"{HOSTILE}.mp4",a\n', newline="")
    done = dynvid(command, tiny_bundle.root, "--data", tmp_path / "list.csv")
    assert not {"\x1b", "\r", "\u2028"} & {*done.stdout, *done.stderr}
    assert done.returncode == 7 and sum(r"a\nb\x1b[31m\r\u2028.npy" in line for line in done.stdout.split("\n")) == 1
    errors = [line for line in done.stderr.split("\n") if "No such file" in line]
    assert errors and all(line.startswith("Error: ") and r"a\nb\x1b[31m\r\u2028.mp4" in line for line in errors)
