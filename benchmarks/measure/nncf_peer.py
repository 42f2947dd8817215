"""What NNCF makes of the static network without shift: the INT8 that an engineer in a hurry would deploy."""

from __future__ import annotations

import contextlib
import io
import logging
import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...grid.errors import BackendError, MissingPackageError
from ...runtime.backends.openvino import reason


def quantised(content: bytes, frames: NDArray[np.float32]) -> tuple[Any, str]:
    """Return an ONNX graph quantised by NNCF's default preset, and NNCF's version.

    NNCF's usage statistics, which go over the network, are switched off.

    Args:
        content: the graph, of ``frames`` [1, l, 3, crop, crop].
        frames: clips that ranges are taken from, [clips, l, 3, crop, crop] in permuted order.

    Returns:
        The ``openvino.Model``, and the version.

    Raises:
        MissingPackageError: If OpenVINO or NNCF is not installed.
        BackendError: If NNCF cannot quantise the graph.
    """
    os.environ["NNCF_CI"] = "1"  # read when it is imported; all that it does is to switch the statistics off
    try:
        import nncf
        import openvino
    except ImportError as error:
        raise MissingPackageError(
            f"peer 'nncf' cannot run: {error}. Install it: pip install 'dynvid[export,nncf]'"
        ) from None
    nncf.set_log_level(logging.ERROR)
    with contextlib.redirect_stdout(io.StringIO()):  # it draws progress there, where --json has its line
        data = nncf.Dataset(list(frames), lambda clip: {"frames": clip[None]})
        try:
            return nncf.quantize(openvino.Core().read_model(content), data), str(nncf.__version__)
        except (
            RuntimeError,
            ValueError,
            nncf.InternalError,
            nncf.UnsupportedModelError,
            nncf.ValidationError,
        ) as error:
            raise BackendError(
                f"peer 'nncf': NNCF {nncf.__version__} cannot quantise the static network: {reason(error)}. "
                "Leave the peer out."
            ) from None
