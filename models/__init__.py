"""The networks a training checkpoint needs to become a graph, and the readers of training checkpoints."""
