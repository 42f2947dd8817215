"""The exact cost of every checkpoint in multiply-adds, under two rules that are never mixed.

``macs`` counts convolutions and matrix products of the model as defined, each head once per embedded frame and its
linear layer once per answer. ``paper_macs`` is what the paper counted: frames seen times the one-frame cost of all
blocks up to the checkpoint's, with MSDNet's op counter (see ``models``), whatever the route.
"""

from __future__ import annotations

from dataclasses import dataclass

from .route import Route, Span


@dataclass(frozen=True, slots=True)
class Costs:
    """Multiply-adds of the parts of a network.

    Attributes:
        block_macs: of each block, per frame.
        embed_macs: of the embedding of the head on each block, per frame; 0 without a head.
        answer_macs: of the linear layer of the head on each block, per answer; 0 without a head.
        paper_macs: of blocks 0..m by the paper's rule, per frame.
    """

    block_macs: tuple[int, ...]
    embed_macs: tuple[int, ...]
    answer_macs: tuple[int, ...]
    paper_macs: tuple[int, ...]

    def span(self, route: Route, span: Span) -> int:
        """Return the MACs of one span."""
        return self.block_macs[span.block] * (span.stop - span.start) * route.grid.frames_per_set

    def segment(self, route: Route, index: int) -> int:
        """Return the MACs of segment ``index`` (1-based): its spans, and its checkpoint's head."""
        block = route.cells[index - 1].block
        new_sets = route.embedded(index, block) - route.embedded(index - 1, block)
        embed = self.embed_macs[block] * new_sets * route.grid.frames_per_set
        spans = sum(self.span(route, span) for span in route.segments[index - 1].spans)
        return spans + embed + self.answer_macs[block]

    def checkpoint(self, route: Route, index: int) -> int:
        """Return the MACs spent when checkpoint ``index`` (1-based) answers, including everything before it."""
        return sum(self.segment(route, k) for k in range(1, index + 1))

    def paper_checkpoint(self, route: Route, index: int) -> int:
        """Return the ``paper_macs`` of checkpoint ``index`` (1-based)."""
        cell = route.cells[index - 1]
        return route.grid.frames_per_set * (cell.input_set + 1) * self.paper_macs[cell.block]
