"""``dynvid serve`` where it cannot serve; what it does where it can: tests/full/test_serving.py."""

import importlib.util

import pytest
from command_line import refused

from dynvid.grid.errors import ResourceError


@pytest.mark.skipif(importlib.util.find_spec("kserve") is not None, reason="the extra [serve] is installed")
def test_without_the_extra_one_line_says_what_to_install(tiny_bundle):
    said = refused(5, "serve", tiny_bundle.root)
    assert said == ("Error: this command needs the package 'kserve'. Install it: pip install 'dynvid[serve,cpu]'")


@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("--timeout", ("nan", "inf", "0", "1e9")), ("--drain", ("nan", "inf", "1e9")),
        ("--decode-timeout", ("nan", "inf", "1e9")), ("--silent-after", ("nan", "inf", "2.9")),
        ("--stuck-after", ("nan", "inf")), ("--max-body", ("nan", "2048")), ("--max-in-flight", ("nan", "inf")),
    ],
)  # fmt: skip
def test_numbers_that_cannot_be_are_usage_errors(option, values, tmp_path):
    for value in values:
        assert option in refused(2, "serve", tmp_path, option, value)


def test_two_servers_share_no_port(tmp_path):
    said = refused(ResourceError.exit_code, "serve", tmp_path, "--port", "9000", "--grpc-port", "9000")
    assert "port 9000 cannot be used for both" in said


def test_a_name_is_part_of_a_url(tmp_path):
    for name in ("a/b", "", "a b", "ü"):
        assert "--name" in refused(2, "serve", tmp_path, "--name", name)
