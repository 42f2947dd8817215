"""dynvid: an ONNX/TensorRT deployment toolchain for dynamic-inference video networks."""
