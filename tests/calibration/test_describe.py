import pytest

from dynvid.calibration.describe import _apart, _Point, _unbeaten


@pytest.mark.parametrize(
    ("costs", "printed"),
    [
        ([5.0, 5.0, 5.0, 5.0], [5.0]),
        ([10.0, 9.9, 9.0, 8.95, 5.0, 0.0, 0.0], [10.0, 9.0, 5.0, 0.0]),
        ([1.0, 0.99, 0.98], [1.0, 0.99, 0.98]),
        ([2.0], [2.0]),
    ],
)
def test_points_that_hardly_differ_are_printed_once(costs, printed):
    assert [point.cost for point in _apart([_Point(cost, "", {}) for cost in costs])] == printed


def test_the_point_that_is_marked_is_printed_wherever_it_lies():
    points = [_Point(1.0, "", {}), _Point(1.0, "Q*", {}, kept=True), _Point(0.0, "", {})]
    assert [point.name for point in _apart(points)] == ["", "Q*", ""]


def test_points_that_a_cheaper_one_equals_are_left_out_but_for_the_marked():
    def point(cost, accuracy, **options):
        return _Point(cost, "", {"accuracy": accuracy, "agreement": 0.0}, **options)

    points = [
        point(9.0, 0.97),
        point(8.0, 0.98),
        point(7.0, 0.98),
        point(5.0, 0.9, kept=True),
        point(4.0, 0.95),
        point(1.0, 0.8),
    ]
    assert [one.cost for one in _unbeaten(points)] == [7.0, 5.0, 4.0, 1.0]
