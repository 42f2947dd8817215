"""A bundle as a class for pipelines on Ray Data, and anything else that hands over batches of rows."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..runtime.open_model import open_model
from ..runtime.results.formats import table_of
from ..runtime.results.results_file import key_of
from ..runtime.video.listing import ListedVideo

if TYPE_CHECKING:
    import pyarrow

Batch = Mapping[str, Sequence[Any]]


class Classifier:
    """Classifies batches of rows; opens the bundle once, where it is made.

    ::

        videos = ray.data.read_parquet("list.parquet")
        results = videos.map_batches(
            Classifier, fn_constructor_args=["model.bundle"],
            fn_constructor_kwargs={"thresholds": "T.json", "threads": 1},
            batch_size=50, num_cpus=0.5, compute=ray.data.ActorPoolStrategy(size=8),
        )

    Args:
        bundle: a folder that every machine reaches.
        trace: run every video to the end of its route; rows then have ``logits``.
        options: as for ``dynvid.load``.

    Attributes:
        model: the open bundle.

    Raises:
        DynvidError: As ``dynvid.load``.
    """

    def __init__(self, bundle: str | os.PathLike[str], *, trace: bool = False, **options: Any) -> None:
        self.model, self._trace = open_model(bundle, **options), trace

    def __call__(self, batch: Batch) -> pyarrow.Table:
        """Return a row for each row of a batch, in its order, with the keys of a results line.

        A video that cannot be read gives a row with ``status`` ``damaged`` and an ``error``, never an exception.

        Args:
            batch: columns ``video`` (paths or URIs), and perhaps ``label`` and ``id``; others are ignored.

        Raises:
            BackendError, ResourceError: If computing fails.
        """
        return table_of(self.records(rows_of(batch)))

    def records(self, rows: Sequence[ListedVideo]) -> list[dict[str, Any]]:
        """Return the records of rows, in their order."""
        wanted = {row.key: row for row in rows}
        found = {key_of(record): record for record in self.model.records(wanted.values(), trace=self._trace)}
        return [found[row.key] for row in rows]


def rows_of(batch: Batch) -> list[ListedVideo]:
    """Return the rows of a batch."""
    nothing = [None] * len(batch["video"])
    columns = (batch["video"], batch.get("label", nothing), batch.get("id", nothing))
    return [
        ListedVideo.of(str(video), None if label is None else str(label), None if id is None else str(id))
        for video, label, id in zip(*columns, strict=True)
    ]
