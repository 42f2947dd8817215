from collections import Counter

import numpy as np
import pytest

from dynvid.runtime.video.view import View, Window
from dynvid.training.batches.augmentation import PLACES, SCALES, Augmentation
from dynvid.training.batches.mirrored_classes import mirrored_classes

GOLDEN = View(
    draws=(0.6369616873214543, 0.2697867137638703, 0.04097352393619469, 0.016527635528529094),
    window=Window(1.0, 0.875, 1, 3),
    mirrored=False,
)


def test_one_look_of_a_seed_never_changes():
    view = Augmentation().view(np.random.default_rng(0), 4)
    assert view == GOLDEN


def test_windows_and_flips_are_uniform_over_what_tsn_allows():
    rng, seen, places, mirrored = np.random.default_rng(1), Counter(), Counter(), 0
    for _ in range(13000):
        view = Augmentation().view(rng, 1)
        seen[view.window.height, view.window.width] += 1
        places[view.window.down, view.window.right] += 1
        mirrored += view.mirrored
    steps = {scale: step for step, scale in enumerate(SCALES)}
    assert len(seen) == 10 and all(abs(steps[h] - steps[w]) <= 1 for h, w in seen)
    assert set(places) == set(PLACES) and len(places) == 13
    assert min(seen.values()) > 1150 and max(seen.values()) < 1450
    assert min(places.values()) > 850 and max(places.values()) < 1150
    assert 6200 < mirrored < 6800


def test_what_is_switched_off_is_as_in_deployment_and_shifts_no_other_draw():
    def view(**settings):
        return Augmentation(**settings).view(np.random.default_rng(1), 3)

    everything = view()
    assert view(frames="centres", crops="centre", flip="off") == View()
    assert view(frames="centres").window == view(flip="off").window == everything.window
    assert view(crops="centre").draws == everything.draws and view(crops="centre").window is None
    assert everything.mirrored and view(flip="swap").mirrored and not view(flip="off").mirrored


@pytest.mark.parametrize(
    ("labels", "mirrored"),
    [
        (["Pulling something from left to right", "Pulling something from right to left", "Leaving"], [1, 0, 2]),
        (["Turning the camera left while filming", "Turning the camera right while filming"], [1, 0]),
        (["Pulling it right out", "Turning something upright", "Turning left"], [0, 1, 2]),
        (["moves_left", "x", "moves_right"], [2, 1, 0]),
        (["Turning Hand Clockwise", "Turning Hand Counterclockwise"], [1, 0]),
    ],
)
def test_classes_exchange_only_by_whole_words(labels, mirrored):
    assert mirrored_classes(labels) == mirrored
