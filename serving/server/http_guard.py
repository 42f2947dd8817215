"""The outermost layer of the HTTP server: limits, early refusals, and requests whose client has gone.

It also answers videos itself, since the way through a web framework takes longer than the rest of the way.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping
from dataclasses import dataclass
from typing import Any

from ...grid.errors import DynvidError, InputRefusedError, OverloadedError, RefusedError
from ..service.queue import Outcome, Service

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Infer = Callable[[bytes, int | None], Awaitable[tuple[bytes, int | None]]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

_JSON_LENGTH = "inference-header-content-length"
_JSON_MB = 1.0  # JSON is slow to parse and cannot hold a clip
_STOPPING = 503, "the service is stopping: try again"


@dataclass(frozen=True)
class Limits:
    """Limits on requests.

    Attributes:
        body_mb: largest body, in 10^6 bytes.
        bodies_mb: what has been received of all bodies at once; at least ``body_mb`` is allowed.
        body_s: how long a body may take to arrive.
    """

    body_mb: float = 64.0
    bodies_mb: float = 512.0
    body_s: float = 30.0


class _RefusedHereError(Exception):
    """A reply to a request that goes no further."""

    def __init__(self, code: int, text: str, outcome: Outcome = "invalid", *, close: bool = False) -> None:
        super().__init__(text)
        self.code, self.outcome, self.close = code, outcome, close
        self.retry_after_s = 1 if code == 503 else None


class HttpGuard:
    """An ASGI application around another.

    Args:
        app: the server.
        service: refuses what cannot be taken, before the body is read.
        limits: limits on requests.
        infer_path: where videos are sent to.
        infer: returns the body of the reply to one, and the length of its JSON if binary tensors follow; takes the same.
        page: returns what a browser gets at ``/``.
    """

    def __init__(
        self, app: App, service: Service, limits: Limits, infer_path: str, infer: Infer, page: Callable[[], bytes]
    ) -> None:
        self._app, self._service, self._limits = app, service, limits
        self._infer_path, self._infer, self._page = infer_path, infer, page
        self._held = 0  # bytes of bodies
        self._most_held = int(max(limits.body_mb, limits.bodies_mb) * 1e6)
        self._receiving = set[asyncio.Timeout]()  # how long each body may still take
        self._stopping = False

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] != "http":
            await send({"type": "websocket.close"})
        else:
            await self._http(scope, receive, send)

    async def _http(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["method"] == "HEAD":  # the server leaves the body of the reply out
            scope = {**scope, "method": "GET"}
        path = scope["path"]
        if path == "/" and scope["method"] == "GET":
            await _reply(send, 200, self._page(), "text/html; charset=utf-8")
            return
        known = path in ("/metrics", "/openapi.json", "/v2") or path.startswith("/v2/")
        if not known or path.startswith("/v2/repository"):
            await _refuse(send, 404, "there is nothing here: the service speaks the Open Inference Protocol, under /v2")
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        scope["headers"] = [(n, v) for n, v in scope["headers"] if not n.lower().startswith(b"ce-")]  # CloudEvents
        is_video = path == self._infer_path and scope["method"] == "POST"
        try:
            await self._take(is_video, headers, scope, receive, send)
        except _RefusedHereError as refused:
            if is_video:
                self._service.count(refused.outcome)
            await _refuse(send, refused.code, str(refused), retry_after_s=refused.retry_after_s, close=refused.close)
        except asyncio.CancelledError:
            if not self._stopping:
                raise
            # the server ends, and nobody waits for this task
            await _refuse(send, *_STOPPING, retry_after_s=1, close=True)

    async def _take(
        self, is_video: bool, headers: dict[str, str], scope: Message, receive: Receive, send: Send
    ) -> None:
        """Receive the body and answer."""
        json_length = _json_length(headers) if is_video else None
        most = int((_JSON_MB if json_length is None else self._limits.body_mb) * 1e6)
        length = headers.get("content-length", "")
        if length.isascii() and length.isdigit() and int(length) > most:
            advice = "" if json_length is not None else (
                f", or a binary tensor with the header Inference-Header-Content-Length, to {self._infer_path}"
            )  # fmt: skip
            raise _RefusedHereError(413, f"the body has {length[:20]} bytes: expected at most {most}{advice}")
        if is_video:
            try:
                self._service.require_room()
            except RefusedError as error:
                self._service.count("overloaded" if isinstance(error, OverloadedError) else "unavailable")
                await refuse_for(send, error)
                return
        chunks = list[bytes]()
        try:
            if not await self._receive(chunks, most, receive):
                if is_video:
                    self._service.count("cancelled")
                return
            body = b"".join(chunks)
            work = self._reply(body, json_length, send) if is_video else self._pass_on(scope, body, send)
            await _while_connected(work, receive)
        finally:
            self._held -= sum(map(len, chunks))

    async def _receive(self, chunks: list[bytes], most: int, receive: Receive) -> bool:
        """Append the body's chunks; return False if the client goes before its end.

        Raises:
            _RefusedHereError: If the body is too large or too slow, or the service is stopping.
        """
        size = 0
        try:
            async with asyncio.timeout(self._limits.body_s) as timeout:
                self._receiving.add(timeout)
                try:
                    while True:
                        message = await receive()
                        if message["type"] == "http.disconnect":
                            return False
                        size += len(chunk := message.get("body", b""))
                        if size > most:
                            raise _RefusedHereError(413, f"the body has more than {most} bytes")
                        if chunk and self._held + len(chunk) > self._most_held:
                            raise _RefusedHereError(503, "too many bodies are being received: try again", "overloaded")
                        self._held += len(chunk)
                        chunks.append(chunk)
                        if not message.get("more_body", False):
                            return True
                finally:
                    self._receiving.discard(timeout)
        except TimeoutError:
            if self._stopping:
                raise _RefusedHereError(*_STOPPING, "unavailable", close=True) from None
            text = f"the body did not arrive within {self._limits.body_s:g} s"
            raise _RefusedHereError(408, text, close=True) from None

    def stop(self) -> None:
        """Refuse the requests whose bodies are still arriving: the service is stopping."""
        self._stopping = True
        for timeout in self._receiving:
            timeout.reschedule(asyncio.get_running_loop().time())

    async def _reply(self, body: bytes, json_length: int | None, send: Send) -> None:
        """Answer a video."""
        try:
            content, length = await self._infer(body, json_length)
        except DynvidError as error:
            await refuse_for(send, error)
            return
        if length is None:
            await _reply(send, 200, content, "application/json")
        else:
            lengths = [(_JSON_LENGTH.encode(), str(length).encode())]
            await _reply(send, 200, content, "application/octet-stream", lengths)

    async def _pass_on(self, scope: Message, body: bytes, send: Send) -> None:
        """Have the application answer."""
        messages = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> Message:
            return messages.pop() if messages else await asyncio.Event().wait()  # type: ignore[return-value]

        await self._app(scope, receive, send)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":  # the protocol may tell the end of the body twice
        pass


async def _while_connected(work: Coroutine[Any, Any, None], receive: Receive) -> None:
    """Run ``work`` until it ends or the client goes."""
    running, gone = asyncio.ensure_future(work), asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait([running, gone], return_when=asyncio.FIRST_COMPLETED)
    finally:
        gone.cancel()
        if not running.done():
            running.cancel()
            await asyncio.wait([running])
    if not running.cancelled():
        running.result()


def _json_length(headers: dict[str, str]) -> int | None:
    """Return the length of the JSON that a body begins with; None: all of it is JSON.

    Raises:
        _RefusedHereError: If it is not a number, or too large.
    """
    length = headers.get(_JSON_LENGTH)
    if length is None:
        return None
    if not (length.isascii() and length.isdigit() and len(length) < 11):
        raise _RefusedHereError(400, "the header Inference-Header-Content-Length is not a number")
    if int(length) > _JSON_MB * 1e6:
        raise _RefusedHereError(
            413, f"the body begins with {length} bytes of JSON: expected at most {int(_JSON_MB * 1e6)}, then tensors"
        )
    return int(length)


async def refuse_for(send: Send, error: DynvidError) -> None:
    """Send the reply for an error that a request met."""
    code, retry_after_s = status_of(error)
    await _refuse(send, code, str(error), retry_after_s=retry_after_s)


def status_of(error: DynvidError) -> tuple[int, int | None]:
    """Return the HTTP status of an error, and the seconds of its Retry-After, if it has one."""
    if isinstance(error, RefusedError):
        return 429 if isinstance(error, OverloadedError) else 503, max(1, math.ceil(error.retry_after_s))
    return (400, None) if isinstance(error, InputRefusedError) else (503, 1)


async def _refuse(send: Send, code: int, error: str, *, retry_after_s: int | None = None, close: bool = False) -> None:
    headers = [] if retry_after_s is None else [(b"retry-after", str(retry_after_s).encode())]
    if close:
        headers.append((b"connection", b"close"))
    await _reply(send, code, json.dumps({"error": error}).encode(), "application/json", headers)


async def _reply(
    send: Send, code: int, body: bytes, kind: str, headers: list[tuple[bytes, bytes]] | None = None
) -> None:
    every = [(b"content-type", kind.encode()), (b"content-length", str(len(body)).encode()), *(headers or ())]
    await send({"type": "http.response.start", "status": code, "headers": every})
    await send({"type": "http.response.body", "body": body})
