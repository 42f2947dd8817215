"""What the first bytes of a plan say, on real plans of TensorRT-RTX and on made ones."""

import re

import pytest

from dynvid.grid.engines.plan_header import HEADER_BYTES, PlanHeader, header_fault, read_header


def plan_of(tag=b"ftrt", version=(10, 16, 1, 11), length=256, layout=0, says=None):
    """Return made plan bytes with this header."""
    start = tag + layout.to_bytes(4, "little") + bytes(8)
    return (start + (length if says is None else says).to_bytes(8, "little") + bytes(version)).ljust(length, b"\x5a")


RTX = plan_of(b"vtrt", (1, 7, 1, 116))


def test_a_plan_of_tensorrt_says_its_version_and_no_length():
    assert read_header(plan_of(says=7)) == PlanHeader("tensorrt", (10, 16, 1, 11), None)


def test_a_plan_of_tensorrt_rtx_says_its_version_and_length():
    assert read_header(RTX) == PlanHeader("tensorrt-rtx", (1, 7, 1, 116), 256)


@pytest.mark.parametrize(
    "start", [b"", b"ftrt", RTX[: HEADER_BYTES - 1], b"trtv" + RTX[4:], b"\x08\x0a onnx " * 9, plan_of(layout=1)]
)
def test_what_has_no_known_header_has_none(start):
    assert read_header(start) is None


@pytest.mark.parametrize(
    ("plan", "flavour", "version"),
    [
        (RTX, "tensorrt-rtx", "1.7.1.116"),
        (plan_of(), "tensorrt", "10.16.1.11"),
        (plan_of(says=7), "tensorrt", "10.16.1.11"),
        (plan_of(version=(11, 4, 0, 300 % 256)), "tensorrt", "11.4.0.300"),
        (plan_of(version=(10, 0, 0, 6)), "tensorrt", "10.0.0b6"),
        (b"\x08\x0aan ONNX model", "onnxruntime", "1.31.1"),
        (b"", "openvino", "2026.4.1"),
    ],
)
def test_a_header_that_fits_has_no_fault(plan, flavour, version):
    assert header_fault(plan, flavour, version) is None


@pytest.mark.parametrize(
    ("plan", "flavour", "version", "fault"),
    [
        (RTX, "tensorrt", "1.7.1.116", "a plan of tensorrt-rtx, expected tensorrt"),
        (plan_of(), "tensorrt-rtx", "10.16.1.11", "a plan of tensorrt, expected tensorrt-rtx"),
        (RTX, "onnxruntime", "1.7.1.116", "a plan of tensorrt-rtx, expected onnxruntime"),
        (RTX, "tensorrt-rtx", "1.7.1.117", r"by tensorrt-rtx 1\.7\.1\.116, expected 1\.7\.1\.117"),
        (RTX, "tensorrt-rtx", "1.8.1.116", r"by tensorrt-rtx 1\.7\.1\.116, expected 1\.8\.1\.116"),
        (plan_of(), "tensorrt", "11.1.0.1", r"by tensorrt 10\.16\.1\.11, expected 11\.1\.0\.1"),
        (RTX[:-1], "tensorrt-rtx", "1.7.1.116", "has 255 bytes, but its header says 256"),
        (RTX + b"\0", "tensorrt-rtx", "1.7.1.116", "has 257 bytes, but its header says 256"),
        (bytes(256), "tensorrt-rtx", "1.7.1.116", "begins with 00 00 00 00 00 00 00 00, expected the header"),
        (b"", "tensorrt", "10.16.1.11", "begins with nothing, expected the header of a tensorrt plan"),
        (plan_of(layout=1), "tensorrt", "10.16.1.11", "begins with 66 74 72 74 01 00 00 00"),
    ],
)
def test_a_header_that_contradicts_is_told(plan, flavour, version, fault):
    assert re.search(fault, header_fault(plan, flavour, version))


@pytest.mark.parametrize(
    ("channels", "layers", "profiles", "targets"),
    [(4, 1, 1, ()), (48, 3, 2, ("SM86",)), (96, 2, 1, ("SM75", "SM89", "SM120"))],
)
def test_the_header_of_a_real_plan_holds_what_is_read_from_it(channels, layers, profiles, targets):
    trt = pytest.importorskip("tensorrt_rtx")
    version = tuple(int(number) for number in trt.__version__.split("."))
    plan = real_plan(trt, channels, layers, profiles, targets)
    assert read_header(plan) == PlanHeader("tensorrt-rtx", version, len(plan))
    assert header_fault(plan, "tensorrt-rtx", trt.__version__) is None
    assert "header says" in header_fault(plan[:-8], "tensorrt-rtx", trt.__version__)


def real_plan(trt, channels=4, layers=1, profiles=1, targets=()):
    """Return a plan of a chain of convolutions, built here."""
    import numpy as np

    builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
    network, config = builder.create_network(0), builder.create_builder_config()
    tensor = network.add_input("x", trt.float32, (-1, channels, 8, 8))
    weights = np.random.default_rng(0).standard_normal((channels, channels, 3, 3)).astype(np.float32)
    for _ in range(layers):
        tensor = network.add_convolution_nd(tensor, channels, (3, 3), weights, trt.Weights()).get_output(0)
    network.mark_output(tensor)
    for index in range(profiles):
        profile = builder.create_optimization_profile()
        profile.set_shape("x", *[(batch, channels, 8, 8) for batch in (1, 1 + index, 4 + index)])
        config.add_optimization_profile(profile)
    config.num_compute_capabilities = len(targets)
    for index, target in enumerate(targets):
        assert config.set_compute_capability(getattr(trt.ComputeCapability, target), index)
    return bytes(builder.build_serialized_network(network, config))
