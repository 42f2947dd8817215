"""The vocabulary: grid, cells, checkpoints, route, ports, manifest and bundle. Standard library only."""
