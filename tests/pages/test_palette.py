import pytest

from dynvid.pages.palette import DARK, LIGHT, follows_the_reader, in_colours
from dynvid.pages.render import read

TEXT = [(text, ground) for ground in ("paper", "wash") for text in ("ink", "soft", "blue", "red", "green")]
ON = [("paper", "blue"), ("paper", "red")]  # numbers in cells, and in the circle of the exit


def luminance(colour):
    """Return the relative luminance of a colour (WCAG 2.2)."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("colours", [LIGHT, DARK], ids=["light", "dark"])
@pytest.mark.parametrize(("text", "ground"), TEXT + ON)
def test_text_can_be_read(colours, text, ground):
    assert contrast(colours[text], colours[ground]) >= 4.5


def test_a_contrast_that_is_too_low_is_seen():
    assert contrast("#000000", "#ffffff") == pytest.approx(21) and contrast("#d55e00", "#ffffff") < 4.5


def test_style_sheets_use_only_colours_of_the_palette():
    assert LIGHT.keys() == DARK.keys()
    for name in ("page.css", "figure.css"):
        style = read(name)
        assert "#" not in style and "rgb" not in style
        assert "var(" not in in_colours(style, LIGHT)


def test_a_figure_outside_a_page_turns_dark_with_its_reader():
    svg = follows_the_reader(f'<svg viewBox="0 0 1 1"><path style="fill: {LIGHT["ink"]}"/></svg>', 'a "plot"')
    assert '<svg role="img" aria-label="a &quot;plot&quot;" viewBox' in svg
    assert f'[style*="fill: {LIGHT["ink"]}"]' in svg and f"fill: {DARK['ink']} !important" in svg
    assert LIGHT["red"] not in svg  # no rule for what is not drawn
