"""A queue, the process that holds the model, and what keeps that process running. No server is needed."""
