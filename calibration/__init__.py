"""Thresholds from scores of every exit."""
