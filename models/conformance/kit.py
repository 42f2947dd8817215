"""Check whether a network follows the protocol of ``models.network``, on which the split and its proof rely.

Run it on a new network first: ``require_conformance(config)``, or ``dynvid conformance NETWORK``. The checks are in
``checks``. They use the network's own configuration with untrained weights, mostly in float64, so that a coupling of
one part in a billion shows.
"""

from __future__ import annotations

import importlib
import json
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from ...grid.errors import DynvidError, NetworkError
from ..config_json import from_json
from ..network import NetworkConfig
from ..registry import register, registered
from .checks import CHECKS, FOUNDATIONS, Check
from .subject import Subject


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check: why it is made, and a line for each fault."""

    check: str
    why: str
    state: Literal["passed", "failed", "not run"]
    faults: tuple[str, ...] = ()


def check(config: NetworkConfig, seed: int = 0) -> list[Finding]:
    """Return the findings of every check on the network that ``config`` describes, with weights from ``seed``.

    The first checks are foundations: if one fails, the later checks are not run.
    """
    findings: list[Finding] = []
    subject, fallen = Subject(config, seed), ""
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for step in CHECKS:
            why = (step.__doc__ or "").partition("\n")[0]
            if fallen:
                findings.append(Finding(step.__name__, why, "not run", (f"{fallen!r} failed",)))
                continue
            faults = tuple(_faults(step, subject))
            findings.append(Finding(step.__name__, why, "failed" if faults else "passed", faults))
            if faults and step in FOUNDATIONS:
                fallen = step.__name__
    return findings


def _faults(step: Check, subject: Subject) -> Iterator[str]:
    try:
        yield from step(subject)
    except DynvidError as error:
        yield str(error)
    except Exception as error:  # any kind: it comes from the network, and this kit must report it
        yield f"{_place(error)}: {type(error).__name__}: {error}"


def _place(error: Exception) -> str:
    """Return the file and line of the innermost frame outside torch."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if not Path(f.filename).is_relative_to(Path(torch.__file__).parent)]
    return f"{own[-1].filename}:{own[-1].lineno}"


def require_conformance(config: NetworkConfig, seed: int = 0) -> None:
    """Raise an error unless every check passes.

    Raises:
        NetworkError: With every fault found.
    """
    if failed := [finding for finding in check(config, seed) if finding.state == "failed"]:
        lines = [f"  {f.check}: {f.why}" + "".join(f"\n    {fault}" for fault in f.faults) for f in failed]
        raise NetworkError(
            f"network {config.network!r} breaks the protocol of dynvid.models.network in {len(failed)} of "
            f"{len(CHECKS)} checks:\n" + "\n".join(lines)
        )


def read_config(network: str, crop: int, more: str) -> NetworkConfig:
    """Return the configuration of a registered network, or of ``module:function``, which it registers.

    Args:
        network: a registered name, or the place of a function that returns the ``Backbone``.
        crop: height and width of the frames in pixels.
        more: a JSON object with further keys of the network configuration.

    Raises:
        NetworkError: If there is no such network, or the keys do not fit.
    """
    module, _, function = network.partition(":")
    if function and network not in registered():
        try:
            register(network, getattr(importlib.import_module(module), function))
        except (ImportError, AttributeError) as error:
            raise NetworkError(f"network {network!r}: {error}. Give a registered name or module:function.") from None
    try:
        keys = dict(json.loads(more))
    except (TypeError, ValueError) as error:
        raise NetworkError(f"configuration {more!r}: {error}. Give a JSON object.") from None
    preprocessing = {"short_side": max(256, crop), "crop": crop}
    return from_json({"network": network, "classes": 5, "preprocessing": preprocessing, **keys})
