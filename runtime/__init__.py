"""Running a bundle along its route: backends, video reading, the session. Needs neither torch nor onnx."""
