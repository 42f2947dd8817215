"""What commands say of arguments before they open anything."""

import pytest
from command_line import dynvid, refused


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["explain", "b", "s3://bucket/a.mp4"], "VIDEO"),
        (["explain", "b", "--data", "s3://bucket/a.mp4"], "--data"),
        (["calibrate", "b", "--data", "s3://bucket/a.mp4"], "--data"),
        (["quantize", "b", "--data", "s3://bucket/a.mp4"], "--data"),
        (["verify", "s3://bucket/a.mp4"], "BUNDLE"),
        (["classify", "b", "a.mp4", "-o", "s3://bucket/a.mp4"], "-o"),
    ],
)
def test_a_uri_is_refused_as_it_was_given(arguments, name):
    said = refused(2, *arguments)
    assert f"Error: {name} 's3://bucket/a.mp4' is a URI: expected a file or folder of this machine" in said


@pytest.mark.parametrize("command", ["classify", "explain"])
def test_neither_videos_nor_a_list_and_both_are_told_apart(command):
    assert refused(2, command, "b") == f"Error: {command} reads nothing: give VIDEO or --data LIST"
    said = refused(2, command, "b", "a.mp4", "--data", "list.csv")
    assert said == f"Error: {command} takes VIDEO or --data LIST, not both: leave one out"


@pytest.mark.parametrize("arguments", [["classify"], ["merge", "--nope"], ["calibrate", "b", "--split", "x"], ["nope"]])
def test_what_the_command_line_cannot_read_shows_the_usage_first(arguments):
    done = dynvid(*arguments)
    lines = done.stderr.splitlines()
    assert done.returncode == 2 and lines[0].startswith("Usage: dynvid ") and lines[-1].startswith("Error: ")
