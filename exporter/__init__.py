"""From a training checkpoint to a proved bundle of ONNX subgraphs."""
