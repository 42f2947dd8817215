"""PyTorch to one subgraph for every unique block and head, then to ONNX and to a bundle."""
