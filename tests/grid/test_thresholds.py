import json

import pytest

from dynvid.grid.errors import StaleThresholdsError, ThresholdsError
from dynvid.grid.thresholds import Thresholds, read_thresholds

BUNDLE = "ab" * 32


def test_thresholds_read_back_as_they_were_written(tmp_path):
    written = Thresholds(BUNDLE, (0.5, 1.0, None), 1.2)
    written.write(tmp_path / "T.json")
    assert read_thresholds(tmp_path / "T.json", BUNDLE, 3) == written


TALLY = ((1, 0, 0, 0, 0, 0, 0, 0, 0, 2),) * 2


def test_temperatures_and_what_is_expected_read_back(tmp_path):
    written = Thresholds(BUNDLE, (0.5, None), 1.2, (1.5, 0.9), TALLY)
    written.write(tmp_path / "T.json")
    assert read_thresholds(tmp_path / "T.json", BUNDLE, 2) == written


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"temperatures": [1.0]}, "1 temperatures for 2 checkpoints"),
        ({"temperatures": [1.0, 0.0]}, "checkpoint 2 has temperature 0.0, expected a number above 0"),
        ({"temperatures": [-1.0, 1.0]}, "checkpoint 1 has temperature -1.0"),
        ({"temperatures": ["1", 1.0]}, "expected float"),
        ({"expected": [[1] * 10]}, "must hold 10 counts for each of 2 checkpoints"),
        ({"expected": [[1] * 9] * 2}, "must hold 10 counts"),
        ({"expected": [[-1] + [1] * 9] * 2}, "must hold 10 counts"),
        ({"expected": [[0] * 10] * 2}, "must hold 10 counts"),
        ({"expected": []}, "must hold 10 counts"),
        ({"unknown": 1}, "unknown key 'unknown'"),
        ({"precision": "int4"}, "'int4', expected one of"),
    ],
)
def test_additions_that_do_not_fit_are_refused(tmp_path, values, message):
    (tmp_path / "T.json").write_text(json.dumps({"bundle_sha256": BUNDLE, "thresholds": [0.5, None], **values}))
    with pytest.raises(ThresholdsError, match=message):
        read_thresholds(tmp_path / "T.json", BUNDLE, 2)


def test_thresholds_of_another_bundle_are_refused(tmp_path):
    Thresholds("cd" * 32, (0.5, None)).write(tmp_path / "T.json")
    with pytest.raises(StaleThresholdsError, match="belong to bundle cdcdcdcd…, but this one is abababab…") as caught:
        read_thresholds(tmp_path / "T.json", BUNDLE, 2)
    assert caught.value.exit_code == 4


@pytest.mark.parametrize(
    ("chosen", "used", "fit"),
    [
        ("fp32", "fp32", True),
        ("fp32", "fp16", True),
        ("fp16", "fp32", True),
        ("int8", "int8", True),
        ("int8", None, True),
        ("fp32", "bf16", True),
        ("bf16", "fp32", True),
        ("int8", "int8-bf16", True),
        ("bf16", "int8", False),
        ("fp32", "int8-bf16", False),
        ("fp32", "int8", False),
        ("fp16", "int8", False),
        ("int8", "fp32", False),
        ("int8", "fp16", False),
    ],
)
def test_int8_has_thresholds_of_its_own(tmp_path, chosen, used, fit):
    written = Thresholds(BUNDLE, (0.5, None), precision=chosen)
    written.write(tmp_path / "T.json")
    if fit:
        assert read_thresholds(tmp_path / "T.json", BUNDLE, 2, used) == written
        return
    with pytest.raises(
        StaleThresholdsError, match=f"in {chosen}, but these are in {used}: run in that precision, or choose"
    ):
        read_thresholds(tmp_path / "T.json", BUNDLE, 2, used)


def test_thresholds_without_a_precision_are_of_fp32(tmp_path):
    (tmp_path / "T.json").write_text(json.dumps({"bundle_sha256": BUNDLE, "thresholds": [0.5, None]}))
    assert read_thresholds(tmp_path / "T.json", BUNDLE, 2).precision == "fp32"


@pytest.mark.parametrize(
    ("thresholds", "message"),
    [
        ([0.5, 0.5, None], "3 values for 2 checkpoints"),
        ([None], "1 values for 2"),
        ([0.5, 0.5], "the last null"),
        ([1.5, None], r"checkpoint 1 has 1\.5, expected a number in \[0, 1\]"),
        ([-0.1, None], "checkpoint 1 has -0.1"),
        ([None, None], "checkpoint 1 has None"),
        (["0.5", None], "expected float"),
        ({}, "expected list"),
    ],
)
def test_thresholds_that_do_not_fit_are_refused(tmp_path, thresholds, message):
    (tmp_path / "T.json").write_text(json.dumps({"bundle_sha256": BUNDLE, "thresholds": thresholds}))
    with pytest.raises(ThresholdsError, match=message) as caught:
        read_thresholds(tmp_path / "T.json", BUNDLE, 2)
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"thresholds": [NaN, null]}', '{"bundle_sha256": 1}'])
def test_a_malformed_thresholds_file_is_refused(tmp_path, text):
    (tmp_path / "T.json").write_text(text)
    with pytest.raises(ThresholdsError, match="malformed"):
        read_thresholds(tmp_path / "T.json", BUNDLE, 2)


def test_a_missing_thresholds_file_is_refused(tmp_path):
    with pytest.raises(ThresholdsError, match="cannot be read"):
        read_thresholds(tmp_path / "T.json", BUNDLE, 2)
