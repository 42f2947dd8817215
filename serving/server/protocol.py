"""The Open Inference Protocol as KServe speaks it, over HTTP and gRPC, with a ``Service`` behind it."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any
from unittest import mock

from ...grid.errors import DynvidError, RequestError

with mock.patch.object(sys, "argv", sys.argv[:1]):  # kserve reads the command line at import
    from kserve import InferRequest, Model, ModelRepository
    from kserve.errors import InvalidInput, ModelNotFound, ModelNotReady, ServerNotLive, ServerNotReady
    from kserve.protocol.dataplane import DataPlane
    from kserve.protocol.grpc.grpc_predict_v2_pb2 import ModelInferResponse
    from kserve.protocol.grpc.interceptors import ExceptionToStatusInterceptor
    from kserve.protocol.grpc.servicer import InferenceServicer

from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from grpc import StatusCode
from grpc_interceptor.exceptions import GrpcException
from starlette.exceptions import HTTPException

from ..answer import OUTPUTS, http_body, raw_bytes
from ..request import CLIP, FRAMES, Request, parameters_of, read_body, read_tensor, require_few_numbers
from ..service.queue import Service
from ..service.supervisor import Supervisor
from .http_guard import status_of

LOG = logging.getLogger("dynvid")

_NO_VERSIONS = "models have no versions here: leave the version out"
ERRORS = (
    DynvidError, RequestValidationError, InvalidInput, ModelNotFound, ModelNotReady, ServerNotLive, ServerNotReady,
    NotImplementedError, HTTPException, Exception,
)  # fmt: skip
"""What ``answer_error`` answers."""


class ServicePlane(DataPlane):  # type: ignore[misc]
    """KServe's, with readiness by a round trip through the model process."""

    def __init__(self, repository: ModelRepository, supervisor: Supervisor, service: Service) -> None:
        super().__init__(model_registry=repository)
        self._supervisor, self.service = supervisor, service

    def metadata(self) -> dict[str, Any]:
        """Return name and extensions of the server."""
        return {"name": "dynvid", "version": version("dynvid"), "extensions": ["binary_tensor_data", "schedule_policy"]}

    async def ready(self) -> bool:
        """Return whether requests are taken, and a round trip through the model process succeeds."""
        return not self.service.stopping and await self._supervisor.ready()

    async def model_ready(self, model_name: str, disable_predictor_health_check: bool = False) -> bool:
        """Return whether the model can be asked; the flag says that it is about to be, and is told by the service."""
        self.get_model_from_registry(model_name)
        return disable_predictor_health_check or await self.ready()


async def infer(model: ServiceModel, body: bytes, json_length: int | None) -> tuple[bytes, int | None]:
    """Return the body of the reply to a request over HTTP, and the length of its JSON if binary tensors follow.

    KServe 0.21 would validate the body as JSON first, make a list of Python objects of every binary tensor, and refuse
    one that is not UTF-8.

    Raises:
        RequestError: If the request is malformed.
        DynvidError: As ``Service.classify``.
    """
    try:
        request = read_body(body, json_length)
    except RequestError:
        model.service.count("invalid")
        raise
    reply = await model.service.classify(request)
    return http_body(
        reply.answer,
        [(one.name, one.binary) for one in request.outputs] or [(name, request.binary) for name in OUTPUTS],
        id=request.id, model_name=model.name, model_version=None, parameters={"bundle_sha256": reply.bundle_sha256},
    )  # fmt: skip


class ServiceModel(Model):  # type: ignore[misc]
    """The model as KServe sees it."""

    def __init__(self, name: str, service: Service) -> None:
        super().__init__(name)
        self.service, self.ready = service, True

    async def __call__(
        self, body: InferRequest, headers: Mapping[str, str] | None = None, verb: object = None
    ) -> tuple[ModelInferResponse, dict[str, str]]:
        """Return the response to a request over gRPC."""
        try:
            request = _from_grpc(body)
        except GrpcException:
            self.service.count("invalid")
            raise
        try:
            reply = await self.service.classify(request)
        except DynvidError as error:
            raise _as_grpc(error) from None
        response = ModelInferResponse(id=request.id, model_name=self.name)
        response.parameters["bundle_sha256"].string_param = reply.bundle_sha256
        for name in [one.name for one in request.outputs] or OUTPUTS:
            count = len(reply.answer[name]) if name == "warnings" else 1
            response.outputs.add(name=name, datatype=OUTPUTS[name], shape=[1, count])
            response.raw_output_contents.append(raw_bytes(reply.answer, name))
        return response, {}

    def get_input_types(self) -> list[dict[str, Any]]:
        """Return the inputs; a request has one of them."""
        return [
            {"name": CLIP, "datatype": "BYTES", "shape": [1, 1]},
            {"name": FRAMES, "datatype": "UINT8", "shape": [1, -1, -1, -1, 3]},
        ]

    def get_output_types(self) -> list[dict[str, Any]]:
        """Return the outputs."""
        return [
            {"name": name, "datatype": datatype, "shape": [1, -1 if name == "warnings" else 1]}
            for name, datatype in OUTPUTS.items()
        ]


def _from_grpc(found: InferRequest) -> Request:
    if len(found.inputs) != 1:
        raise _as_grpc(RequestError(f"a request is one video: expected one input, {CLIP!r} or {FRAMES!r}."))
    one = found.inputs[0]
    try:
        data: Any = one._raw_data if one._raw_data is not None else one.data
        return read_tensor(
            one.name, one.datatype, [int(n) for n in one.shape], data,
            parameters=parameters_of(found.parameters or {}),
            outputs=[{"name": o.name, "parameters": o.parameters} for o in found.request_outputs or ()],
            id=found.id or "",
        )  # fmt: skip
    except RequestError as error:
        raise _as_grpc(error) from None


def _as_grpc(error: DynvidError) -> GrpcException:
    code, retry_after_s = status_of(error)
    status = {400: StatusCode.INVALID_ARGUMENT, 429: StatusCode.RESOURCE_EXHAUSTED, 503: StatusCode.UNAVAILABLE}[code]
    retry = "" if retry_after_s is None else f" (retry after {retry_after_s} s)"
    return GrpcException(f"{error}{retry}", status)


class Servicer(InferenceServicer):  # type: ignore[misc]
    """KServe's, without loading and unloading models from afar, and with a limit for numbers one by one."""

    async def ModelInfer(self, request: Any, context: Any) -> Any:
        """Answer a request."""
        if request.model_version:
            raise GrpcException(_NO_VERSIONS, StatusCode.NOT_FOUND)
        try:
            require_few_numbers(one.contents for one in request.inputs)
        except RequestError as error:
            self._data_plane.service.count("invalid")
            raise _as_grpc(error) from None
        return await super().ModelInfer(request, context)

    async def RepositoryModelLoad(self, request: object, context: Any) -> None:
        """Refuse."""
        raise GrpcException("the service exchanges its bundle on SIGHUP only", StatusCode.UNIMPLEMENTED)

    RepositoryModelUnload = RepositoryModelLoad


class ErrorsToStatus(ExceptionToStatusInterceptor):  # type: ignore[misc]
    """KServe's, without tracebacks in the log."""

    async def handle_exception(self, ex: Exception, request_or_iterator: Any, context: Any, method_name: str) -> None:
        """Abort the call with a status and one line."""
        if isinstance(ex, GrpcException):
            await context.abort(ex.status_code, ex.details)
        elif isinstance(ex, InvalidInput):
            await context.abort(StatusCode.INVALID_ARGUMENT, str(ex))
        elif isinstance(ex, ModelNotFound):
            await context.abort(StatusCode.NOT_FOUND, str(ex))
        else:
            LOG.error(f"a gRPC call failed: {type(ex).__name__}")
            await context.abort(StatusCode.UNAVAILABLE, "the request failed: try again")


async def answer_error(_: object, error: Exception) -> JSONResponse:
    """Return the reply for an exception: one line that says what is wrong, and nothing of what was sent."""
    headers: dict[str, str] = {}
    if isinstance(error, DynvidError):
        code, retry_after_s = status_of(error)
        text = str(error)
        if retry_after_s is not None:
            headers["retry-after"] = str(retry_after_s)
    elif isinstance(error, RequestValidationError):
        places = sorted({".".join(map(str, one["loc"])) for one in error.errors()})
        code, text = 422, f"the request is not what the protocol says, at {', '.join(places)[:200]}"
    elif isinstance(error, HTTPException):
        code, text, headers = error.status_code, str(error.detail), dict(error.headers or {})
    elif isinstance(error, ModelNotFound):
        code, text = 404, "there is no model of this name"
    elif isinstance(error, NotImplementedError):
        code, text = 404, _NO_VERSIONS
    elif isinstance(error, ModelNotReady | ServerNotReady | ServerNotLive):
        what = "model" if isinstance(error, ModelNotReady) else "server"
        code, text, headers = 503, f"the {what} is not ready", {"retry-after": "1"}
    elif isinstance(error, InvalidInput):
        code, text = 400, str(error)
    else:
        LOG.error(f"a request failed: {type(error).__name__}")
        code, text, headers = 503, "the request failed: try again", {"retry-after": "1"}
    return JSONResponse({"error": text}, code, headers)
