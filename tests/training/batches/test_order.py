from dynvid.training.batches.order import Drawn, Order

GOLDEN = [2, 4, 3, 6, 5, 0, 1, 3, 1, 4, 5, 6, 2, 0]


def test_every_clip_comes_once_an_epoch_and_each_epoch_in_another_order():
    order = Order(10, seed=3)
    epochs = [[order.at(10 * epoch + place) for place in range(10)] for epoch in range(3)]
    for epoch, drawn in enumerate(epochs):
        assert {one.epoch for one in drawn} == {epoch}
        assert sorted(one.clip for one in drawn) == list(range(10))
    assert len({tuple(one.clip for one in drawn) for drawn in epochs}) == 3
    assert epochs[0] != [Order(10, seed=4).at(place) for place in range(10)]


def test_the_order_of_a_seed_never_changes():
    assert [Order(7, 0).at(place).clip for place in range(14)] == GOLDEN


def test_what_stands_in_for_the_last_clip_of_an_epoch_is_its_first():
    order = Order(7, 0)
    assert order.at(6, later=1) == Drawn(0, GOLDEN[0])
    assert order.at(8, later=2) == Drawn(1, GOLDEN[10])


def test_random_numbers_depend_on_seed_epoch_and_clip_alone():
    def first(seed, epoch, clip):
        return Order(9, seed).generator(Drawn(epoch, clip)).random()

    assert first(0, 1, 2) == first(0, 1, 2)
    assert len({first(0, 1, 2), first(1, 1, 2), first(0, 2, 2), first(0, 1, 3), first(0, 2, 1)}) == 5
