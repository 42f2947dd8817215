"""The static network without shift is the same weights' network, without shift."""

import dataclasses

import numpy as np
import onnxruntime
import pytest
import torch
from samples import TINY

from dynvid.exporter.proof.clips import proof_clips
from dynvid.exporter.split.unshifted import unshifted
from dynvid.models.registry import build
from dynvid.models.shift import ShiftConfig


@pytest.mark.parametrize(("shifted", "shared"), [(True, True), (False, True), (True, False)])
def test_it_answers_as_the_network_without_shift(exports, shifted, shared, recwarn, capfd):
    head = {**TINY["head"], "share_classifier": shared}
    network = exports.network({**TINY, "shift": {"enabled": shifted}, "head": head})
    route = network.route
    session = onnxruntime.InferenceSession(unshifted(network), providers=["CPUExecutionProvider"])
    assert not recwarn.list and capfd.readouterr() == ("", "")
    plain = build(dataclasses.replace(network.config, shift=ShiftConfig(enabled=False))).eval()
    plain.load_state_dict(network.state_dict())
    (clip,) = proof_clips(1, network.grid.num_frames, network.config.preprocessing)
    frames = clip[None][:, list(network.grid.frame_order)]
    (logits,) = session.run(["logits"], {"frames": frames})
    with torch.no_grad():
        expected = plain(torch.from_numpy(frames))[-1].numpy()
    assert np.abs(logits - expected).max() < 1e-4 * expected.std()
    with torch.no_grad():
        other = network(torch.from_numpy(frames))[-1].numpy()
    assert (np.abs(logits - other).max() > 1e-3 * expected.std()) == shifted
    assert network.route == route  # and the network is left as it was
