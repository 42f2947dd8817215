"""The process in which LoadGen runs one scenario; its argument is the order's file. ``referee`` explains why.

LoadGen calls in from its own threads, where a Python exception would crash the process. An exception in a future's
callback would be logged and its answer lost, and LoadGen would wait for ever. So on any exception, every callback
ends the process in a controlled way.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, ParamSpec

import numpy as np
from numpy.typing import NDArray

from ...grid.bundle import Bundle
from ...grid.errors import DynvidError
from ...grid.manifest import Manifest
from ...grid.storage.strict_json import dumps, loads, parse
from ...runtime.child_process import end_with_the_parent, open_replies, send
from ...runtime.execution.capacity import Limits, open_executor
from ...runtime.prediction import Answer
from ...runtime.stream.in_flight import StreamBase
from ...runtime.stream.pool import StreamPool
from ...runtime.stream.stream import Stream
from ..measure.clips import InOrder
from .loadgen import OFFLINE_MARGIN, ScenarioOrder
from .log import ANSWER

P = ParamSpec("P")

_MAX_CLIPS_BYTES = 2**30  # most bytes of clips in memory while LoadGen measures
_LOGGED_ANSWERS = 10**6  # number of answers that LoadGen logs while it measures: all of them


def open_streams(scenario: ScenarioOrder, bundle: Bundle) -> StreamPool:
    """Return the streams that the scenario drives.

    Raises:
        DynvidError: As ``Stream``, and as bundle, backend and engines.
    """
    order = scenario.order
    executor = partial(
        open_executor,
        bundle,
        order.backend,
        order.precision,
        Path(order.engines),
        Limits(order.batch),
        threads=order.threads,
    )

    def open_stream() -> Stream:
        return Stream(executor, order.thresholds, order.temperatures, mode=scenario.mode, decoders=1)

    return StreamPool(open_stream, order.streams)


def or_die(call: Callable[P, None]) -> Callable[P, None]:
    """Wrap ``call`` for a thread that must not see exceptions: any one ends the process, with a message on stderr."""

    def guarded(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            call(*args, **kwargs)
        except BaseException as fault:  # not swallowed
            _die(fault)

    return guarded


class SystemUnderTest:
    """The streams as LoadGen sees them: a system under test, and its sample library.

    Args:
        streams: the streams to drive.
        manifest: of the bundle.
        clips: [clips, l, 3, crop, crop], on disk.
        complete: tells LoadGen that a sample has its answer: sample id, address, and number of bytes.

    Attributes:
        exits: number of samples that left at each checkpoint.
    """

    def __init__(
        self,
        streams: StreamBase,
        manifest: Manifest,
        clips: NDArray[np.float32],
        complete: Callable[[int, int, int], None],
    ) -> None:
        self._streams, self._clips, self._complete = streams, clips, complete
        self._order = manifest.grid.frame_order
        self._sources: dict[int, InOrder] = {}
        self._issued: queue.SimpleQueue[Sequence[Any] | None] = queue.SimpleQueue()
        self.exits = [0] * len(manifest.route.cells)
        # all possible answers, because LoadGen reads them by address; the last is class -1
        table = np.empty((len(self.exits), manifest.classes + 1, 2), np.int32)
        table[:, :, 0] = [*range(manifest.classes), -1]
        table[:, :, 1] = np.arange(1, len(self.exits) + 1)[:, None]
        assert table.itemsize * 2 == ANSWER.size
        self._answers = table
        threading.Thread(target=or_die(self._submit), name="submit", daemon=True).start()

    def load(self, indices: Sequence[int]) -> None:
        """Load clips into memory."""
        for index in indices:
            self._sources[index] = InOrder(self._clips[index][list(self._order)], self._order)

    def unload(self, indices: Sequence[int]) -> None:
        """Release clips."""
        for index in indices:
            del self._sources[index]

    def issue(self, samples: Sequence[Any]) -> None:
        """Queue samples to be answered; returns at once."""
        self._issued.put(samples)

    def flush(self) -> None:
        """Declare that no more samples come."""
        self._issued.put(None)

    def warm_up(self, seconds: float, videos: int) -> float:
        """Answer the clips in memory for at least this long and this many; return videos per second."""
        sources, started, count = list(self._sources.values()), time.perf_counter(), 0
        while count < videos or time.perf_counter() - started < seconds:
            for _, answer in self._streams.classify(sources):
                if isinstance(answer, DynvidError):
                    raise answer
                count += 1
        return count / (time.perf_counter() - started)

    def _submit(self) -> None:
        while True:
            samples = self._issued.get()
            if samples is None:
                self._streams.flush()
                continue
            for sample in samples:
                future = self._streams.submit(self._sources[sample.index])
                future.add_done_callback(or_die(partial(self._answer, sample.id)))

    def _answer(self, sample: int, future: Future[Answer]) -> None:
        answer = future.result()
        self.exits[answer.checkpoint - 1] += 1
        row = self._answers[answer.checkpoint - 1, -1 if answer.class_index is None else answer.class_index]
        self._complete(sample, row.ctypes.data, row.nbytes)


def run(scenario: ScenarioOrder) -> list[int]:
    """Run one scenario, with LoadGen's logs in its folder; return how many samples left at each checkpoint.

    Raises:
        DynvidError: As ``open_streams``, or the error that a clip got instead of an answer.
    """
    import mlperf_loadgen as loadgen

    clips = np.load(scenario.order.clips, mmap_mode="r")

    def complete(sample: int, address: int, length: int) -> None:
        loadgen.QuerySamplesComplete([loadgen.QuerySampleResponse(sample, address, length)])

    bundle = Bundle.open(Path(scenario.order.bundle))
    with open_streams(scenario, bundle) as streams:
        system = SystemUnderTest(streams, bundle.manifest, clips, complete)
        in_memory = max(1, min(len(clips), _MAX_CLIPS_BYTES // clips[0].nbytes))
        system.load(range(in_memory))
        rate = system.warm_up(scenario.warm_up_s, 2 * scenario.order.batch * scenario.order.streams)
        system.unload(range(in_memory))
        logs = loadgen.LogSettings()
        logs.enable_trace = False
        logs.log_output.outdir = str(scenario.folder)
        logs.log_output.copy_summary_to_stdout = False
        sut = loadgen.ConstructSUT(or_die(system.issue), or_die(system.flush))
        library = loadgen.ConstructQSL(len(clips), in_memory, or_die(system.load), or_die(system.unload))
        loadgen.StartTestWithLogSettings(sut, library, settings(loadgen, scenario, rate), logs, "")
        loadgen.DestroyQSL(library)
        loadgen.DestroySUT(sut)
    return system.exits


def settings(loadgen: Any, scenario: ScenarioOrder, rate: float) -> Any:
    """Return LoadGen's settings for a scenario; ``rate`` is the stream's measured rate, videos per second."""
    found = loadgen.TestSettings()
    found.scenario = getattr(loadgen.TestScenario, scenario.name)
    found.mode = loadgen.TestMode.PerformanceOnly
    found.min_duration_ms = round(scenario.min_s * 1e3)
    found.min_query_count = scenario.min_queries
    found.accuracy_log_sampling_target = _LOGGED_ANSWERS
    if scenario.name == "SingleStream":
        # queries are created in advance, as many as if every clip took a twentieth of the route
        found.single_stream_expected_latency_ns = round(scenario.order.clip_s * 1e9 / 20)
    elif scenario.name == "Offline":
        found.offline_expected_qps = rate * OFFLINE_MARGIN
    else:
        assert scenario.queries_per_s is not None
        assert scenario.bound_ms is not None
        found.server_target_qps = scenario.queries_per_s
        found.server_target_latency_ns = round(scenario.bound_ms * 1e6)
        found.server_target_latency_percentile = 0.99
    return found


def _die(fault: BaseException) -> NoReturn:
    print(f"{type(fault).__name__}: {fault}", file=sys.stderr, flush=True)
    os._exit(fault.exit_code if isinstance(fault, DynvidError) else 1)


def main() -> None:
    """Run the scenario of the order file named on the command line; reply with its exits as JSON."""
    replies = open_replies()
    end_with_the_parent()
    try:
        exits = run(parse(ScenarioOrder, loads(Path(sys.argv[1]).read_bytes())))
    except DynvidError as error:
        _die(error)
    send(replies, dumps(exits))
