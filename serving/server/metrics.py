"""What a service tells Prometheus. It needs ``prometheus_client``, which the extra [serve] brings."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ...calibration.drift import compare
from ...runtime.exit_histogram import ExitHistogram
from ..service.model_process import Facts
from ..service.queue import Outcome, Reply, Service
from ..service.supervisor import Supervisor

_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)
_RECENT = 1000  # answers that drift is judged on
_FEWEST = 100  # answers below which it is not judged


class Metrics(Collector):  # type: ignore[misc]
    """Counts outcomes, and collects the state of the service when it is scraped.

    Args:
        supervisor: of the model process.
        registry: where the metrics are registered.
    """

    def __init__(self, supervisor: Supervisor, registry: CollectorRegistry = REGISTRY) -> None:
        self.service: Service | None = None
        self._supervisor = supervisor
        self._outcomes = Counter("dynvid_requests", "Requests by what became of them", ["outcome"], registry=registry)
        self._exits = Counter("dynvid_exits", "Answers by checkpoint", ["checkpoint"], registry=registry)
        self._gmacs = Counter("dynvid_gmacs", "Multiply-adds spent on answers, in 10^9", registry=registry)
        self._seconds = Histogram(
            "dynvid_request_seconds", "From request to answer", ["checkpoint"], buckets=_SECONDS, registry=registry
        )
        self._parts = Histogram(
            "dynvid_part_seconds", "Parts of an answer's time", ["part"], buckets=_SECONDS, registry=registry
        )
        self._recent: deque[tuple[str, int, float]] = deque(maxlen=_RECENT)
        registry.register(self)

    def on_outcome(self, outcome: Outcome, seconds: float, reply: Reply | None) -> None:
        """Count a request."""
        self._outcomes.labels(outcome).inc()
        if reply is None:
            return
        answer = reply.answer
        checkpoint = str(answer["checkpoint"])
        self._exits.labels(checkpoint).inc()
        self._gmacs.inc(answer["gmacs"])
        self._seconds.labels(checkpoint).observe(seconds)
        for part in ("queue", "decode", "compute"):
            self._parts.labels(part).observe(answer[f"{part}_ms"] / 1e3)
        if answer["status"] == "ok":
            self._recent.append((reply.bundle_sha256, answer["checkpoint"], answer["confidence"]))

    def describe(self) -> list[Metric]:
        """Return nothing: what there is depends on the state."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield the state of the service."""
        service, process = self.service, self._supervisor.current
        yield GaugeMetricFamily("dynvid_model_up", "Whether a model process takes videos", process is not None)
        yield GaugeMetricFamily("dynvid_waiting", "Requests in the queue", service.waiting if service else 0)
        yield GaugeMetricFamily("dynvid_in_flight", "Videos that the model has", process.in_flight if process else 0)
        yield CounterMetricFamily("dynvid_restarts", "Starts after the first", value=self._supervisor.restarts)
        yield CounterMetricFamily("dynvid_swaps", "Exchanges of the bundle", value=self._supervisor.swaps)
        if process is None:
            return
        calls = GaugeMetricFamily(
            "dynvid_calls", "Calls of the model process by segment and videos", labels=["segment", "videos"]
        )
        for segment, counts in enumerate(process.fills, 1):
            for videos, count in enumerate(counts):
                if count:
                    calls.add_metric([str(segment), str(videos)], count)
        yield calls
        yield from self._drift(process.facts.result())

    def _drift(self, facts: Facts) -> Iterator[Metric]:
        """Yield how far the recent exits are from those at calibration, if T.json says them."""
        recent = [(k, c) for sha256, k, c in self._recent if sha256 == facts.bundle_sha256]
        if facts.expected is None or len(recent) < _FEWEST:
            return
        tally = ExitHistogram(facts.checkpoints)
        for checkpoint, confidence in recent:
            tally.add(checkpoint, confidence)
        found = compare(facts.expected, tally.counts)
        about = "Distance of the last {} exits{} from those at calibration"
        for name, what, value in (
            ("exit_distance", "", found.exit_distance),
            ("exit_chance", ", the 99th percentile of chance,", found.exit_chance),
            ("confidence_distance", " and confidences", found.confidence_distance),
            ("confidence_chance", " and confidences, the 99th percentile of chance,", found.confidence_chance),
        ):
            yield GaugeMetricFamily(f"dynvid_drift_{name}", about.format(len(recent), what), value)
        yield GaugeMetricFamily("dynvid_drifted", "Whether that is more than chance explains", found.drifted)
