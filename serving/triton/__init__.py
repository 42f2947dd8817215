"""A model repository for Triton, and the model in it."""
