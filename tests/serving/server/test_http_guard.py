"""The outermost layer of the HTTP server: bodies that are too large or too slow, early refusals, clients that go."""

import asyncio
import json
from contextlib import suppress

import pytest

from dynvid.grid.errors import OverloadedError, UnavailableError
from dynvid.serving.server.http_guard import HttpGuard, Limits
from dynvid.serving.server.page import page

INFER = "/v2/models/dynvid/infer"
BINARY = {"Inference-Header-Content-Length": "0"}


class Service:
    def __init__(self, error=None):
        self._error, self.counted = error, []

    def count(self, outcome):
        self.counted.append(outcome)

    def require_room(self):
        if self._error:
            raise self._error


async def echo(scope, receive, send):
    body = (await receive())["body"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body[::-1]})


async def echo_video(body, json_length):
    await asyncio.sleep(0.01)
    return body[::-1], json_length


def ask(
    messages, headers=None, *, path=INFER, method="POST", app=echo, infer=echo_video, error=None, limits=None,
    counted=None, meanwhile=None,
):  # fmt: skip
    """Return status, headers and body of a request whose client sends ``messages`` and then waits, or goes.

    ``meanwhile`` is awaited with the guard and the request's task, and what the service counts is added to ``counted``.
    """
    sent, waiting = [], list(messages)

    async def receive():
        if waiting:
            return waiting.pop(0)
        await asyncio.Event().wait()

    async def send(message):
        sent.append(message)

    names = {"content-length": str(sum(len(m.get("body", b"")) for m in messages)), **(headers or {})}
    scope = {"type": "http", "path": path, "method": method,
             "headers": [(n.lower().encode(), v.encode("latin-1")) for n, v in names.items()]}  # fmt: skip

    async def main():
        service = Service(error)
        guard = HttpGuard(app, service, limits or Limits(), INFER, infer, lambda: b"<p>")
        async with asyncio.timeout(2):
            asked = asyncio.create_task(guard(scope, receive, send))
            if meanwhile is not None:
                await asyncio.sleep(0.02)
                await meanwhile(guard, asked)
            with suppress(asyncio.CancelledError):
                await asked
        assert guard._held == 0
        if counted is not None:
            counted.extend(service.counted)

    asyncio.run(main())
    if not sent:
        return None, {}, b""
    found = {n.decode(): v.decode() for n, v in sent[0]["headers"]}
    return sent[0]["status"], found, b"".join(m.get("body", b"") for m in sent[1:])


def part(body, more=False):
    return {"type": "http.request", "body": body, "more_body": more}


GONE = {"type": "http.disconnect"}


def test_a_body_in_parts_arrives_whole():
    status, headers, body = ask([part(b"ab", True), part(b"c")], BINARY)
    assert (status, headers["inference-header-content-length"], body) == (200, "0", b"cba")
    assert ask([part(b"ab", True), part(b"c")], path="/v2/models/other/infer")[::2] == (200, b"cba")


@pytest.mark.parametrize("length", ["x", "-1", "", "99999999999", "²"])
def test_a_length_that_is_no_number_is_refused(length):
    status, _, body = ask([part(b"ab")], {"Inference-Header-Content-Length": length})
    assert status == 400 and b"is not a number" in body


@pytest.mark.parametrize(
    ("path", "status"),
    [("/v2/health/live", 200), ("/metrics", 200), ("/v1/models/x:predict", 404), ("/docs", 404),
     ("/v2/repository/models/dynvid/unload", 404), ("/v2x", 404)],
)  # fmt: skip
def test_only_the_protocol_is_spoken(path, status):
    assert ask([part(b"")], path=path, method="GET")[0] == status


def test_a_page_is_answered_here():
    assert ask([], path="/", method="GET")[::2] == (200, b"<p>")
    assert ask([part(b"")], path="/", method="POST")[0] == 404


@pytest.mark.parametrize(
    ("headers", "messages"),
    [
        ({**BINARY, "content-length": "3000000"}, []),
        ({"content-length": "1100000"}, []),  # JSON
        ({**BINARY, "transfer-encoding": "chunked", "content-length": ""}, [part(b"x" * 900_000, True)] * 3),
    ],
)
def test_a_large_body_is_refused_before_it_is_held(headers, messages):
    status, _, body = ask(messages, headers, limits=Limits(body_mb=2))
    assert status == 413 and "bytes" in json.loads(body)["error"]


def other(guard, sent=b"", **scope):
    """Return the status of another request to a guard."""
    replies, waiting = [], [part(sent)]

    async def receive():
        if waiting:
            return waiting.pop()
        await asyncio.Event().wait()

    async def send(message):
        replies.append(message)

    async def main():
        await guard({"type": "http", "path": INFER, "method": "POST", "headers": [], **scope}, receive, send)
        return replies[0]["status"]

    return main()


RAW = {**BINARY, "transfer-encoding": "chunked", "content-length": ""}


@pytest.mark.parametrize("headers", [RAW, {**BINARY, "content-length": "64000000"}])
def test_a_body_that_is_only_announced_keeps_no_other_out(headers):
    async def meanwhile(guard, asked):
        assert await other(guard, b"x" * 900) == 200
        asked.cancel()

    ask([part(b"x" * 100, True)], headers, limits=Limits(body_mb=64, bodies_mb=0.001), meanwhile=meanwhile)


def test_all_bodies_together_have_a_limit():
    async def meanwhile(guard, asked):
        assert await other(guard, b"x" * 1101) == 503
        assert await other(guard, path="/v2/health/live", method="GET") == 200
        asked.cancel()

    counted = []
    ask([part(b"x" * 900, True)], RAW, limits=Limits(0.002, 0.001), meanwhile=meanwhile, counted=counted)
    assert counted == ["overloaded"]
    assert ask([part(b"x" * 600, True), part(b"x" * 900)], RAW, limits=Limits(0.002, 0.001))[0] == 200


@pytest.mark.parametrize("length", [1_000_001, 5_000_000])
def test_json_has_a_limit_of_its_own_whatever_follows_it(length):
    counted = []
    headers = {"Inference-Header-Content-Length": str(length), "content-length": str(length)}
    status, _, body = ask([], headers, counted=counted)
    assert status == 413 and b"expected at most 1000000" in body and counted == ["invalid"]


def test_what_is_refused_here_is_counted():
    counted = []
    ask([], error=OverloadedError("full", 1), counted=counted)
    ask([], error=UnavailableError("down"), counted=counted)
    ask([], {"content-length": "1100000"}, counted=counted)
    ask([part(b"x", True)], BINARY, limits=Limits(body_s=0.01), counted=counted)
    ask([part(b"x", True), GONE], BINARY, counted=counted)
    ask([part(b"x")], {"Inference-Header-Content-Length": "x"}, counted=counted)
    assert counted == ["overloaded", "unavailable", "invalid", "invalid", "cancelled", "invalid"]
    ask([], {"content-length": "1100000"}, path="/v2/models/other/infer", counted=counted)
    assert len(counted) == 6


@pytest.mark.parametrize("sent", [[part(b"x", True)], [part(b"x")]])
def test_a_request_at_the_end_of_the_service_is_refused(sent):
    async def never(*_):
        await asyncio.Event().wait()

    async def meanwhile(guard, asked):
        guard.stop()
        await asyncio.sleep(0.02)
        assert asked.done() is sent[0]["more_body"]
        asked.cancel()  # what the server does at last

    status, headers, body = ask(sent, BINARY, infer=never, meanwhile=meanwhile)
    assert (status, headers["retry-after"]) == (503, "1") and b"the service is stopping" in body


def test_a_head_is_answered_as_a_get():
    seen = []

    async def app(scope, receive, send):
        seen.append(scope["method"])
        await echo(scope, receive, send)

    assert ask([], path="/", method="HEAD")[0] == 200
    assert ask([part(b"")], path="/v2/health/live", method="HEAD", app=app)[0] == 200 and seen == ["GET"]


@pytest.mark.parametrize(
    ("error", "status", "retry"), [(OverloadedError("full", 2.3), 429, "3"), (UnavailableError("down"), 503, "1")]
)
def test_a_service_without_room_refuses_before_the_body(error, status, retry):
    found = ask([], {**BINARY, "content-length": "100"}, error=error)
    assert (found[0], found[1]["retry-after"]) == (status, retry)
    assert ask([part(b"")], path="/v2/health/ready", method="GET", error=error)[0] == 200


def test_a_body_that_does_not_come_is_given_up():
    status, headers, body = ask([part(b"x", True)], BINARY, limits=Limits(body_s=0.05))
    assert (status, headers["connection"]) == (408, "close") and b"within 0.05 s" in body


def test_a_client_that_goes_takes_its_request_along():
    ended = []

    async def slow(*_):
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    assert ask([part(b"x"), GONE], BINARY, infer=slow)[0] is None and ended == ["cancelled"]
    assert ask([part(b""), GONE], path="/v2/health/ready", app=slow)[0] is None and len(ended) == 2
    assert ask([part(b"x"), part(b"")], BINARY)[0] == 200  # a second end of the body is no farewell
    assert ask([part(b"x", True), GONE], BINARY, infer=slow)[0] is None and len(ended) == 2


def test_the_page_is_filled_in_and_holds_no_script_of_a_name():
    class Facts:
        checkpoints = 6

    class Named:
        facts = Facts

    text = page("</script><b>", Named).decode()
    assert "6 checkpoints" in text and "$" not in text.replace("${", "") and "</script><b>" not in text
    assert text.count("</script>") == 1 and "http" not in text
