"""What lies behind the fake parser: networks of layers and typed tensors, from ONNX."""

from types import SimpleNamespace

import onnx

from .stub import Dims

DTYPES = {
    onnx.TensorProto.FLOAT: "FLOAT",
    onnx.TensorProto.FLOAT16: "HALF",
    onnx.TensorProto.INT8: "INT8",
    onnx.TensorProto.INT64: "INT64",
    onnx.TensorProto.INT32: "INT32",
    onnx.TensorProto.BOOL: "BOOL",
}
UNSUPPORTED = {"CenterCropPad", "Det", "Multinomial"}
LAYERS = {
    "Conv": "CONVOLUTION", "Relu": "ACTIVATION", "MaxPool": "POOLING", "AveragePool": "POOLING", "Softmax": "SOFTMAX",
    "QuantizeLinear": "QUANTIZE", "DequantizeLinear": "DEQUANTIZE", "Concat": "CONCATENATION", "Reshape": "SHUFFLE", "Transpose": "SHUFFLE", "ReduceMean": "REDUCE", "Gather": "GATHER",
    "MatMul": "MATRIX_MULTIPLY", "Gemm": "MATRIX_MULTIPLY", "Constant": "CONSTANT", "Cast": "CAST", "Slice": "SLICE",
    "Shape": "SHAPE", "Squeeze": "SQUEEZE", "Unsqueeze": "UNSQUEEZE", "Identity": "IDENTITY", "Pad": "PADDING",
}  # fmt: skip


class INetworkDefinition:
    def get_flag(self, flag):
        return self._typed and flag.name == "STRONGLY_TYPED"

    @property
    def num_inputs(self):
        return len(self._model.graph.input)

    @property
    def num_outputs(self):
        return len(self._model.graph.output)

    @property
    def num_layers(self):
        return len(self._model.graph.node)

    def get_input(self, index):
        return _tensor(self._stub, self._values, self._model.graph.input[index].name)

    def get_output(self, index):
        return _tensor(self._stub, self._values, self._model.graph.output[index].name)

    def get_layer(self, index):
        layer = self._stub.module.ILayer()
        layer._node, layer._values = self._model.graph.node[index], self._values
        return layer


class ILayer:
    @property
    def name(self):
        return self._node.name

    @property
    def type(self):
        return getattr(self._stub.module.LayerType, LAYERS.get(self._node.op_type, "ELEMENTWISE"))

    @property
    def num_inputs(self):
        return len(self._node.input)

    @property
    def num_outputs(self):
        return len(self._node.output)

    def get_input(self, index):
        return _tensor(self._stub, self._values, self._node.input[index])

    def get_output(self, index):
        return _tensor(self._stub, self._values, self._node.output[index])


class ITensor:
    @property
    def name(self):
        return self._name

    @property
    def dtype(self):
        return getattr(self._stub.module.DataType, DTYPES[self._kind.elem_type])

    @property
    def shape(self):
        return Dims(d.dim_value if d.HasField("dim_value") else -1 for d in self._kind.shape.dim)


def _tensor(stub, values, name):
    if name not in values:
        return None  # an optional input that is left out, or a constant
    tensor = stub.module.ITensor()
    tensor._name, tensor._kind = name, values[name].type.tensor_type
    return tensor


class OnnxParser:
    def __init__(self, network, logger):
        self._network, self._logger, self._errors = network, logger, []

    def parse(self, content):
        self._stub.calls.append("parse")
        try:
            model = onnx.shape_inference.infer_shapes(onnx.load_model_from_string(bytes(content)))
        except Exception as error:
            return self._refuse("", "", f"Failed to parse the ONNX model. {type(error).__name__}")
        for node in model.graph.node:
            if not onnx.defs.has(node.op_type):
                return self._refuse(node.name, node.op_type, "Plugin not found, is the plugin name correct?")
            if node.op_type in UNSUPPORTED:
                return self._refuse(node.name, node.op_type, "false")
            halves = {
                c.data_type for c in model.graph.initializer if c.name in node.input and c.data_type in DTYPES
            } | {v.type.tensor_type.elem_type for v in model.graph.input if v.name in node.input}
            if self._network._typed and node.op_type == "Conv" and len(halves) > 1:
                return self._refuse(node.name, "Conv", "IConvolutionLayer input and kernel must be of same type")
        graph = model.graph
        self._network._model = model
        self._network._values = {v.name: v for v in (*graph.input, *graph.output, *graph.value_info)} | {
            c.name: onnx.helper.make_tensor_value_info(
                c.name, c.data_type, c.dims
            )  # layers of their own, as weights are not
            for c in graph.initializer
            if c.data_type == onnx.TensorProto.INT8
        }
        return True

    def _refuse(self, name, operator, description):
        error = self._stub.module.ParserError()
        error._facts = (name, operator, description)
        self._errors.append(error)
        self._stub.log(self._logger, description)
        return False

    @property
    def num_errors(self):
        return len(self._errors)

    def get_error(self, index):
        return self._errors[index]


class ParserError:
    def node_name(self):
        return self._facts[0]

    def node_operator(self):
        return self._facts[1]

    def desc(self):
        return self._facts[2]

    def code(self):
        return SimpleNamespace(name="UNSUPPORTED_NODE")


FAKES = {c.__name__: c for c in (INetworkDefinition, ILayer, ITensor, OnnxParser, ParserError)}
