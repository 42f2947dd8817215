import pytest

from dynvid.grid.errors import UsageError
from dynvid.grid.topology import Cell, Grid


def test_eight_sets_are_read_in_the_order_of_equation_4():
    assert Grid(8, 5, 2).set_order == (0, 3, 5, 6, 1, 2, 4, 7)


@pytest.mark.parametrize("sets", range(1, 70))
def test_the_order_is_a_permutation_with_evil_numbers_first(sets):
    order = Grid(sets, 1, 1).set_order
    assert sorted(order) == list(range(sets))
    parity = [bin(i).count("1") % 2 for i in order]
    assert parity == sorted(parity)
    for odd in (0, 1):
        group = [i for i, p in zip(order, parity, strict=True) if p == odd]
        assert group == sorted(group)


def test_frames_of_a_set_stay_together_and_in_temporal_order():
    assert Grid(4, 1, 3).frame_order == (0, 1, 2, 9, 10, 11, 3, 4, 5, 6, 7, 8)


def test_without_permutation_frames_are_in_temporal_order():
    assert Grid(5, 1, 2, permutation="none").frame_order == tuple(range(10))


@pytest.mark.parametrize(
    ("grid", "border"),
    [
        (Grid(8, 5, 2), None),
        (Grid(8, 5, 2, groups_linked=False), 4),
        (Grid(3, 1, 1, groups_linked=False), 1),
        (Grid(8, 5, 2, permutation="none", groups_linked=False), None),
        (Grid(1, 1, 1, groups_linked=False), None),
    ],
)
def test_state_restarts_where_the_odious_sets_begin_unless_the_groups_are_linked(grid, border):
    assert grid.border == border
    if border is not None:
        assert [i.bit_count() % 2 for i in grid.set_order].index(1) == border


def test_a_cell_prints_as_set_and_block():
    assert str(Cell(3, 4)) == "(3,4)"


@pytest.mark.parametrize("sizes", [(0, 1, 1), (1, 0, 1), (1, 1, 0), (-1, 1, 1)])
def test_an_empty_grid_is_refused(sizes):
    with pytest.raises(UsageError, match="every number must be at least 1"):
        Grid(*sizes)


def test_an_unknown_permutation_is_refused():
    with pytest.raises(UsageError, match="'random': expected one of evil_odious, none"):
        Grid(8, 5, 2, permutation="random")
