"""TSM's own shift, both ways, frame by frame; and the networks that compute it, which answer once."""

import pytest
import torch
from samples import RESNET, TINY

from dynvid.grid.errors import NetworkError
from dynvid.models.config_json import from_json, to_json
from dynvid.models.conformance.kit import require_conformance
from dynvid.models.registry import build
from dynvid.models.shift import ShiftConfig, TwoWayShift

STATIC = {key: value for key, value in RESNET.items() if key != "route"} | {"static": True}


def both_ways(rows, frames, fold, start, stride):
    """The definition, written as a loop: every frame of every video by itself."""
    videos, shifted = rows.unflatten(0, (-1, frames)), rows.unflatten(0, (-1, frames)).clone()
    for t in range(frames):
        for source, first in ((t + stride, start * fold), (t - stride, (start + 1) * fold)):
            channels = slice(first, first + fold)
            shifted[:, t, channels] = videos[:, source, channels] if 0 <= source < frames else 0.0
    return shifted.flatten(0, 1)


@pytest.mark.parametrize(("div", "start", "stride"), [(8, 0, 1), (4, 0, 1), (8, 1, 1), (2, 0, 1), (8, 0, 2)])
@pytest.mark.parametrize("frames", [1, 2, 5])
def test_every_frame_takes_one_fold_from_each_side(div, start, stride, frames):
    rows = torch.randn(3 * frames, 17, 2, 3, generator=torch.Generator().manual_seed(frames))
    config = ShiftConfig(div=div, start_fold=start, stride=stride)
    assert torch.equal(TwoWayShift(config, 0, frames)(rows, "layer"), both_ways(rows, frames, 17 // div, start, stride))


def test_layers_that_are_not_named_stay_unshifted():
    rows = torch.randn(6, 16, 2, 2)
    shift = TwoWayShift(ShiftConfig(points=("1.conv0",)), 1, 3)
    assert torch.equal(shift(rows, "conv1"), rows) and not torch.equal(shift(rows, "conv0"), rows)


# networks that compute it


@pytest.mark.parametrize("base", [TINY, RESNET], ids=lambda base: base["network"])
def test_static_alone_makes_a_fixed_network(base):
    config = from_json({**{key: value for key, value in base.items() if key != "route"}, "static": True})
    assert config.static and config.grid.permutation == "none"
    assert config.route == ((config.grid.input_sets - 1, config.grid.blocks - 1),)
    assert from_json(to_json(config)) == config


def test_networks_are_dynamic_unless_said():
    config = from_json(RESNET)
    assert not config.static and config.grid.permutation == "evil_odious"


def test_time_matters_both_ways_with_the_shift_and_not_at_all_without(exports):
    """The middle of a video depends on its two neighbours; TSN is a mean, whatever the order."""
    frames = torch.randn(1, 4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    tsm = exports.network(STATIC)
    for changed in (0, 3):
        other = frames.clone()
        other[:, changed] = 0
        features = [tsm.blocks[0]((x.flatten(0, 1),), None) for x in (frames, other)]
        one, two = (tsm.blocks[1](x, TwoWayShift(tsm.config.shift, 1, 4))[0] for x in features)
        near = 1 if changed == 0 else 2
        assert not torch.equal(one[near], two[near])
    with torch.no_grad():
        tsn = exports.network({**STATIC, "shift": {"enabled": False}})
        for network, equal in ((tsm, False), (tsn, True)):
            (there,), (back,) = network(frames), network(frames.flip(1))
            assert torch.allclose(there, back, atol=1e-4) == equal


@pytest.mark.parametrize(("keys", "match"), [
    ({"route": "0,2 1,4"}, r"route \(0,2\) \(1,4\) of a static network: expected 'full', here \(1,4\).*remove static"),
    ({"route": "depth"}, "of a static network: expected 'full'"),
    ({"route": "input"}, "of a static network: expected 'full'"),
    ({"route": "1,3", "heads": [3, 4]}, r"route \(1,3\) of a static network: expected 'full', here \(1,4\)"),
    ({"permutation": "evil_odious"}, "permutation 'evil_odious' of a static network: expected 'none'"),
    ({"shift": {"div": 2, "start_fold": 1}}, "div 2, start_fold 1 of a static network: expected start_fold <= div - 2"),
], ids=str)  # fmt: skip
def test_a_static_network_with_a_route_is_refused(keys, match):
    with pytest.raises(NetworkError, match=match):
        from_json({**STATIC, **keys})


def test_a_static_network_gets_no_other_route():
    dynamic, static = build(from_json({**RESNET, "permutation": "none"})), build(from_json(STATIC))
    assert static.with_route(static.route.full) is static
    with pytest.raises(NetworkError, match=r"this network is static and answers once, at \(1,4\). Leave out --route"):
        static.with_route(dynamic.route)


def test_conformance_is_of_networks_with_a_route():
    with pytest.raises(NetworkError, match="this one is static: leave static out"):
        require_conformance(from_json(STATIC))
