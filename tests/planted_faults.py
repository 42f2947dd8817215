"""Bundles with a fault planted in one graph, which a proof must find."""

import dataclasses
import hashlib

import numpy as np
import onnx
from onnx import numpy_helper

from dynvid.grid.bundle import Bundle


def with_graph(bundle, name, change):
    """Return the bundle with the fp32 graph of one subgraph changed."""
    files = {v.file: bundle.read(v) for s in bundle.manifest.subgraphs for v in s.variants.values()}
    file = bundle.manifest.subgraph(name).variant("fp32").file
    model = onnx.load_model_from_string(files[file])
    change(model.graph)
    content = model.SerializeToString()
    variant = dataclasses.replace(
        bundle.manifest.subgraph(name).variant("fp32"), sha256=hashlib.sha256(content).hexdigest(), bytes=len(content)
    )
    subgraphs = tuple(
        dataclasses.replace(s, variants={**s.variants, "fp32": variant}) if s.name == name else s
        for s in bundle.manifest.subgraphs
    )
    manifest = dataclasses.replace(bundle.manifest, subgraphs=subgraphs)
    return Bundle(bundle.root, manifest, "", {**files, file: content})


def rewired(graph, names):
    """Let the nodes that write these tensors write others."""
    for node in graph.node:
        node.output[:] = [names.get(name, name) for name in node.output]


def weights_of(graph):
    return [t for t in graph.initializer if t.data_type == onnx.TensorProto.FLOAT and len(t.dims) > 1]


def scale_weight(graph):
    tensor = weights_of(graph)[-1]
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(1.002), tensor.name))


def lose_state(graph):
    """Read zeros instead of the first state."""
    port = next(i.name for i in graph.input if i.name.startswith("state_in"))
    for node in graph.node:
        node.input[:] = [f"{port}.lost" if name == port else name for name in node.input]
    graph.initializer.append(numpy_helper.from_array(np.float32(0), "zero"))
    graph.node.insert(0, onnx.helper.make_node("Mul", [port, "zero"], [f"{port}.lost"]))


def stale_state(graph):
    """Hand on the first state that was read."""
    port = next(i.name for i in graph.input if i.name.startswith("state_in"))
    out = port.replace("state_in", "state_out")
    rewired(graph, {out: f"{out}.unused"})
    graph.node.append(onnx.helper.make_node("Identity", [port], [out]))
