"""A video that kills its process is found, whatever dies between; one that was only near is not blamed."""

import random

from dynvid.serving.quarantine import LONE_TRIES, Quarantine


class Killed(Exception):
    """Stands for kill -9."""


def work(folder, keys, poison=(), kill=lambda key: False):
    """Classify a batch as an actor does; return the keys that got an answer."""
    quarantine, answered = Quarantine(folder), []

    def classify(key):
        if key in poison or kill(key):
            raise Killed
        answered.append(key)

    if not quarantine.begin(keys):
        for key in keys:
            classify(key)
    else:
        for key in keys:
            if quarantine.begin_alone(key):
                classify(key)
                quarantine.end_alone(key)
    quarantine.end(keys)
    return answered


def until_done(folder, keys, **how):
    for deaths in range(1000):
        try:
            return work(folder, keys, **how), deaths
        except Killed:
            continue
    raise AssertionError("never done")


def test_nothing_is_left_of_a_batch_that_harms_nobody(tmp_path):
    assert until_done(tmp_path, ["a", "b"]) == (["a", "b"], 0)
    assert list(tmp_path.iterdir()) == []


def test_what_kills_is_left_out_after_three_lone_tries(tmp_path):
    assert until_done(tmp_path, ["a", "b", "c"], poison={"b"}) == (["a", "c"], 1 + LONE_TRIES)
    assert until_done(tmp_path, ["b", "d"], poison={"b"}) == (["d"], 1)  # in another batch it is known


def test_kills_from_outside_blame_nobody(tmp_path):
    rng = random.Random(0)
    keys = [str(i) for i in range(40)]
    for batch in range(50):
        answered, _ = until_done(tmp_path, [f"{batch} {key}" for key in keys], kill=lambda key: rng.random() < 0.02)
        assert len(answered) == len(keys)
