import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynvid.grid.errors import UsageError
from dynvid.runtime.scheduling.slots import Slot, SlotError, Slots, slots_within


def test_slots_run_out_and_come_back_under_a_new_generation():
    slots = Slots(2)
    first, second = slots.acquire(), slots.acquire()
    assert {first.index, second.index} == {0, 1} and slots.acquire() is None and slots.free == 0
    slots.release(first)
    again = slots.acquire()
    assert again.index == first.index and again.generation == first.generation + 1
    assert slots.check(again) == again.index


def test_a_slot_is_good_only_while_it_is_held():
    slots = Slots(1)
    slot = slots.acquire()
    slots.release(slot)
    for use in (slots.release, slots.check):
        with pytest.raises(SlotError, match="slot 0 of generation 1: its row is free, expected held by it"):
            use(slot)
    slots.acquire()
    for use in (slots.release, slots.check):
        with pytest.raises(SlotError, match="its row is held under generation 2"):
            use(slot)
    assert slots.free == 0


def test_a_slot_of_another_ledger_is_refused():
    slots, other = Slots(1), Slots(3)
    slots.acquire()
    foreign = [other.acquire() for _ in range(3)]
    with pytest.raises(SlotError, match="its row is held under generation 1"):
        slots.release(foreign[0])
    with pytest.raises(SlotError, match="slot 2: this ledger has rows 0 to 0"):
        slots.check(foreign[2])
    with pytest.raises(SlotError, match="slot -1: this ledger"):
        slots.check(Slot(-1, 1))
    with pytest.raises(SlotError):
        slots.check(Slot(0, 1))  # the right numbers, but not given out


def test_whoever_fills_free_rows_hears_of_each_release_once():
    freed = []
    slots = Slots(2, freed.append)
    slot = slots.acquire()
    assert freed == []
    slots.release(slot)
    with pytest.raises(SlotError):
        slots.release(slot)
    assert freed == [slot]


@given(st.integers(1, 5), st.lists(st.tuples(st.sampled_from(["acquire", "release", "again"]), st.integers(0, 99))))
def test_counts_never_leak(count, steps):
    slots, held, gone, given_out = Slots(count), [], [], set()
    for step, pick in steps:
        if step == "acquire":
            slot = slots.acquire()
            assert (slot is None) == (len(held) == count)
            if slot is not None:
                held.append(slot)
                assert (slot.index, slot.generation) not in given_out
                given_out.add((slot.index, slot.generation))
        elif step == "release" and held:
            gone.append(held.pop(pick % len(held)))
            slots.release(gone[-1])
        elif step == "again" and gone:
            with pytest.raises(SlotError):
                slots.release(gone[pick % len(gone)])
        assert slots.free == count - len(held)
        assert sorted(slots.check(slot) for slot in held) == sorted({slot.index for slot in held})


def test_a_budget_bounds_the_videos_in_flight():
    assert slots_within(100, 10_000_000) == 10 and slots_within(99.9, 10_000_000) == 9
    for budget_mb, said in ((9, "9 MB"), (0.01, "0.01 MB"), (float("nan"), "nan MB"), (float("inf"), "inf MB")):
        message = re.escape(
            f"{said} for videos in flight: expected a finite number from 10, the need of one video per stream"
        )
        with pytest.raises(UsageError, match=message):
            slots_within(budget_mb, 10_000_000)
    with pytest.raises(UsageError, match=r"expected a finite number from 0\.124,"):
        slots_within(0.1, 123_400)
    assert slots_within(0.124, 123_400) == 1
    with pytest.raises(UsageError, match="0 slots: expected at least 1"):
        Slots(0)
