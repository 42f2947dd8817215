"""ONNX to engines: what to build, what builds it, and the check of its dtypes."""
