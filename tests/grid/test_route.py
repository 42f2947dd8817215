from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from samples import every_monotone_route

from dynvid.grid.costs import Costs
from dynvid.grid.errors import RouteError
from dynvid.grid.route import Route, Span, parse_route, preset
from dynvid.grid.topology import Cell, Grid

GRID = Grid(8, 5, 2)
SMALL = [
    Grid(n, m, e, groups_linked=linked)
    for n, m, e in [(1, 3, 2), (3, 1, 1), (3, 2, 2), (2, 3, 1), (3, 3, 1)]
    for linked in (True, False)
]


def cells_of(segment):
    return [Cell(n, span.block) for span in segment.spans for n in range(span.start, span.stop)]


@pytest.mark.parametrize("grid", SMALL, ids=str)
def test_on_every_route_each_cell_is_computed_exactly_once_and_nothing_is_missing(grid):
    routes = every_monotone_route(grid)
    assert len(routes) > 1
    for route in routes:
        computed = Counter()
        for segment, checkpoint in zip(route.segments, route.checkpoints, strict=True):
            for cell in cells_of(segment):
                # a cell needs the block below on its own set, and its own block on the set before
                assert cell.block == 0 or computed[Cell(cell.input_set, cell.block - 1)] == 1
                assert cell.input_set == 0 or computed[Cell(cell.input_set - 1, cell.block)] == 1
                computed[cell] += 1
            last = checkpoint.cell
            needed = {Cell(n, m) for n in range(last.input_set + 1) for m in range(last.block + 1)}
            assert needed <= set(computed)
        assert set(computed.values()) == {1}
        assert len(computed) == (last.input_set + 1) * (last.block + 1)


@pytest.mark.parametrize("grid", SMALL, ids=str)
def test_progress_and_embedded_say_what_the_segments_compute(grid):
    for route in every_monotone_route(grid):
        done = Counter()
        for segment in route.segments:
            for span in segment.spans:
                assert span.start == done[span.block]
                done[span.block] = span.stop
            assert all(route.progress(segment.index, m) == done[m] for m in range(grid.blocks))
            here = route.cells[segment.index - 1]
            assert route.embedded(segment.index, here.block) == here.input_set + 1


@pytest.mark.parametrize("grid", SMALL, ids=str)
def test_no_span_crosses_the_border_between_groups_that_are_not_linked(grid):
    for route in every_monotone_route(grid):
        for segment in route.segments:
            for span in segment.spans:
                assert grid.border is None or not span.start < grid.border < span.stop


@pytest.mark.parametrize("grid", SMALL, ids=str)
def test_on_every_route_the_cost_is_that_of_each_cell_and_head_once(grid):
    costs = Costs(
        tuple(3**m for m in range(grid.blocks)),
        tuple(1000 * 5**m for m in range(grid.blocks)),
        tuple(10**7 * 7**m for m in range(grid.blocks)),
        tuple(range(1, grid.blocks + 1)),
    )
    for route in every_monotone_route(grid):
        for k in range(1, len(route.cells) + 1):
            cell, passed = route.cells[k - 1], route.cells[:k]
            blocks = sum(costs.block_macs[m] for m in range(cell.block + 1)) * (cell.input_set + 1)
            seen = {c.block: c.input_set + 1 for c in passed}  # the last checkpoint of a block sees the most
            embeds = sum(costs.embed_macs[m] * sets for m, sets in seen.items())
            answers = sum(costs.answer_macs[c.block] for c in passed)
            expected = (blocks + embeds) * grid.frames_per_set + answers
            assert costs.checkpoint(route, k) == expected
            assert costs.paper_checkpoint(route, k) == grid.frames_per_set * (cell.input_set + 1) * (cell.block + 1)


def test_the_joint_route_runs_the_spans_of_figure_2d():
    spans = [s.spans for s in preset("joint", GRID, range(5)).segments]
    assert spans[0] == (Span(0, 0, 2),)
    assert spans[1] == (Span(0, 2, 3), Span(1, 0, 3))
    assert spans[2] == (Span(0, 3, 4), Span(1, 3, 4), Span(2, 0, 4))
    assert spans[3] == (Span(3, 0, 4),)
    assert spans[4] == (Span(4, 0, 4),)
    assert spans[5] == tuple(Span(m, 4, 8) for m in range(5))


@pytest.mark.parametrize(
    ("name", "heads", "cells"),
    [
        ("joint", (0, 1, 2, 3, 4), "(1,0) (2,1) (3,2) (3,3) (3,4) (7,4)"),
        ("joint", (2, 3, 4), "(3,2) (3,3) (3,4) (7,4)"),
        ("depth", (2, 3, 4), "(7,2) (7,3) (7,4)"),
        ("input", (4,), "(1,4) (3,4) (5,4) (7,4)"),
        ("full", (2, 3, 4), "(7,4)"),
    ],
)
def test_presets(name, heads, cells):
    assert " ".join(map(str, preset(name, GRID, heads).cells)) == cells


def test_input_route_of_fewer_than_four_sets_stops_at_each():
    assert [c.input_set for c in preset("input", Grid(3, 2, 1), (1,)).cells] == [0, 1, 2]


def test_full_route_is_the_last_checkpoint_alone():
    assert preset("joint", GRID, range(5)).full.cells == (Cell(7, 4),)


@pytest.mark.parametrize("text", ["1,0 2,1 7,4", "(1,0) (2,1) (7,4)", " 1,0; 2,1 ;7,4 ", "(1, 0)(2, 1)(7, 4)"])
def test_a_route_is_read_from_text(text):
    assert parse_route(text, GRID, range(5)).cells == (Cell(1, 0), Cell(2, 1), Cell(7, 4))


@given(st.text(max_size=30))
def test_any_other_text_is_refused_with_a_remedy(text):
    try:
        parse_route(text, GRID, range(5))
    except RouteError as error:
        assert "--route" in str(error) and error.exit_code == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("3,4 2,4", r"checkpoint 2 at \(2,4\) comes after \(3,4\): neither .* may decrease"),
        ("3,4 5,3", r"checkpoint 2 at \(5,3\) comes after \(3,4\)"),
        ("3,4 3,4", "one must increase"),
        ("8,4", r"checkpoint 1 at \(8,4\) lies outside the grid of 8 input sets x 5 blocks"),
        ("7,5", "outside the grid"),
        ("sideways", "expected one of joint, depth, input, full or cells"),
        ("1,0 2", "expected one of joint"),
        ("", "expected one of joint"),
    ],
)
def test_a_misplaced_route_is_refused(text, message):
    with pytest.raises(RouteError, match=message):
        parse_route(text, GRID, range(5))


def test_a_checkpoint_on_a_block_without_a_head_is_refused():
    with pytest.raises(RouteError, match=r"checkpoint 1 at \(3,2\): no head .* heads on block 4\. Choose --route"):
        parse_route("3,2 7,4", GRID, (4,))


def test_joint_needs_its_own_grid_and_several_heads():
    with pytest.raises(RouteError, match="this grid has 4 x 5.*--route"):
        preset("joint", Grid(4, 5, 2), range(5))
    with pytest.raises(RouteError, match="needs heads on several blocks.*Use --route input"):
        preset("joint", GRID, (4,))


def test_a_route_without_checkpoints_is_refused():
    with pytest.raises(RouteError, match="the route has no checkpoints"):
        Route(GRID, ())
