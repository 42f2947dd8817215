"""``dynvid serve``: answer requests over HTTP and gRPC."""

from __future__ import annotations

from pathlib import Path

import click

from ..commands import PATH, Command, FiniteRange, backend_option, batch_option, engines_option, precision_option, rare
from ..grid.errors import ResourceError
from ..grid.manifest import Precision

_POSITIVE = FiniteRange(min=0, min_open=True)
_SECONDS = FiniteRange(min=0, min_open=True, max=86_400)


@click.command(cls=Command)
@click.argument("bundle", type=PATH)
@click.option("--thresholds", type=PATH, help="T.json; without it, every video runs to the end.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0: all.")
@click.option("--port", type=click.IntRange(1, 65535), default=8080, show_default=True, help="Port of HTTP.")
@click.option("--grpc-port", type=click.IntRange(1, 65535), default=8081, show_default=True, help="Port of gRPC.")
@click.option("--name", default="dynvid", show_default=True, help="Name of the model in the protocol.")
@backend_option
@engines_option
@batch_option
@click.option(
    "--mode",
    type=click.Choice(["deadline", "latency", "throughput"]),
    default="deadline",
    show_default=True,
    help="Which videos run next; only deadline heeds the timeouts of requests within the model.",
)
@rare("--max-in-flight", metavar="MB", type=_POSITIVE,
      help="Memory for videos in flight.  [default: as much as keeps batches full]")  # fmt: skip
@rare("--decoders", type=click.IntRange(1, 64), default=1, show_default=True, help="Decoding processes per stream.")
@rare("--streams", type=click.IntRange(1, 64), default=1, show_default=True, help="Streams that share the videos.")
@rare("--decode-timeout", metavar="S", type=_SECONDS, default=30.0, show_default=True,
      help="CPU seconds that decoding a video may take in all.")  # fmt: skip
@precision_option
@click.option("--threads", type=int, help="CPU threads to compute with.  [default: one per core]")
@rare("--max-waiting", metavar="N", type=click.IntRange(1), default=32, show_default=True,
      help="Requests that may wait; beyond them, requests are refused.")  # fmt: skip
@rare("--timeout", metavar="S", type=_SECONDS, default=60.0, show_default=True,
      help="How long a request may take that sets no timeout.")  # fmt: skip
@rare("--max-body", metavar="MB", type=FiniteRange(min=0, min_open=True, max=2047), default=64.0, show_default=True,
      help="Largest request.")  # fmt: skip
@rare("--silent-after", metavar="S", type=FiniteRange(3, 86_400), default=10.0, show_default=True,
      help="Restart the model process if it says nothing for so long.")  # fmt: skip
@rare("--stuck-after", metavar="S", type=_SECONDS, default=60.0, show_default=True,
      help="Restart the model process if it has videos, and answers none for so long.")  # fmt: skip
@rare("--drain", metavar="S", type=_SECONDS, default=30.0, show_default=True,
      help="On SIGTERM, finish what was taken for at most so long.")  # fmt: skip
def serve(
    bundle: Path, thresholds: Path | None, host: str, port: int, grpc_port: int, name: str, backend: str,
    engines: str | None, batch: int | None, mode: str, max_in_flight: float | None, decoders: int, streams: int,
    decode_timeout: float, precision: Precision, threads: int | None, max_waiting: int, timeout: float,
    max_body: float, silent_after: float, stuck_after: float, drain: float,
) -> None:  # fmt: skip
    """Answer requests for BUNDLE by the Open Inference Protocol v2, over HTTP and gRPC, until SIGTERM.

    A request is one video, encoded or as frames. SIGHUP exchanges the bundle for what is on disk then.
    """
    from ..api import serve as run_server
    from ..serving.request import require_name

    require_name(name)
    if port == grpc_port:
        raise ResourceError(
            f"port {port} cannot be used for both HTTP and gRPC: expected two free ports. Give others with --port and "
            "--grpc-port."
        )
    run_server(
        bundle, thresholds=thresholds, host=host, port=port, grpc_port=grpc_port, name=name, backend=backend,
        engines=engines, batch=batch, mode=mode, max_in_flight_mb=max_in_flight, decoders=decoders, streams=streams,
        decode_timeout_s=decode_timeout, precision=precision, threads=threads, max_waiting=max_waiting,
        timeout_s=timeout, max_body_mb=max_body, silent_after_s=silent_after, stuck_after_s=stuck_after, drain_s=drain,
        report=lambda line: click.echo(line, err=True),
    )  # fmt: skip
