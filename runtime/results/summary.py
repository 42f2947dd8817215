"""What became of the videos of a run."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...grid.errors import InputRefusedError

_ALWAYS_ALLOWED = 20  # failures: of a few dead files, no share says anything


@dataclass
class Summary:
    """Counts over the videos of a run, those of earlier calls included. It stops a run that cannot succeed.

    The limit of failures is a share of the whole list, not of those tried so far: a few dead files at its start stop
    nothing.

    Attributes:
        most: share of the videos that may fail; 20 videos always may; 1: all.
        videos: of the run, tried or not.
        tried: videos that have a record; ``failed``: those whose status is not ``ok``.
        exits: how many videos each checkpoint answered.
        labelled: answered videos with a label in the list; ``correct``: those whose answer it is.
        tried_before: videos that an earlier call tried.
        seconds: that this call took.
    """

    most: float
    videos: int
    tried: int = 0
    failed: int = 0
    exits: Counter[int] = field(default_factory=Counter)
    labelled: int = 0
    correct: int = 0
    tried_before: int = 0
    seconds: float = 0.0

    def add(self, record: dict[str, Any]) -> None:
        """Count a record."""
        self.tried += 1
        if record["status"] != "ok":
            self.failed += 1
            return
        self.exits[record["checkpoint"]] += 1
        listed = record.get("listed_label")  # missing in results of an older dynvid
        if listed is not None:
            self.labelled += 1
            self.correct += record["label"] == listed

    def add_earlier(self, record: dict[str, Any]) -> None:
        """Count a record of an earlier call."""
        self.add(record)
        self.tried_before += 1

    @property
    def accuracy(self) -> float | None:
        """The share of the labelled videos whose answer is their label; None without labels."""
        return self.correct / self.labelled if self.labelled else None

    @property
    def rate(self) -> float | None:
        """Videos per second of this call; None if it had none left to try."""
        tried = self.tried - self.tried_before
        return tried / self.seconds if tried and self.seconds else None

    @property
    def too_many(self) -> bool:
        """Whether more than 20 videos failed: all that were tried, or more than the allowed share of the list."""
        hopeless = self.failed == self.tried or self.failed / self.videos > self.most
        return self.failed > _ALWAYS_ALLOWED and self.most < 1 and hopeless

    def partial(self, output: Path | None) -> str | None:
        """Return a message about the videos without an answer; None if all were answered.

        Raises:
            InputRefusedError: If no video has an answer.
        """
        where = "above" if output is None else str(output)
        if self.failed and self.failed == self.tried:
            stopped = f"; stopped there, of {self.videos} videos" if self.tried < self.videos else ""
            raise InputRefusedError(
                f"no video could be classified ({self.failed} of {self.tried} failed, see {where}){stopped}"
            )
        if self.tried < self.videos:
            remedy = "leave them out" if output is None else "repair them and add --retry-failed"
            return (
                f"stopped after {self.tried} of {self.videos} videos: {self.failed} could not be classified, more than "
                f"--max-failures {self.most:g} allows. See {where}; {remedy}, or go on with --max-failures 1"
            )
        return f"{self.failed} of {self.tried} videos could not be classified, see {where}" if self.failed else None

    @property
    def so_far(self) -> str:
        """The exits and failures so far, to be put after a count; "" before the first."""
        exits = f", exits {self._exits}" if self.exits else ""
        return exits + (f", {self.failed} failed" if self.failed else "")

    @property
    def _exits(self) -> str:
        return " ".join(str(self.exits[k]) for k in range(1, max(self.exits) + 1))

    def __str__(self) -> str:
        """Return the counts in one line."""
        said = [f"{self.tried - self.failed} of {self.videos} videos answered", f"{self.failed} failed"]
        if self.accuracy is not None:
            said.append(f"accuracy {self.accuracy:.2%} of {self.labelled} labelled")
        if self.exits:
            said.append(f"answers by checkpoint {self._exits}")
        if self.rate is not None:
            said.append(f"{self.rate:.3g} videos/s")
        return ", ".join(said)
