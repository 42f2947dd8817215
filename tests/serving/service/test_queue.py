"""The queue: who goes first, who is refused, and what a caller that goes away takes along. The process is a stand-in."""

import asyncio

import pytest

from dynvid.grid.errors import DeadlineError, FramesError, LateError, OverloadedError, UnavailableError
from dynvid.serving.request import Request
from dynvid.serving.service.model_process import Facts
from dynvid.serving.service.queue import Service

ANSWER = {"label": "a", "queue_ms": 1.0}


class Process:
    """Takes one video at a time, and answers when told."""

    def __init__(self, most=1):
        loop = asyncio.get_running_loop()
        self.facts = loop.create_future()
        self.facts.set_result(Facts("hash", "fake", 2, None, None, most))
        self.held, self.in_flight, self.answered = 0, 0, loop.time()
        self.taken, self.cancelled, self.timeouts = [], [], []

    async def classify(self, request, timeout_s):
        done = asyncio.get_running_loop().create_future()
        self.taken.append((request.id, done))
        self.timeouts.append(timeout_s)
        self.in_flight += 1
        try:
            return dict(await done)
        except asyncio.CancelledError:
            self.cancelled.append(request.id)
            raise
        finally:
            self.in_flight -= 1


class Supervisor:
    def __init__(self, process):
        self.current, self.changed = process, None


def ask(service, name, timeout_s=None):
    return asyncio.ensure_future(service.classify(Request(b"v", None, timeout_s, name)))


async def settle():
    for _ in range(8):
        await asyncio.sleep(0)


def run(check, **options):
    """Run ``check(service, process, supervisor, outcomes)``."""

    async def main():
        process, outcomes = Process(), []
        supervisor = Supervisor(process)
        service = Service(supervisor, on_outcome=lambda outcome, seconds, reply: outcomes.append(outcome), **options)
        await check(service, process, supervisor, outcomes)

    asyncio.run(main())


def test_the_most_urgent_goes_first_and_those_without_a_time_last():
    async def check(service, process, supervisor, outcomes):
        asked = [ask(service, "first"), *(ask(service, n, t) for n, t in (("none", None), ("9", 9.0), ("5", 5.0)))]
        await settle()
        assert service.waiting == 3 and [name for name, _ in process.taken] == ["first"]
        for turn in range(4):
            process.taken[turn][1].set_result(ANSWER)
            await settle()
        assert [name for name, _ in process.taken] == ["first", "5", "9", "none"]
        assert [(await one).bundle_sha256 for one in asked] == ["hash"] * 4
        assert process.timeouts[0] is None and 4.8 < process.timeouts[1] < 5.0
        assert outcomes == ["answered"] * 4

    run(check)


def test_a_full_queue_refuses_at_once():
    async def check(service, process, supervisor, outcomes):
        asked = [ask(service, str(n)) for n in range(3)]
        await settle()
        with pytest.raises(OverloadedError, match="2 requests are waiting, as many as may"):
            await service.classify(Request(b"v"))
        with pytest.raises(OverloadedError):
            service.require_room()
        for one in asked:
            one.cancel()
        await asyncio.wait(asked)
        assert service.waiting == 0 and process.held == 0 and process.cancelled == ["0"]
        assert outcomes == ["overloaded", *["cancelled"] * 3]
        service.require_room()

    run(check, most_waiting=2)


def test_what_cannot_be_done_in_time_is_refused_before_it_waits():
    async def check(service, process, supervisor, outcomes):
        began = asyncio.get_running_loop().time()
        first = ask(service, "first")
        await settle()
        await asyncio.sleep(0.1)
        process.taken[0][1].set_result(ANSWER)
        await first
        took_s = asyncio.get_running_loop().time() - began  # 0.1 s, and more on a busy machine
        waiting = [ask(service, "a"), ask(service, "b")]
        await settle()
        with pytest.raises(OverloadedError, match="and the request allows 0.2 s") as caught:
            await service.classify(Request(b"v", None, 0.2))
        assert 0.2 < caught.value.retry_after_s < 6 * took_s
        patient = ask(service, "c", 5.0)
        await settle()
        assert service.waiting == 2 and not patient.done()
        for one in (*waiting, patient):
            one.cancel()

    run(check)


@pytest.mark.parametrize("fault", [None, DeadlineError("late")])
def test_no_answer_in_time_is_said_in_time(fault):
    async def check(service, process, supervisor, outcomes):
        asked = ask(service, "a", 0.1)
        began = asyncio.get_running_loop().time()
        await settle()
        if fault is not None:
            process.taken[0][1].set_exception(fault)
        with pytest.raises(LateError, match="no answer in the time"):
            await asked
        assert asyncio.get_running_loop().time() - began < 1.0
        assert process.cancelled == ([] if fault else ["a"]) and outcomes == ["late"] and process.held == 0

    run(check)


def test_a_request_without_a_time_does_not_wait_for_ever():
    async def check(service, process, supervisor, outcomes):
        with pytest.raises(LateError):
            await service.classify(Request(b"v"))
        assert process.timeouts == [None]  # the model is not told, so it does not cut the video short

    run(check, longest_s=0.05)


def test_a_video_that_cannot_be_used_is_the_clients_affair():
    async def check(service, process, supervisor, outcomes):
        asked = ask(service, "a")
        await settle()
        process.taken[0][1].set_exception(FramesError("no frames"))
        with pytest.raises(FramesError):
            await asked
        assert outcomes == ["invalid"]

    run(check)


def test_without_a_process_requests_are_refused_and_those_that_wait_go_to_the_next():
    async def check(service, process, supervisor, outcomes):
        asked = [ask(service, "a"), ask(service, "b")]
        await settle()
        supervisor.current = None
        process.taken[0][1].set_exception(UnavailableError("the model process ended"))
        with pytest.raises(UnavailableError):
            await asked[0]
        with pytest.raises(UnavailableError, match="being started again"):
            await service.classify(Request(b"v"))
        supervisor.current = Process()
        supervisor.changed()
        await settle()
        supervisor.current.taken[0][1].set_result(ANSWER)
        assert (await asked[1]).answer["label"] == "a"
        assert outcomes == ["unavailable", "unavailable", "answered"]

    run(check)


def test_a_request_is_counted_after_its_reply():
    async def check(service, process, supervisor, outcomes):
        seen = []

        async def asked():
            await service.classify(Request(b"v"))
            seen.extend(outcomes)  # where the reply is sent

        task = asyncio.ensure_future(asked())
        await settle()
        process.taken[0][1].set_result(ANSWER)
        await task
        await settle()
        assert (seen, outcomes) == ([], ["answered"])

    run(check)


def test_draining_refuses_the_new_and_finishes_the_old():
    async def check(service, process, supervisor, outcomes):
        asked = ask(service, "a")
        await settle()
        drained = asyncio.ensure_future(service.drain(5))
        await settle()
        with pytest.raises(UnavailableError, match="stopping"):
            service.require_room()
        assert not drained.done()
        process.taken[0][1].set_result(ANSWER)
        await asked
        await asyncio.wait_for(drained, 1)

    run(check)


def test_places_are_promised_once():
    """Requests that arrive together do not all go to a process that has one place."""

    async def check(service, process, supervisor, outcomes):
        asked = [ask(service, str(n)) for n in range(5)]
        await settle()
        assert len(process.taken) == 1 and service.waiting == 4
        for one in asked:
            one.cancel()

    run(check)
