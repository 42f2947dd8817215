import base64
import io

import av
import numpy as np
import pytest

from dynvid.pages.thumbnail import SIDE, thumbnail


def decoded(address):
    """Return the picture of a ``data:`` address, [height, width, 3]."""
    start, content = address.split(",")
    assert start == "data:image/jpeg;base64"
    with av.open(io.BytesIO(base64.b64decode(content)), format="jpeg_pipe") as file:
        return next(file.decode(video=0)).to_ndarray(format="rgb24")


@pytest.mark.parametrize(("height", "width"), [(224, 224), (64, 64), (300, 100), (1, 1), (33, 35)])
def test_a_picture_keeps_its_form_and_colours(height, width):
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, : width // 2, 0], pixels[:, width // 2 :, 2] = 220, 200
    found = decoded(thumbnail(pixels))
    scale = min(1, SIDE / max(height, width))
    assert abs(found.shape[0] - height * scale) < 2 and abs(found.shape[1] - width * scale) < 2
    assert found.shape[0] % 2 == found.shape[1] % 2 == 0
    if width > 8:
        assert abs(found[0, 0].astype(int) - [220, 0, 0]).max() < 12
        assert abs(found[0, -1].astype(int) - [0, 0, 200]).max() < 12


def test_noise_stays_small():
    noise = np.random.default_rng(0).integers(0, 256, (224, 224, 3), np.uint8)
    assert len(thumbnail(noise)) < 8000
