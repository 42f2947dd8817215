"""Videos behind S3 (an imitation on this machine) and HTTP get the answers of the same files here."""

import contextlib
import functools
import http.server
import io
import json
import os
import shutil
import socket
import subprocess
import threading
import time
from pathlib import Path
from urllib.parse import quote

import pytest
from environments import environment
from samples import ROOT

from dynvid.runtime.results.merge import MEASURED
from dynvid.training.clips import write_clips

pytestmark = pytest.mark.full

CLIPS = 12
KEYS = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": "us-east-1"}
UPLOAD = "import sys, s3fs; s = s3fs.S3FileSystem(); s.mkdir('bucket'); s.put(sys.argv[1], 'bucket/', recursive=True)"


@pytest.fixture(scope="module")
def python(exports):
    """Return the Python of an environment with file systems behind URIs, and the imitation of S3."""
    more = ("s3fs", "aiohttp", "moto[server,s3]==5.2.5")
    return environment(exports, "remote", ["cpu", "remote"], *more, constrained=False)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Return a folder with videos in it and in its folders, one of them damaged, and a text."""
    corpus = tmp_path_factory.mktemp("files") / "corpus"
    write_clips(corpus, CLIPS, seed=6)
    (corpus / "a b").mkdir()
    for clip in sorted((corpus / "clips").iterdir())[: CLIPS // 2]:
        clip.rename(corpus / "a b" / clip.name)
    (corpus / "clips" / "not.mp4").write_text("this is not a video")
    return corpus


@pytest.fixture
def classify(python, exports, tmp_path):
    """Return a function that runs ``dynvid classify`` in that environment; it gives the lines by video."""
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "dynvid").symlink_to(ROOT)

    def run(data, **variables):
        (tmp_path / "out.jsonl").unlink(missing_ok=True)
        (tmp_path / "out.jsonl.run.json").unlink(missing_ok=True)
        done = subprocess.run(
            [python, "-m", "dynvid.cli", "classify", exports.demonstration().root, "--data", data, "-o", "out.jsonl"],
            cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(tmp_path / "path")} | variables, capture_output=True,
            text=True, timeout=100,
        )  # fmt: skip
        assert done.returncode in (0, 7), done.stderr
        lines = map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())
        return {line.pop("video"): {k: v for k, v in line.items() if k not in MEASURED} for line in lines}

    return run


@pytest.fixture
def same(classify, corpus):
    """Return a function that compares what is behind a URI with the files."""

    def check(root, wanted, **variables):
        here = {name.replace(str(corpus), root): line for name, line in classify(f"{corpus}{wanted}").items()}
        far = {name.replace("%20", " "): line for name, line in classify(f"{root}{wanted}", **variables).items()}
        assert sum(line["status"] == "ok" for line in far.values()) == len(far) - ("clips" in str(sorted(far)[-1]))
        for line in (*here.values(), *far.values()):
            line["error"] = line["error"] and line["error"].partition("'")[0]
            line.pop("file"), line.pop("warnings")
        assert far == here
        return len(far)

    return check


@contextlib.contextmanager
def served(corpus, links_up):
    """Serve a folder over HTTP: a page of links for each folder, with one to the folder above, as Apache has it."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def list_directory(self, path):
            if not links_up:
                return super().list_directory(path)
            names = [f"{entry.name}/" if entry.is_dir() else entry.name for entry in Path(path).iterdir()]
            links = [self.path.rstrip("/").rpartition("/")[0] + "/", *(self.path + quote(name) for name in names)]
            page = "".join(f'<a href="{link}">link</a>' for link in links).encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(page)))
            self.end_headers()
            return io.BytesIO(page)

        def log_message(self, *_):
            pass

    handler = functools.partial(Handler, directory=corpus.parent)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/corpus"
        server.shutdown()


def test_s3(python, same, corpus, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [Path(python).with_name("moto_server"), "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        began = time.monotonic()
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            assert server.poll() is None and time.monotonic() - began < 60
            time.sleep(0.1)
        keys = KEYS | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}
        subprocess.run([python, "-c", UPLOAD, corpus], env=os.environ | keys, check=True)
        assert same("s3://bucket/corpus", "/", **keys) == CLIPS + 1
        assert same("s3://bucket/corpus", "", **keys) == CLIPS + 1
        assert same("s3://bucket/corpus", "/a*/*.mp4", **keys) == CLIPS // 2
        assert same("s3://bucket/corpus", "/**/*.mp4", **keys) == CLIPS + 1
    finally:
        server.kill()
        server.wait()


@pytest.mark.parametrize("links_up", [False, True])
def test_http(same, corpus, links_up):
    shutil.copytree(corpus / "clips", corpus.parent / "outside", dirs_exist_ok=True)
    with served(corpus, links_up) as root:
        assert same(root, "/") == CLIPS + 1
        assert same(root, "/clips/*.mp4") == CLIPS // 2 + 1
        assert same(root, "/**/*.mp4") == CLIPS + 1
