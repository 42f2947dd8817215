"""The networks that turn a training checkpoint into graphs, and the readers of training checkpoints."""
