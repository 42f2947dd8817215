import pytest

from dynvid.pages.fitting import fitted, wrapped


@pytest.mark.parametrize(("text", "shown"), [("short", "short"), ("w" * 50, "w" * 7 + "…"), ("a\nb", r"a\nb")])
def test_what_does_not_fit_ends_in_an_ellipsis(text, shown):
    assert fitted(text, 100) == shown


def test_bold_letters_take_more_room():
    assert len(fitted("a" * 50, 100, bold=True)) < len(fitted("a" * 50, 100))


def test_lines_break_at_spaces_and_a_word_is_never_wider_than_a_line():
    assert wrapped("one two three", 60) == ["one two", "three"]
    assert wrapped("one " + "w" * 50, 100) == ["one", "w" * 7 + "…"]
