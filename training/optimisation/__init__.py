"""How weights are found: losses, starts, parameter groups, the loop and what it keeps."""
