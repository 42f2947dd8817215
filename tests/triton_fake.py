"""A stand-in for ``triton_python_backend_utils``, and ``facts``, which a full test compares with Triton's own."""

import numpy as np


class Tensor:
    def __init__(self, name, array):
        self._name, self._array = name, array

    def name(self):
        return self._name

    def as_numpy(self):
        return self._array


class InferenceRequest:
    def __init__(self, model_name, requested_output_names, inputs):
        self._outputs, self._inputs = requested_output_names, inputs

    def requested_output_names(self):
        return list(self._outputs)

    def inputs(self):
        return self._inputs


class TritonError:
    INTERNAL, INVALID_ARG = 1, 3

    def __init__(self, message, code=INTERNAL):
        self._message, self._code = message, code

    def message(self):
        return self._message

    def code(self):
        return self._code


class InferenceResponse:
    def __init__(self, output_tensors=(), error=None):
        self._tensors, self._error = list(output_tensors), error

    def output_tensors(self):
        return self._tensors

    def has_error(self):
        return self._error is not None

    def error(self):
        return self._error


def get_input_tensor_by_name(request, name):
    return next((one for one in request.inputs() if one.name() == name), None)


def facts(utils):
    """Return what the model of a repository sees of ``triton_python_backend_utils``, as JSON types."""
    codes = {name: int(getattr(utils.TritonError, name)) for name in ("INTERNAL", "INVALID_ARG")}
    failed = utils.InferenceResponse(error=utils.TritonError("no video", utils.TritonError.INVALID_ARG))
    arrays = (np.zeros((1, 2, 3), np.uint8), np.array([[b"a\xff"]], np.object_), np.array([[0.1]]))
    tensors = [utils.Tensor(f"t{n}", array) for n, array in enumerate(arrays)]
    answered = utils.InferenceResponse(tensors)
    request = utils.InferenceRequest(model_name="m", requested_output_names=["t1", "t0"], inputs=tensors[:2])
    found = [utils.get_input_tensor_by_name(request, name) for name in ("t0", "t1", "t2")]
    shown = [(one.name(), one.as_numpy()) for one in (*answered.output_tensors(), *found[:2])]
    return {
        "codes": codes,
        "code that is not given": int(utils.TritonError("no video").code()),
        "error": [failed.has_error(), failed.error().message(), int(failed.error().code())],
        "no error": [answered.has_error(), answered.error() is None],
        "tensors": [[name, str(array.dtype), list(array.shape), repr(array.tolist())] for name, array in shown],
        "no tensor": found[2] is None,
        "outputs": sorted(request.requested_output_names()),  # in any order
    }
