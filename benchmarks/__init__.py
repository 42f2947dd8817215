"""Measurements: accuracy, average FLOPs and time, side by side."""
