"""What is requested of a calibration."""

from __future__ import annotations

from dataclasses import dataclass

from ...grid.errors import UsageError
from ...grid.thresholds import Rule

DROP = 0.01  # default limit on the drop of accuracy, for the critical point


@dataclass(frozen=True)
class Request:
    """What is requested: at most one of ``q``, ``budget`` and ``max_drop``, else the critical point within 0.01.

    Attributes:
        q: the ratio itself.
        budget: mean cost per video, in ``unit``.
        max_drop: of accuracy, or of agreement without labels; a promise with ``confidence``, otherwise in sample.
        confidence: probability of the promise.
        unit: ``gmacs``, ``ms`` or ``exits``: the unit of costs.
        temperature: whether confidences are temperature-scaled.
        share: share of the videos that calibrate; the others evaluate. 1: none evaluate, and all figures are in sample.
        seed: of the split.
        rule: ``geometric`` (the paper's shares q^k) or ``optimal`` (each threshold optimised, where the videos carry it).
            None: geometric with ``q``, otherwise optimal.
    """

    q: float | None = None
    budget: float | None = None
    max_drop: float | None = None
    confidence: float | None = None
    unit: str = "gmacs"
    temperature: bool = False
    share: float = 0.5
    seed: int = 0
    rule: Rule | None = None

    def __post_init__(self) -> None:
        """Reject contradictory values."""
        if sum(value is not None for value in (self.q, self.budget, self.max_drop)) > 1:
            raise UsageError("give one of --q, --budget and --max-drop, not several")
        if self.q is not None and self.rule == "optimal":
            raise UsageError("--q with --rule optimal: q is the ratio of the geometric rule, leave one of the two out")
        if self.confidence is not None and self.max_drop is None:
            raise UsageError("--confidence belongs to --max-drop: say which drop is promised")
        if self.max_drop is not None and not 0 < self.max_drop < 1:
            raise UsageError(f"--max-drop {self.max_drop}: expected a number between 0 and 1")
        if not 0 < self.share <= 1:
            raise UsageError(f"--split {self.share}: expected the share of calibration videos, above 0 and at most 1")

    @property
    def wanted(self) -> Rule:
        """The rule that is to choose."""
        return self.rule or ("optimal" if self.q is None else "geometric")
