"""What classify refuses before it opens the bundle."""

import pytest
from command_line import refused


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
