"""An fp32 graph that looks like an fp16 one from outside."""

import onnx


def disguised(content, ports):
    """Return an fp32 graph behind fp16 ports: a cast after each input and before each output."""
    graph = onnx.load_model_from_string(content)
    kinds = {"float32": onnx.TensorProto.FLOAT, "float16": onnx.TensorProto.FLOAT16}
    dtypes = {spec.name: kinds[spec.dtype] for spec in (*ports.inputs, *ports.outputs)}
    before, after = [], []
    for value in graph.graph.input:
        for node in graph.graph.node:
            node.input[:] = [f"{value.name}.fp32" if name == value.name else name for name in node.input]
        before.append(onnx.helper.make_node("Cast", [value.name], [f"{value.name}.fp32"], to=onnx.TensorProto.FLOAT))
    for value in graph.graph.output:
        for node in graph.graph.node:
            node.input[:] = [f"{value.name}.fp32" if name == value.name else name for name in node.input]
            node.output[:] = [f"{value.name}.fp32" if name == value.name else name for name in node.output]
        after.append(onnx.helper.make_node("Cast", [f"{value.name}.fp32"], [value.name], to=dtypes[value.name]))
    for value in (*graph.graph.input, *graph.graph.output):
        value.type.tensor_type.elem_type = dtypes[value.name]
    nodes = [*before, *graph.graph.node, *after]
    del graph.graph.node[:]
    graph.graph.node.extend(nodes)
    onnx.checker.check_model(graph, full_check=True)
    return graph.SerializeToString()
