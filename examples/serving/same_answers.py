"""Compare a server's answers with those of ``dynvid.load``: same_answers.py serve|triton BUNDLE CLIPS [T.json].

tritonclient asks by HTTP and by gRPC, with binary tensors, for clips and for frames; every bit must be equal. With
``triton``, the bundle is exported and served by the tritonserver of nvidia-pytriton, which needs to be installed.
"""

from __future__ import annotations

import sys
import tempfile
import threading
from contextlib import ExitStack
from pathlib import Path

import tritonclient.grpc
import tritonclient.http
from running import Running, ask_grpc, ask_http, expected, frames_of, machine, of_tensors, serving, triton
from tritonclient.utils import InferenceServerException

import dynvid


def main(which: str, bundle: Path, clips: Path, thresholds: Path | None = None, count: int = 40) -> None:
    paths = sorted(clips.rglob("*.mp4"))[:count]
    videos = [*paths, *map(frames_of, paths)]
    wanted = expected(bundle, videos, thresholds, engines="none")
    with ExitStack() as stack:
        if which == "triton":
            repository = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            dynvid.export_triton(bundle, repository, thresholds=thresholds, threads=1)
            server = stack.enter_context(triton(repository))
        else:
            options = () if thresholds is None else ("--thresholds", str(thresholds))
            server = stack.enter_context(serving(bundle, "--engines", "none", "--threads", "1", *options))
        http = tritonclient.http.InferenceServerClient(f"127.0.0.1:{server.port}")
        grpc = tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{server.grpc_port}")
        for name, client, ask in (("HTTP", http, ask_http), ("gRPC", grpc, ask_grpc)):
            assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("dynvid")
            metadata = client.get_model_metadata("dynvid")
            assert len(metadata["inputs"] if isinstance(metadata, dict) else metadata.inputs) == 2
            found = [of_tensors(ask(client, "dynvid", video)) for video in videos]
            assert found == wanted, next((f, w) for f, w in zip(found, wanted, strict=True) if f != w)
            exits = sorted({one["checkpoint"] for one in found})
            print(f"{which}, {name}: {len(found)} answers equal those of dynvid.load to the last bit, exits {exits}")
            for bad in (b"not a video", b""):
                try:
                    ask(client, "dynvid", bad)
                except InferenceServerException as error:
                    assert "Traceback" not in str(error) and "/" not in str(error).replace("/v2", ""), error
                else:
                    raise AssertionError(f"{bad!r} was answered")
        at_once = together(server, videos, 16)
        assert at_once == wanted, "answers differ when 16 clients ask at once"
        print(f"{which}: the same by 16 clients at once; {machine()}")
        http.close()
        grpc.close()


def together(server: Running, videos: list, clients: int) -> list[dict]:
    """Return the answers when so many clients ask at once."""
    found: list[dict] = [{}] * len(videos)

    def ask(first: int) -> None:
        client = tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{server.grpc_port}")
        for place in range(first, len(videos), clients):
            found[place] = of_tensors(ask_grpc(client, "dynvid", videos[place]))
        client.close()

    threads = [threading.Thread(target=ask, args=(first,)) for first in range(clients)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    return found


if __name__ == "__main__":
    main(sys.argv[1], *map(Path, sys.argv[2:5]), *map(int, sys.argv[5:]))
