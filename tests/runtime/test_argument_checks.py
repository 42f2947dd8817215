"""Odd arguments from Python are refused by name, at once, and harm nothing."""

import math

import numpy as np
import pytest

from dynvid import DynvidError, api
from dynvid.grid.errors import UsageError
from dynvid.runtime.argument_checks import require_count, require_path, require_seconds, require_share
from dynvid.runtime.open_model import open_model

NAN, INF, HUGE = math.nan, math.inf, 10**400


@pytest.fixture
def clip(tiny_bundle):
    manifest = tiny_bundle.manifest
    side = manifest.preprocessing.short_side
    return np.zeros((manifest.grid.num_frames, side, side, 3), np.uint8)


@pytest.mark.parametrize("value", ["1", [1], None, True, NAN, INF, -INF, HUGE])
def test_what_is_no_number_of_seconds_is_refused(value):
    with pytest.raises(UsageError, match="^deadline_s .*: expected seconds, at most 1e"):
        require_seconds("deadline_s", value)
    assert require_seconds("deadline_s", np.float32(0.5)) == 0.5


@pytest.mark.parametrize("value", ["1", 1.5, None, True, 0, -1, NAN])
def test_what_is_no_count_is_refused(value):
    with pytest.raises(UsageError, match="^batch .*: expected a whole number of at least 1"):
        require_count("batch", value)
    assert require_count("batch", np.int64(2)) == 2


@pytest.mark.parametrize("value", ["1", None, True, -0.1, 1.1, NAN])
def test_what_is_no_share_is_refused(value):
    with pytest.raises(UsageError, match="^max_failures .*: expected a number from 0 to 1"):
        require_share("max_failures", value)


def test_a_long_value_is_cut():
    with pytest.raises(UsageError) as caught:
        require_path("bundle", [0.0] * 1000)
    assert len(str(caught.value)) < 120


@pytest.mark.parametrize("deadline_s", ["1", [1], HUGE, NAN, INF])
def test_a_wrong_deadline_leaves_the_model_as_it_was(tiny_bundle, clip, deadline_s):
    with open_model(tiny_bundle, mode="deadline", threads=1) as model:
        before = model.classify(clip)
        with pytest.raises(UsageError, match="deadline_s"):
            model.submit(clip, deadline_s=deadline_s)
        assert model.classify(clip).confidence == before.confidence
        assert model.submit(clip, deadline_s=60).result(60).confidence == before.confidence


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"threads": "2"}, "threads '2'"),
        ({"threads": 1.5}, "threads 1.5"),
        ({"batch": 0}, "batch 0"),
        ({"streams": None}, "streams None"),
        ({"decoders": 1.5}, "decoders 1.5"),
        ({"max_pending": "3"}, "max_pending '3'"),
        ({"backend": None}, "backend None"),
        ({"thresholds": [0.5]}, r"thresholds \[0.5\]"),
        ({"decode_timeout_s": 0}, "decode_timeout_s 0: expected more than 0"),
        ({"decode_timeout_s": INF}, "decode_timeout_s inf"),
        ({"decode_timeout_s": "5"}, "decode_timeout_s '5'"),
    ],
)
def test_options_of_another_type_are_named(tiny_bundle, options, said):
    with pytest.raises(UsageError, match=f"^{said}"):
        open_model(tiny_bundle, **options)
    with pytest.raises(UsageError, match="^bundle None: expected a path"):
        open_model(None)


@pytest.mark.parametrize("shard", [(0, 1), (3, 2), (1, 0), ("1", 2)])
def test_shards_that_do_not_exist_are_refused(tiny_bundle, tmp_path, shard):
    with open_model(tiny_bundle, threads=1) as model:
        with pytest.raises(UsageError, match="^shard"):
            model.classify_list([tmp_path / "a.npy"], tmp_path / "o.jsonl", shard=shard)
        with pytest.raises(UsageError, match="^max_failures 2"):
            model.classify_list([tmp_path / "a.npy"], max_failures=2)
    assert not (tmp_path / "o.jsonl").exists()


def test_merging_nothing_leaves_the_output(tmp_path):
    (tmp_path / "o.jsonl").write_text("kept")
    for parts in ([], "a.jsonl", tmp_path, None):
        with pytest.raises(DynvidError, match="expected a list of files or folders of results"):
            api.merge(parts, tmp_path / "o.jsonl")
    assert (tmp_path / "o.jsonl").read_text() == "kept"
