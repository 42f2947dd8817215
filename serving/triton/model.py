"""The model that Triton's Python backend runs; ``repository`` writes the repository around it.

Requests that Triton batched go through the model together, so they share its calls.
"""

from __future__ import annotations

import json
import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ...grid.errors import InputRefusedError, RequestError
from ...runtime.model import Unanswered
from ...runtime.open_model import open_model
from ..answer import tensors, to_json
from ..request import CLIP, FRAMES, WANTED


class TritonPythonModel:
    """What ``model.py`` of the repository holds; Triton calls the methods by these names."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the bundle that lies beside ``model.py``."""
        import triton_python_backend_utils as backend_utils

        self._triton = backend_utils
        options = json.loads(json.loads(args["model_config"])["parameters"]["options"]["string_value"])
        folder = Path(args["model_repository"]) / args["model_version"]
        for name in ("bundle", "thresholds", "engines"):
            if options[name] not in (None, "none"):
                options[name] = str(folder / options[name])
        self._model = open_model(**options)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Return a response for each request."""
        triton = self._triton
        responses: list[Any] = [None] * len(requests)
        with ExitStack() as stack:
            videos: dict[int, Path | NDArray[Any]] = {}
            for place, request in enumerate(requests):
                try:
                    videos[place] = self._video(request, stack)
                except RequestError as error:
                    responses[place] = triton.InferenceResponse(error=self._error(error, str(error)))
            places = {id(video): place for place, video in videos.items()}
            for video, answer in self._model.classify_many(videos.values()):
                place = places[id(video)]
                if isinstance(answer, Unanswered):
                    text = (
                        str(answer.error).replace(str(video), "clip") if isinstance(video, Path) else str(answer.error)
                    )
                    responses[place] = triton.InferenceResponse(error=self._error(answer.error, text))
                else:
                    found = tensors(to_json(answer))
                    wanted = requests[place].requested_output_names()
                    responses[place] = triton.InferenceResponse([triton.Tensor(n, found[n]) for n in wanted])
        return responses

    def finalize(self) -> None:
        """Close the model."""
        self._model.close()

    def _error(self, error: Exception, text: str) -> Any:
        kind = self._triton.TritonError
        return kind(text, kind.INVALID_ARG if isinstance(error, InputRefusedError) else kind.INTERNAL)

    def _video(self, request: Any, stack: ExitStack) -> Path | NDArray[Any]:
        found = [(name, self._triton.get_input_tensor_by_name(request, name)) for name in (CLIP, FRAMES)]
        given = [(name, tensor.as_numpy()) for name, tensor in found if tensor is not None]
        if len(given) != 1 or len(given[0][1]) != 1:
            raise RequestError("a request is one video. " + WANTED)
        name, array = given[0]
        if name == FRAMES:
            return array[0]  # type: ignore[no-any-return]
        payload = array.ravel()[0]
        if not payload:
            raise RequestError("the video is empty. " + WANTED)
        file = stack.enter_context(os.fdopen(os.memfd_create("dynvid"), "wb"))
        file.write(payload)
        file.flush()
        return Path(f"/proc/{os.getpid()}/fd/{file.fileno()}")
