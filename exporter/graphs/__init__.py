"""ONNX to ONNX: fused segments, the rules of a graph, and the rewrites for CPUs."""
