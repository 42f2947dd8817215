import math

import pytest

from dynvid.pages.numbers import counted, number, share, significant


@pytest.mark.parametrize(
    ("value", "said"),
    [(0.0168, "0.0168"), (0.16843, "0.168"), (9.754, "9.75"), (123.4, "123"), (0.0, "0"), (-0.5, "-0.5")],
)
def test_three_digits_are_kept_of_what_is_below_one(value, said):
    assert significant(value) == said


def test_what_is_no_number_is_a_dash():
    assert number(None) == number(math.nan) == share(math.inf) == "–"


def test_a_noun_follows_its_count():
    assert [counted(n, "frame") for n in (0, 1, 2, 2000)] == ["0 frames", "1 frame", "2 frames", "2,000 frames"]
