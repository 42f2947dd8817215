from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from torch import nn

from dynvid.cli import cli
from dynvid.grid.errors import DynvidError, NetworkError
from dynvid.models import registry
from dynvid.models.config_json import from_json
from dynvid.models.conformance.checks import CHECKS
from dynvid.models.conformance.kit import check, require_conformance
from dynvid.models.network import HeadConfig, NetworkConfig, conv_embedding, linear_embedding
from dynvid.models.registry import register, registered
from dynvid.models.shift import Shift

EXAMPLE = Path(__file__).parents[2] / "examples" / "own_network"
MSDNET = {"layers": [1, 2, 1], "channels": 8, "growth": 8, "growth_factors": [1, 2], "bottleneck_factors": [1, 2]}
RESNET = {"layers": [1, 1, 1, 1], "width": 8}
FEW_POINTS = ["2.conv0", "4.conv0"]


@pytest.fixture(autouse=True)
def _registry_as_it_was(monkeypatch):
    monkeypatch.setattr(registry, "_FACTORIES", dict(registry._FACTORIES))


def small(network: str, **keys) -> NetworkConfig:
    preprocessing = {"short_side": 32, "crop": 32}
    return from_json({"network": network, "classes": 3, "preprocessing": preprocessing, **keys})


def failed(config: NetworkConfig) -> dict[str, tuple[str, ...]]:
    return {finding.check: finding.faults for finding in check(config) if finding.state == "failed"}


# the networks that must pass


@pytest.mark.parametrize(
    "keys",
    [
        {"network": "msdnet", "options": MSDNET},
        {"network": "msdnet", "options": {**MSDNET, "prune": "min"}, "groups_linked": False},
        {"network": "msdnet", "options": MSDNET, "head": {"share_classifier": False}, "route": "input"},
        {"network": "resnet", "options": RESNET},
        {"network": "resnet", "options": RESNET, "shift": {"stride": 2}, "groups_linked": False},
        {"network": "resnet", "options": RESNET, "shift": {"start_fold": 1, "div": 4}, "head": {"style": "linear"}},
        {"network": "resnet", "options": RESNET, "shift": {"points": FEW_POINTS}, "frames_per_set": 1},
        {"network": "resnet", "options": RESNET, "shift": {"enabled": False}},
    ],
    ids=lambda keys: " ".join(f"{k}={v}" for k, v in keys.items() if k not in ("options", "network")) or "plain",
)
def test_a_built_in_network_conforms(keys):
    require_conformance(small(**keys))


def test_a_check_says_why_it_is_made():
    findings = check(small(registered_name(Toy)))
    assert [finding.check for finding in findings] == [step.__name__ for step in CHECKS]
    assert all(finding.why.endswith(".") and finding.state == "passed" for finding in findings)


def test_the_kit_leaves_the_random_numbers_alone():
    config = small(registered_name(Toy))
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    check(config)
    assert torch.equal(torch.rand(3), expected)


# the planted faults: a network that conforms, and what breaks it


class Block(nn.Module):
    """Two convolutions, the second beside an identity and shifted."""

    def __init__(self, channels: int, out: int = 8) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(channels, out, 3, 2, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(out, out, 3, 1, 1, bias=False), nn.BatchNorm2d(out))

    def forward(self, features, shift: Shift):
        (x,) = features
        x = self.first(x)
        return (torch.relu(x + self.second(shift(x, "second"))),)


class Toy:
    """Three blocks; the one in the middle is ``middle``."""

    head_blocks: tuple[int, ...] = (1, 2)
    middle = Block

    def __init__(self) -> None:
        self.blocks = nn.ModuleList([Block(3), self.middle(8), Block(8)])

    def embedding(self, block: int, head: HeadConfig) -> tuple[nn.Module, int]:
        if head.style == "linear":
            return linear_embedding(), 8
        return conv_embedding(8, head.width or 16), head.width or 16

    def paper_macs(self, crop: int, classes: int) -> tuple[int, ...] | None:
        return None


def over_frames(rows: torch.Tensor, shift: Shift) -> torch.Tensor:
    return rows.unflatten(0, (-1, shift.frames))


class Bidirectional(Block):
    """TSM's offline shift, written by hand."""

    def forward(self, features, shift):
        videos = over_frames(features[0], shift)
        later = torch.cat([videos[:, 1:, :1], torch.zeros_like(videos[:, :1, :1])], dim=1)
        return super().forward((torch.cat([later, videos[:, :, 1:]], dim=2).flatten(0, 1),), shift)


class OwnShift(Block):
    """Forward only, but by hand, so that no state is handed on."""

    def forward(self, features, shift):
        return super().forward((features[0] + 0.1 * features[0].roll(1, 0),), shift)


class BatchStatistics(Block):
    def __init__(self, channels):
        super().__init__(channels)
        self.first[1] = nn.BatchNorm2d(8, track_running_stats=False)


class BatchMean(Block):
    """Subtracts the mean over the videos of a batch, frame by frame."""

    def forward(self, features, shift):
        videos = over_frames(features[0], shift)
        return super().forward(((videos - 0.1 * videos.mean(dim=0, keepdim=True)).flatten(0, 1),), shift)


class TemporalMean(Block):
    """Subtracts the mean over the frames of a video."""

    def forward(self, features, shift):
        videos = over_frames(features[0], shift)
        return super().forward(((videos - 0.1 * videos.mean(dim=1, keepdim=True)).flatten(0, 1),), shift)


class Position(Block):
    """Adds the number that a frame has within the call."""

    def forward(self, features, shift):
        videos = over_frames(features[0], shift)
        positions = torch.arange(shift.frames, device=videos.device).view(1, -1, 1, 1, 1).to(videos.dtype)
        return super().forward(((videos + positions / 10).flatten(0, 1),), shift)


class Memory(Block):
    """A recurrent state kept on the module."""

    memory = 0.0

    def forward(self, features, shift):
        (x,) = super().forward(features, shift)
        x = x + 0.1 * self.memory
        self.memory = x.detach()[-1:].mean()
        return (x,)


class EvalStatistics(Block):
    """Moves BatchNorm's running mean in eval mode."""

    def forward(self, features, shift):
        (x,) = super().forward(features, shift)
        self.first[1].running_mean.mul_(0.99).add_(0.01)
        return (x,)


class OneName(Block):
    def forward(self, features, shift):
        return super().forward((shift(features[0], "second"),), shift)


class NameOfCall(Block):
    """The shift point's name depends on the number of frames."""

    def forward(self, features, shift):
        (x,) = features
        x = self.first(x)
        return (torch.relu(x + self.second(shift(x, f"second{shift.frames}"))),)


class InPlace(Block):
    def forward(self, features, shift):
        return super().forward((features[0].mul_(0.5),), shift)


class ActiveDropout(Block):
    def forward(self, features, shift):
        return super().forward((nn.functional.dropout(features[0], 0.1, training=True),), shift)


class HardFloat(Block):
    def forward(self, features, shift):
        (x,) = super().forward(features, shift)
        return (x.float(),)


class FloatConstant(Block):
    """A constant whose type wins over half precision."""

    def forward(self, features, shift):
        (x,) = super().forward(features, shift)
        return (x + torch.full((1, 8, 1, 1), 0.1, dtype=torch.float32, device=x.device),)


class FiveDimensions(Block):
    def forward(self, features, shift):
        return (over_frames(super().forward(features, shift)[0], shift),)


class ListOutput(Block):
    def forward(self, features, shift):
        return list(super().forward(features, shift))


class PassThrough(Block):
    """Hands its input on beside its output."""

    def forward(self, features, shift):
        return (features[0], *super().forward(features, shift))


class NotANumber(Block):
    def forward(self, features, shift):
        (x,) = super().forward(features, shift)
        return (torch.log(x - x),) if shift.frames > 1 else (x,)


class Unused(Block):
    def __init__(self, channels):
        super().__init__(channels)
        self.third = nn.Conv2d(8, 8, 1)


class Discarded(Block):
    """Shifts a layer, and goes on with what was there before."""

    def forward(self, features, shift):
        (x,) = super().forward(features, shift)
        shift(x, "third")
        return (x,)


class NoShift(Block):
    def forward(self, features, shift):
        x = self.first(features[0])
        return (torch.relu(x + self.second(x)),)


class Unregistered(Block):
    """Weights that no training checkpoint holds."""

    def __init__(self, channels):
        super().__init__(channels)
        self.scale = [float(x) for x in torch.rand(8)]

    def forward(self, features, shift):
        (x,) = super().forward(features, shift)
        return (x * torch.tensor(self.scale, dtype=x.dtype, device=x.device).view(1, 8, 1, 1),)


class EvalOnly(Block):
    def forward(self, features, shift):
        if self.training:
            raise NotImplementedError("no training")
        return super().forward(features, shift)


class LongVideos(Block):
    """Does something else with long videos."""

    def forward(self, features, shift):
        (x,) = super().forward(features, shift)
        return (x / 2 if shift.frames > 12 else x,)


class WrongWidth(Toy):
    def embedding(self, block, head):
        embed, width = super().embedding(block, head)
        return embed, width + 1


class FourDimensionalEmbedding(Toy):
    def embedding(self, block, head):
        embed, width = super().embedding(block, head)
        return nn.Sequential(embed, nn.Unflatten(1, (width, 1, 1))), width


class HeadInPlace(Toy):
    def embedding(self, block, head):
        embed, width = super().embedding(block, head)
        return nn.Sequential(nn.Hardtanh(0, 0.1, inplace=True), embed), width


class NoHeadAtTheEnd(Toy):
    head_blocks = (0, 1)


class FallingCosts(Toy):
    def paper_macs(self, crop, classes):
        return (3, 2, 4)


FAULTS: dict[type, str] = {
    NoHeadAtTheEnd: "builds",
    FiveDimensions: "features",
    ListOutput: "features",
    PassThrough: "features",
    NotANumber: "finite",
    ActiveDropout: "repeatable",
    Memory: "stateless",
    EvalStatistics: "stateless",
    OneName: "shift_points",
    NameOfCall: "shift_points",
    EvalOnly: "initialises",
    HardFloat: "dtype",
    FloatConstant: "dtype",
    InPlace: "inputs_kept",
    Position: "shift_online",
    OwnShift: "shift_online",
    Discarded: "shift_matters",
    Bidirectional: "causal",
    TemporalMean: "frames_apart",
    BatchStatistics: "videos_apart",
    BatchMean: "videos_apart",
    WrongWidth: "heads",
    FourDimensionalEmbedding: "heads",
    HeadInPlace: "heads",
    LongVideos: "route",
    FallingCosts: "costs",
    Unused: "parameters",
    Unregistered: "reload",
}
# breaks one promise only: no other check may complain
ALONE = set(FAULTS) - {InPlace, Position, OwnShift, Bidirectional, TemporalMean, BatchStatistics}


def registered_name(fault: type) -> str:
    register(fault.__name__, fault if issubclass(fault, Toy) else type("Faulty", (Toy,), {"middle": fault}))
    return fault.__name__


def test_the_network_without_a_fault_conforms():
    require_conformance(small(registered_name(Toy)))


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_planted_fault_fails_the_check_made_for_it(fault):
    faults = failed(small(registered_name(fault)))
    assert FAULTS[fault] in faults
    if fault in ALONE:
        assert list(faults) == [FAULTS[fault]]


def test_every_check_is_seen_to_fail():
    assert set(FAULTS.values()) == {step.__name__ for step in CHECKS}


def test_after_a_foundation_that_fails_the_other_checks_are_not_run():
    findings = check(small(registered_name(ListOutput)))
    states = [finding.state for finding in findings]
    assert states == ["passed", "failed", *["not run"] * (len(CHECKS) - 2)]
    assert findings[1].faults == ("block 1 returned a list: expected a tuple of tensors",)


def test_the_error_lists_every_fault():
    with pytest.raises(NetworkError) as caught:
        require_conformance(small(registered_name(InPlace)))
    text = str(caught.value)
    assert f"in 2 of {len(CHECKS)} checks" in text
    assert "inputs_kept: A block's input is also its head's" in text
    assert "block 1 changes its input 0 in place: use the operation that returns a new tensor" in text
    assert "parameters: " in text


@pytest.mark.parametrize(
    ("shift", "message"),
    [
        ({"points": ["1.second", "1.secnod"]}, "shift points 1.secnod are not among the layers of network"),
        ({"div": 9}, "layer 0.second has 8 channels, but shift div is 9"),
    ],
)
def test_a_shift_that_the_network_cannot_do_is_a_fault(shift, message):
    with pytest.raises(NetworkError) as caught:
        require_conformance(small(registered_name(Toy), shift=shift))
    assert message in str(caught.value)


def test_a_network_without_shift_must_say_so():
    class Still(Toy):
        def __init__(self):
            self.blocks = nn.ModuleList([NoShift(3), NoShift(8), NoShift(8)])

    name = registered_name(Still)
    assert failed(small(name)).keys() == {"shift_points"}
    require_conformance(small(name, shift={"enabled": False}))


# the command line


def run(*arguments):
    """Return exit code, standard output and standard error of the command."""
    done = CliRunner().invoke(cli, ["conformance", *arguments])
    if isinstance(done.exception, DynvidError):
        return done.exception.exit_code, done.stdout, f"Error: {done.exception}"
    return done.exit_code, done.stdout, done.stderr


def test_the_command_prints_a_tick_a_check():
    code, out, _ = run(registered_name(Toy), "--crop", "32", "--config", '{"shift": {"stride": 2}}')
    assert code == 0
    assert [line.split(":")[0] for line in out.splitlines()] == [f"✓ {step.__name__}" for step in CHECKS]


def test_the_command_ends_with_2_and_the_faults():
    name = registered_name(Bidirectional)
    code, out, err = run(name, "--crop", "32")
    assert code == 2 and "✗ causal" in out
    assert "Error: causal: block 1, frames before 1 when frame 1 and later ones change" in err
    code, out, _ = run(name, "--crop", "32", "--json")
    found = json.loads(out)
    assert code == 2 and not found["conforms"] and found["network"] == name
    assert "causal" in [finding["check"] for finding in found["findings"] if finding["state"] == "failed"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["resnte50"], "Did you mean 'resnet50'?"),
        (["no_such_module:network"], "No module named 'no_such_module'. Give a registered name or module:function."),
        (["json:network"], "has no attribute 'network'"),
        (["resnet50", "--config", "{"], "Give a JSON object."),
        (["resnet50", "--config", '{"clases": 3}'], "unknown key 'clases'"),
        (["resnet50", "--crop", "0"], "crop 0"),
    ],
)
def test_the_command_refuses_what_it_cannot_read(arguments, message):
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("Error: ")
    assert message in err


# the example


def test_the_example_conforms_before_it_is_installed(monkeypatch):
    monkeypatch.chdir(EXAMPLE)
    monkeypatch.setattr(sys, "path", list(sys.path))
    code, out, _ = run("mobile_video:mobile_video", "--crop", "32", "--config", '{"options": {"width": 0.35}}')
    assert code == 0 and out.count("✓") == len(CHECKS)


@pytest.mark.full
def test_the_example_installs_is_found_by_name_and_its_readme_runs(tmp_path):
    assert "mobilevideo" not in registered()
    source, site = tmp_path / "source", tmp_path / "site"
    shutil.copytree(EXAMPLE, source, ignore=shutil.ignore_patterns("__pycache__"))
    options = ["--no-deps", "--no-build-isolation", "--disable-pip-version-check", "--quiet"]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, "--target", site, source], check=True)
    readme = (EXAMPLE / "README.md").read_text()
    script = readme.partition("```python\n")[2].partition("```")[0]
    script += "\nfrom dynvid.models.registry import registered\nassert 'mobilevideo' in registered()\n"
    environment = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-W", "error", "-c", script], cwd=tmp_path, env=environment, check=True)
    assert (tmp_path / "own.safetensors").stat().st_size > 1e6


def test_the_readme_says_how_many_checks_there_are():
    assert f"runs {len(CHECKS)} checks" in (EXAMPLE / "README.md").read_text()
