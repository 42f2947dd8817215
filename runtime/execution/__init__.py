"""Segments as programs, the executor that runs them, and the state between them."""
