"""The clips of a split in little memory: one text for all, and one record at a time from it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from ...grid.errors import ListError
from ..data.record import FrameFiles, Record


class Clips:
    """Records by number. 240,000 of them need about as many times 200 bytes.

    Attributes:
        labels: class of every clip, int64 [clips].
        sha256: of the records in their order.
    """

    def __init__(self, records: Sequence[Record], classes: Sequence[str], name: str) -> None:
        """Take the records of the list ``name``.

        Raises:
            ListError: If a record has no class, or one that is not among ``classes``.
        """
        numbers = {label: number for number, label in enumerate(classes)}
        unlabelled = [record for record in records if record.label is None]
        if unlabelled:
            raise ListError(
                f"list '{name}' has {len(unlabelled)} clips without a label, such as '{unlabelled[0].path}': expected the "
                "columns video and label, both filled"
            )
        strange = sorted({str(record.label) for record in records if record.label not in numbers})
        if strange:
            raise ListError(
                f"list '{name}' has the labels {', '.join(map(repr, strange[:5]))}, which are not among the "
                f"{len(numbers)} classes ({', '.join(map(repr, list(numbers)[:3]))}, ...): correct the list or the classes"
            )
        if not records:
            raise ListError(f"list '{name}' has no clips: expected at least one")
        self.labels = np.array([numbers[str(record.label)] for record in records], np.int64)
        lines = [json.dumps({**asdict(record), "path": str(record.path)}).encode() for record in records]
        self._text, self._ends = b"".join(lines), np.cumsum([0, *map(len, lines)])
        self.sha256 = hashlib.sha256(self._text).hexdigest()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, number: int) -> Record:
        data = json.loads(self._text[self._ends[number] : self._ends[number + 1]])
        files = data["frames"]
        return Record(**{**data, "path": Path(data["path"]), "frames": None if files is None else FrameFiles(**files)})
