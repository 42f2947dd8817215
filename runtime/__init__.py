"""Run a bundle along its route: backends, video reading and sessions. Needs neither torch nor onnx."""
