"""Measure whether a segment is faster in INT8 on this CPU: build both engines and call them in turn."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

import numpy as np

from ...runtime.backends.base import Backend, Call
from .jobs import EngineJob

ROUNDS = 7
_GAIN = 0.98
"""INT8 costs some accuracy, so a segment uses it only if its time is at most this share of fp32's."""


def is_faster(backend: Backend, job: EngineJob, int8: bytes, fp32: bytes) -> tuple[bool, float, float]:
    """Return whether a segment's INT8 engine is the faster one, and the milliseconds per call of each, INT8 first.

    Both are medians of ``ROUNDS`` interleaved calls, for one video of noise.

    Args:
        backend: of the engines.
        job: the segment.
        int8: its engine in INT8.
        fp32: its engine in fp32; both have its ports.

    Raises:
        BackendError: If one of them does not load or run.
    """
    own, other = medians([call_on_noise(backend, job, engine) for engine in (int8, fp32)])
    return own <= _GAIN * other, own, other


def medians(calls: Sequence[Call]) -> list[float]:
    """Return the milliseconds of each call: the median of ``ROUNDS`` turns after a first one."""
    seconds: list[list[float]] = [[] for _ in calls]
    for turn in range(1 + ROUNDS):
        for spent, call in zip(seconds, calls, strict=True):
            started = time.perf_counter()
            call()
            if turn:
                spent.append(time.perf_counter() - started)
    return [statistics.median(spent) * 1e3 for spent in seconds]


def call_on_noise(backend: Backend, job: EngineJob, engine: bytes) -> Call:
    """Return a call of an engine of ``job`` on one video of noise.

    Raises:
        BackendError: If the engine does not load, or cannot be prepared for one video.
    """
    noise = np.random.default_rng(0)
    inputs = {spec.name: backend.zeros(spec.concrete(1, 1), spec.dtype) for spec in job.inputs}
    outputs = {spec.name: backend.zeros(spec.concrete(1, 1), spec.dtype) for spec in job.outputs}
    for value in inputs.values():
        backend.write(value, noise.standard_normal(value.shape, dtype=np.float32))
    return backend.load(engine, job.source, job.name).prepare(inputs, outputs)
