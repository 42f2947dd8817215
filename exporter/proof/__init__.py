"""The proof: what was exported computes what the plain PyTorch network computes."""
