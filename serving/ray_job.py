"""Classify a LIST on a Ray cluster: an actor pool around the very function of one process, with Ray's checkpoints."""

from __future__ import annotations

import fcntl
import logging
import math
import os
import shutil
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..grid.errors import BackendError, ResourceError, StaleResultsError, UsageError
from ..grid.packages import packages
from ..grid.storage.files import whole_file
from ..grid.storage.sealed import seal
from ..runtime.results.formats import files_of, table_of
from ..runtime.results.records import file_of, unanswered
from ..runtime.results.run import FORMAT, VERSION, Run, read_run, sha256_of_videos
from ..runtime.results.summary import Summary
from ..runtime.video.listing import ListedVideo, VideoList
from .quarantine import LONE_TRIES, Quarantine
from .ray import Batch, Classifier, rows_of
from .ray_cluster import CPUS_KEPT_FREE, cause_of, connected, get

if TYPE_CHECKING:
    import pyarrow

LOG = logging.getLogger("dynvid")

_ROWS_A_BLOCK = 50  # what is done again when an actor dies
_ROWS_A_WRITE = (
    200  # what is done again, for each that is at work, when the driver dies; a file of results holds as many
)
_CPUS_AN_ACTOR = 0.5  # at most, so that a CPU is free for what reads and writes: without one, Ray waits for ever
_CPUS_A_TASK = 0.25
_MOST_ACTORS_A_CPU = 4  # as threads: more only take memory, and Ray ever longer to start
_ROWS_A_FILE = 100_000
_POLL_S = 1.0


@dataclass(frozen=True)
class Job:
    """What every actor must know.

    Attributes:
        bundle: the folder.
        options: of ``dynvid.load``.
        trace: run every video to its end.
        folder: working folder, which paths may be relative to.
        output: folder of the results.
    """

    bundle: str
    options: Mapping[str, Any]
    trace: bool
    folder: str
    output: Path


class Counts:
    """How many videos this call tried and failed, counted by one actor for all others; it tells them to stop."""

    def __init__(self, summary: Summary) -> None:
        self._summary = summary

    def add(self, tried: int, failed: int) -> bool:
        """Count a batch; return whether too many videos failed."""
        self._summary.tried += tried
        self._summary.failed += failed
        return self._summary.too_many

    def tried(self) -> int:
        """Return how many videos have a record."""
        return self._summary.tried


class Worker(Classifier):
    """An actor: classifies blocks of rows, and keeps what kills it away from the others.

    Raises:
        BackendError: If this machine computes in another way than the first.
    """

    def __init__(self, job: Job, run: Run, counts: Any) -> None:
        os.chdir(job.folder)
        super().__init__(job.bundle, trace=job.trace, **job.options)
        own = self.model.run(trace=job.trace)
        if own != (expected := replace(run, videos=own.videos, videos_sha256=own.videos_sha256)):
            raise BackendError(
                f"the machines of the cluster differ: {'; '.join(own.differences(expected))}. Expected the same bundle, "
                "engines and backend on each"
            )
        self._quarantine, self._counts = Quarantine(job.output / "tries"), counts

    def __call__(self, batch: Batch) -> pyarrow.Table:
        """Return the results of a block; none once too many videos failed, so that the job comes to its end."""
        import pyarrow
        import ray

        rows = rows_of(batch)
        if ray.get(self._counts.add.remote(0, 0)):
            rows = []
        keys = [row.key for row in rows]
        alone = self._quarantine.begin(keys)
        records = [self._alone(row) for row in rows] if alone else self.records(rows)
        self._quarantine.end(keys)
        self._counts.add.remote(len(rows), sum(record["status"] != "ok" for record in records))
        return table_of(records).append_column("key", pyarrow.array(keys, pyarrow.string()))

    def _alone(self, row: ListedVideo) -> dict[str, Any]:
        if not self._quarantine.begin_alone(row.key):
            said = f"video '{row}' killed its process {LONE_TRIES} times when it was tried alone. Leave it out."
            return unanswered(row, said, file_of(str(row)))
        (record,) = self.records([row])
        self._quarantine.end_alone(row.key)
        return record


def classify_on_ray(
    bundle: Path,
    videos: VideoList,
    output: Path,
    *,
    address: str,
    actors: int | None,
    gpus_per_actor: float,
    max_failures: float,
    trace: bool,
    options: Mapping[str, Any],
) -> Summary:
    """Classify the videos of a list on a Ray cluster; ``dynvid.classify_on_ray`` documents it."""
    if not (math.isfinite(gpus_per_actor) and gpus_per_actor >= 0):
        raise UsageError(f"gpus_per_actor {gpus_per_actor!r}: expected a share of a GPU, such as 0.5, or 0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # else it says on stderr what is no fault of the job
    with packages("ray"):
        import pyarrow.parquet  # noqa: F401
        import ray.data
    output.mkdir(parents=True, exist_ok=True)
    with _locked(output), connected(address):
        resources = ray.cluster_resources()
        cpus, gpus = resources.get("CPU", 0.0), resources.get("GPU", 0.0)
        count = actors or (int(gpus / gpus_per_actor) if gpus_per_actor else max(1, int(cpus - CPUS_KEPT_FREE)))
        share = min(_CPUS_AN_ACTOR, math.floor((cpus - CPUS_KEPT_FREE) / max(count, 1) * 1000) / 1000)
        if count > _MOST_ACTORS_A_CPU * cpus:
            raise UsageError(
                f"{count} actors on a cluster of {cpus:g} CPUs: expected at most {_MOST_ACTORS_A_CPU} a CPU"
            )
        if share <= 0 or count < 1 or count * gpus_per_actor > gpus:
            raise UsageError(
                f"{count} actors with {gpus_per_actor:g} GPUs each on a cluster of {cpus:g} CPUs and {gpus:g} GPUs: "
                f"expected more than {CPUS_KEPT_FREE} CPUs, and as many GPUs as the actors take"
            )
        job = Job(os.path.abspath(bundle), options, trace, os.getcwd(), output.absolute())
        described = ray.remote(num_cpus=share, num_gpus=gpus_per_actor)(_describe)
        run, runs = get(described.remote(job))
        LOG.info(f"{count} actors on {len(ray.nodes())} machines: {runs}")
        run = replace(run, videos=len(videos), videos_sha256=sha256_of_videos(videos.identities()))
        _begin(output, run, videos)
        summary = summary_of(output, run, max_failures, earlier=True)
        if summary.tried:
            LOG.warning(f"{output}: {summary.tried} of {run.videos} videos are done already")
        began = time.monotonic()
        if summary.tried < run.videos and not summary.too_many:
            counter = ray.remote(num_cpus=0)(Counts).remote(summary)
            with _progress(counter, run.videos), warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # Ray's advice, on pools larger than a short list needs
                _write(job, run, counter, count, share, gpus_per_actor)
        shutil.rmtree(output / "tries", ignore_errors=True)
    done = summary_of(output, run, max_failures)
    done.tried_before, done.seconds = summary.tried_before, time.monotonic() - began
    return done


def summary_of(output: Path, run: Run, max_failures: float, *, earlier: bool = False) -> Summary:
    """Return the counts over what was written so far; ``earlier``: by an earlier call."""
    import pyarrow.parquet

    summary = Summary(max_failures, run.videos)
    for file in files_of(output):
        columns = pyarrow.parquet.read_table(file, columns=["status", "checkpoint", "label", "listed_label"])
        for record in columns.to_pylist():
            (summary.add_earlier if earlier else summary.add)(record)
    return summary


def _describe(job: Job) -> tuple[Run, str]:
    """Return what decides the answers on a machine of the cluster, and what computes, in words."""
    os.chdir(job.folder)
    with Classifier(job.bundle, trace=job.trace, **job.options).model as model:
        return model.run(trace=job.trace), model.runs


def _begin(output: Path, run: Run, videos: VideoList) -> None:
    """Write the list as Ray reads it, and say which run the folder belongs to; or check that it is this run.

    Raises:
        StaleResultsError: If it belongs to another run.
    """
    import pyarrow
    import pyarrow.parquet

    found = read_run(output / "run.json")
    if found == run:
        return
    if found is not None:
        raise StaleResultsError(
            f"-o {str(output)!r} holds results of another run: {'; '.join(run.differences(found))}. Give another, or "
            "remove it"
        )
    if any(output.glob("*.parquet")):
        raise StaleResultsError(f"-o {str(output)!r} holds parquet files of something else: give another folder")
    text = pyarrow.string()
    schema = pyarrow.schema({"key": text, "video": text, "label": text, "id": text}.items())
    shutil.rmtree(output / "list", ignore_errors=True)  # of a call that was killed while it wrote it
    rows, number = iter(videos), 0
    while part := list(islice(rows, _ROWS_A_FILE)):
        table = pyarrow.Table.from_pylist(
            [{"key": row.key, "video": str(row), "label": row.label, "id": row.id} for row in part], schema
        )
        with whole_file(output / "list" / f"{number:06d}.parquet", "list", "give another -o") as file:
            pyarrow.parquet.write_table(table, file, row_group_size=_ROWS_A_BLOCK)
        number += 1
    with whole_file(output / "run.json", "run", "give another -o") as file:
        file.write(seal(asdict(run), FORMAT, VERSION))


def _write(job: Job, run: Run, counter: Any, actors: int, cpus: float, gpus: float) -> None:
    """Run the pipeline: read the list, classify, write."""
    import ray.data
    from ray.data.checkpoint import CheckpointConfig

    context = ray.data.DataContext.get_current()
    before = context.enable_progress_bars, context.checkpoint_config
    context.enable_progress_bars = False
    context.checkpoint_config = CheckpointConfig(
        id_column="key", checkpoint_path=str(job.output / "checkpoint"), delete_checkpoint_on_success=False
    )
    rows = ray.data.read_parquet(str(job.output / "list"), num_cpus=_CPUS_A_TASK)
    results = rows.repartition(target_num_rows_per_block=_ROWS_A_BLOCK).map_batches(
        Worker,
        batch_size=_ROWS_A_BLOCK,
        batch_format="numpy",
        fn_constructor_args=[job, run, counter],
        compute=ray.data.ActorPoolStrategy(size=actors),
        num_cpus=cpus,
        num_gpus=gpus,
    )
    try:
        results.write_parquet(
            str(job.output), min_rows_per_file=_ROWS_A_WRITE, ray_remote_args={"num_cpus": _CPUS_A_TASK}
        )
    except ray.exceptions.RayError as error:
        raise cause_of(error) from None
    finally:
        context.enable_progress_bars, context.checkpoint_config = before


@contextmanager
def _progress(counter: Any, videos: int) -> Iterator[None]:
    """Tell how many videos have a record, once a second, from a thread of its own: the pipeline blocks this one."""
    import ray

    over = threading.Event()

    def tell() -> None:
        while not over.wait(_POLL_S):
            try:
                tried = ray.get(counter.tried.remote(), timeout=10 * _POLL_S)
            except ray.exceptions.RayError:
                continue  # busy, or going: the pipeline says so
            LOG.debug(f"{min(tried, videos)}/{videos} videos")

    thread = threading.Thread(target=tell, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextmanager
def _locked(output: Path) -> Iterator[None]:
    """Keep other drivers away from the folder."""
    with (output / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(
                f"-o {str(output)!r} is being written by another process: wait for it, or give another"
            ) from None
        except OSError as error:
            raise ResourceError(f"-o {str(output)!r} cannot be locked ({error.strerror}): give another") from None
        yield
